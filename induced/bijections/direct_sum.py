"""Charts side by side on the parts of a vector."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import final

import torch
from torch import Tensor, nn

from induced._module import reference
from induced._registry import saved_as
from induced.bijections.base import Bijection, Identity
from induced.bijections.conditional import ConditionalBijection
from induced.bijections.reshape import Flatten
from induced.errors import ShapeError


def on_vectors(chart: Bijection) -> Bijection:
    """The chart with its points and coordinates as vectors."""
    before, after = (Flatten(shape) if len(shape) != 1 else None for shape in (chart.shape, chart.coord_shape))
    chart = chart if before is None else chart @ before.inv
    return chart if after is None else after @ chart


@final
@saved_as("bijections.DirectSum", "*charts")
class DirectSum(Bijection):
    """(x_1, ..., x_k) -> (g_1(x_1), ..., g_k(x_k)) on vectors x_i that lie one after the other.

    Arguments:
        charts: charts of vectors (n_i,) -> (m_i,); `Identity((n,))` leaves n entries as they are.

    Raises:
        ShapeError: there are no charts, or one is not of vectors.

    Example:
        >>> from induced.bijections import Log
        >>> DirectSum(Identity((2,)), Log((1,)))(torch.tensor([3.0, 4.0, 1.0]))
        tensor([3., 4., 0.])

    Law:
        the Jacobian is block diagonal, log|det J| the sum of those of the charts (laws/test_bijections.py)
    """

    def __init__(self, *charts: Bijection) -> None:
        strange = [chart for chart in charts if len(chart.shape) != 1 or len(chart.coord_shape) != 1]
        if strange or not charts:
            found = f"{type(strange[0]).__name__} of {strange[0].shape} -> {strange[0].coord_shape}" if strange else "none"
            raise ShapeError(f"a direct sum takes charts of vectors (n,) -> (m,), got {found}; Flatten makes vectors")
        self.sizes = [chart.shape[0] for chart in charts]
        self.coord_sizes = [chart.coord_shape[0] for chart in charts]
        super().__init__((sum(self.sizes),), (sum(self.coord_sizes),))
        self.charts = nn.ModuleList(charts)
        self.moves_entries = all(chart.moves_entries for chart in charts)
        self.lattice_step = max(chart.lattice_step for chart in charts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([chart(part) for chart, part in self._pairs(x)], -1)

    def inverse(self, z: Tensor) -> Tensor:
        return torch.cat([chart.inverse(part) for chart, part in self._coord_pairs(z)], -1)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts, log_dets = zip(*(chart.forward_and_log_abs_det(part) for chart, part in self._pairs(x)), strict=True)
        return torch.cat(parts, -1), torch.stack(log_dets).sum(0)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        parts, log_dets = zip(*(chart.inverse_and_log_abs_det(part) for chart, part in self._coord_pairs(z)), strict=True)
        return torch.cat(parts, -1), torch.stack(log_dets).sum(0)

    def roundoff(self, x: Tensor) -> Tensor:
        return torch.cat([chart.roundoff(part) for chart, part in self._pairs(x)], -1)

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        return torch.cat([chart.inverse_roundoff(part) for chart, part in self._coord_pairs(z)], -1)

    def initialize(self, batch: Tensor) -> None:
        for chart, part in self._pairs(batch):
            chart.initialize(part)

    def _reference(self) -> Tensor | None:
        return next((like for chart in self._charts() if (like := reference(chart)) is not None), None)

    def layers(self) -> tuple[Bijection, ...]:
        rows = zip_longest(*(chart.layers() for chart in self._charts()))
        return tuple(
            DirectSum(*(on_vectors(chart) if chart else Identity((n,)) for chart, n in zip(row, self.coord_sizes, strict=True)))
            for row in rows
        )

    def _charts(self) -> list[Bijection]:
        return list(self.charts)  # type: ignore[arg-type]

    def _pairs(self, x: Tensor) -> Iterator[tuple[Bijection, Tensor]]:
        return zip(self._charts(), torch.split_with_sizes(x, self.sizes, -1), strict=True)

    def _coord_pairs(self, z: Tensor) -> Iterator[tuple[Bijection, Tensor]]:
        return zip(self._charts(), torch.split_with_sizes(z, self.coord_sizes, -1), strict=True)


@final
@saved_as("bijections.ConditionalDirectSum", "*charts")
class ConditionalDirectSum(ConditionalBijection):
    """A direct sum some of whose charts depend on the context."""

    def __init__(self, *charts: Bijection | ConditionalBijection) -> None:
        super().__init__()
        self.charts = nn.ModuleList(charts)

    def bind(self, context: Tensor) -> Bijection:
        return DirectSum(*(chart.bind(context) if isinstance(chart, ConditionalBijection) else chart for chart in self.charts))  # type: ignore[arg-type]
