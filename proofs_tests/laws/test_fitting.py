"""Fitting: closed-form cores against numpy and perturbations; the constructive Theorem H.5 and what no Linearizer can do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.bijections import Flatten, Log, real_nvp
from induced.bijections.interpolating import Shear
from induced.checks import check_adjoint, check_bijection, check_linear, check_penrose, check_space, check_svd, require
from induced.errors import DomainError, NotInvertible
from induced.fitting import interpolate, least_squares
from induced.operators import LowRank
from proofs_tests.registry import DTYPES, agree, shaken

DOUBLE = torch.float64
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
R3, R5 = EuclideanSpace(3), EuclideanSpace(5)


def curved(dim: int) -> InducedSpace:
    """A space with a chart far from the identity."""
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).double())


def pairs(n: int, d: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, dtype=DOUBLE), torch.randn(n, m, dtype=DOUBLE)


def loss(A: Tensor, Z: Tensor, W: Tensor, ridge: float = 0.0, weights: Tensor | None = None) -> Tensor:
    squares = (Z @ A.mT - W).square().sum(-1)
    return (squares if weights is None else weights * squares).sum() + ridge * A.square().sum()


# -------------------------------------------------------------------------------------------------------------- the core
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_core_solves_the_normal_equations(ridge: float, weighted: bool) -> None:
    X, Y = curved(3), curved(5)
    x, y = pairs(20, 3, 5)
    w = torch.rand(20, dtype=DOUBLE) if weighted else None
    A = least_squares(X, Y, x, y, ridge=ridge, weights=w).core.matrix().detach()
    Z, W = X.coords(x).detach(), Y.coords(y).detach()
    residual = (A @ Z.mT - W.mT) * (1.0 if w is None else w) @ Z + ridge * A
    agree(residual, torch.zeros_like(A), float(Z.square().sum() * (1 + A.norm())))


def test_the_fit_is_extended_dmd_with_the_chart_as_its_dictionary() -> None:
    X = curved(4)
    x = torch.randn(50, 4, dtype=DOUBLE)
    y = x.roll(1, -1).sin() + x / 2
    f = least_squares(X, X, x, y)
    Z, W = X.coords(x).detach().numpy(), X.coords(y).detach().numpy()
    K = np.linalg.pinv(Z) @ W
    agree(f.core.matrix().detach(), torch.from_numpy(K.T), float(np.linalg.cond(Z)))


def test_a_linearizer_is_recovered_from_its_values() -> None:
    X, Y = curved(3), curved(5)
    core = LowRank(torch.randn(5, 2, dtype=DOUBLE), torch.randn(3, 2, dtype=DOUBLE))
    x = torch.randn(12, 3, dtype=DOUBLE)
    y = Linearizer(core, X, Y)(x)
    for rank in (None, 2, 3):
        agree(least_squares(X, Y, x, y, rank=rank).core.matrix(), core.matrix(), 1e3)


@given(
    st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.integers(0, 4), st.sampled_from([0.0, 0.1]), st.integers(0, 2**16)
)
def test_no_core_of_the_allowed_rank_is_better(n: int, d: int, m: int, rank: int, ridge: float, seed: int) -> None:
    torch.manual_seed(seed)
    rank = min(rank, d, m)
    x, y = pairs(n, d, m)
    fit = least_squares(EuclideanSpace(d), EuclideanSpace(m), x, y, rank=rank, ridge=ridge)
    A = fit.core.matrix()
    least = loss(A, x, y, ridge)
    U, s, Vh = torch.linalg.svd(A)
    for size in (1e-3, 0.1, 1.0, 10.0):
        # near and far, each of rank at most `rank`: the factors are changed
        left = U[:, :rank] * s[:rank] + size * torch.randn(m, rank, dtype=DOUBLE)
        right = Vh[:rank] + size * torch.randn(rank, d, dtype=DOUBLE)
        assert loss(left @ right, x, y, ridge) >= least * (1 - 1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_the_rank_limited_core_is_the_whitened_truncated_one(rank: int, ridge: float) -> None:
    x, y = pairs(30, 3, 5)
    Z, W = x.numpy(), y.numpy()
    G = Z.T @ Z + ridge * np.eye(3)
    L = np.linalg.cholesky(G)  # |A Z^T - W|^2 + ridge |A|^2 = |(A - A*) L|^2 + const
    U, s, Vt = np.linalg.svd((W.T @ Z @ np.linalg.inv(G)) @ L)
    best = (U[:, :rank] * s[:rank]) @ Vt[:rank] @ np.linalg.inv(L)
    fit = least_squares(R3, R5, x, y, rank=rank, ridge=ridge)
    assert isinstance(fit.core, LowRank) and fit.core.U.shape == (5, rank)
    agree(fit.core.matrix(), torch.from_numpy(best), 100)


@every_dtype
def test_too_few_pairs_give_the_core_of_least_norm(dtype: torch.dtype) -> None:
    x, y = (t.to(dtype) for t in pairs(2, 5, 3))
    A = least_squares(R5, R3, x, y).core.matrix()
    agree(A, torch.from_numpy(np.linalg.pinv(x.double().numpy()) @ y.double().numpy()).mT.to(dtype))
    doubled = least_squares(R5, R3, torch.cat([x, x]), torch.cat([y, y])).core.matrix()
    agree(doubled, A, 10)  # repeated data, in float32 equal up to its rounding, hide no direction
    assert least_squares(R5, R3, x, y).core.matrix().dtype == dtype


@pytest.mark.parametrize("count", [1_000, 100_000, 1_000_000])
def test_many_samples_hide_no_direction(count: int) -> None:
    x = torch.randn(count, 2) * torch.tensor([1.0, 0.005])
    y = x @ torch.tensor([[1.0], [2.0]]) + 0.1 * torch.randn(count, 1)
    A = least_squares(EuclideanSpace(2), EuclideanSpace(1), x, y).core.matrix()
    z, w = x.double().numpy(), y.double().numpy()
    agree(A, torch.from_numpy(np.linalg.lstsq(z, w, rcond=None)[0]).mT.float())
    if count == 1_000_000:  # the counterexample: a cut-off of eps times the number of samples
        old = np.linalg.pinv(z, rcond=torch.finfo(x.dtype).eps * count) @ w
        assert abs(old[1, 0] - A[0, 1]) > 1


def test_many_samples_of_dependent_coordinates_have_the_core_of_least_norm() -> None:
    for dtype in DTYPES:
        z = torch.randn(1_000_000, 1, dtype=DOUBLE) @ torch.tensor([[1.0, 3.0]], dtype=DOUBLE)
        A = least_squares(EuclideanSpace(2), EuclideanSpace(1), z.to(dtype), z[:, :1].to(dtype)).core.matrix()
        agree(A, torch.tensor([[0.1, 0.3]], dtype=dtype))


def test_pairs_may_have_any_batch_and_weights_count_pairs() -> None:
    x, y = pairs(6, 3, 5)
    weights = torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 1.0]], dtype=DOUBLE)
    often = torch.repeat_interleave(torch.arange(6), weights.flatten().long())
    fit = least_squares(R3, R5, x.reshape(2, 3, 3), y.reshape(2, 3, 5), weights=weights)
    agree(fit.core.matrix(), least_squares(R3, R5, x[often], y[often]).core.matrix(), 100)


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_gradients_reach_the_chart_and_are_right(rank: int | None) -> None:
    X, (x, y) = curved(3), pairs(10, 3, 3)
    probe = torch.randn(3, dtype=DOUBLE)
    parameter = next(X.parameters())

    def value() -> Tensor:
        return least_squares(X, X, x, y, rank=rank)(probe).sum()

    (gradient,) = torch.autograd.grad(value(), parameter)
    direction = torch.randn_like(parameter)
    with torch.no_grad():
        h, values = 1e-5, []
        for step in (h, -2 * h):
            parameter.add_(step * direction)
            values.append(float(value()))
    numeric = torch.tensor((values[0] - values[1]) / (2 * h), dtype=DOUBLE)
    assert abs(numeric) > 1e-6
    assert abs((gradient * direction).sum() - numeric) <= 1e-6 * max(1.0, abs(numeric))  # h^2 and eps / h are below 1e-9


def test_gradients_stay_finite_where_the_data_have_less_rank_than_allowed() -> None:
    X, x = curved(3), torch.randn(1, 3, dtype=DOUBLE)
    least_squares(X, X, x.repeat(4, 1), x.repeat(4, 1), rank=2).core.matrix().sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in X.parameters())


def test_points_of_any_shape_and_two_kinds_of_space() -> None:
    X, Y = InducedSpace(Flatten((2, 2))), InducedSpace(Log((3,)))
    x, y = torch.randn(9, 2, 2), torch.rand(9, 3) + 0.5
    f = least_squares(X, Y, x, y)
    assert f(x).shape == (9, 3)
    require(check_linear(f, x), check_svd(f))


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
