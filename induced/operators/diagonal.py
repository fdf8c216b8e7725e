"""Operators on single coordinates: diagonal ones, 0/1 projections, and the choice of some coordinates."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from induced._registry import saved_as
from induced._validate import eager, require_finite, require_shape, require_tensor
from induced.errors import DomainError, DtypeError, ShapeError
from induced.operators.algebra import register
from induced.operators.base import Dense, LinearOperator
from induced.operators.reduction import Frame, Reduction
from induced.operators.rules import Scalar, is_number, per_matrix


@final
class Entries(Frame):
    """Unit vectors of R^dim: all of them, or those at the places of an index; each a block of its own."""

    def __init__(self, dim: int, dtype: torch.dtype, index: Tensor | None = None) -> None:
        self.dim, self.dtype, self.index = dim, dtype, index
        self.groups = dim if index is None else len(index)

    def _at(self, j: Tensor) -> Tensor:
        return j if self.index is None else self.index[j]

    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        return y.new_zeros(self.dim, len(j)).index_put((self._at(j), torch.arange(len(j), device=j.device)), y[:, 0])

    def span(self, j: Tensor, y: Tensor) -> LinearOperator:
        return Selection(self._at(j), self.dim, dtype=self.dtype).H

    def others(self, j: Tensor) -> LinearOperator:
        """The unit vectors at all other places, as an operator."""
        left = torch.ones(self.dim, dtype=torch.bool, device=j.device).index_fill(0, self._at(j), False)
        return Selection(left.nonzero()[:, 0], self.dim, dtype=self.dtype).H

    def join(self, other: Frame, blocks: Tensor, c: Tensor | None) -> LinearOperator:
        inner: LinearOperator = Diagonal(blocks[..., 0, 0])
        assert isinstance(other, Entries)
        if other.index is not None:
            inner = inner @ Selection(other.index, other.dim, dtype=blocks.dtype)
        return inner if self.index is None else Selection(self.index, self.dim, dtype=blocks.dtype).H @ inner


class OnEntries(LinearOperator):
    """diag(d): what diagonals and projections share."""

    def diagonal(self) -> Tensor:
        """d, of shape (*batch, n)."""
        raise NotImplementedError

    @property
    def batch(self) -> torch.Size:
        return self.diagonal().shape[:-1]

    def _adjoint(self) -> LinearOperator:
        return self

    def matrix(self, limit: int = 4096) -> Tensor:
        if max(self.shape) > limit:
            raise ShapeError(f"a {self.shape} matrix exceeds limit={limit}; pass matrix(limit={max(self.shape)}) to allow it")
        return torch.diag_embed(self.diagonal())

    def reduced(self, same_frames: bool = False) -> Reduction:
        d = self.diagonal()
        frame = Entries(d.shape[-1], d.dtype)
        return Reduction(frame, frame, d[..., None, None], None, d.dtype, torch.finfo(d.dtype).eps)

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, OnEntries):
            return Diagonal(self.diagonal() + other.diagonal())
        return other._plus(self) if is_number(other) else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, OnEntries):
            return Diagonal(self.diagonal() * other.diagonal())
        if isinstance(other, Dense):
            return Dense(self.diagonal().unsqueeze(-1) * other.A)
        return super()._times(other)


@final
@saved_as("operators.Diagonal", "d")
class Diagonal(OnEntries):
    """z -> d z, coordinate by coordinate, for d of shape (*batch, n)."""

    d: Tensor

    def __init__(self, d: Tensor) -> None:
        require_tensor(d, "the diagonal")
        if d.dim() < 1:
            raise ShapeError("the diagonal must be a tensor of shape (*batch, n), got ()")
        require_shape(d, d.shape[-1:], "the diagonal")
        super().__init__((d.shape[-1], d.shape[-1]))
        register(self, "d", d)

    def diagonal(self) -> Tensor:
        return self.d

    def _reference(self) -> Tensor:
        return self.d

    def forward(self, z: Tensor) -> Tensor:
        return self.d * z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.d * w

    def _scaled(self, a: Scalar) -> LinearOperator:
        return Diagonal(per_matrix(a, 1) * self.d)

    def _power(self, k: int) -> LinearOperator:
        return Diagonal(self.d**k)


@final
@saved_as("operators.Projection", "p")
class Projection(OnEntries):
    """P = diag(l), l = round(p) + (p - stop_gradient(p)): 0 or 1 forward, and through p, held to [0, 1], backward.

    A masked coordinate is +0 whatever it held, inf and nan included. In training mode, where p tracks gradients, they reach p
    and z; in eval mode z alone. H, pinv and powers are P itself, P @ P' keeps what both keep, and all other functions are
    those of `Diagonal(l)` (docs/theory/idempotent.md).

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

    def _reference(self) -> Tensor:
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
        if not (self.training and (self.p.requires_grad or not eager(self.p))):
            return kept
        p = self.p.clamp(0, 1)
        return kept + (p - p.detach()) * torch.where(z.isfinite(), z, torch.zeros_like(z))

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.forward(w)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Projection):
            return Projection(self.diagonal() * other.diagonal()).train(self.training)
        if isinstance(other, Dense) and not self.batch and not other.batch:
            return Dense(self._columns(other.A.mT).mT)
        return super()._times(other)

    def _power(self, k: int) -> LinearOperator:
        return self

    def _pinv(self, zero: Tensor | None) -> LinearOperator:
        return self


