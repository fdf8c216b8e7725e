"""Charts at the edges of their domains and of their coordinates: 0, 1, denormals, the largest floats, saturation, nan, integers.

Oracles: mpmath at 80 digits for functions with a formula, the same chart in float64 for the others.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import pytest
import torch
from torch import Tensor

from induced import InducedSpace
from induced.bijections import (
    ActNorm,
    Affine,
    Arctanh,
    Composition,
    DirectSum,
    InverseSoftplus,
    Linear,
    Log,
    Logit,
    PositiveDefinite,
    Reversible,
    Simplex,
    Sinh,
    glow,
)
from induced.bijections.elementwise import Elementwise
from induced.errors import DomainError, DtypeError
from induced.operators import Dense
from proofs_tests.registry import CHARTS, DTYPES, ChartCase, agree

Real = Any  # mpmath has no types
F32 = torch.float32
every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ------------------------------------------------------------------------------------------------------- elementary functions
class Formula(NamedTuple):
    """phi and its inverse, and the logarithms of their slopes; phi is defined on (low, high)."""

    make: Callable[[tuple[int, ...]], Elementwise]
    value: Callable[[Real], Real]
    inverse: Callable[[Real], Real]
    log_slope: Callable[[Real], Real]
    inverse_log_slope: Callable[[Real], Real]
    low: float = -math.inf
    high: float = math.inf


def log1pexp(t: Real) -> Real:
    return mpmath.log1p(mpmath.exp(t))


FORMULAS = {
    "Log": Formula(Log, mpmath.log, mpmath.exp, lambda x: -mpmath.log(x), lambda z: z, 0),
    "Logit": Formula(
        Logit,
        lambda x: mpmath.log(x) - mpmath.log1p(-x),
        lambda z: 1 / (1 + mpmath.exp(-z)),
        lambda x: -mpmath.log(x) - mpmath.log1p(-x),
        lambda z: -log1pexp(z) - log1pexp(-z),
        0,
        1,
    ),
    "Arctanh": Formula(
        Arctanh, mpmath.atanh, mpmath.tanh, lambda x: -mpmath.log1p(-x * x), lambda z: -2 * mpmath.log(mpmath.cosh(z)), -1, 1
    ),
    "InverseSoftplus": Formula(
        InverseSoftplus,
        lambda x: mpmath.log(mpmath.expm1(x)),
        log1pexp,
        lambda x: -mpmath.log1p(-mpmath.exp(-x)),
        lambda z: -log1pexp(-z),
        0,
    ),
    "Sinh": Formula(Sinh, mpmath.sinh, mpmath.asinh, lambda x: mpmath.log(mpmath.cosh(x)), lambda z: -mpmath.log1p(z * z) / 2),
    "Affine": Formula(
        lambda shape: Affine(shape, -0.25, 0.5),
        lambda x: mpmath.mpf("0.5") - x / 4,
        lambda z: 2 - 4 * z,
        lambda x: -mpmath.log(4),
        lambda z: mpmath.log(4),
    ),
}


def edges(dtype: torch.dtype) -> Tensor:
    """Numbers of either sign at the ends of the range, around 0 and 1, and where functions saturate."""
    floats, one = torch.finfo(dtype), torch.ones((), dtype=dtype)
    sizes = [0.0, floats.tiny * floats.eps, floats.tiny / 2, floats.tiny, 1e-30, 1e-10, floats.eps, 1e-5, 1e-3, 0.1, 0.5, 0.9]
    sizes += [1 - 1e-3, 1 - 1e-5, float(torch.nextafter(one, 0 * one)), 1.0, 2.0, 10.0, 20.0, 40.0, 87.0, 88.5, 89.0, 100.0]
    sizes += [700.0, 709.7, 710.0, 1e4, 1e10, 1e19, 1e30, floats.max / 2, floats.max]
    x = torch.tensor(sizes, dtype=dtype)
    return torch.cat([-x, x])


def apart(found: float, exact: Real, dtype: torch.dtype, floor: float) -> float:
    """The difference in units of eps (|exact| + floor); 0 for an infinity that stands for what is out of range."""
    if not math.isfinite(found):
        return 0.0 if abs(exact) > torch.finfo(dtype).max and found == math.copysign(math.inf, exact) else math.inf
    return float(abs(found - exact) / (torch.finfo(dtype).eps * (abs(exact) + floor)))


@every_dtype
@pytest.mark.parametrize("name", FORMULAS)
def test_functions_and_their_slopes_are_right_at_every_edge(name: str, dtype: torch.dtype) -> None:
    formula = FORMULAS[name]
    wrong: list[tuple[str, float, float | None, *tuple[float, ...]]] = []
    g, floats = formula.make((1,)), torch.finfo(dtype)
    smallest = floats.tiny  # eps times it is the smallest number of all
    asked = {
        "g": (g.forward, formula.value, smallest),
        "g^-1": (g.inverse, formula.inverse, smallest),
        "log|g'|": (g.log_abs_det, formula.log_slope, 1.0),
        "log|(g^-1)'|": (g.inv.log_abs_det, formula.inverse_log_slope, 1.0),
    }
    with mpmath.workdps(80):
        for x in edges(dtype):
            exact = mpmath.mpf(float(x))
            # a point on the edge of the domain, or one that rounds to it
            inside = formula.low < float(x) < formula.high
            back = inside if name == "Affine" else formula.low < float(_rounded(formula.inverse(exact), dtype)) < formula.high
            for what, (function, oracle, floor) in asked.items():
                try:
                    found = float(function(x[None]))
                except DomainError:
                    found = None
                if (found is None) == (back if "-1" in what else inside):
                    wrong.append((what, float(x), found))
                elif found is not None and apart(found, oracle(exact), dtype, floor) > 4:
                    wrong.append((what, float(x), found, float(oracle(exact))))
    assert not wrong, wrong


def _rounded(exact: Real, dtype: torch.dtype) -> Tensor:
    return torch.tensor(float(exact), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("chart", "z", "right"), [(Logit, 16.0, -16.0), (Arctanh, 8.5, -15.613706), (InverseSoftplus, -100.0, -100.0)]
)
def test_at_the_rounded_point_a_saturated_slope_would_be_wrong(chart: type[Elementwise], z: float, right: float) -> None:
    g, coordinates = chart((1,)), torch.tensor([z])
    at_the_point = -float(g.log_abs_det(g.inverse(coordinates)))
    assert abs(at_the_point - right) > 0.01
    for h in (g, Affine((1,)) @ g, DirectSum(g), Reversible(g), g.inv.inv):
        assert float(h.inv.log_abs_det(coordinates)) == pytest.approx(right, rel=1e-6)


def test_slopes_have_second_derivatives_at_0() -> None:
    x = torch.zeros(1, dtype=torch.float64)
    for slope, expected in (
        (Sinh((1,)).log_slope, 1.0),
        (Sinh((1,)).inverse_log_slope, -1.0),
        (Arctanh((1,)).inverse_log_slope, -2.0),
    ):
        assert float(torch.autograd.functional.hessian(lambda p, s=slope: s(p).sum(), x)) == pytest.approx(expected)


@pytest.mark.parametrize("z", [0.0, 12.0, 40.0, 100.0])
def test_compositions_near_a_corner_have_the_determinant_of_their_coordinates(z: float) -> None:
    g, coordinates = Simplex(3), torch.tensor([z, -z / 2], dtype=torch.float64)
    with mpmath.workdps(80):
        a, b = mpmath.mpf(z), mpmath.mpf(-z / 2)
        # the rows of Helmert's basis
        logs = [a / mpmath.sqrt(2) + b / mpmath.sqrt(6), -a / mpmath.sqrt(2) + b / mpmath.sqrt(6), -2 * b / mpmath.sqrt(6)]
        total = mpmath.log(sum(map(mpmath.exp, logs)))
        expected = mpmath.log(3) + sum(each - total for each in logs)
    x, log_det = g.inverse_and_log_abs_det(coordinates)
    assert float(log_det) == pytest.approx(float(expected), rel=1e-14)
    for part, each in zip(x.tolist(), logs, strict=True):
        assert part == pytest.approx(float(mpmath.exp(each - total)), rel=1e-13)
    in_float32 = g.inv.log_abs_det(coordinates.float()) if z < 50 else None
    assert in_float32 is None or float(in_float32) == pytest.approx(float(expected), rel=1e-6)


@every_dtype
@pytest.mark.parametrize("size", [0.01, 1.0, 5.0])
def test_matrices_near_singular_have_the_determinant_of_their_logarithm(size: float, dtype: torch.dtype) -> None:
    g, turn = PositiveDefinite(2), 0.6
    logs = [size, -size]
    c, s = math.cos(turn), math.sin(turn)
    S = (
        torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        * torch.tensor(logs, dtype=torch.float64)
        @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    )
    z = torch.stack([S[0, 0], S[0, 1] * math.sqrt(2), S[1, 1]]).to(dtype)
    expected = float(mpmath.log(mpmath.sinh(size) / size))  # trace 0
    found = g.inv.log_abs_det(z)
    assert found.dtype == dtype and float(found) == pytest.approx(expected, abs=20 * torch.finfo(dtype).eps * (1 + size))


def test_a_definite_matrix_whose_digits_are_lost_is_refused_both_ways() -> None:
    g = PositiveDefinite(3)
    for z in ([40.0, 12.0, 0.0, -40.0, 0.0, -40.0], [3.4e38] * 6, [1e4, 0.0, 0.0, 0.0, 0.0, 0.0]):
        with pytest.raises(DomainError, match="so large that the point rounds"):
            g.inverse(torch.tensor(z))
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    X = Q * torch.tensor([1.0, 1e-3, 1e-9], dtype=torch.float64) @ Q.mT
    X = (X + X.mT) / 2
    assert math.isfinite(float(g(X).sum()))
    with pytest.raises(DomainError, match="a condition above 8e"):
        g(X.float())
    denormal = torch.eye(3) * 1e-44
    assert g(denormal).diff().abs().max() > 0 and float(g(denormal)[0]) == pytest.approx(
        math.log(float(denormal[0, 0])), rel=1e-6
    )
    for bad in (math.nan, math.inf):
        with pytest.raises(DomainError, match="holds 9 non-finite"):
            g(torch.full((3, 3), bad))


# ------------------------------------------------------------------------------------------------------- every chart there is
def raised(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What the function gives, or None where it raises DomainError."""
    try:
        return function(x)
    except DomainError:
        return None


