"""Analytic functions of real matrices, singular and defective ones included, and their derivatives.

| function | algorithm in float64 |
|---|---|
| log, A^p | inverse scaling and squaring of the Schur form (scipy); the eigenvalue 0 is peeled off first |
| any phi | by eigenvectors if symmetric; else Schur-Parlett: eigenvalues closer than a gap form a block, summed as a series |

The Taylor coefficients of phi come from its values on a circle (FFT), so that phi need only be evaluated. Of several gaps the one
of least error is taken, judged by the tail of the series, the commutator with A and the imaginary part; where none is small, phi
is not analytic near the spectrum: an error. Derivatives follow from phi([[A, E], [0, A]]) = [[phi(A), L(E)], [0, phi(A)]].
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.csgraph
import torch
from numpy.typing import NDArray
from torch import Tensor

from induced.errors import DomainError

Array = NDArray[Any]
Scalars = Callable[[Tensor], Tensor]
OfArray = Callable[[Array, int], Array]  # of a matrix, block triangular with equal diagonal blocks of the given size
EPS = float(np.finfo(np.float64).eps)
NODES = 256  # on the circle; half as many Taylor coefficients are used
ACCURATE, USABLE = 1e-11, 1e-6  # error estimates at which the search stops, and above which there is no answer


def of_matrix(A: Tensor, f: OfArray, unit: float = 0.0) -> Tensor:
    """f(A) for matrices (*batch, k, k), in float64 inside; gradients of every order, and under torch.func.

    Arguments:
        A: the matrices.
        f: the function; it gets a matrix and k. For a derivative the matrix is larger than k, and has A on its diagonal.
        unit: the size at which f changes; 0 for homogeneous functions, as log and powers are.
    """
    result: Tensor = _OfMatrix.apply(A.double(), f, unit, A.shape[-1])  # type: ignore[no-untyped-call]
    return result.to(A.dtype)


class _OfMatrix(torch.autograd.Function):
    """f(A), whose derivative along E is the upper right block of f([[A, E], [0, A]])."""

    @staticmethod
    def forward(A: Tensor, f: OfArray, unit: float, k: int) -> Tensor:
        each = A.detach().cpu().reshape(A.shape[:-2].numel(), *A.shape[-2:]).numpy()
        values = np.stack([f(M, k) for M in each]) if each.size else each
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(A.shape).to(A.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, OfArray, float, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.arguments = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _derivative(ctx.saved_tensors[0].mT, grads[0], *ctx.arguments), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _derivative(ctx.saved_tensors[0], tangents[0], *ctx.arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None, None], A: Tensor, *arguments: Any) -> tuple[Tensor, int]:
        return _OfMatrix.apply(A.movedim(in_dims[0], 0), *arguments), 0  # type: ignore[no-untyped-call]


def _derivative(A: Tensor, E: Tensor, f: OfArray, unit: float, k: int) -> Tensor:
    """L(E), the derivative of f at A along E, linear in E, which is brought to the size of A, or `unit`."""
    size = E.detach().norm(dim=(-2, -1), keepdim=True)
    scale = size / A.detach().norm(dim=(-2, -1), keepdim=True).clamp(min=max(unit, EPS))
    scale = torch.where(size > 0, scale, torch.ones_like(size))
    block = torch.cat([torch.cat([A, E / scale], -1), torch.cat([torch.zeros_like(A), A], -1)], -2)
    result: Tensor = _OfMatrix.apply(block, f, unit, k)  # type: ignore[no-untyped-call]
    return scale * result[..., : A.shape[-1], A.shape[-1] :]


# ---------------------------------------------------------------------------------------------------------- log and powers
def log(A: Array, k: int, eps: float) -> Array:
    """The principal logarithm of a matrix known to relative precision `eps`, with equal diagonal blocks of size k.

    Raises:
        DomainError: an eigenvalue lies in (-inf, 0].
    """
    w = np.linalg.eigvals(A)
    if singular(A[:k, :k], eps):
        raise DomainError(
            f"the logarithm has no value at the eigenvalue 0, and this operator has one of {_show(w)}: it is singular"
        )
    _require_principal(A, w, "log(A)")
    return np.real(_quietly(scipy.linalg.logm, A))


def power(A: Array, k: int, p: float, eps: float, zero: float = 0.0) -> Array:
    """The principal power A^p, for a real p, of such a matrix, known to precision `eps` and to the absolute error `zero`.

    A singular A = F G^T, of full column rank, has A^p = F (G^T F)^(p - 1) G^T: each step takes one from every Jordan block of the
    eigenvalue 0, so that A^p exists when p exceeds the size of the largest one less 1.

    Raises:
        DomainError: an eigenvalue lies in (-inf, 0), or A is singular and A^p does not exist.
    """
    if p == 0 or not len(A):
        return np.eye(len(A))
    if not singular(A[:k, :k], eps, zero):
        _require_principal(A, np.linalg.eigvals(A), "a power that is no integer")
        return np.real(_quietly(scipy.linalg.sqrtm, A) if p == 0.5 else _quietly(scipy.linalg.fractional_matrix_power, A, p))
    if p < 0:
        raise DomainError(
            "this power does not exist: the operator is singular, and its eigenvalue 0 has no negative power. If a positive one "
            "was asked for, 0 has a nilpotent (Jordan) block too large for it, or it was for its gradient, which is infinite at 0"
        )
    U, s, Vh = np.linalg.svd(A)
    zero = _threshold(s, eps, zero)
    r = int((s > zero).sum())
    F, G = U[:, :r] * s[:r], Vh[:r].T
    product: Array = F @ power(G.T @ F, r, p - 1, eps, zero) @ G.T
    return product


def singular(A: Array, eps: float, zero: float = 0.0) -> bool:
    """Whether the least singular value of A counts as zero at precision eps, or at the absolute error `zero`."""
    s = np.linalg.svd(A, compute_uv=False)
    return bool(len(s)) and bool(s.min() <= _threshold(s, eps, zero))


def _threshold(s: Array, eps: float, zero: float) -> float:
    return max(zero, 4 * len(s) * eps * float(s.max()))


def _require_principal(A: Array, w: Array, what: str) -> None:
    """Raise where an eigenvalue is negative, up to the imaginary part that rounding gives to a double one."""
    bad = (w.real < 0) & (np.abs(w.imag) <= np.sqrt(len(w) * EPS) * np.linalg.norm(A))
    if bad.any():
        raise DomainError(
            f"{what} is not real here: the operator has the eigenvalue {_show(w[bad])} on the cut (-inf, 0] of the principal one"
        )


def _quietly(f: Callable[..., Array], *arguments: Any) -> Array:
    """scipy's functions warn of ill-conditioned arguments; the domain has been checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: Array = f(*arguments)
        return result


