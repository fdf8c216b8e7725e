"""A linearizer through given points (Theorem H.5), and what no linearizer can do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import InducedSpace, Linearizer
from induced.bijections import real_nvp
from induced.bijections.interpolating import Shear
from induced.checks import check_adjoint, check_bijection, check_linear, check_penrose, check_space, check_svd, require
from induced.errors import DomainError, NotInvertible
from induced.fitting import interpolate
from proofs_tests.laws.fitted import pairs
from proofs_tests.registry import DTYPES, agree, shaken

DOUBLE = torch.float64
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ------------------------------------------------------------------------------------------------------------ Theorem H.5
def error(f: Linearizer, x: Tensor, y: Tensor) -> float:
    return float((f(x) - y).norm(dim=-1).max()) if len(x) else 0.0


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 12), st.integers(1, 12), st.integers(0, 2**16))
def test_any_data_have_a_linearizer_in_the_plane_or_above(n: int, m: int, count: int, kinds: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, targets = torch.randn(count, n, dtype=DOUBLE), torch.randn(kinds, m, dtype=DOUBLE)
    y = targets[torch.randint(kinds, (count,))] if n >= 2 else torch.randn(count, m, dtype=DOUBLE)
    if n == m == 1:
        x, y = x.sort(0).values, y.sort(0, descending=bool(seed % 2)).values
    assert error(interpolate(x, y), x, y) <= 1e-9


@pytest.mark.parametrize(("n", "m"), [(64, 64), (64, 1), (64, 10), (64, 200), (2, 2), (3, 7)])
def test_a_thousand_pairs_are_met_to_rounding(n: int, m: int) -> None:
    x, y = pairs(1000, n, m)
    assert error(interpolate(x, y), x, y) <= 1e-13


@pytest.mark.parametrize(("count", "dim"), [(30_000, 8), (3_000, 64)])
def test_many_pairs_are_met_to_rounding(count: int, dim: int) -> None:
    x, y = pairs(count, dim, dim)
    assert error(interpolate(x, y), x, y) <= 1e-13


@pytest.mark.parametrize("dim", [3, 20])
def test_neighbours_are_those_of_all_distances(dim: int) -> None:
    centers, values = pairs(2_000, dim, 2)
    C, B = torch.linalg.qr(torch.randn(dim + 2, dim + 2, dtype=DOUBLE))[0].split([dim, 2], -1)
    g = Shear(C, B, centers, values)
    every = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    agree(g.radii, every.amin(-1) / 2)
    # at the centres, inside of bumps and between them: by tree, and under vmap by all distances
    u = torch.cat([centers, centers + 0.5 * g.radii[:, None] * torch.randn_like(centers) / dim**0.5, torch.randn_like(centers)])
    x = u @ C.mT
    agree(g(x), torch.func.vmap(g)(x), 10)
    near = x[:4000].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(g(near).sum(), near)
    agree(gradient[::100], torch.func.vmap(torch.func.jacrev(g))(x[:4000:100]).sum(1), 1e3)


def test_in_many_dimensions_the_charts_are_gentle() -> None:
    x, y = pairs(1000, 64, 64)
    f = interpolate(x, y)
    for space, points in ((f.domain, x), (f.codomain, y)):
        assert isinstance(space, InducedSpace)
        bump = space.chart
        assert isinstance(bump, Shear)
        steepest = (1.54 * bump.values.norm(dim=-1) / bump.radii).max()  # (1 - r^2)^2 falls by at most 1.5396
        assert steepest < 10
        near = points + 0.3 * torch.randn_like(points)
        J = torch.func.vmap(torch.func.jacrev(bump))(near[:10])
        assert torch.linalg.matrix_norm(J, 2).max() <= 1 + steepest


@every_dtype
def test_it_is_a_linearizer_like_any_other(dtype: torch.dtype) -> None:
    for n, m in ((1, 3), (2, 1), (3, 4)):
        x, y = (t.to(dtype) for t in pairs(4, n, m))
        f = interpolate(x, y)
        near_x, near_y = x + 0.01 * torch.randn_like(x), y + 0.01 * torch.randn_like(y)
        for space, points in ((f.domain, near_x), (f.codomain, near_y)):
            if isinstance(space, InducedSpace):
                require(check_bijection(space.chart, points), check_space(space, points))
        require(check_linear(f, near_x), check_adjoint(f, near_x, near_y), check_penrose(f, near_x, near_y), check_svd(f))
        assert f(x).dtype == dtype and not list(f.parameters())


def test_it_works_under_vmap_jacrev_and_compile_and_moves() -> None:
    x, y = pairs(20, 3, 4)
    f = interpolate(x, y)
    agree(torch.func.vmap(f)(x), y)
    near = x + 0.01 * torch.randn_like(x)
    agree(torch.func.vmap(torch.func.jacrev(f))(near), torch.stack([torch.func.jacfwd(f)(p) for p in near]), 1e3)
    agree(torch.compile(f, fullgraph=True, backend="eager")(x), y)
    assert f.float()(x.float()).sub(y).abs().max() < 1e-4
    for batch in ((), (0,), (3, 2)):
        assert f(torch.randn(*batch, 3)).shape == (*batch, 4)


def test_equal_points_with_equal_targets_count_once_and_no_data_fit_anything() -> None:
    x, y = pairs(5, 2, 2)
    x[4], y[4] = x[1], y[1]
    assert error(interpolate(x, y), x, y) < 1e-13
    negative_zero = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    assert error(interpolate(negative_zero, y[[0, 0, 1]]), negative_zero, y[[0, 0, 1]]) < 1e-13
    assert interpolate(x[:0], y[:0])(x).shape == (5, 2)
    assert error(interpolate(x[:1], y[:1]), x[:1], y[:1]) == 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_monotone_data_on_the_line_are_met_and_joined_by_straight_pieces(sign: float) -> None:
    x = torch.tensor([[2.0], [0.0], [1.0], [5.0]], dtype=DOUBLE)
    y = sign * torch.tensor([[4.0], [0.0], [1.0], [5.0]], dtype=DOUBLE)
    f = interpolate(x, y)
    assert torch.equal(f(x), y)
    at = torch.tensor([[-1.0], [0.5], [1.5], [3.5], [8.0]], dtype=DOUBLE)
    agree(f(at), sign * torch.tensor([[-1.0], [0.5], [2.5], [4.5], [6.0]], dtype=DOUBLE))
    assert isinstance(f.domain, InducedSpace)
    require(check_bijection(f.domain.chart, at), check_linear(f, at))


def test_constant_data_have_the_core_zero() -> None:
    for n in (1, 2):
        x, y = torch.randn(4, n), torch.tensor([[3.0, -1.0]]).expand(4, 2)
        f = interpolate(x, y)
        assert torch.equal(f(x), y) and not f.core.matrix().any()


def test_points_too_close_for_the_dtype_are_refused() -> None:
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2e-7]])
    with pytest.raises(DomainError, match="use float64"):
        interpolate(1e4 * x + torch.tensor([[0.0, 0.0], [1e-3, 0.0]]), torch.tensor([[0.0], [1e8]]), eps=1e-3)


# ------------------------------------------------------------------------------------------------------- what cannot be (3.1)
def test_every_fibre_has_the_dimension_of_the_kernel_so_three_zeros_are_never_all() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    y = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=DOUBLE)
    f = interpolate(x, y)  # as data, three zeros and a fourth value are no obstacle
    assert error(f, x, y) < 1e-13
    kernel = torch.linalg.svd(f.core.matrix())[2][1:]
    assert kernel.shape == (1, 2)
    X = f.domain
    for start, value in zip(x, y, strict=True):
        fibre = X.point(X.coords(start) + torch.linspace(-3, 3, 50, dtype=DOUBLE)[:, None] * kernel)
        assert (f(fibre) - value).abs().max() < 1e-12  # a curve, through the zeros and the other point alike
        assert torch.cdist(fibre, fibre).fill_diagonal_(1.0).min() > 1e-3
    zeros = X.coords(x[:3])
    assert torch.linalg.matrix_rank(zeros[1:] - zeros[0], atol=1e-9) == 1  # the three zeros lie on one line of coordinates


@pytest.mark.parametrize(
    "function",
    [lambda x: x**2, lambda x: x * (x - 1) * (x + 1)],
    ids=["x^2", "a cubic with three zeros"],
)
def test_on_a_line_a_function_with_two_equal_values_is_no_linearizer(function: object) -> None:
    x = torch.linspace(-1.5, 1.5, 7, dtype=DOUBLE)[:, None]
    y = function(x)  # type: ignore[operator]
    with pytest.raises(NotInvertible, match="constant or strictly monotone"):
        interpolate(x, y)
    with pytest.raises(NotInvertible, match="constant or one-to-one"):
        interpolate(x, torch.cat([y, y], -1))
    # and whatever the charts, an injective core has no two equal values, any other core has only equal ones
    X = InducedSpace(shaken(real_nvp(1, 3, 8)).double())
    for a, distinct in ((0.7, 7), (0.0, 1)):
        f = Linearizer(torch.full((1, 1), a, dtype=DOUBLE), X)
        assert len(torch.unique(f(x).detach().round(decimals=9))) == distinct
    # one coordinate more removes the obstruction
    lifted = torch.cat([x, torch.zeros_like(x)], -1)
    assert error(interpolate(lifted, y), lifted, y) < 1e-13