@every_chart
def test_inverse_and_determinant_in_one_pass(case: ChartCase) -> None:
    g = case.make()
    for batch in ((), (1,), (0,), (3, 2)):
        z = g(case.points(g, batch)).detach()
        x, log_det = g.inverse_and_log_abs_det(z)
        assert torch.equal(x, g.inverse(z)) and log_det.shape == batch and log_det.dtype == z.dtype
        agree(log_det.detach(), -g.log_abs_det(x).detach(), 100)
        again, there = g.inv.inverse_and_log_abs_det(x)
        assert torch.equal(again, g(x)) and torch.equal(there, g.log_abs_det(x))


@every_chart
def test_points_and_determinants_in_float32_are_those_of_float64_or_refused(case: ChartCase) -> None:
    g = case.make(F32)
    X, Y = InducedSpace(g.requires_grad_(False)), InducedSpace(copy.deepcopy(g).double())
    z, dim, floats = g(case.points(g, (2,), F32)).detach(), X.dim, torch.finfo(F32)
    judged = 0
    for size in (0.0, floats.tiny, 1.0, 4.0, 8.0, 14.0, 1e4, 3.4e38):
        coordinates = size * torch.ones_like(z).reshape(2, dim)
        point, exact = raised(X.point, coordinates), raised(Y.point, coordinates.double())
        if point is None or exact is None:
            continue
        judged += 1
        assert float((point.double() - exact).abs().max()) <= 1000 * floats.eps * (float(exact.abs().max()) + floats.tiny), size
        expected = Y.chart.inv.log_abs_det(coordinates.double().reshape(z.shape))
        found = g.inv.log_abs_det(coordinates.reshape(z.shape)).double()
        assert float((found - expected).abs().max()) <= 1000 * floats.eps * (1 + float(expected.abs().max()) + dim), size
    assert judged >= 3