def _show(w: Array) -> str:
    """The eigenvalue nearest to 0, in six digits."""
    z = complex(w[np.argmin(np.abs(w))])
    return f"{z.real:.6g}" if abs(z.imag) <= 1e-12 * abs(z.real) else f"{z:.6g}"


# ------------------------------------------------------------------------------------------------------- any function
def values(phi: Scalars, z: Array) -> Array:
    """phi at complex points."""
    with torch.no_grad():
        result = torch.as_tensor(phi(torch.from_numpy(np.ascontiguousarray(z, dtype=np.complex128))))
        image: Array = result.to(torch.complex128).expand(z.shape).numpy()
        return image


def require_real(z: Array, image: Array, mirrored: Array) -> None:
    """Raise unless phi is finite at the eigenvalues z and takes conjugate values, `mirrored`, at their conjugates."""
    size = max(1.0, float(np.abs(image[np.isfinite(image)]).max(initial=0.0)))
    for wrong, why in (
        (~np.isfinite(image), "has no finite value"),
        (~(np.abs(image - mirrored.conj()) <= 1e-8 * size), "is not real, or not conjugate at its conjugate,"),
    ):
        if wrong.any():
            raise DomainError(f"phi(A) is not a real operator: phi {why} at the eigenvalue {_show(z[wrong])}")


