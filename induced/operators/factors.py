"""Factorisations of blocks, with derivatives of every order where there are any."""

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from induced._validate import visible
from induced.errors import DomainError

TALL = 16
"""Ratio of sides from which a float32 factorisation is off by hundreds of eps, and is made in float64."""


def counted(size: int, rows: int, dtype: torch.dtype) -> float:
    """eps times the size of a block; float64 counts the roundings of its own tall factorisations too, about sqrt(rows)."""
    return torch.finfo(dtype).eps * (size + (rows**0.5 if dtype == torch.float64 and rows > size else 0.0))


def precise(K: Tensor) -> Tensor:
    """K, in float64 where it is tall or wide enough for a float32 factorisation to be off by more than it should."""
    short, long = sorted(K.shape[-2:])
    return K.double() if K.dtype == torch.float32 and long >= TALL * max(short, 1) else K


def reciprocal(values: Tensor, zero: Tensor) -> Tensor:
    """1/values above the threshold and 0 elsewhere, with gradients that stay finite at 0."""
    keep = ~(values.abs() <= zero)  # nan is kept
    return torch.where(keep, 1.0 / torch.where(keep, values, torch.ones_like(values)), torch.zeros_like(values))


# ------------------------------------------------------------------------------------------------- derivatives, or none
def tracked(*tensors: Tensor) -> bool:
    """Whether derivatives may be asked for, backward or forward, by torch.autograd or torch.func."""
    return any(map(_tracked, tensors))


def _tracked(x: Tensor) -> bool:
    if torch.is_grad_enabled() and x.requires_grad:
        return True
    if torch.compiler.is_compiling():
        return False
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
    return wrapped and _tracked(torch._C._functorch.get_unwrapped(x))


class _Undefined(torch.autograd.Function):
    """x, whose derivative along `of` does not exist: backward, if used, it raises where values may be seen; else it is nan."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, of: Tensor, why: str) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        ctx.of, ctx.why = inputs[1].shape, inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,), used = grads, (grads[0] != 0).any()
        if visible(used) and bool(used):
            raise DomainError(ctx.why)
        return gradient, torch.where(used, torch.nan, 0.0).to(gradient).expand(ctx.of), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        change, of, _ = tangents  # a forward derivative may never be used
        return change if of is None else change + torch.where((of != 0).any(), torch.nan, 0.0).to(change)


NO_VECTORS = "singular vectors have no derivative where values repeat, are zero, or columns depend on one another"

REPEATED = "eigenvalues have no derivative where they repeat"


def undefined(x: Tensor, of: Tensor, why: str = NO_VECTORS) -> Tensor:
    """x as a function of a tensor along which it has no derivative: a backward one raises if used, or is nan under vmap."""
    armed: Tensor = _Undefined.apply(x, of, why) if tracked(of) else x  # type: ignore[no-untyped-call]
    return armed


class _First(torch.autograd.Function):
    """x, through which there are first derivatives only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, why: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.why = why
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return undefined(grads[0], x, ctx.why), None


def first(x: Tensor, why: str) -> Tensor:
    """x, where what is made of it has the right first derivative and no other: a second one raises."""
    once: Tensor = _First.apply(x, why)  # type: ignore[no-untyped-call]
    return once


def watched(K: Tensor, why: str = NO_VECTORS) -> Tensor:
    """K, whose gradient is checked to be finite where values may be looked at."""
    if not (K.requires_grad and visible(K)):
        return K

    def check(gradient: Tensor | None) -> None:
        if gradient is not None and visible(gradient) and not bool(gradient.isfinite().all()):
            raise DomainError(why)

    K = K.view_as(K)
    K.register_hook(check)  # type: ignore[no-untyped-call]
    return K