def places(index: Tensor | Sequence[int]) -> Tensor:
    """An index as a tensor; also of an array of numpy, whatever its strides. Raises DtypeError where it holds other numbers."""
    found = torch.as_tensor(np.ascontiguousarray(index) if isinstance(index, np.ndarray) else index)
    if found.numel() and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool):
        raise DtypeError(f"an index holds integers, got {found.dtype}")
    return found.to(torch.int64)


@final
@saved_as("operators.Selection", describe=lambda A: {"index": A.index, "dim": A.shape[1], "dtype": A.dtype})
class Selection(LinearOperator):
    """(S z)_i = z_index[i]: rows of the identity, exact. Its adjoint puts coordinates at their places among zeros.

    Arguments:
        index: the coordinates that are kept, each once, in 0..dim-1.
        dim: the number n of coordinates.
        dtype: that of the coordinates it takes, torch's default one if not given; `.to(dtype)` changes it.

    Raises:
        DomainError: an index out of range, or one twice.

    Law:
        `S(S.H(w)) == w` (laws/test_direct_sums.py)

    Example:
        >>> import torch
        >>> S = Selection([3, 0], 4)
        >>> S(torch.tensor([5.0, 6.0, 7.0, 8.0])), S.H(torch.tensor([1.0, 2.0]))
        (tensor([8., 5.]), tensor([2., 0., 0., 1.]))
    """

    index: Tensor
    like: Tensor

    def __init__(self, index: Tensor | Sequence[int], dim: int, dtype: torch.dtype | None = None) -> None:
        index = places(index)
        if index.dim() != 1 or (
            eager(index)
            and index.numel()
            and (int(index.min()) < 0 or int(index.max()) >= dim or len(set(index.tolist())) != index.numel())
        ):
            raise DomainError(
                f"the index of a Selection holds numbers of 0..{dim - 1}, each at most once, got {index.tolist()[:20]}"
            )
        super().__init__((index.numel(), dim))
        # first, so that it names the dtype of what holds this operator too
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=index.device), persistent=False)
        self.register_buffer("index", index)

    def _reference(self) -> Tensor:
        return self.like

    def forward(self, z: Tensor) -> Tensor:
        return z[..., self.index]

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return w.new_zeros(*w.shape[:-1], self.shape[1]).index_copy(-1, self.index, w)

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        if same_frames:
            return super().reduced(True)
        ones = self.like.new_ones(self.shape[0], 1, 1)
        left, right = Entries(self.shape[0], ones.dtype), Entries(self.shape[1], ones.dtype, self.index)
        return Reduction(left, right, ones, None, ones.dtype, torch.finfo(ones.dtype).eps)

    def _pinv(self, zero: Tensor | None) -> LinearOperator:
        return self.H

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Dense):
            return Dense(other.A[..., self.index, :])
        return super()._times(other)
