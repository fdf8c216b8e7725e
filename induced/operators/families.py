"""Time-dependent operators t -> A_t."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import final

import torch
from torch import Tensor, nn

from induced.errors import DomainError, ShapeError
from induced.operators.base import LinearOperator
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank


class OperatorFamily(nn.Module, ABC):
    """A map t -> A_t into the operators on R^dim; `at` is the one obligation."""

    dim: int

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ShapeError(f"a family acts on at least one coordinate, got dim={dim}")
        self.dim = int(dim)

    @abstractmethod
    def at(self, t: float | Tensor) -> LinearOperator:
        """A_t; a tensor t of shape (*batch,) gives one operator per sample."""

    def reference(self) -> Tensor | None:
        """A tensor that names the family's dtype and device, or None where it takes those of its input."""
        return next(iter(self.parameters()), next(iter(self.buffers()), None))


@final
class LowRankFamily(OperatorFamily):
    """A_t = U_t V_t^T, or c(t) I + (b(t) - c(t)) U_t V_t^T with a `floor`; smooth factors made by a network of t.

    Without `floor` this is the paper's family. With `floor` = s, c and b are the exact generators of the straight paths
    from N(0, 1) to N(0, s^2) and to N(0, 1) (`gaussian_rate`), and the factors start at the first r unit vectors: at
    the Gaussian oracle from N(0, I) to N(0, diag(1, ..., 1, s^2, ..., s^2)). Every direction that the factors leave
    alone ends at standard deviation s, so that the propagator has a decaying spectrum and stays invertible. A_0 = -I
    and A_1 = I hold throughout, as they do for every Gaussian path.

    Arguments:
        dim: number n of coordinates.
        rank: columns r of U_t and V_t.
        width: hidden units of the network of t, whose activations are smooth (order 4 needs A in C^4).
        features: outputs of that network; the factors are affine in them and hold (features + 1) 2 n r numbers.
        floor: standard deviation s > 0 that the scalar part leads to, or None for no scalar part.

    Raises:
        DomainError: `floor` is not positive.
        ShapeError: `rank` lies outside 0..dim, or `dim` is below 1.
    """

    def __init__(self, dim: int, rank: int, width: int = 64, *, features: int = 8, floor: float | None = None) -> None:
        super().__init__(dim)
        if not 0 <= rank <= dim:
            raise ShapeError(f"the rank of a family on {dim} coordinates lies in 0..{dim}, got {rank}")
        if floor is not None and not floor > 0:
            raise DomainError(f"floor is a standard deviation and must be positive, got {floor}")
        self.rank, self.floor = int(rank), floor
        self.hidden = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, features), nn.Tanh())
        # Entries of size 1/sqrt(n) make columns of unit length, so that A_t starts with a norm of order one.
        spread = 0.1 if floor is not None else 1.0
        self.factors = nn.Parameter(torch.randn(features, 2, dim, rank) * (spread / (dim * features) ** 0.5))
        start = torch.eye(dim, rank).expand(2, dim, rank) if floor is not None else torch.randn(2, dim, rank) * (0.5 / dim**0.5)
        self.offset = nn.Parameter(start.clone())

    def at(self, t: float | Tensor) -> LinearOperator:
        like = self.offset
        time = t.to(like) if isinstance(t, Tensor) else torch.tensor(t, dtype=like.dtype, device=like.device)
        h = self.hidden(time.unsqueeze(-1))
        # Kept in the dtype of the parameters under autocast: the propagator multiplies hundreds of these.
        with nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False):
            UV = torch.tensordot(h.to(like.dtype), self.factors, dims=1) + self.offset
        U, V = UV[..., 0, :, :], UV[..., 1, :, :]
        if self.floor is None:
            return LowRank(U, V)
        c = gaussian_rate(time, self.floor)
        return ScaledIdentityPlusLowRank(c, (gaussian_rate(time, 1.0) - c)[..., None, None] * U, V)


def gaussian_rate(t: Tensor, std: float) -> Tensor:
    """d/dt log sqrt((1-t)^2 + t^2 s^2), the generator of the straight path from N(0, 1) to N(0, s^2) (docs/mathematics.md, 3)."""
    return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)