def analytic(A: Array, phi: Scalars) -> Array:
    """phi(A) for a real A and a phi that is analytic near its eigenvalues and respects conjugation.

    Raises:
        DomainError: phi(A) is not real, or phi is not analytic near the eigenvalues.
    """
    if (A == A.T).all():
        w, Q = np.linalg.eigh(A)
        image = values(phi, w)
        require_real(w, image, image)
        symmetric: Array = (Q * image.real) @ Q.T
        return symmetric
    T, Q = scipy.linalg.schur(A, output="complex")
    w, size = T.diagonal().copy(), float(np.linalg.norm(A, 2))
    w[np.abs(w.imag) <= len(w) * EPS * size] = w[np.abs(w.imag) <= len(w) * EPS * size].real  # +0: above a cut, as its conjugate
    mirror = np.where(w.imag == 0, w, w.conj())
    require_real(w, values(phi, w), values(phi, mirror))
    best, least = A, np.inf
    for gap in (0.1, 0.01, 1e-3, 1e-4):
        F, error = _parlett(T, Q, phi, gap * min(1.0, size))
        scale = float(np.linalg.norm(F)) + np.finfo(float).tiny
        commutator = np.linalg.norm(A @ F - F @ A) / (size + np.finfo(float).tiny)
        error = max(error, float(commutator), float(np.linalg.norm(F.imag))) / scale
        if error < least:
            best, least = F.real, error
        if least <= ACCURATE:
            break
    if not least <= USABLE:
        raise DomainError(
            f"phi(A) has no accurate value: phi is not analytic on a disc round a cluster of eigenvalues such as {_show(w)} "
            f"(estimated relative error {least:.2g})"
        )
    return best


def clusters(points: Array, gap: float) -> Array:
    """The label of each point, two points having one label if a chain of steps up to `gap` joins them."""
    near = scipy.sparse.csr_array(np.abs(points[:, None] - points[None, :]) <= gap)
    labels: Array = scipy.sparse.csgraph.connected_components(near, directed=False)[1]
    return labels


def _parlett(T: Array, Q: Array, phi: Scalars, gap: float) -> tuple[Array, float]:
    """phi(Q T Q^*) for an upper triangular T, and an estimate of its absolute error."""
    labels = clusters(T.diagonal(), gap)
    sizes: list[int] = []
    for label in dict.fromkeys(labels[::-1].tolist()):  # each cluster in turn is moved to the top
        select = labels == label
        T, Q, *_ = scipy.linalg.lapack.ztrsen(select, T, Q, lwork=max(1, len(T) ** 2))
        labels = np.concatenate([labels[select], labels[~select]])
        sizes.insert(0, int(select.sum()))
    F, error, a = np.zeros_like(T), 0.0, len(T)
    for m in reversed(sizes):
        a, b = a - m, a
        F[a:b, a:b], rough = _taylor(T[a:b, a:b], phi)
        error = max(error, rough)
        if b < len(T):
            right = F[a:b, a:b] @ T[a:b, b:] - T[a:b, b:] @ F[b:, b:]
            X, scale, _ = scipy.linalg.lapack.ztrsyl(T[a:b, a:b], T[b:, b:], right, isgn=-1)
            F[a:b, b:] = X / scale
    return Q @ F @ Q.conj().T, error


def _taylor(T: Array, phi: Scalars) -> tuple[Array, float]:
    """phi(T) for an upper triangular T of nearly equal eigenvalues, by its Taylor series at their mean; and an error estimate."""
    m, mean = len(T), T.diagonal().mean()
    if m == 1:
        return values(phi, T), 0.0
    N = T - mean * np.eye(m)
    spread = float(np.abs(N.diagonal()).max())
    nodes = np.exp(2j * np.pi * np.arange(NODES) / NODES)
    best: tuple[float, float, Array] = (np.inf, 1.0, np.zeros(NODES, complex))
    for radius in max(spread, 1e-3 * min(1.0, float(np.abs(N).max()) + EPS)) * 2.0 ** (np.arange(24) / 2):
        samples = values(phi, mean + radius * nodes)
        if not np.isfinite(samples).all():
            continue
        b = np.fft.fft(samples) / NODES  # the last half: powers of 1/z, absent where phi is analytic in the disc
        growth = np.sum((np.linalg.norm(N) / radius) ** np.arange(min(m, 8)))
        error = float(
            (EPS * np.abs(b).max() + np.abs(b[NODES // 2 :]).max() + np.abs(b[NODES // 2 - 8 : NODES // 2]).max()) * growth
        )
        best = min(best, (error, float(radius), b), key=lambda found: found[0])
    error, radius, b = best
    F, P = b[0] * np.eye(m), np.eye(m)
    for k in range(1, NODES // 2):
        P = P @ N / radius
        F = F + b[k] * P
        if k >= m and np.abs(b).max() * np.linalg.norm(P) <= EPS * EPS * np.linalg.norm(F):
            break
    return F, error
