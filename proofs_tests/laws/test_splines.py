"""Couplings by rational-quadratic splines, against their formula and nflows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from induced.bijections import RationalQuadraticCoupling
from induced.bijections.conditional import ConditionalCoupling
from induced.bijections.networks import MLP
from induced.bijections.spline import LEAST
from proofs_tests.laws.conditioners import Fixed
from proofs_tests.registry import DTYPES, agree, shaken

EPS = torch.finfo(torch.float64).eps
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def spline_by_numpy(raw: np.ndarray[Any, Any], x: float, bins: int, bound: float) -> tuple[float, float]:
    """Value and slope of the spline by the formulas of Gregory and Delbourgo (1982), as Durkan et al. state them."""
    widths, heights, slopes = raw[:bins], raw[bins : 2 * bins], raw[2 * bins :]

    def knots(part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        share = np.exp(part - part.max())
        share = share / share.sum()
        return np.concatenate([[0], np.cumsum(2 * bound * (LEAST / bins + (1 - LEAST) * share))]) - bound

    if not -bound <= x <= bound:
        return x, 1.0
    xs, ys = knots(widths), knots(heights)
    delta = np.concatenate([[1], LEAST + np.log1p(np.exp(slopes + np.log(np.expm1(1 - LEAST)))), [1]])
    k = min(max(int(np.searchsorted(xs, x, side="right")) - 1, 0), bins - 1)
    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, t = h / w, (x - xs[k]) / w
    below = s + (delta[k + 1] + delta[k] - 2 * s) * t * (1 - t)
    value = ys[k] + h * (s * t**2 + delta[k] * t * (1 - t)) / below
    slope = s**2 * (delta[k + 1] * t**2 + 2 * s * t * (1 - t) + delta[k] * (1 - t) ** 2) / below**2
    return float(value), float(slope)


def spline(raw: Tensor, bins: int, bound: float = 2.0) -> RationalQuadraticCoupling:
    return RationalQuadraticCoupling((1,), Fixed(raw), bins=bins, bound=bound)


@given(
    st.integers(1, 9).flatmap(
        lambda bins: st.tuples(st.just(bins), st.lists(st.floats(-2, 2), min_size=3 * bins - 1, max_size=3 * bins - 1))
    ),
    st.floats(-3, 3, allow_subnormal=False),
)
def test_a_spline_is_its_formula(parameters: tuple[int, list[float]], x: float) -> None:
    bins, raw = parameters
    g, point = spline(torch.tensor(raw, dtype=torch.float64), bins), torch.tensor([x], dtype=torch.float64)
    z, log_slope = g.forward_and_log_abs_det(point)
    value, slope = spline_by_numpy(np.array(raw), x, bins, 2.0)
    # slopes of neighbouring bins differ by 1e3 at most: the knots move by roundings, so does the value by roundings times that
    assert abs(z.item() - value) <= 1e4 * EPS and abs(log_slope.item() - math.log(slope)) <= 1e6 * EPS
    error = abs(g.inverse(z).item() - x)
    assert error <= 100 * EPS * (abs(x) + (1 + abs(value)) / min(slope, 1))


def test_a_spline_is_that_of_nflows() -> None:
    oracle = pytest.importorskip("nflows.transforms.splines.rational_quadratic").unconstrained_rational_quadratic_spline
    bins, n = 8, 500
    raw, x = torch.randn(n, 3 * bins - 1, dtype=torch.float64), 5 * torch.rand(n, 1, dtype=torch.float64) - 2.5
    g = spline(raw, bins)
    z, log_slope = g.forward_and_log_abs_det(x)
    widths, heights, slopes = raw.split([bins, bins, bins - 1], -1)
    least = {"min_bin_width": LEAST / bins, "min_bin_height": LEAST / bins, "min_derivative": LEAST}
    shifted = slopes + math.log(math.expm1(1 - LEAST))
    expected, logabsdet = oracle(x[:, 0], widths, heights, shifted, tail_bound=2.0, **least)
    back, _ = oracle(z[:, 0], widths, heights, shifted, tail_bound=2.0, inverse=True, **least)
    agree(z[:, 0], expected, 100)
    agree(log_slope, logabsdet, 100)
    restored, inverse_slope = g.inverse_and_log_abs_det(z)
    agree(restored[:, 0], back, 1e4)
    agree(inverse_slope, -logabsdet, 1e4)


@every_dtype
def test_knots_are_kept_and_the_slope_is_continuous_there(dtype: torch.dtype) -> None:
    bins, bound, eps = 5, 2.0, torch.finfo(dtype).eps
    raw = torch.randn(3 * bins - 1, dtype=dtype)
    g = spline(raw, bins, bound)
    sizes = LEAST / bins + (1 - LEAST) * torch.softmax(raw[: 2 * bins].reshape(2, bins).double(), -1)
    xs, ys = (2 * bound * sizes.cumsum(-1) - bound).to(dtype)
    slopes = LEAST + nn.functional.softplus(raw[2 * bins :].double() + math.log(math.expm1(1 - LEAST)))
    inner = xs[:-1].unsqueeze(-1)
    step = 8 * eps * bound
    for near in (inner - step, inner, inner + step):
        near = near.detach().requires_grad_()
        z, log_slope = g.forward_and_log_abs_det(near)
        (by_autograd,) = torch.autograd.grad(z.sum(), near)
        agree(z.detach()[:, 0], ys[:-1], 100)
        agree(log_slope.detach(), slopes.log().to(dtype), 1000)
        agree(by_autograd[:, 0], slopes.to(dtype), 1000)
        agree(g.inverse(z).detach(), near.detach(), 100)


@every_dtype
def test_outside_the_bound_a_spline_is_the_identity_and_its_slope_meets_it(dtype: torch.dtype) -> None:
    g = spline(torch.randn(11, dtype=dtype), 4)
    outside = torch.tensor([[-1e30], [-7.0], [-2.0001], [2.0001], [1e30]], dtype=dtype)
    z, log_slope = g.forward_and_log_abs_det(outside)
    assert torch.equal(z, outside) and torch.equal(g.inverse(outside), outside) and not log_slope.any()
    ends = torch.tensor([[-2.0], [2.0]], dtype=dtype)
    z, log_slope = g.forward_and_log_abs_det(ends)
    agree(z.detach(), ends)
    agree(log_slope.detach(), torch.zeros(2, dtype=dtype), 100)
    assert g(torch.tensor([math.nan], dtype=dtype)).isnan().all()


@pytest.mark.parametrize("bins", [1, 2, 7])
def test_a_spline_whose_parameters_are_0_is_the_identity(bins: int) -> None:
    g, x = spline(torch.zeros(3 * bins - 1, dtype=torch.float64), bins), torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None]
    agree(g(x).detach(), x)
    agree(g.log_abs_det(x).detach(), torch.zeros(31, dtype=torch.float64))


@every_dtype
@pytest.mark.parametrize("size", [5.0, 40.0])
def test_extreme_parameters_give_finite_values_and_gradients(dtype: torch.dtype, size: float) -> None:
    x = torch.linspace(-4, 4, 2000, dtype=dtype)[:, None].requires_grad_()
    g = spline(size * torch.randn(2000, 23, dtype=dtype), 8, bound=3.0)
    for value in (*g.forward_and_log_abs_det(x), *g.inverse_and_log_abs_det(x)):
        assert value.isfinite().all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(value.sum(), (*g.parameters(), x), retain_graph=True))


def test_a_spline_is_monotone() -> None:
    g = spline(3 * torch.randn(23, dtype=torch.float64), 8)
    x = torch.linspace(-2.5, 2.5, 4001, dtype=torch.float64)[:, None]
    assert (g(x).diff(dim=0) > 0).all() and (g.inverse(x).diff(dim=0) > 0).all()


def test_a_spline_coupling_may_depend_on_a_context() -> None:
    net = shaken(MLP(2, 10, 8, context=1))

    def kind(*args: Any, **kwargs: Any) -> RationalQuadraticCoupling:
        return RationalQuadraticCoupling(*args, bins=2, **kwargs)

    g = ConditionalCoupling((4,), net, kind=kind)
    x = torch.randn(3, 4)
    agree(g.at(0.5).inverse(g.at(0.5)(x)), x, 100)
    assert not torch.allclose(g.at(0.5)(x), g.at(-0.5)(x))


def test_a_spline_compiles_and_works_under_vmap() -> None:
    g, x = RationalQuadraticCoupling((4,), shaken(MLP(2, 10, 8)), bins=2), torch.randn(3, 4)
    agree(torch.func.vmap(g)(x).detach(), g(x).detach())
    jacobians = torch.func.vmap(torch.func.jacrev(g))(x)
    agree(torch.linalg.slogdet(jacobians)[1].detach(), g.log_abs_det(x).detach(), 100)
    compiled = torch.compile(g, fullgraph=True, backend="eager")
    agree(compiled(x).detach(), g(x).detach())