@every_chart
def test_what_is_not_finite_is_no_point_and_no_coordinate(case: ChartCase) -> None:
    X = InducedSpace(case.make())
    x = case.points(X.chart, (2,))
    for function, samples in ((X.coords, x), (X.point, X.coords(x).detach())):
        for bad in (math.nan, math.inf, -math.inf):
            for place in (0, -1):
                spoilt = samples.clone()
                spoilt.view(-1)[place] = bad
                with pytest.raises(DomainError):
                    function(spoilt)


@every_chart
def test_integers_give_what_floats_give_or_an_error(case: ChartCase) -> None:
    g = case.make(F32)
    x = case.points(g, (2,), F32)
    for function, like in ((g.forward, x), (g.inverse, g(x).detach())):
        numbers = torch.ones_like(like)
        try:
            found = function(numbers.long())
        except (DtypeError, DomainError):
            continue
        assert torch.equal(found.float(), function(numbers))


# ----------------------------------------------------------------------------------------------------------------- ActNorm
def test_a_channel_that_is_constant_but_for_rounding_keeps_its_scale() -> None:
    batch = torch.rand(16, 3, 8, 8)
    batch[:, 0] = 0.5
    batch[0, 0, 0, 0] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    g = ActNorm((3, 8, 8))
    g.initialize(batch)
    assert g.log_scale[0] == 0 and abs(float(g(batch)[:, 0].detach().mean())) < 1e-7
    agree(g(batch)[:, 1:].std((0, 2, 3)).detach(), torch.ones(2), 100)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_what_a_flow_makes_of_equal_samples_is_not_scaled_up(value: float) -> None:
    """A zero-padded convolution makes the edges of one picture repeated differ by 1e-3 from its middle: no data."""
    g = glow((1, 28, 28))
    g.initialize(torch.full((16, 1, 28, 28), value))
    assert all(not part.log_scale.any() for part in g.parts if isinstance(part, ActNorm))
    assert g(torch.randn(2, 1, 28, 28)).detach().abs().max() < 6