class _SVD(torch.autograd.Function):
    """U, s and V^T of real K = U diag(s) V^T, with derivatives of every order of values and vectors that differ from all others.

    Two vectors of one value have none, and no matter unless one of them is used; `all` says that they are, for functions of all
    values.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(K: Tensor, all: bool) -> tuple[Tensor, ...]:
        return tuple(torch.linalg.svd(K, full_matrices=False))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.all = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None]:
        (U, s, Vh), (gU, gs, gVh) = ctx.saved_tensors, grads
        if gU is None and gVh is None:
            if gs is None:
                return None, None
            if not ctx.all:  # forward derivatives of vectors that are not used may be nan
                U, Vh = (torch.where((gs != 0).unsqueeze(i), X, X.detach()) for X, i in ((U, -2), (Vh, -1)))
            return (U * gs.unsqueeze(-2)) @ Vh, None
        gU, gVh = (torch.zeros_like(X) if g is None else g for X, g in ((U, gU), (Vh, gVh)))
        A, B = U.mT @ gU, Vh @ gVh.mT
        A, B = A - A.mT, B - B.mT
        used = None if ctx.all else (gU != 0).any(-2) | (gVh != 0).any(-1)
        core = (_quotient(A + B, s, -1, used) + _quotient(A - B, s, 1, used)) / 2
        gradient = U @ (core if gs is None else core + torch.diag_embed(gs)) @ Vh
        if U.shape[-2] > U.shape[-1]:
            gradient = gradient + ((gU - U @ (U.mT @ gU)) / s.unsqueeze(-2)) @ Vh
        if Vh.shape[-1] > Vh.shape[-2]:
            gradient = gradient + (U / s.unsqueeze(-2)) @ (gVh - gVh @ Vh.mT @ Vh)
        return gradient, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        (U, s, Vh), E = ctx.saved_tensors, tangents[0]
        M = U.mT @ E @ Vh.mT
        p, q = _quotient(M + M.mT, s, -1, None) / 2, _quotient(M - M.mT, s, 1, None) / 2
        dU, dVh = U @ (p + q), (p - q).mT @ Vh
        if U.shape[-2] > U.shape[-1]:
            dU = dU + (E @ Vh.mT - U @ M) / s.unsqueeze(-2)
        if Vh.shape[-1] > Vh.shape[-2]:
            dVh = dVh + (U.mT @ E - M @ Vh) / s.unsqueeze(-1)
        return dU, M.diagonal(dim1=-2, dim2=-1), dVh


def _quotient(X: Tensor, s: Tensor, sign: int, used: Tensor | None) -> Tensor:
    """X_ij / (s_j + sign s_i), 0 on the diagonal; where rounding cannot tell the divisor from 0, nan, or 0 if none is used."""
    divisor = s.unsqueeze(-2) + sign * s.unsqueeze(-1)
    near = divisor.detach().abs() <= 4 * s.shape[-1] * torch.finfo(s.dtype).eps * s.detach()[..., :1, None]
    ignored = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    ignored = ignored if used is None else ignored | ~(used.unsqueeze(-1) | used.unsqueeze(-2))
    quotient = X / torch.where(near, torch.ones_like(divisor), divisor)
    return torch.where(near, torch.where(ignored, 0.0, torch.nan).to(X), torch.where(ignored, torch.zeros_like(X), quotient))


def svd_of(K: Tensor, all: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """U, s and V^H of K, thin."""
    if K.is_complex() or torch.compiler.is_compiling() or not tracked(K):
        U, s, Vh = torch.linalg.svd(K, full_matrices=False)
    else:
        U, s, Vh = _SVD.apply(watched(K), all)  # type: ignore[no-untyped-call]
    return U, s, Vh


def determinant(K: Tensor) -> Tensor:
    """det K, with its derivatives where K is singular and torch's are 0, and where values repeat and torch.func's are nan."""
    value: Tensor = torch.linalg.det(K)
    if not (tracked(K) and visible(K)):
        return value
    if bool((value != 0).all()):
        logabs = torch.linalg.slogdet(K).logabsdet
        value = value.detach() * (logabs - logabs.detach()).exp()
        return value
    if K.dim() > 2:
        value = torch.stack([determinant(M) for M in K.flatten(0, -3)]).reshape(value.shape)
        return value
    U, s, Vh = torch.linalg.svd(K.detach())
    k = max(1, int((s <= len(s) * torch.finfo(s.dtype).eps * s[:1]).sum()))
    size = s[0] if len(s) > k else torch.ones_like(s[0])
    left, right = U[:, len(s) - k :] * size, Vh[len(s) - k :]
    full = K + left @ right  # det K = det(full) det(I - right full^-1 left), the latter of a matrix that is 0 here
    M = -right @ torch.linalg.solve(full, left)
    value = torch.linalg.det(full) * _polynomial(M - M.detach())
    return value


def _polynomial(M: Tensor) -> Tensor:
    """The determinant without a division (Bird's algorithm), of a matrix (k, k)."""
    F = M
    for _ in range(len(M) - 1):
        sums = F.diagonal().flip(0).cumsum(0).flip(0)
        F = (torch.triu(F, 1) + torch.diag(F.diagonal() - sums)) @ M
    sign: int = (-1) ** (len(M) - 1)
    return sign * F[0, 0]


# --------------------------------------------------------------------------------------------------------- polar factors
class _Lyapunov(torch.autograd.Function):
    """The Y with P Y + Y P = S, for positive definite P."""

    generate_vmap_rule = True

    @staticmethod
    def forward(P: Tensor, S: Tensor) -> Any:
        w, E = torch.linalg.eigh(P)
        return E @ ((E.mH @ S @ E) / (w.unsqueeze(-1) + w.unsqueeze(-2))) @ E.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        P, Y = ctx.saved_tensors
        back = _lyapunov(P, grads[0])
        return -(back @ Y.mH + Y.mH @ back), back

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        P, Y = ctx.saved_tensors
        dP, dS = (torch.zeros_like(P) if t is None else t for t in tangents)
        return _lyapunov(P, dS - dP @ Y - Y @ dP)


def _lyapunov(P: Tensor, S: Tensor) -> Tensor:
    Y: Tensor = _Lyapunov.apply(P, S)  # type: ignore[no-untyped-call]
    return Y


class PolarFactor(torch.autograd.Function):
    """Q = U V^H, from the svd K = U S V^H without its zeros; its derivatives divide by s_i + s_j, never by their difference."""

    generate_vmap_rule = True

    @staticmethod
    def forward(K: Tensor, zero: Tensor | float, frame: Any) -> Any:
        U, s, Vh = frame.factors(K)
        zero = zero * s.amax(-1, keepdim=True) if isinstance(zero, float) and s.numel() else zero
        return (U * (s > zero).unsqueeze(-2)) @ Vh

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        K, Q = ctx.saved_tensors
        return _turn(K, Q, grads[0]), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        K, Q = ctx.saved_tensors
        return _turn(K, Q, tangents[0])


def _turn(K: Tensor, Q: Tensor, E: Tensor) -> Tensor:
    """The derivative along E, at fixed rank, which is symmetric: U ((X - X^H) / (s_i + s_j)) V^H for X = U^H E V, and what leads
    out of the spans of U and V."""
    P, off = _root(K, Q)
    inner = E - E @ off if off.numel() else E
    S = Q.mH @ inner
    turned: Tensor = Q @ _lyapunov(P, S - S.mH)
    R, out = _root(K.mH, Q.mH) if off.numel() or Q.shape[-2] != Q.shape[-1] else (P, off)
    if out.numel():
        turned = turned + torch.linalg.solve(P, out @ inner, left=False)
    if off.numel():
        turned = turned + torch.linalg.solve(R, E @ off - out @ E @ off if out.numel() else E @ off)
    return turned


def _root(K: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """(K^H K)^(1/2), made regular on the kernel of K, and the orthogonal projection onto that; none where it is known to be 0."""
    P = Q.mH @ K
    P, rank = (P + P.mH) / 2, (Q * Q.conj()).real.sum((-2, -1)).detach()
    if visible(rank) and bool((rank > Q.shape[-1] - 0.5).all()):
        return P, P[..., :0]
    off = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) - Q.mH @ Q
    size = K.detach().abs().sum((-2, -1), keepdim=True)
    return P + off * (size + (size == 0)), off
