"""Charts of table rows: columns that never vary are left out, the others standardised, and couplings make them Gaussian."""

from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from induced.bijections import Affine, AffineCoupling, Bijection, ConditionalBijection, Linear, RationalQuadraticCoupling
from induced.bijections.networks import MLP
from induced.errors import DomainError
from induced.operators import LU
from induced.serialization import register

BINS, BOUND = 8, 5.0
"""Bins of a spline, and how many standard deviations it reaches; beyond, a coupling moves nothing."""


@final
class Varying(Bijection):
    """The rows (n,) whose constant columns have their value -> the other columns.

    These rows are an affine subspace of R^n, which no sample leaves. log|det J| = 0 with respect to its surface measure.

    Arguments:
        n: columns.
        constant: numbers of those that never vary; `values` holds their values.

    Raises:
        DomainError: a constant column of a point has another value.
    """

    kept: Tensor
    place: Tensor
    values: Tensor

    def __init__(self, n: int, constant: Sequence[int]) -> None:
        super().__init__((n,), (n - len(constant),))
        self.constant = tuple(constant)
        kept = torch.tensor([i for i in range(n) if i not in self.constant])
        order = torch.cat([kept, torch.tensor(self.constant, dtype=torch.long)])
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("place", order.argsort(), persistent=False)
        self.register_buffer("values", torch.zeros(len(self.constant), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.kept]

    def inverse(self, z: Tensor) -> Tensor:
        fixed = self.values.to(z.dtype).expand(*z.shape[:-1], -1)
        return torch.cat([z, fixed], -1)[..., self.place]

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x)

    def require(self, x: Tensor) -> None:
        """Refuse rows (N, n) that leave the subspace."""
        for column, value in zip(self.constant, self.values.to(x.dtype), strict=True):
            if bool((wrong := x[:, column] != value).any()):
                row = int(wrong.nonzero()[0])
                raise DomainError(
                    f"column {column} is {float(value):.6g} in all rows that were trained on, but row {row} has "
                    f"{float(x[row, column]):.6g}: the model knows no other value"
                )


register(Varying, describe=lambda g: {"n": g.shape[0], "constant": list(g.constant)}, name="flow_matching.Varying")


def standardising(n: int, constant: Sequence[int]) -> list[Bijection | ConditionalBijection]:
    """The charts that leave out the constant columns, if there are any, and standardise the others; see `standardise`."""
    affine = Affine((n - len(constant),), torch.ones(n - len(constant)), torch.zeros(n - len(constant)))
    return [Varying(n, constant), affine] if constant else [affine]


def standardise(parts: Sequence[nn.Module], rows: Tensor) -> None:
    """Set mean and scale of the charts of `standardising`, and the values of constant columns, from rows (N, n) in float64."""
    *dropped, affine = parts
    if dropped and isinstance(varying := dropped[0], Varying):
        varying.values.copy_(rows[0, list(varying.constant)])
        rows = varying(rows)
    std, mean = torch.std_mean(rows, 0)
    if isinstance(affine, Affine):
        affine.scale.copy_(1 / std)
        affine.shift.copy_(-mean / std)


def couplings(kind: str, dim: int, blocks: int, width: int) -> list[Bijection | ConditionalBijection]:
    """`blocks` couplings of dim coordinates, "spline" or "real_nvp", each after a trained linear map that mixes all of them."""
    parts = list[Bijection | ConditionalBijection]()
    made: Any = partial(RationalQuadraticCoupling, bins=BINS, bound=BOUND) if kind == "spline" else AffineCoupling
    each = 3 * BINS - 1 if kind == "spline" else 2
    for k in range(blocks):
        changed = dim // 2 if k % 2 else dim - dim // 2
        parts += [Linear(LU(dim)), made((dim,), MLP(dim - changed, each * changed, width), flip=bool(k % 2))]
    return parts