@every_dtype
def test_channels_that_a_rotation_leaves_at_rounding_keep_their_scale(dtype: torch.dtype) -> None:
    data = torch.randn(64, 2, dtype=dtype) @ torch.randn(2, 4, dtype=dtype)
    directions = torch.linalg.svd(data.double()).Vh.to(dtype)
    left = (data @ directions.mT)[:, 2:]
    assert 0 < left.abs().max() < 1e2 * torch.finfo(dtype).eps  # neither zero nor small beside itself
    norm = ActNorm((4,)).to(dtype)
    g = Composition(Linear(Dense(directions)), norm)
    g.initialize(data)
    agree(g(data).detach().std(0)[:2], torch.ones(2, dtype=dtype), 100)
    assert not norm.log_scale[2:].any()


def test_a_single_sample_varies_over_its_positions_and_small_data_are_data() -> None:
    picture = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    one, repeated, small = ActNorm((1, 4, 4)), ActNorm((1, 4, 4)), ActNorm((1, 4, 4))
    one.initialize(picture)
    repeated.initialize(picture.expand(3, -1, -1, -1))
    noise = 1e-4 * torch.randn(3, 1, 4, 4)
    small.initialize(0.5 + noise)
    agree(one(picture).detach().std(), torch.tensor(1.0), 100)
    assert repeated.log_scale == 0 and abs(float(repeated(picture).detach().mean())) < 1e-6
    assert float(small(0.5 + noise).detach().std()) == pytest.approx(1, rel=1e-3)


@every_dtype
@pytest.mark.parametrize("size", ["tiny", 1e-30, 1.0, 1e30, "max"])
def test_channels_of_any_size_get_variance_1(size: float | str, dtype: torch.dtype) -> None:
    floats = torch.finfo(dtype)
    scale = {"tiny": 4 * floats.tiny, "max": floats.max / 8}.get(str(size)) or float(size)
    batch = scale * torch.randn(64, 2, dtype=dtype).clamp(-4, 4) * torch.tensor([1.0, 3e-4], dtype=dtype)
    batch[:, 1] += scale
    g = ActNorm((2,)).to(dtype)
    g.initialize(batch)
    z = g(batch).detach()
    assert float(z[:, 0].std()) == pytest.approx(1, rel=1e-4)
    assert float(z[:, 1].std()) == pytest.approx(1, rel=1e-2) if scale > floats.tiny * 1e5 else g.log_scale[1] == 0
    agree(g.inverse(z).detach() / scale, batch / scale, 100)


def test_an_actnorm_takes_no_data_that_are_not_finite() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(DomainError, match="the batch that initialises an ActNorm holds 1 non-finite"):
            ActNorm((2,)).initialize(torch.tensor([[1.0, 2.0], [bad, 3.0]]))
