"""First derivatives of functions of U V^T and c I + U V^T, whose frames are constants."""

from typing import Any

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import DomainError
from induced.operators.base import LinearOperator
from induced.operators.columns import Columns
from induced.operators.factors import refuse_second
from induced.operators.reduction import Triplets


class _Once(torch.autograd.Function):
    """The identity, of which there is no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return refuse_second(gradient, *ctx.saved_tensors)


def once(x: Tensor) -> Tensor:
    """x, where what is made of it has the right first derivative and no other: a second one raises."""
    if not (x.requires_grad and eager(x)):
        return x
    kept: Tensor = _Once.apply(x)  # type: ignore[no-untyped-call]
    return kept


def refused(X: Tensor, which: Tensor) -> Tensor:
    """The columns X, those of the mask being singular vectors of one value, any of many: a derivative of them does not exist."""

    def refuse(gradient: Tensor) -> None:
        if bool(gradient[:, which].any()):
            raise DomainError("the singular vectors of a repeated value are any basis of their span and have no derivative")

    if bool(which.any()):
        X = X.view_as(X)
        X.register_hook(refuse)  # type: ignore[no-untyped-call]
    return X


def _change(A: Any) -> LinearOperator:
    """A - A.detach(): zero, with the first derivative of A."""
    (c, U, V), (c0, U0, V0) = (once(part) for part in A.parts()), (part.detach() for part in A.parts())
    change: LinearOperator = A.of_kind(c - c0, torch.cat([U - U0, U0], -1), torch.cat([V0, V - V0], -1))
    return change


def followed(A: Any, X: LinearOperator) -> LinearOperator:
    """X = A+ with its first derivative at fixed rank, -X D X + X X^T D^T (I - A X) + (I - X A) D^T X^T X."""
    D, A0 = _change(A), A.of_kind(*(part.detach() for part in A.parts()))
    left, right = X @ X.H @ D.H, D.H @ X.H @ X
    result: LinearOperator = X - X @ D @ X + left - left @ A0 @ X + right - X @ A0 @ right
    return result


def moved(A: Any, U: Tensor, s: Tensor, V: Tensor) -> Triplets:
    """Singular vectors, with the first derivative that leads out of span[U V]: du = (s a + c b) / (s^2 - c^2), dv likewise.

    a and b are the changes of A v and A^T u orthogonal to the span. Vectors of a repeated value have no derivative.
    """
    D, c, frame = _change(A), A.parts()[0].detach(), A._reduction()
    assert isinstance(frame.W, Columns) and isinstance(frame.Z, Columns)
    a = frame.W.off(D._columns(V.detach().mT).mT)
    b = frame.Z.off(D.H._columns(U.detach().mT).mT)
    gap = s.detach().square() - c.square()
    fixed = gap == 0
    gap = torch.where(fixed, torch.ones_like(gap), gap)
    s0 = s.detach()
    cross = (0.0, 0.0) if A.plain else (c * b, c * a)  # U V^T may have sides of two lengths
    dU, dV = (s0 * a + cross[0]) / gap, (s0 * b + cross[1]) / gap
    return refused(U + torch.where(fixed, 0, dU), fixed), s, refused(V + torch.where(fixed, 0, dV), fixed)
