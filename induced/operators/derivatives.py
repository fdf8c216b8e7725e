"""Blocks and frames of U V^T and c I + U V^T as functions of (c, U, V), with derivatives of every order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from induced._validate import visible
from induced.operators.columns import Basis
from induced.operators.factors import tracked, undefined
from induced.operators.reduction import Reduction

DEPENDENT = (
    "second derivatives of singular values and vectors need independent columns: in c I + U V^T those of [U V], with no singular "
    "value |c| on their span; in U V^T those of U and of V: drop superfluous columns, or pass Dense(A.matrix())"
)


class _Blocks(torch.autograd.Function):
    """K, W, Z and c of A = W K Z^T + c J, for J an isometry of what is orthogonal to Z onto what is orthogonal to W.

    W and Z move so that A keeps this form, and orthogonally to themselves: what is made of them must not depend on how they turn
    within their spans. So dK = W^T dA Z, and dW and dZ solve
    dW K - c J dZ = (I - W W^T) dA Z, dZ K^T - c J^T dW = (I - Z Z^T) dA^T W; there c J is A.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(c: Tensor, U: Tensor, V: Tensor, K: Tensor, Y: Tensor, T: Tensor, X: Tensor, S: Tensor, plain: bool) -> Any:
        W = Y @ T
        return K.clone(), W, X @ S if plain else W.clone(), c.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], *output[:3])
        ctx.save_for_forward(*inputs[:3], *output[:3])
        ctx.plain = inputs[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        (c, U, V, K, W, Z), (gK, gW, gZ, gc), again = ctx.saved_tensors, grads, torch.is_grad_enabled()
        # the gradient of A is W gK Z^T + L Z^T + W R^T; L^T W, R^T Z, and so L^T U and R^T V, are 0, but not their derivatives
        ZV, WU = Z.mT @ V, W.mT @ U
        gK = torch.zeros_like(K) if gK is None else gK
        gU, gV = W @ (gK @ ZV), Z @ (gK.mT @ WU)
        own = (gK * (W.mT @ Z)).sum((-2, -1)) if again and not ctx.plain else gK.diagonal(dim1=-2, dim2=-1).sum(-1)
        if gW is not None or gZ is not None:
            L, R = _outer(ctx.plain, c, U, V, K, W, Z, *(torch.zeros_like(Q) if g is None else g for Q, g in ((W, gW), (Z, gZ))))
            gU, gV = gU + L(ZV), gV + R(WU)
            if again:
                one = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
                gU, gV = gU + W @ (R(one).mT @ V), gV + Z @ (L(one).mT @ U)
                own = own if ctx.plain else own + (L(one) * Z + W * R(one)).sum((-2, -1))
        gc = None if ctx.plain else own if gc is None else gc + own
        if again:
            gU, gV, gc = _once((gU, gV, gc), K, W, None if ctx.plain else c)
        return gc, gU, gV, *[None] * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        c, U, V, K, W, Z = ctx.saved_tensors
        dc, dU, dV = (torch.zeros_like(x) if t is None else t for x, t in zip((c, U, V), tangents, strict=False))
        a, b = dU @ (V.mT @ Z) + U @ (dV.mT @ Z), dV @ (U.mT @ W) + V @ (dU.mT @ W)
        if not ctx.plain:
            a, b = a + dc[..., None, None] * Z, b + dc[..., None, None] * W
        one = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
        dW, dZ = (f(one) for f in _outer(ctx.plain, c, U, V, K.mT, W, Z, a, b))
        return *_once((W.mT @ a, dW, dZ), K, W, None if ctx.plain else c), dc


def moves(*parts: Tensor) -> bool:
    """Whether frames have to move with the parts, for derivatives; a compiled graph differentiates their QR."""
    return tracked(*parts) and not torch.compiler.is_compiling()


def blocks(c: Tensor | None, U: Tensor, V: Tensor, K: Tensor, left: Basis, right: Basis) -> tuple[Tensor, ...]:
    """(K, W, Z, c), constants in float64, as functions of the parts; c = None stands for U V^T."""
    batch = K.shape[:-2]
    number = U.new_zeros(()) if c is None else c
    U, V, Y, X = (M.expand(*batch, *M.shape[-2:]) for M in (U, V, left.Y, right.Y))
    moving: tuple[Tensor, ...] = _Blocks.apply(  # type: ignore[no-untyped-call]
        number.expand(batch), U, V, K, Y, left.T, X, right.T, c is None
    )
    return moving


Columned = Callable[[Tensor], Tensor]


def _outer(
    plain: bool, c: Tensor, U: Tensor, V: Tensor, K: Tensor, W: Tensor, Z: Tensor, a: Tensor, b: Tensor
) -> tuple[Columned, Columned]:
    """L and R, as functions that multiply by them, of gradients of W and Z; with K^T for K, dW and dZ of dA Z and dA^T W.

    Both are (I - W W^T) a K^-T and (I - Z Z^T) b K^-1 for U V^T.
    """
    x, y = _off(W, a), _off(Z, b)
    if plain:
        M, N = _inverse(K.mT, x, a), _inverse(K, y, b)
        return lambda S: x @ (M @ S), lambda S: y @ (N @ S)
    M, N = (_inverse(_gap(*side), *other, c) for side, other in (((K, c), (x, a)), ((K.mT, c), (y, b))))
    return (
        lambda S: x @ (M @ (K @ S)) + _applied(y @ (N @ S), c, U, V),
        lambda S: y @ (N @ (K.mT @ S)) + _applied(x @ (M @ S), c, V, U),
    )


def _once(derivatives: tuple[Any, ...], K: Tensor, W: Tensor, c: Tensor | None) -> tuple[Any, ...]:
    """First derivatives, of which there are no second ones where the frames hold directions on which A is c J."""
    M = (K if c is None else _gap(K, c)).detach()
    singular = _kernels(M, _size(M, c))[0].any()
    if visible(singular) and not bool(singular):
        return derivatives
    W = torch.where(singular, W, W.detach())
    return tuple(None if x is None else undefined(x, W, DEPENDENT) for x in derivatives)


def _off(Q: Tensor, X: Tensor) -> Tensor:
    """(I - Q Q^T) X."""
    return X - Q @ (Q.mT @ X)


def _applied(X: Tensor, c: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """A X."""
    return c[..., None, None] * X + U @ (V.mT @ X)


def _gap(K: Tensor, c: Tensor) -> Tensor:
    """K K^T - c^2 I."""
    return K @ K.mT - c[..., None, None].square() * torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)


def _size(M: Tensor, c: Tensor | None) -> Tensor:
    """What the values of M are compared with, as (*batch, 1, 1)."""
    size = M.abs().sum((-2, -1), keepdim=True) + (0.0 if c is None else c.detach().square()[..., None, None])
    return size + (size == 0)


def _kernels(M: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors of the values of M that rounding cannot tell from 0, and 0 in place of the others."""
    E, s, Fh = torch.linalg.svd(M)
    small = s.unsqueeze(-2) <= 1e3 * torch.finfo(s.dtype).eps * size
    return E * small, Fh.mT * small


def _inverse(M: Tensor, x: Tensor, X: Tensor, c: Tensor | None = None) -> Tensor:
    """M^-1; where M is singular M^+ if it has x, a part of X, in its domain, and nan if not."""
    fixed = M.detach()
    inverse: Tensor = torch.linalg.inv_ex(M).inverse
    size = _size(fixed, c)
    condition = inverse.detach().abs().sum((-2, -1), keepdim=True) * size
    if visible(condition) and bool((condition < 1e-3 / torch.finfo(M.dtype).eps).all()):
        return inverse
    left, right = _kernels(fixed, size)
    lost = (x @ right).detach().abs().sum((-2, -1), keepdim=True) > 1e-9 * X.detach().abs().sum((-2, -1), keepdim=True)
    inverse = torch.linalg.inv_ex(M + size * (left @ right.mT)).inverse
    return inverse + torch.where(lost, torch.nan, 0.0).to(M)


def halves(R: Reduction, zero: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left and right singular vectors in the frames: of the values that do not count as zero, and of those that do."""
    u, s, vh = (X.squeeze(0) for X in R.W.factors(R.blocks))
    kept, j = s > R.zero(s.unsqueeze(0), zero).squeeze(), torch.zeros(0, dtype=torch.int64)
    left, right, *others = (frame.columns(j, y[at]).double() for at in (kept, ~kept) for frame, y in ((R.W, u.mT), (R.Z, vh)))
    return left, right, others[0], others[1]


def independent(U: Tensor, V: Tensor, R: Reduction, zero: Tensor | None) -> tuple[Tensor, Tensor]:
    """Factors of U V^T with independent columns: A = A Q (P^T A Q)^-1 P^T A for as long as its rank stays that of P and Q."""
    P, Q, _, _ = halves(R, zero)
    left = U @ (V.mT @ Q)
    return torch.linalg.solve(P.mT @ left, left, left=False), V @ (U.mT @ P)
