"""Time-dependent operators t -> A_t."""

from abc import ABC, abstractmethod
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
    """A_t = c(t) I + U_t V_t^T, the factors made by a smooth network of t (MATH.md, section 3).

    Without `floor`, c = 0: the paper's family. With `floor` = s, c(t) = (t s^2 - (1-t)) / ((1-t)^2 + t^2 s^2) is the exact generator
    from N(0, 1) to N(0, s^2) (the Gaussian oracle): every direction that U_t V_t^T leaves alone ends at standard deviation s, so that
    the propagator has a decaying spectrum and stays invertible.

    Arguments:
        dim: number n of coordinates.
        rank: columns r of U_t and V_t.
        width: hidden units of the network of t, whose activations are smooth (order 4 needs A in C^4).
        floor: standard deviation s > 0 that the scalar part leads to, or None for no scalar part.

    Raises:
        DomainError: `floor` is not positive.
        ShapeError: `rank` is negative, or `dim` below 1.
    """

    def __init__(self, dim: int, rank: int, width: int = 64, floor: float | None = None) -> None:
        super().__init__(dim)
        if rank < 0:
            raise ShapeError(f"the rank of a family is at least 0, got {rank}")
        if floor is not None and not floor > 0:
            raise DomainError(f"floor is a standard deviation and must be positive, got {floor}")
        self.rank, self.floor = int(rank), floor
        self.hidden = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        # Factors of order one in the operator norm: entries of size 1/sqrt(n) make columns of unit length.
        self.factors = nn.Parameter(torch.randn(width, 2, dim, max(rank, 1))[..., :rank] / (dim * width) ** 0.5)
        self.offset = nn.Parameter(torch.randn(2, dim, max(rank, 1))[..., :rank] * (0.5 / dim**0.5))

    def at(self, t: float | Tensor) -> LinearOperator:
        like = self.offset
        time = t.to(like) if isinstance(t, Tensor) else torch.tensor(t, dtype=like.dtype, device=like.device)
        h = self.hidden(time.unsqueeze(-1))
        # Kept in the dtype of the parameters under autocast: the propagator multiplies hundreds of these.
        with torch.autocast(like.device.type, enabled=False):
            UV = torch.tensordot(h.to(like.dtype), self.factors, dims=1) + self.offset
        U, V = UV[..., 0, :, :], UV[..., 1, :, :]
        if self.floor is None:
            return LowRank(U, V)
        return ScaledIdentityPlusLowRank(gaussian_rate(time, self.floor), U, V)


def gaussian_rate(t: Tensor, std: float) -> Tensor:
    """c(t) = d/dt log sqrt((1-t)^2 + t^2 s^2), the generator of the straight path from N(0, 1) to N(0, s^2)."""
    return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)
