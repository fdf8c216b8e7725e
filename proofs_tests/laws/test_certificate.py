"""Certificates: the predicted error of a round trip beside the measured one, for couplings up to where they break."""

import math

import pytest
import torch
from torch import Tensor, nn

from induced.bijections import (
    AdditiveCoupling,
    AffineCoupling,
    Bijection,
    Composition,
    Flatten,
    Identity,
    LatticeCoupling,
    Log,
    Sinh,
    rounding,
    roundtrip,
)
from induced.bijections.certificate import Roundtrip
from induced.bijections.networks import MLP
from proofs_tests.registry import DTYPES

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def stressed(kind: type[AffineCoupling] | type[AdditiveCoupling], dim: int, weight: float) -> Bijection:
    """Eight couplings of random networks whose weights, drawn as torch does, are multiplied."""
    parts = []
    for k in range(8):
        inputs, changed = dim // 2, (dim - dim // 2) * (2 if kind is AffineCoupling else 1)
        net = nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, changed))
        with torch.no_grad():
            for layer in net[::2]:
                layer.weight.mul_(weight)
        parts.append(kind((dim,), net, flip=bool(k % 2)))
    return Composition(*parts)


@every_dtype
@pytest.mark.parametrize("weight", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dim", [2, 16, 64])
@pytest.mark.parametrize("kind", [AffineCoupling, AdditiveCoupling])
def test_the_certificate_is_as_large_as_the_error_and_no_thousand_times_larger(
    kind: type[AffineCoupling] | type[AdditiveCoupling], dim: int, weight: float, dtype: torch.dtype
) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        r = roundtrip(stressed(kind, dim, weight).to(dtype), torch.randn(32, dim, dtype=dtype))
        assert r.ok and r.error <= 10 * r.predicted
        assert r.predicted <= 1000 * r.error


def test_the_certificate_sees_that_a_chart_breaks() -> None:
    predicted = [roundtrip(stressed(AffineCoupling, 16, w), torch.randn(16, 16)).predicted for w in (1.0, 2.0, 3.0)]
    assert predicted[0] < 1e-5 < predicted[1] < 0.1 < predicted[2]


class Ulps(Bijection):
    """A chart whose round trip moves each entry by a number of units in the last place, towards infinity."""

    def __init__(self, count: int) -> None:
        super().__init__((2,))
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x + 0

    def inverse(self, z: Tensor) -> Tensor:
        for _ in range(self.count):
            z = torch.nextafter(z, torch.full_like(z, math.inf))
        return z + 0


@every_dtype
@pytest.mark.parametrize("size", [1.0, 1.999, 3e-30, 7e20])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_errors_are_measured_in_units_in_the_last_place_of_the_largest_entry(dtype: torch.dtype, size: float, count: int) -> None:
    x = torch.tensor([[size, -size / 2000], [size / 3, size]], dtype=dtype)
    g = Ulps(count)
    r = roundtrip(g, x)
    assert r.ulp == count
    assert r.error == float((g.inverse(x) - x).norm(dim=-1).max())
    assert r.predicted == r.certificate * torch.finfo(dtype).eps == rounding(g, x) * torch.finfo(dtype).eps


def test_an_error_that_rounding_does_not_explain_is_told() -> None:
    fine, broken = roundtrip(Ulps(3), torch.ones(4, 2)), roundtrip(Ulps(1000), torch.ones(4, 2))
    assert fine.ok and not broken.ok
    assert str(fine).endswith(": explained by rounding") and "(3 ulp)" in str(fine)
    assert str(broken).endswith(": NOT explained by rounding") and "(1e+03 ulp)" in str(broken)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_points_have_any_shape(shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
    x = torch.rand((*batch, *shape)) + 0.5
    for g in (Log(shape), Flatten(shape) @ Log(shape)):
        r = roundtrip(g, x)
        assert 0 < r.certificate and r.ok
    assert roundtrip(Identity(shape), x)[:2] == (0, 0)


def test_an_empty_batch_is_off_by_nothing() -> None:
    assert roundtrip(Log((2,)), torch.ones(0, 2)) == Roundtrip(0, 0, 0, 0)


def test_a_point_at_zero_has_units_too() -> None:
    assert roundtrip(Ulps(0), torch.zeros(1, 2)).ulp == 0
    assert roundtrip(Ulps(1), torch.zeros(1, 2)).ulp > 0


def test_overflow_is_an_infinite_error_and_certificate() -> None:
    x = torch.tensor([[100.0]])
    assert rounding(Sinh((1,)), x) == math.inf
    r = roundtrip(Sinh((1,)), x)
    assert r.error == r.ulp == r.certificate == math.inf and not r.ok


def test_more_probes_find_no_smaller_error() -> None:
    torch.manual_seed(0)
    g, x = stressed(AffineCoupling, 16, 1.5), torch.randn(8, 16)
    assert rounding(g, x, probes=1) <= rounding(g, x, probes=4) <= roundtrip(g, x, probes=16).certificate


def test_the_certificate_of_a_lattice_is_half_a_step() -> None:
    g = LatticeCoupling((4,), MLP(2, 2, 8), bits=10)
    r = roundtrip(g, torch.randn(100, 4))
    assert r.ok and r.error <= r.predicted
    assert r.predicted == pytest.approx(2 * 2.0**-11, rel=0.01)
    assert roundtrip(g, g.inverse(torch.randn(100, 4)).detach()).error == 0
