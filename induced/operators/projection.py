"""Projections onto coordinates, chosen by training: idempotent bit for bit (docs/theory/idempotent.md)."""

from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._validate import require_finite, require_shape
from induced.errors import DtypeError, SingularOperator
from induced.operators.base import LinearOperator, register
from induced.operators.dense import Dense, Diagonal
from induced.operators.functions import _evaluate, resolvent
from induced.operators.invariants import det, singular_values, slogdet, trace
from induced.operators.linalg import inverse, pinv, svd

__all__ = ["Projection"]


@final
class Projection(LinearOperator):
    """P = diag(l), l = round(p) + (p - stop_gradient(p)): 0 or 1 forward, and through p, held to [0, 1], backward.

    A masked coordinate is +0 whatever it held, inf and nan included. In training mode, where p is an `nn.Parameter`, gradients
    reach p and z; in eval mode z alone.

    | function | P |
    |---|---|
    | H, pinv, powers | P itself |
    | P @ P' | the projection onto what both keep |
    | svd, rank, norm, trace, det; exp, power, resolvent, function; P + P' | those of `Diagonal(l)` |

    Arguments:
        p: keeps the coordinates where p > 1/2; a floating point tensor of shape (*batch, n), or a boolean mask.

    Raises:
        DomainError: p is not finite.

    Law:
        `torch.equal(P(P(z)), P(z))` (Lemma 4.2; laws/test_structures.py)

    Example:
        >>> import torch
        >>> P = Projection(torch.tensor([0.9, 0.2, 0.7]))
        >>> P(torch.tensor([1.0, float("nan"), 3.0])), P.complement()(torch.ones(3))
        (tensor([1., 0., 3.]), tensor([0., 1., 0.]))
    """

    p: Tensor

    def __init__(self, p: Tensor) -> None:
        if not isinstance(p, Tensor) or p.dim() < 1:
            raise DtypeError(f"a projection takes a mask, a tensor of shape (*batch, n), got {p!r}")
        p = p.to(torch.get_default_dtype()) if p.dtype == torch.bool else p
        require_shape(p, p.shape[-1:], "the mask")
        require_finite(p, "the mask of a projection")
        super().__init__((p.shape[-1], p.shape[-1]))
        register(self, "p", p)

    @property
    def batch(self) -> torch.Size:
        return self.p.shape[:-1]

    def reference(self) -> Tensor:
        return self.p

    def mask(self) -> Tensor:
        """Where P keeps a coordinate, a boolean tensor of shape (*batch, n)."""
        return self.p.detach() > 0.5

    def diagonal(self) -> Tensor:
        """l, whose mean is the rank loss; 0 or 1, with the gradient of p."""
        p = self.p.clamp(0, 1)
        return torch.round(p) + (p - p.detach())

    def complement(self) -> "Projection":
        """I - P."""
        return Projection(1 - self.diagonal()).train(self.training)

    def forward(self, z: Tensor) -> Tensor:
        kept = torch.where(self.mask(), z, torch.zeros_like(z))
        if not (self.training and (self.p.requires_grad or isinstance(self.p, nn.Parameter))):
            return kept
        p = self.p.clamp(0, 1)
        return kept + (p - p.detach()) * torch.where(z.isfinite(), z, torch.zeros_like(z))

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.forward(w)

    def _adjoint(self) -> LinearOperator:
        return self

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Projection | Diagonal):
            return Diagonal(self.diagonal())._plus(Diagonal(other.diagonal()) if isinstance(other, Projection) else other)
        return other._plus(self) if isinstance(other, Dense) else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Projection):
            return Projection(self.diagonal() * other.diagonal()).train(self.training)
        if isinstance(other, Dense) and not self.batch and not other.batch:
            return Dense(self._columns(other.A.mT).mT)
        return super()._times(other)

    def _power(self, k: int) -> LinearOperator:
        return self


@pinv.register
def _(A: Projection, rtol: float | None = None) -> LinearOperator:
    return A


@inverse.register
def _(A: Projection) -> LinearOperator:
    if not bool(A.mask().all()):
        raise SingularOperator(f"a projection that drops a coordinate has no inverse; its pinv is the projection itself: {A}")
    return A


def _by_entries(f: Any, A: Projection, *arguments: Any, **keywords: Any) -> Any:
    return f(Diagonal(A.diagonal()), *arguments, **keywords)


for _function in (svd, singular_values, trace, det, slogdet, _evaluate, resolvent):
    _register: Any = _function
    _register.register(Projection, partial(_by_entries, _function))
