"""The core of least squares: against numpy, mpmath and the normal equations, for every penalty, weight, rank and block."""

import itertools

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.bijections import Flatten, Log
from induced.checks import check_linear, check_svd, require
from induced.fitting import LeastSquares, least_squares
from induced.operators import BlockDiagonal, Dense, LowRank
from proofs_tests.laws.fitted import (
    PENALTIES,
    R3,
    R5,
    WEIGHTS,
    curved,
    pairs,
    penalties,
    problems,
    stacked,
    weighting,
    well_conditioned,
)
from proofs_tests.registry import DTYPES, agree

DOUBLE = torch.float64
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def loss(A: Tensor, Z: Tensor, W: Tensor, ridge: float = 0.0, weights: Tensor | None = None) -> Tensor:
    squares = (Z @ A.mT - W).square().sum(-1)
    return (squares if weights is None else weights * squares).sum() + ridge * A.square().sum()


# -------------------------------------------------------------------------------------------------------------- the core
@problems
def test_the_core_is_that_of_the_stacked_problem(
    count: int, n: int, m: int, rank: int, penalty: str, weight: str, shrinks: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x, y = well_conditioned(count, n, rank), torch.randn(count, m, dtype=DOUBLE)
    ridge, weights, prior = penalties(penalty, m, n), weighting(weight, count, m), torch.randn(m, n, dtype=DOUBLE) * shrinks
    expected, condition = stacked(x, y, ridge, prior, torch.ones(count) if weights is None else weights)
    X, Y = EuclideanSpace(n), EuclideanSpace(m)
    fit = least_squares(X, Y, x, y, ridge=ridge, prior=prior if shrinks else None, weights=weights)
    agree(fit.core.matrix(), expected, condition**2)
    rough = least_squares(X, Y, x.float(), y.float(), ridge=ridge, prior=prior.float(), weights=weights).core.matrix()
    agree(rough, expected.float(), condition**2)


@pytest.mark.parametrize("ridge", PENALTIES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_core_solves_the_normal_equations(ridge: str, weight: str) -> None:
    X, Y = curved(3), curved(5)
    x, y = pairs(20, 3, 5)
    p, w, A_0 = penalties(ridge, 5, 3), weighting(weight, 20, 5), torch.randn(5, 3, dtype=DOUBLE)
    A = least_squares(X, Y, x, y, ridge=p, weights=w, prior=A_0).core.matrix().detach()
    Z, W = X.coords(x).detach(), Y.coords(y).detach()
    entries = torch.ones(20, 1) if w is None else w.reshape(20, -1)
    residual = (entries * (Z @ A.mT - W)).mT @ Z + p * (A - A_0)
    agree(residual, torch.zeros_like(A), float(Z.square().sum() * (1 + A.norm())))


@pytest.mark.parametrize("count", [20, 2])
def test_the_core_follows_the_scales_of_the_data(count: int) -> None:
    x, y = pairs(count, 3, 2)
    A_0, ridge = torch.randn(2, 3, dtype=DOUBLE), torch.tensor([0.5, 0.0, 2.0], dtype=DOUBLE)
    X, Y = EuclideanSpace(3), EuclideanSpace(2)
    for weights in (None, torch.rand(count, 2, dtype=DOUBLE)):
        A = least_squares(X, Y, x, y, ridge=ridge, prior=A_0, weights=weights).core.matrix()
        for a in (1e-30, 1e-10, 1e30):
            for b in (1e-30, 1e30):
                scaled = least_squares(X, Y, a * x, b * y, ridge=a**2 * ridge, prior=b / a * A_0, weights=weights)
                agree(scaled.core.matrix() * (a / b), A, 1e3)


def exactly(x: Tensor, y: Tensor, penalty: list[float], weights: Tensor | None = None) -> Tensor:
    """(Z^T D Z + P)^-1 Z^T D W in 80 digits."""
    with mpmath.workdps(80):
        Z, W = mpmath.matrix(x.tolist()), mpmath.matrix(y.tolist())
        D = mpmath.diag([1.0] * len(x) if weights is None else weights.tolist())
        B = (Z.T * D * Z + mpmath.diag(penalty)) ** -1 * (Z.T * D * W)
        return torch.tensor([[float(B[j, k]) for j in range(B.rows)] for k in range(B.cols)], dtype=DOUBLE)


@pytest.mark.parametrize(
    "penalty",
    [[r] * 3 for r in (1e-300, 1e-12, 1.0, 1e12, 1e300)]
    + [[1e-20, 1.0, 1e20], [1e20, 1e-20, 1.0], [1.0, 1.0, 1e-12], [1e12, 0.0, 1.0], [0.0, 1e-20, 1e20], [0.0, 0.0, 1e-12]],
    ids=str,
)
def test_every_coefficient_keeps_its_digits_under_any_penalties(penalty: list[float]) -> None:
    x, y = pairs(20, 3, 2)
    A = least_squares(R3, EuclideanSpace(2), x, y, ridge=torch.tensor(penalty, dtype=DOUBLE)).core.matrix()
    expected = exactly(x, y, penalty)
    assert ((A - expected) / expected).abs().max() < 1e-13
    # float32 data are these numbers, up to their rounding
    A = least_squares(R3, EuclideanSpace(2), x.float(), y.float(), ridge=torch.tensor(penalty, dtype=DOUBLE)).core.matrix()
    expected = exactly(x.float().double(), y.float().double(), penalty).float()
    assert ((A - expected).abs() <= 1e-6 * expected.abs()).all()
    if penalty == [1e-20, 1.0, 1e20]:  # the counterexample: one factorisation of [Z; sqrt(p)]
        stack, _ = stacked(x, y, torch.tensor(penalty, dtype=DOUBLE), torch.zeros(2, 3), torch.ones(20))
        assert ((stack - expected) / expected).abs().max() > 1e-7


@pytest.mark.parametrize("heavy", [1e6, 1e12, 1e20])
def test_a_heavy_pair_takes_no_digits_from_the_others(heavy: float) -> None:
    x, y = pairs(20, 3, 2)
    R2, problem, weights = EuclideanSpace(2), LeastSquares(R3, EuclideanSpace(2)), torch.ones(20, dtype=DOUBLE)
    weights[-1] = heavy
    for some, images, w in zip(x.split(5), y.split(5), weights.split(5), strict=True):
        problem.update(some, images, weights=w)
    expected = exactly(x, y, [0.0] * 3, weights)
    for fit in (least_squares(R3, R2, x, y, weights=weights), problem.solve()):
        assert (fit.core.matrix() - expected).norm() < 1e-13 * expected.norm()
    if heavy == 1e20:  # the counterexample: a QR of the rows as they come
        root = weights.sqrt()[:, None]
        Q, R = torch.linalg.qr(root * x)
        found = torch.linalg.solve_triangular(R, Q.mT @ (root * y), upper=True).mT
        assert (found - expected).norm() > 1e-9 * expected.norm()


@every_dtype
def test_a_small_penalty_leaves_no_trace_in_directions_that_were_not_seen(dtype: torch.dtype) -> None:
    x, y = torch.randn(20, 3, dtype=DOUBLE), torch.randn(20, 2, dtype=DOUBLE)
    x[:, 2] = x[:, 0] + x[:, 1]
    x, y = x.to(dtype), y.to(dtype)
    plain = least_squares(R3, EuclideanSpace(2), x, y).core.matrix()
    for ridge in (1e-300, 1e-20, 1e-16):
        A = least_squares(R3, EuclideanSpace(2), x, y, ridge=ridge).core.matrix()
        agree(A, plain, 10)
        G = np.vstack([x.double().numpy(), ridge**0.5 * np.eye(3)])
        if dtype == DOUBLE and ridge == 1e-20:  # the counterexample: 1e-16 / 1e-20 of the residual
            stack = np.linalg.pinv(G) @ np.vstack([y.numpy(), np.zeros((3, 2))])
            assert np.abs(stack).max() > 100 * float(plain.abs().max())
    # kernel (1, 1, -1): of all fits, the one with the least p_1 b_1^2 + p_2 b_2^2 + p_3 b_3^2, for small p
    p = torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE)
    kernel = torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    least = plain.double() - (plain.double() @ (p * kernel) / (p * kernel * kernel).sum())[:, None] * kernel
    agree(least_squares(R3, EuclideanSpace(2), x, y, ridge=1e-12 * p).core.matrix(), least.to(dtype), 10)
    # a coordinate without a penalty does what it can before one with a penalty
    p = torch.tensor([0.0, 0.0, 1e-12], dtype=DOUBLE)
    least = plain.double() + plain.double()[:, 2:] * kernel
    agree(least_squares(R3, EuclideanSpace(2), x, y, ridge=p).core.matrix(), least.to(dtype), 10)


def test_a_penalty_shrinks_to_the_prior_and_without_one_the_nearest_fit_is_taken() -> None:
    x, y = pairs(2, 5, 3)
    A_0 = torch.randn(3, 5, dtype=DOUBLE)
    near = least_squares(R5, R3, x, y, prior=Dense(A_0)).core.matrix()
    agree(near @ x.mT, y.mT, 10)
    kernel = torch.linalg.svd(x)[2][2:]
    agree((near - A_0) @ kernel.mT, torch.zeros(3, 3, dtype=DOUBLE), 10)
    for far in (1e12, torch.full((3, 5), 1e12, dtype=DOUBLE)):
        agree(least_squares(R5, R3, x, y, prior=A_0, ridge=far).core.matrix(), A_0, 1e5)
    assert torch.equal(least_squares(R5, R3, x[:0], y[:0], prior=A_0, ridge=0.1).core.matrix(), A_0)
    core = LeastSquares(R5, R3).solve(prior=A_0.float(), blocks=[(1, 2), (2, 3)]).core
    assert isinstance(core, BlockDiagonal) and isinstance(core.cores[0], Dense)
    assert torch.equal(core.cores[0].A, A_0.float()[:1, :2])


def test_an_entry_of_weight_zero_is_not_looked_at() -> None:
    x, y = pairs(30, 3, 5)
    seen = torch.rand(30, 5) < 0.7
    A = least_squares(R3, R5, x, y, weights=seen).core.matrix()
    for k in range(5):
        rows = seen[:, k]
        agree(A[k : k + 1], least_squares(R3, EuclideanSpace(1), x[rows], y[rows, k : k + 1]).core.matrix(), 10)
    agree(least_squares(R3, R5, x, torch.where(seen, y, 1e6), weights=seen).core.matrix(), A, 1e3)
    assert not torch.allclose(A, least_squares(R3, R5, x, y).core.matrix(), rtol=1e-2)


# ---------------------------------------------------------------------------------------------------------------- blocks
SHAPES = [(2, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize("ridge", PENALTIES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_each_block_is_the_fit_of_its_own_coordinates(ridge: str, weight: str) -> None:
    x, y = pairs(15, 5, 5)
    p, w, A_0 = penalties(ridge, 5, 5), weighting(weight, 15, 5), torch.randn(5, 5, dtype=DOUBLE)
    fit = least_squares(R5, R5, x, y, ridge=p, weights=w, prior=A_0, blocks=SHAPES)
    alone, i, j = [], 0, 0
    for height, width in SHAPES:
        K, J = slice(i, i + height), slice(j, j + width)
        mine = p if p.dim() == 0 else p[..., J] if p.dim() == 1 else p[K, J]
        weights = w[:, K] if w is not None and w.dim() == 2 else w
        X, Y = EuclideanSpace(width), EuclideanSpace(height)
        alone.append(least_squares(X, Y, x[:, J], y[:, K], ridge=mine, weights=weights, prior=A_0[K, J]).core.matrix())
        i, j = i + height, j + width
    assert isinstance(fit.core, BlockDiagonal)
    agree(fit.core.matrix(), torch.block_diag(*alone), 1e3)
    same = least_squares(R5, R5, x, y, ridge=p, weights=w, prior=A_0, blocks=BlockDiagonal(*alone)).core.matrix()
    agree(same, fit.core.matrix())


def test_blocks_of_one_shape_are_a_stack() -> None:
    x, y = pairs(50, 6, 6)
    X = EuclideanSpace(6)
    for blocks in ([2, 2, 2], [(2, 2)] * 3, BlockDiagonal(torch.zeros(3, 2, 2))):
        core = least_squares(X, X, x, y, blocks=blocks).core
        assert isinstance(core, BlockDiagonal) and core.cores[0].batch == (3,)
    whole = least_squares(X, X, x, y, blocks=[6]).core
    assert isinstance(whole, BlockDiagonal) and [core.shape for core in whole.cores] == [(6, 6)]


def test_a_rank_is_shared_out_among_blocks_in_the_best_way() -> None:
    x, y = pairs(20, 5, 5)
    y = y * torch.tensor([1.0, 1.0, 3.0, 0.3, 0.3], dtype=DOUBLE)
    ridge = torch.tensor([0.5, 0.0, 1.0, 0.2, 0.0], dtype=DOUBLE)

    def cost(A: Tensor) -> float:
        return float((x @ A.mT - y).square().sum() + (ridge * A.square()).sum())

    for rank in range(5):
        fit = least_squares(R5, R5, x, y, ridge=ridge, rank=rank, blocks=SHAPES)
        assert fit.rank() == rank
        best = []
        for ranks in itertools.product(*(range(min(shape) + 1) for shape in SHAPES)):
            if sum(ranks) == rank:
                blocks, i, j = [], 0, 0
                for (height, width), r in zip(SHAPES, ranks, strict=True):
                    X, Y = EuclideanSpace(width), EuclideanSpace(height)
                    J, K = slice(j, j + width), slice(i, i + height)
                    blocks.append(least_squares(X, Y, x[:, J], y[:, K], ridge=ridge[J], rank=r).core.matrix())
                    i, j = i + height, j + width
                best.append(cost(torch.block_diag(*blocks)))
        assert abs(cost(fit.core.matrix()) - min(best)) <= 1e-12 * min(best)


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


def test_points_of_any_shape_and_two_kinds_of_space() -> None:
    X, Y = InducedSpace(Flatten((2, 2))), InducedSpace(Log((3,)))
    x, y = torch.randn(9, 2, 2), torch.rand(9, 3) + 0.5
    f = least_squares(X, Y, x, y)
    assert f(x).shape == (9, 3)
    require(check_linear(f, x), check_svd(f))
