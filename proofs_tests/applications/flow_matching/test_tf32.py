"""The shipped model on a GPU whose convolutions run in TF32, emulated: its bare chart loses its laws, its spaces keep them."""

import pytest
import torch
from torch import Tensor

from applications.flow_matching import load_pretrained
from induced import InducedSpace
from induced.checks import check_linear
from induced.precision import allow_tf32, full_precision
from proofs_tests.device import StandIn
from proofs_tests.tf32 import EmulatedTF32


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.filterwarnings("ignore:a chart on gpu")
def test_its_chart_breaks_in_tf32_and_its_space_does_not(gpu: StandIn) -> None:
    f = load_pretrained().requires_grad_(False)
    Y = f.codomain
    assert isinstance(Y, InducedSpace)
    x = f(f.domain.sample(2, torch.Generator().manual_seed(0)))
    f, x = f.to(gpu.device), x.to(gpu.device)
    with EmulatedTF32():
        assert worst(Y.chart.inverse(Y.chart(x)), x) > 3e-4
        assert worst(Y.point(Y.coords(x)), x) < 2e-5
        assert worst(f(f.pinv()(x)), x) < 2e-3
        with full_precision():
            assert worst(Y.chart.inverse(Y.chart(x)), x) < 2e-5
        with allow_tf32():
            assert worst(Y.point(Y.coords(x)), x) > 3e-4


def test_it_is_linear_by_the_checks_and_not_in_tf32() -> None:
    f = load_pretrained().requires_grad_(False)
    z = f.domain.sample(1, torch.Generator().manual_seed(0))
    with EmulatedTF32():
        assert all(report.ok for report in check_linear(f, z))
    with EmulatedTF32(always=True):
        assert sum(not report.ok for report in check_linear(f, z)) >= 3
