"""Analytic functions of real and complex matrices as torch functions, with derivatives of every order.

A `Phi` is such a function: of scalars, and of matrices. The algorithms run in float64 on the CPU (`induced.operators.schur`, and
scipy's exponential). Derivatives follow from phi([[A, E], [0, A]]) = [[phi(A), L(E)], [0, phi(A)]]. A complex matrix R + i J is
taken as the real one [[R, -J], [J, R]], of which phi respects the form.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from induced._validate import eager, require_finite, require_one_forward
from induced.errors import DomainError
from induced.operators import schur
from induced.operators.schur import Array, Scalars

OfArray = Callable[[Array, int, float], Array]  # of a matrix, the size of its equal diagonal blocks, and their uncertainty
TINY = float(np.finfo(np.float64).tiny)


SMALL = 100.0
"""1-norm up to which torch's exponential loses no more than scipy's: beyond, it squares far more often than it must."""


class Phi(NamedTuple):
    """An analytic function phi that takes conjugate values at conjugate points."""

    of_scalars: Callable[[Tensor], Tensor]
    """phi at real numbers in float64. Raises DomainError where it is not real, or overflows."""
    of_matrix: Callable[[Tensor, Tensor | float], Tensor]
    """phi of matrices (*batch, k, k), whose singular values are known up to the number, or numbers (*batch,), `zero`."""
    cut: bool = False
    """Whether 0 is a branch point."""
    peels: bool = False
    """Whether singular values up to `zero` are set to 0 where an eigenvalue is not positive."""


# --------------------------------------------------------------------------------------------------------- the functions
def exponential() -> Phi:
    """exp(z).

    Law:
        `exponential().of_matrix(A, 0.0) == scipy.linalg.expm(A)` (laws/test_matrices.py)
    """
    return Phi(lambda c: _bounded(torch.exp(_finite(c))), lambda A, zero: expm(_wide(A)).to(A.dtype))


def logarithm() -> Phi:
    """The principal logarithm.

    `of_matrix` raises DomainError where an eigenvalue lies in (-inf, 0], or a singular value does not exceed `zero`.

    Law:
        `expm(logarithm().of_matrix(A, 0.0)) == A` (laws/test_matrices.py)
    """

    def of_scalars(c: Tensor) -> Tensor:
        _require(_finite(c) > 0, c, "the logarithm is not real, or has no value, at")
        return torch.log(c)

    return Phi(of_scalars, partial(_of_matrix, schur.log, 0.0), cut=True)


def real_power(p: float) -> Phi:
    """The principal power z^p, with 0^p = 0 for p > 0.

    `of_matrix` raises DomainError where an eigenvalue lies in (-inf, 0), or A is singular and A^p does not exist; only where an
    eigenvalue is not positive do singular values up to `zero` count as 0.

    Law:
        `real_power(p).of_matrix(A, 0.0) @ real_power(q).of_matrix(A, 0.0) == real_power(p + q).of_matrix(A, 0.0)`
        (laws/test_matrices.py)
    """

    def of_scalars(c: Tensor) -> Tensor:
        _require((_finite(c) > 0) | ((c == 0) & (p > 0)), c, f"A^{p:g} is not real, or does not exist, at")
        return _bounded(torch.where(c == 0, torch.zeros_like(c), torch.where(c == 0, torch.ones_like(c), c) ** p))

    return Phi(of_scalars, partial(_of_matrix, partial(schur.power, p=p), 0.0), cut=True, peels=True)


def analytic_function(phi: Scalars) -> Phi:
    """Any phi of complex128 tensors that is analytic near the eigenvalues; DomainError where it is not, or not real."""

    def of_scalars(c: Tensor) -> Tensor:
        image = torch.as_tensor(phi(_finite(c).to(torch.complex128))).to(torch.complex128).expand(c.shape)
        if eager(c):
            seen = image.detach().cpu().numpy()
            schur.require_real(c.detach().cpu().numpy(), seen, seen)
        return image.real

    return Phi(of_scalars, partial(_of_matrix, lambda A, k, zero: schur.analytic(A, phi), 1.0))


def expm(A: Tensor) -> Tensor:
    """exp(A) for real or complex matrices (*batch, k, k), computed in float64: by scipy, or by torch in a compiled graph.

    Raises:
        DomainError: A is not finite, or exp(A) overflows.
    """
    wide = _wide(_finite(A))
    if A.shape[-1] <= 1:
        image = torch.exp(wide)
    elif torch.compiler.is_compiling() or A.is_meta or (eager(A) and _torch_is_as_good(wide)):
        image = torch.linalg.matrix_exp(wide.contiguous())  # of others it takes no batch of two dimensions
    else:
        image = _apply(wide, lambda M, k, zero: _scipy_expm(M), 1.0, 0.0)
    return _bounded(image.to(A.dtype))


def _torch_is_as_good(A: Tensor) -> bool:
    """Whether torch's exponential loses no more than scipy's: beyond the norm SMALL it squares far more often than it must; of a
    single matrix of a norm below 0.1 it sums too few terms."""
    if not A.numel():
        return True
    norm = float(A.detach().abs().sum(-2).max())
    return (A[..., 0, 0].numel() > 1 or norm >= 0.1) and norm <= SMALL


def _scipy_expm(M: Array) -> Array:
    """exp(mu) exp(M - mu I), for the mean eigenvalue mu where M is near mu I: far from 0 Pade approximants lose digits."""
    eye = np.eye(len(M))
    mu = float(np.trace(M).real) / len(M)
    if abs(mu) > 300 or 4 * np.linalg.norm(M - mu * eye, 1) > np.linalg.norm(M, 1):
        mu = 0.0
    with np.errstate(all="ignore"):
        image: Array = np.exp(mu) * scipy.linalg.expm(M - mu * eye)
        return image


def divided_difference(c: Tensor, M: Tensor, phi: Callable[[Tensor], Tensor], *, scaled: bool = True) -> Tensor:
    """psi(M), psi(mu) = (phi(c + mu) - phi(c)) / mu: the upper right block of phi([[c I + M, I], [0, c I]]).

    phi(c I + U V^T) = phi(c) I + U psi(V^T U) V^T holds for every analytic phi and every M, singular and defective ones included.

    Arguments:
        c: numbers (*batch,).
        M: matrices (*batch, r, r).
        phi: the function of matrices (*batch, 2r, 2r), as `expm`.
        scaled: whether the blocks beside the diagonal are brought to the size of M; a product of matrices has no use for it.
    """
    r, c = M.shape[-1], c[..., None, None]
    eye = torch.eye(r, dtype=M.dtype, device=M.device).expand(M.shape)
    size, diagonal = eye, c * eye
    if scaled:
        scale = torch.maximum(_size(c), _size(M)) / 16  # as in _derivative
        size = torch.where(scale > 0, scale, torch.ones_like(scale)) * eye
    block = torch.cat([torch.cat([diagonal + M, size], -1), torch.cat([torch.zeros_like(M), diagonal], -1)], -2)
    result: Tensor = phi(block)[..., :r, r:]
    return result / size[..., :1, :1] if scaled else result


# ----------------------------------------------------------------------------------------------------------- with derivatives
def _of_matrix(f: OfArray, unit: float, A: Tensor, zero: Tensor | float) -> Tensor:
    """f(A) for real or complex matrices (*batch, k, k); `unit` is the size at which f changes, 0 for log and powers."""
    if A.is_complex():
        R, J, k = A.real, A.imag, A.shape[-1]
        image = _of_matrix(f, unit, torch.cat([torch.cat([R, -J], -1), torch.cat([J, R], -1)], -2), zero)
        return torch.complex(image[..., :k, :k].contiguous(), image[..., k:, :k].contiguous())
    return _bounded(_apply(_wide(_finite(A)), f, unit, zero).to(A.dtype))


def _apply(A: Tensor, f: OfArray, unit: float, zero: Tensor | float) -> Tensor:
    zeros = torch.as_tensor(zero, dtype=torch.float64, device=A.device).detach().expand(A.shape[:-2])
    result: Tensor = _OfMatrix.apply(A, zeros, f, unit, A.shape[-1])  # type: ignore[no-untyped-call]
    return result


class _OfMatrix(torch.autograd.Function):
    """f(A), whose derivative along E is the upper right block of f([[A, E], [0, A]])."""

    @staticmethod
    def forward(A: Tensor, zeros: Tensor, f: OfArray, unit: float, k: int) -> Tensor:
        image = torch.empty_like(A, memory_format=torch.contiguous_format)
        if A.is_meta or not A.numel():
            return image
        each = A.detach().cpu().reshape(-1, *A.shape[-2:]).numpy()
        # lapack may crash at nan
        values = [f(M, k, z) if np.isfinite(M).all() else M * np.nan for M, z in zip(each, zeros.flatten().tolist(), strict=True)]
        return image.copy_(torch.from_numpy(np.stack(values)).reshape(A.shape))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, OfArray, float, int], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.arguments = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        A, zeros = ctx.saved_tensors
        return _derivative(A.mH, grads[0], zeros, *ctx.arguments), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        require_one_forward()
        A, zeros = ctx.saved_tensors
        return _derivative(A, tangents[0], zeros, *ctx.arguments)

    @staticmethod
    def vmap(info: Any, in_dims: Any, A: Tensor, zeros: Tensor, *arguments: Any) -> tuple[Tensor, int]:
        A, zeros = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip((A, zeros), in_dims, strict=False)
        )
        return _OfMatrix.apply(A, zeros, *arguments), 0  # type: ignore[no-untyped-call]


def _derivative(A: Tensor, E: Tensor, zeros: Tensor, f: OfArray, unit: float, k: int) -> Tensor:
    """L(E), the derivative of f at A along E, linear in E, which is brought to a 16th of the size of A, or of `unit`.

    With larger ones the row exchanges of scipy's exponential mix the diagonal blocks: the error of stiff matrices grows 1e4-fold.
    """
    scale = _size(E) / _size(A).clamp(min=max(unit, TINY)) * 16
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    block = torch.cat([torch.cat([A, E / scale], -1), torch.cat([torch.zeros_like(A), A], -1)], -2)
    result: Tensor = _OfMatrix.apply(block, zeros, f, unit, k)  # type: ignore[no-untyped-call]
    return scale * result[..., : A.shape[-1], A.shape[-1] :]


def _size(A: Tensor) -> Tensor:
    """The largest entry of each matrix, as (*batch, 1, 1): its squares need not be finite."""
    return A.detach().abs().amax((-2, -1), keepdim=True) if A.numel() else A.detach().abs()[..., :1, :1]


def _wide(A: Tensor) -> Tensor:
    return A.to(torch.complex128 if A.is_complex() else torch.float64)


def _finite(A: Tensor) -> Tensor:
    require_finite(torch.view_as_real(A.resolve_conj()) if A.is_complex() else A, "the operator whose function is asked for")
    return A


def _bounded(image: Tensor) -> Tensor:
    """Raise where a value overflows; a no-op where values may not be looked at."""
    require_finite(torch.view_as_real(image) if image.is_complex() else image, "the function of an operator", "it overflows")
    return image


def _require(holds: Tensor, values: Tensor, why: str) -> None:
    """Raise where an eigenvalue lies outside the domain of a function; a no-op where values may not be looked at."""
    if eager(values) and not bool(holds.all()):
        raise DomainError(f"{why} the eigenvalue {values.detach()[~holds].flatten()[0].item():.6g}")
