"""Time-dependent operators t -> A_t."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from induced._module import Module, in_double, unset
from induced._registry import saved_as
from induced._validate import eager, require_finite
from induced.errors import DomainError, ShapeError
from induced.operators.base import LinearOperator
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank
from induced.operators.reduction import Triplets as Parts


@final
class Restriction(NamedTuple):
    """A_t = c(t) I + Q X_t Y_t^T Q^T: every A_t maps the range of one Q into itself, and is a number c(t) orthogonally to it.

    Attributes:
        basis: Q of shape (n, p), with orthonormal columns.
        core: times of shape (k,) -> (c, X, Y) of shapes (k,), (k, p, r) and (k, p, r), in float64.
    """

    basis: Tensor
    core: Callable[[Tensor], Parts]


class OperatorFamily(Module, ABC):
    """A map t -> A_t into the operators on R^dim; `at` is the one obligation."""

    first_call = "super().__init__(dim)"
    dim: int = unset()

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ShapeError(f"a family acts on at least one coordinate, got dim={dim}")
        self.dim = int(dim)

    @abstractmethod
    def at(self, t: float | Tensor) -> LinearOperator:
        """A_t; a tensor t of shape (*batch,) gives one operator per sample.

        The batch of operators broadcasts against that of the states: t (T, 1) takes each of N states (N, n) at each time, to
        (T, N, n).

        Law:
            `F.at(t)(z)[i] == F.at(t[i])(z[i])` for t (N,) and z (N, n) (laws/test_propagators.py)
        """

    def restricted(self, times: Tensor, most: int) -> Restriction | None:
        """The family at `times` in one basis of p <= `most` columns; None where it has none, as here.

        A propagator then multiplies p x p matrices, whatever the number n of coordinates.

        Arguments:
            times: the times of shape (k,) that the restriction is used at.
            most: largest p of use to the caller.

        Law:
            `F.at(t).matrix() == c * I + Q @ X @ Y.mT @ Q.mT` up to rounding at each of the times (laws/test_one_basis.py)
        """
        return None


class _NetworkFamily(OperatorFamily):
    """What the families below share: a network h of t, numbers offset + sum_f h_f(t) factors_f, and a `rest_std`."""

    offset: nn.Parameter
    factors: nn.Parameter

    def __init__(self, dim: int, rank: int, width: int, features: int, rest_std: float | None) -> None:
        super().__init__(dim)
        if not 0 <= rank <= dim:
            raise ShapeError(f"the rank of a family on {dim} coordinates lies in 0..{dim}, got {rank}")
        if rest_std is not None and not rest_std > 0:
            raise DomainError(f"rest_std is a standard deviation and must be positive, got {rest_std}")
        self.rank, self.rest_std = int(rank), rest_std
        self.hidden = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, features), nn.Tanh())

    def numbers(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """The time as a tensor, and offset + sum_f h_f(t) factors_f."""
        like = self.offset
        time = t.to(like) if isinstance(t, Tensor) else like.new_full((), t)
        h = self.hidden(time.unsqueeze(-1))
        # Kept in the dtype of the parameters under autocast: the propagator multiplies hundreds of these.
        with nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False):
            return time, torch.tensordot(h.to(like.dtype), self.factors, dims=1) + self.offset

    def precise(self, times: Tensor) -> Tensor:
        """(1, h(t)) of shape (k, features + 1), in float64."""
        h = in_double(self.hidden, times.unsqueeze(-1))
        return torch.cat([torch.ones_like(h[:, :1]), h], -1)

    def rates(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """c(t) and b(t) - c(t); 0 and 1 without `rest_std`."""
        if self.rest_std is None:
            return torch.zeros_like(time), torch.ones_like(time)
        c = gaussian_rate(time, self.rest_std)
        return c, gaussian_rate(time, 1.0) - c

    def operator(self, time: Tensor, U: Tensor, V: Tensor) -> LinearOperator:
        """U V^T, or c(t) I + (b(t) - c(t)) U V^T."""
        if self.rest_std is None:
            return LowRank(U, V)
        c, rest = self.rates(time)
        return ScaledIdentityPlusLowRank(c, rest[..., None, None] * U, V)


def _described(F: _NetworkFamily) -> dict[str, object]:
    width, features = F.hidden[0].out_features, F.hidden[2].out_features
    return {"dim": F.dim, "rank": F.rank, "width": width, "features": features, "rest_std": F.rest_std}


@final
@saved_as("propagators.LowRankFamily", describe=_described)
class LowRankFamily(_NetworkFamily):
    """A_t = U_t V_t^T, or c(t) I + (b(t) - c(t)) U_t V_t^T with `rest_std`; smooth factors made by a network of t.

    Without `rest_std` this is the paper's family. With `rest_std` = s, c and b are the exact generators of the straight paths
    from N(0, 1) to N(0, s^2) and to N(0, 1) (`gaussian_rate`), and the factors start at the first r unit vectors: at
    the Gaussian oracle from N(0, I) to N(0, diag(1, ..., 1, s^2, ..., s^2)). Every direction that the factors leave
    alone ends at standard deviation s, so that the propagator has a decaying spectrum and stays invertible. A_0 = -I
    and A_1 = I hold throughout, as they do for every Gaussian path.

    Arguments:
        dim: number n of coordinates.
        rank: columns r of U_t and V_t.
        width: hidden units of the network of t, whose activations are smooth (order 4 needs A in C^4).
        features: outputs of that network; the factors are affine in them and hold (features + 1) 2 n r numbers.
        rest_std: standard deviation s > 0 that the scalar part leads to, or None for no scalar part.

    Raises:
        DomainError: `rest_std` is not positive.
        ShapeError: `rank` lies outside 0..dim, or `dim` is below 1.
    """

    def __init__(self, dim: int, rank: int, width: int = 64, *, features: int = 8, rest_std: float | None = None) -> None:
        super().__init__(dim, rank, width, features, rest_std)
        # Entries of size 1/sqrt(n) make columns of unit length, so that A_t starts with a norm of order one.
        spread = 0.1 if rest_std is not None else 1.0
        self.factors = nn.Parameter(torch.randn(features, 2, dim, rank) * (spread / (dim * features) ** 0.5))
        start = (
            torch.eye(dim, rank).expand(2, dim, rank) if rest_std is not None else torch.randn(2, dim, rank) * (0.5 / dim**0.5)
        )
        self.offset = nn.Parameter(start.clone())

    def at(self, t: float | Tensor) -> LinearOperator:
        time, UV = self.numbers(t)
        return self.operator(time, UV[..., 0, :, :], UV[..., 1, :, :])

    def restricted(self, times: Tensor, most: int) -> Restriction | None:
        """The columns of U_t and V_t at all `times` in 2 r directions for each of the few that (1, h(t)) moves in.

        Those are what rounding can tell apart: a truncation, so None where gradients are asked for.
        """
        like = self.offset
        if not eager(like) or (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return None
        stacked = torch.cat([like.unsqueeze(0), self.factors]).double()
        # U_t and V_t each relative to its own largest entry, however they share the size of their product
        entries = torch.linalg.vector_norm(stacked, torch.inf, (2, 3)) if stacked.numel() else stacked.new_zeros(len(stacked), 2)
        sizes = entries.amax(0)
        scale = torch.where(sizes > 0, sizes, 1.0)
        weights = (entries / scale).amax(1)
        moved = self.precise(times) * weights
        require_finite(moved, "the factors of a LowRankFamily")
        _, s, directions = torch.linalg.svd(moved, full_matrices=False)
        directions = directions[s > torch.finfo(like.dtype).eps * s[:1]]
        kept = len(directions)
        if 2 * self.rank * kept > most:
            return None
        columns = torch.tensordot(directions / weights.clamp(min=torch.finfo(weights.dtype).tiny), stacked, dims=1)
        columns = columns / scale[:, None, None]
        Q, R = torch.linalg.qr(columns.permute(2, 0, 1, 3).reshape(self.dim, -1))
        X, Y = R.reshape(len(R), kept, 2, self.rank).permute(2, 1, 0, 3) * sizes[:, None, None, None]  # each (kept, p, r)

        def core(t: Tensor) -> Parts:
            c, rest = self.rates(t.double())
            along = (self.precise(t) * weights) @ directions.mT
            return c, torch.tensordot(rest[:, None] * along, X, dims=1), torch.tensordot(along, Y, dims=1)

        return Restriction(Q, core)


@final
@saved_as("propagators.SharedBasisFamily", describe=_described)
class SharedBasisFamily(_NetworkFamily):
    """A_t = Q K_t Q^T, or c(t) I + (b(t) - c(t)) Q K_t Q^T with `rest_std`; Q is one trained basis, K_t a network of t.

    Every product of A_t's is one of r x r matrices, so that a propagator costs the same for any number of coordinates, besides
    forming its factors. It holds r directions for all times, where a `LowRankFamily` turns them; c, b, and the start at the
    Gaussian oracle are those of `LowRankFamily`. Q is the orthonormal factor of a parameter (n, r) by QR.

    Arguments:
        dim: number n of coordinates.
        rank: number r of columns of Q.
        width: hidden units of the network of t, whose activations are smooth.
        features: outputs of that network; K_t is affine in them.
        rest_std: standard deviation s > 0 that the scalar part leads to, or None for no scalar part.

    Raises:
        DomainError: `rest_std` is not positive.
        ShapeError: `rank` lies outside 0..dim, or `dim` is below 1.

    Law:
        `F.at(t).matrix() == c * I + (b - c) * Q @ K @ Q.mT`, Q = F.basis() (laws/test_one_basis.py)

    Example:
        >>> from induced.propagators import propagator
        >>> with torch.no_grad():
        ...     B = propagator(SharedBasisFamily(100, 3, rest_std=0.1))
        >>> B.U.shape
        torch.Size([100, 3])
    """

    def __init__(self, dim: int, rank: int, width: int = 64, *, features: int = 8, rest_std: float | None = None) -> None:
        super().__init__(dim, rank, width, features, rest_std)
        # Entries of size 1/sqrt(r) make K_t of a norm of order one.
        spread, unit = 0.1 if rest_std is not None else 1.0, max(rank, 1) ** -0.5
        self.factors = nn.Parameter(torch.randn(features, rank, rank) * (spread * unit / features**0.5))
        self.offset = nn.Parameter(torch.eye(rank) if rest_std is not None else torch.randn(rank, rank) * (0.5 * unit))
        self.directions = nn.Parameter(torch.eye(dim, rank) if rest_std is not None else torch.randn(dim, rank) / dim**0.5)

    def basis(self, dtype: torch.dtype | None = None) -> Tensor:
        """Q of shape (n, r): the first r unit vectors at the start with `rest_std`."""
        like, dtype = self.directions, dtype or self.directions.dtype
        if like.is_cpu:  # a QR may hide a nan
            require_finite(like, "the directions of a SharedBasisFamily")
        Q, R = torch.linalg.qr(like.to(torch.promote_types(dtype, torch.float32)))
        # the signs that make Q a continuous function of the parameter
        signed: Tensor = Q * torch.where(R.diagonal() < 0, -1.0, 1.0).to(Q)
        # elsewhere a nan says so without a wait of the host for each time
        return (signed if like.is_cpu else torch.where(like.isfinite().all(), signed, math.nan)).to(dtype)

    def at(self, t: float | Tensor) -> LinearOperator:
        time, K = self.numbers(t)
        with nullcontext() if K.is_meta else torch.autocast(K.device.type, enabled=False):
            Q = self.basis()
            return self.operator(time, Q @ K, Q)

    def restricted(self, times: Tensor, most: int) -> Restriction | None:
        if self.rank > most:
            return None
        stacked = torch.cat([self.offset.unsqueeze(0), self.factors]).double()

        def core(t: Tensor) -> Parts:
            c, rest = self.rates(t.double())
            K = torch.tensordot(rest[:, None] * self.precise(t), stacked, dims=1)
            return c, K, torch.eye(self.rank, dtype=K.dtype, device=K.device).expand(K.shape)

        return Restriction(self.basis(torch.float64), core)


def gaussian_rate(t: Tensor, std: float) -> Tensor:
    """d/dt log sqrt((1-t)^2 + t^2 s^2): it generates the path from N(0, 1) to N(0, s^2) (docs/theory/flow_matching.md)."""
    return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)
