"""Amplification of rounding: the predicted error of a round trip beside the measured one, up to where couplings break."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, InducedSpace, ProductSpace, Subspace
from induced.bijections import (
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Arctanh,
    Bijection,
    Composition,
    DirectSum,
    Flatten,
    Identity,
    LatticeCoupling,
    Log,
    Logit,
    PositiveDefinite,
    Simplex,
    Sinh,
    rounding,
    roundtrip,
)
from induced.bijections.amplification import Roundtrip, log_det_roundings, zero_size
from induced.bijections.networks import MLP
from induced.errors import InducedError
from proofs_tests.registry import CHARTS, DTYPES, ChartCase, agree

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def stressed(kind: type[AffineCoupling] | type[AdditiveCoupling], dim: int, weight: float) -> Bijection:
    """Eight couplings of random networks whose weights, drawn as torch does, are multiplied."""
    parts = []
    for k in range(8):
        inputs, changed = dim // 2, (dim - dim // 2) * (2 if kind is AffineCoupling else 1)
        net = nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, changed))
        with torch.no_grad():
            for layer in net:
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(weight)
        parts.append(kind((dim,), net, flip=bool(k % 2)))
    return Composition(*parts)


@every_dtype
@pytest.mark.parametrize("weight", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dim", [2, 16, 64])
@pytest.mark.parametrize("kind", [AffineCoupling, AdditiveCoupling])
def test_the_amplification_is_as_large_as_the_error_and_no_thousand_times_larger(
    kind: type[AffineCoupling] | type[AdditiveCoupling], dim: int, weight: float, dtype: torch.dtype
) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        r = roundtrip(stressed(kind, dim, weight).to(dtype), torch.randn(32, dim, dtype=dtype))
        assert r.ok and r.error <= 10 * r.predicted
        assert r.predicted <= 1000 * r.error


def test_the_amplification_sees_that_a_chart_breaks() -> None:
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
    assert r.error == pytest.approx(float((g.inverse(x) - x).double().norm(dim=-1).max()), rel=1e-6)
    assert r.predicted == r.amplification * torch.finfo(dtype).eps == rounding(g, x) * torch.finfo(dtype).eps


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
        assert 0 < r.amplification and r.ok
    assert roundtrip(Identity(shape), x)[:2] == (0, 0)


def test_an_empty_batch_is_off_by_nothing() -> None:
    assert roundtrip(Log((2,)), torch.ones(0, 2)) == Roundtrip(0, 0, 0, 0)


def test_a_point_at_zero_has_units_too() -> None:
    assert roundtrip(Ulps(0), torch.zeros(1, 2)).ulp == 0
    assert roundtrip(Ulps(1), torch.zeros(1, 2)).ulp > 0


def test_overflow_is_an_infinite_error_and_amplification() -> None:
    x = torch.tensor([[100.0]])
    assert rounding(Sinh((1,)), x) == math.inf
    r = roundtrip(Sinh((1,)), x)
    assert r.error == r.ulp == r.amplification == math.inf and not r.ok


@pytest.mark.parametrize("case", CHARTS, ids=str)
def test_the_inverse_of_a_chart_rounds_points_as_coordinates(case: ChartCase) -> None:
    g = case.make()
    x = case.points(g, (2, 3))
    with torch.no_grad():
        z = g(x)
        of_z, of_x = g.roundoff(x), g.inverse_roundoff(z)
        assert of_z.shape == z.shape and of_x.shape == x.shape
        silent = all(layer.moves_entries or layer.lattice_step for layer in g.layers())
        assert (of_z >= 0).all() and (of_x >= 0).all() and bool((of_z == 0).all()) == silent
        assert torch.equal(g.inv.roundoff(z), of_x) and torch.equal(g.inv.inverse_roundoff(x), of_z)
        moved = Flatten(g.coord_shape) @ g
        assert torch.equal(moved.roundoff(x), of_z.reshape(2, 3, -1))
        agree(moved.inverse_roundoff(moved(x)), of_x)
        if len(g.shape) == len(g.coord_shape) == 1:
            side, w = DirectSum(Log((1,)), g), torch.full((2, 3, 1), 0.5).to(x)
            both, images = torch.cat([w, x], -1), torch.cat([w.log(), z], -1)
            agree(side.roundoff(both), torch.cat([-w.log(), of_z], -1))
            agree(side.inverse_roundoff(images), torch.cat([w, of_x], -1))


class Rounded(Bijection):
    """The identity, computed as (x + 1e6) - 1e6; it says so or not."""

    def __init__(self, *, says: bool) -> None:
        super().__init__((2,))
        self.says = says

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1e6) - 1e6

    def inverse(self, z: Tensor) -> Tensor:
        return z + 0

    def roundoff(self, x: Tensor) -> Tensor:
        return (x + 1e6).abs() if self.says else super().roundoff(x)


@every_dtype
def test_a_chart_that_says_how_it_rounds_is_explained(dtype: torch.dtype) -> None:
    x = torch.randn(16, 2, dtype=dtype)
    for g in (Rounded(says=True), Affine((2,), 100.0) @ Rounded(says=True), Rounded(says=True).inv @ Affine((2,), 100.0)):
        assert roundtrip(g, x).ok and roundtrip(g.inv, g(x)).ok
    assert not roundtrip(Rounded(says=False), x).ok


def test_the_size_at_the_zero_vector_is_that_of_what_the_layers_compute_there() -> None:
    like = torch.zeros(0, dtype=torch.float64)
    shifted = Affine((2,), 2.0, torch.tensor([6.0, 8.0])) @ Affine((2,), 1.0, 1e3)
    # 0 decodes to (-3, -4), then to (-1003, -1004)
    assert zero_size(shifted, like) == pytest.approx(math.hypot(1003, 1004))
    assert zero_size(shifted.inv, like) == pytest.approx(math.hypot(2006, 2008))
    assert zero_size(Identity(()), like) == 0 and zero_size(Log((3, 1)), like) == pytest.approx(math.sqrt(3))
    assert zero_size(Log((2,)).inv @ Affine((2,), 1.0, 1.0), like) == 0  # log 0 is refused
    assert zero_size(Affine((1,), 1.0, 1e300), torch.zeros(0)) == 0  # overflows in float32
    X, E = InducedSpace(shifted), EuclideanSpace(3)
    assert X.zero_size(like) == zero_size(shifted, like) and E.zero_size(like) == 0
    assert ProductSpace(X, E, X).zero_size(like) == pytest.approx(math.sqrt(2) * X.zero_size(like))
    assert Subspace(X, torch.eye(2, 1, dtype=torch.float64)).zero_size(like) == X.zero_size(like)


def exactly(g: Bijection, x: Tensor) -> Tensor:
    """log|det J| of a float32 chart, in float64."""
    return copy.deepcopy(g).double().log_abs_det(x.double()).detach()


@pytest.mark.parametrize("case", CHARTS, ids=str)
def test_log_abs_det_is_as_accurate_as_its_roundings_say(case: ChartCase) -> None:
    g = case.make(torch.float32)
    x = case.points(g, (3, 4), torch.float32)
    with torch.no_grad():
        z = g(x)
    # a float32 point of the simplex is none in float64
    for h, at in ((g, x), (g.inv, z)) if case.square else ((g.inv, z),):
        allowed = 10 * torch.finfo(torch.float32).eps * log_det_roundings(h, at)
        assert allowed.shape == (3, 4) and bool((allowed == 0).all()) == g.moves_entries
        assert ((h.log_abs_det(at).detach().double() - exactly(h, at)).abs() <= allowed).all()
        assert (allowed <= 1e-4 * z[0, 0].numel()).all()


def test_near_the_edge_of_a_domain_log_abs_det_is_known_to_its_gradient() -> None:
    eps, e = torch.finfo(torch.float32).eps, torch.logspace(-1, -5, 20).unsqueeze(-1)
    diagonal = torch.diag_embed(torch.cat([torch.ones_like(e), torch.ones_like(e), e], -1))
    Q = torch.linalg.qr(torch.randn(3, 3))[0]
    for g, x in (
        (Arctanh((1,)) @ Affine((1,), 1 / 3), 3 * (1 - e)),
        (Logit((1,)) @ Affine((1,), 1e-3, 1 / 3), (1 - e - 1 / 3) * 1e3),
        (PositiveDefinite(3), Q @ diagonal @ Q.mT),
        (PositiveDefinite(3), 1e8 * (Q @ diagonal @ Q.mT)),
    ):
        x = (x + x.mT) / 2 if len(g.shape) == 2 else x
        error, roundings = (g.log_abs_det(x).double() - exactly(g, x)).abs(), log_det_roundings(g, x)
        assert (error <= 10 * eps * roundings).all()
        assert error.max() > 30 * eps * x[0].numel()  # so many roundings of the terms would not explain it
    naive = log_det_roundings(Simplex(3), torch.tensor([0.5, 0.5 - 1e-30, 1e-30]))
    assert 60 < naive < 120  # |log x| is 70, and log x moves by a rounding where x does


def test_log_abs_det_of_no_points_and_of_a_chart_without_one() -> None:
    assert log_det_roundings(Log((2,)), torch.ones(0, 2)).shape == (0,)
    with pytest.raises(InducedError, match="has no log"):
        log_det_roundings(Ulps(1), torch.ones(2))


@every_dtype
def test_denormal_points_are_known_to_less(dtype: torch.dtype) -> None:
    tiny, eps = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    z = math.log(tiny) + math.log(eps) + torch.linspace(2, 7, 30, dtype=dtype).unsqueeze(-1)
    for g in (Log((1,)), Affine((1,), 2.0) @ Log((1,))):
        for w in z:
            assert roundtrip(g.inv, w).ok
    assert roundtrip(Log((1,)).inv, z).error > 100 * eps * z.abs().max()


def test_points_of_any_size_have_a_amplification() -> None:
    for size in (1e-30, 1e30):
        r = roundtrip(Identity((4,)), torch.full((3, 4), size))
        assert r.amplification == pytest.approx(2 * size) and r.ok


def test_more_probes_find_no_smaller_error() -> None:
    torch.manual_seed(0)
    g, x = stressed(AffineCoupling, 16, 1.5), torch.randn(8, 16)
    assert rounding(g, x, probes=1) <= rounding(g, x, probes=4) <= roundtrip(g, x, probes=16).amplification


def test_the_amplification_of_a_lattice_allows_half_a_step_for_each_of_three_results() -> None:
    g = LatticeCoupling((4,), MLP(2, 2, 8), bits=10)
    r = roundtrip(g, torch.randn(100, 4))
    assert r.ok and 0.3 * r.error <= r.predicted
    assert r.predicted == pytest.approx(0.3 * 2 * 2.0**-11, rel=0.01)
    assert roundtrip(g, g.inverse(torch.randn(100, 4)).detach()).error == 0
