"""Spaces of the charts of the registry."""

import pytest
import torch
from torch import Tensor

from induced import InducedSpace
from induced.bijections import real_nvp
from proofs_tests.registry import CHARTS, DTYPES, ChartCase, shaken

every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ROUND_TRIP = 1e3
"""Condition of going through the registry's charts and back."""


def space(case: ChartCase, dtype: torch.dtype = torch.float64) -> tuple[InducedSpace, Tensor]:
    """The space of a chart with gradients off, and five points."""
    g = case.make(dtype).requires_grad_(False)
    return InducedSpace(g), case.points(g, (5,), dtype)


def flow(dim: int) -> InducedSpace:
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).double().requires_grad_(False))
