"""Fitting: closed-form cores against numpy and perturbations; the constructive Theorem H.5 and what no Linearizer can do."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import mpmath
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
from induced.errors import DomainError, NotInvertible, SpaceMismatch
from induced.fitting import LeastSquares, interpolate, least_squares
from induced.operators import BlockDiagonal, Dense, LowRank
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
def stacked(z: Tensor, w: Tensor, ridge: Tensor, prior: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """A and the condition of the problem, by numpy's lstsq on [sqrt(weights) z; sqrt(ridge)], row by row of A, in float64."""
    Z, W, penalty, A_0, entries = (t.double().numpy() for t in (z, w, ridge, prior, weights))
    n, m = Z.shape[1], W.shape[1]
    penalty = np.broadcast_to(penalty, (m, n))
    entries = np.broadcast_to(entries if entries.ndim == 2 else entries[:, None], W.shape)
    A, condition = np.empty((m, n)), 1.0
    for k in range(m):
        root = np.sqrt(entries[:, k])
        G = np.vstack([root[:, None] * Z, np.diag(np.sqrt(penalty[k]))])
        t = np.concatenate([root * (W[:, k] - Z @ A_0[k]), np.zeros(n)])
        s = np.linalg.svd(G, compute_uv=False)
        A[k] = A_0[k] + np.linalg.lstsq(G, t, rcond=1e-6)[0]
        condition = max(condition, s[0] / s[s > 1e-6 * s[0]][-1] if s[0] else 1.0)
    return torch.from_numpy(A), condition * (1 + float(w.norm()) + float(prior.norm()))


def well_conditioned(count: int, dim: int, rank: int) -> Tensor:
    """Coordinates (count, dim) of this rank, or the most there is, with singular values from 1 to 2."""
    rank = min(count, dim, rank)
    U, V = (torch.linalg.qr(torch.randn(k, k, dtype=DOUBLE))[0][:, :rank] for k in (count, dim))
    return (U * torch.linspace(2, 1, rank, dtype=DOUBLE)) @ V.mT


PENALTIES = ("none", "a number", "some coordinates", "all coordinates", "some entries")
WEIGHTS = ("none", "pairs", "entries")


def penalties(kind: str, m: int, n: int) -> Tensor:
    p = torch.rand(m, n, dtype=DOUBLE) + 0.1
    some = p * (torch.rand(m, n) < 0.6)
    return {
        "none": torch.tensor(0.0, dtype=DOUBLE),
        "a number": p[0, 0],
        "some coordinates": some[0],
        "all coordinates": p[0],
        "some entries": some,
    }[kind]


def weighting(kind: str, count: int, m: int) -> Tensor | None:
    w = (torch.rand(count, m, dtype=DOUBLE) + 0.1) * (torch.rand(count, m) < 0.8)
    return {"none": None, "pairs": w[:, 0], "entries": w}[kind]


problems = given(
    count=st.integers(1, 9),
    n=st.integers(1, 5),
    m=st.integers(1, 4),
    rank=st.integers(1, 5),
    penalty=st.sampled_from(PENALTIES),
    weight=st.sampled_from(WEIGHTS),
    shrinks=st.booleans(),
    seed=st.integers(0, 2**16),
)


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


# ------------------------------------------------------------------------------------------------------------ in batches
@problems
def test_batches_in_any_order_and_number_of_problems_give_the_fit_of_all_data(
    count: int, n: int, m: int, rank: int, penalty: str, weight: str, shrinks: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    count *= 4
    x, y = well_conditioned(count, n, rank), torch.randn(count, m, dtype=DOUBLE)
    ridge, weights, prior = penalties(penalty, m, n), weighting(weight, count, m), torch.randn(m, n, dtype=DOUBLE) * shrinks
    for dtype in DTYPES:
        X, Y = EuclideanSpace(n), EuclideanSpace(m)
        one, other = LeastSquares(X, Y), LeastSquares(X, Y)
        for batch in torch.randperm(count).tensor_split(torch.randint(count, (5,)).sort().values.tolist()):
            problem = one if torch.rand(()) < 0.5 else other
            w = None if weights is None else weights[batch]
            problem.update(x[batch].to(dtype), y[batch].to(dtype), weights=w)
            if problem.pairs:
                problem.solve(ridge=1.0)
        one.merge(other)
        expected = least_squares(X, Y, x.to(dtype), y.to(dtype), ridge=ridge, prior=prior, weights=weights).core.matrix()
        _, condition = stacked(x, y, ridge, prior, torch.ones(count) if weights is None else weights)
        agree(one.solve(ridge=ridge, prior=prior).core.matrix(), expected, condition**2)
        assert one.pairs == count


def test_weights_of_pairs_and_of_entries_meet_in_one_problem() -> None:
    x, y = pairs(30, 3, 5)
    entries, of_pairs = torch.rand(10, 5, dtype=DOUBLE), torch.rand(10, dtype=DOUBLE)
    weights = torch.cat([of_pairs[:, None].expand(10, 5), entries, torch.ones(10, 5, dtype=DOUBLE)])
    expected = least_squares(R3, R5, x, y, weights=weights).core.matrix()
    batches = list(zip(x.split(10), y.split(10), (of_pairs, entries, None), strict=True))
    for order in itertools.permutations(range(3)):
        problem, rest = LeastSquares(R3, R5), LeastSquares(R3, R5)
        for k in order:
            (problem if k != order[-1] else rest).update(*batches[k][:2], weights=batches[k][2])
        problem.merge(rest)
        agree(problem.solve().core.matrix(), expected, 10)


def test_what_is_held_does_not_grow_and_a_batch_may_be_overwritten() -> None:
    problem, x, y = LeastSquares(R3, R5), torch.empty(70, 3), torch.empty(70, 5)
    everything, sizes = [], []
    for _ in range(60):
        x.normal_(), y.normal_()
        everything.append((x.clone(), y.clone()))
        problem.update(x, y)
        sizes.append(len(pickle.dumps(problem)))
    assert max(sizes[30:]) <= max(sizes[:30])  # up to 1024 pairs are held as they are
    X, Y = (torch.cat(part) for part in zip(*everything, strict=True))
    agree(pickle.loads(pickle.dumps(problem)).solve(rank=2).core.matrix(), least_squares(R3, R5, X, Y, rank=2).core.matrix(), 10)


def test_a_triangle_keeps_the_digits_that_the_normal_equations_lose() -> None:
    U, V = (torch.linalg.qr(torch.randn(k, 6, dtype=DOUBLE))[0] for k in (1000, 6))
    x = (U * torch.logspace(0, -7, 6, dtype=DOUBLE)) @ V.mT
    A = torch.randn(2, 6, dtype=DOUBLE)
    y = x @ A.mT
    problem = LeastSquares(EuclideanSpace(6), EuclideanSpace(2))
    gram, cross = torch.zeros(6, 6, dtype=DOUBLE), torch.zeros(6, 2, dtype=DOUBLE)
    for some, images in zip(x.split(10), y.split(10), strict=True):
        problem.update(some, images)
        gram, cross = gram + some.mT @ some, cross + some.mT @ images
    agree(problem.solve().core.matrix(), A, 1e7)
    assert (torch.linalg.solve(gram, cross).mT - A).norm() > 1e-4


def test_batches_pass_through_charts_and_keep_no_graph() -> None:
    X, Y = curved(3), curved(5)
    x, y = pairs(40, 3, 5)
    problem = LeastSquares(X, Y)
    for some, images in zip(x.split(9), y.split(9), strict=True):
        problem.update(some, images)
    fit = problem.solve(ridge=0.1)
    agree(fit.core.matrix(), least_squares(X, Y, x, y, ridge=0.1).core.matrix().detach(), 100)
    assert not fit.core.matrix().requires_grad and fit(x).shape == (40, 5)


def test_problems_of_other_processes_are_merged_and_copies_go_on() -> None:
    X, Y = curved(3), curved(5)
    x, y = pairs(40, 3, 5)
    mine, theirs = LeastSquares(X, Y), LeastSquares(X, Y)
    mine.update(x[:15], y[:15])
    theirs = pickle.loads(pickle.dumps(theirs))  # with charts of its own, of the same values
    theirs.update(x[15:30], y[15:30])
    mine.merge(pickle.loads(pickle.dumps(theirs)))
    expected = least_squares(X, Y, x, y).core.matrix().detach()
    for problem in (copy.deepcopy(mine), mine):
        problem.update(x[30:], y[30:])
        agree(problem.solve().core.matrix(), expected, 100)
    theirs.domain.chart.get_parameter(next(name for name, _ in theirs.domain.chart.named_parameters())).data.add_(0.1)
    with pytest.raises(SpaceMismatch, match="hold different chart objects"):
        mine.merge(theirs)


@pytest.mark.parametrize("counted", [True, False])
def test_batches_through_a_chart_that_trains_meanwhile_are_refused(counted: bool) -> None:
    X = curved(3)
    x, y = pairs(10, 3, 3)
    problem = LeastSquares(X, X)
    problem.update(x, y)
    problem.update(x, y)
    weight = next(X.parameters())
    with torch.no_grad():
        (weight if counted else weight.data).mul_(1.01)
    for use in (lambda: problem.update(x, y), problem.solve):
        with pytest.raises(SpaceMismatch, match="a chart has changed since the first batch"):
            use()


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda problem: pickle.loads(pickle.dumps(problem))])
def test_copies_and_merged_problems_refuse_charts_that_change(copied: Callable[..., LeastSquares], counted: bool) -> None:
    def change(problem: LeastSquares) -> None:
        weight = next(problem.domain.parameters())
        with torch.no_grad():
            (weight if counted else weight.data).mul_(1.01)

    def made() -> LeastSquares:
        problem = LeastSquares(X, X)
        problem.update(x, y)
        return problem

    X = curved(3)
    x, y = pairs(10, 3, 3)
    after, before = copied(made()), made()
    after.solve()
    change(after)
    merged = LeastSquares(X, X)
    merged.merge(before)
    merged.solve()
    change(before)
    late = LeastSquares(X, X)
    for use in (
        after.solve,
        copied(before).solve,
        merged.solve,
        lambda: late.merge(before),
        lambda: before.merge(copied(before)),
    ):
        with pytest.raises(SpaceMismatch, match="a chart has changed since the first batch"):
            use()


def test_spaces_of_dimension_0_have_the_only_fit() -> None:
    zero, R = EuclideanSpace(0), EuclideanSpace(2)
    for X, Y in ((zero, R), (R, zero), (zero, zero)):
        x, y = torch.ones(3, X.dim), torch.ones(3, Y.dim)
        for f in (least_squares(X, Y, x, y), least_squares(X, Y, x, y, ridge=1.0), least_squares(X, Y, x, y, rank=0)):
            assert torch.equal(f(x), torch.zeros(3, Y.dim))


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
    assert abs((gradient * direction).sum() - numeric) <= 1e-6 * max(1.0, float(abs(numeric)))  # h^2 and eps / h are below 1e-9


@pytest.mark.parametrize("count", [7, 2])
@pytest.mark.parametrize(
    "case", ["plain", "pairs", "a number", "coordinates", "entries", "blocks", "rank 1", "rank 2 and a ridge", "rank and blocks"]
)
def test_first_and_second_derivatives_are_right(case: str, count: int) -> None:
    x, y = pairs(count, 3, 3)
    A_0, w, p = torch.randn(3, 3, dtype=DOUBLE), torch.rand(count, 3, dtype=DOUBLE) + 0.2, torch.rand(3, 3, dtype=DOUBLE) + 0.2
    X, blocks = EuclideanSpace(3), [(1, 2), (2, 1)]

    def core(x: Tensor, y: Tensor, A_0: Tensor, w: Tensor, p: Tensor) -> Tensor:
        keywords: dict[str, dict[str, Any]] = {
            "plain": {},
            "pairs": {"weights": w[:, 0], "ridge": torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE), "prior": A_0},
            "a number": {"ridge": p[0, 0], "prior": A_0, "weights": w[:, 0]},
            "coordinates": {"ridge": p[0], "prior": A_0, "weights": w[:, 0]},
            "entries": {"ridge": p, "prior": A_0, "weights": w},
            "blocks": {"ridge": p, "prior": A_0, "weights": w, "blocks": blocks},
            "rank 1": {"rank": 1},
            "rank 2 and a ridge": {"rank": 2, "ridge": p[0], "prior": A_0, "weights": w[:, 0]},
            "rank and blocks": {"rank": 1, "ridge": p[0], "prior": A_0, "blocks": blocks},
        }
        return least_squares(X, X, x, y, **keywords[case]).core.matrix()

    inputs = [t.requires_grad_() for t in (x, y, A_0, w, p)]
    assert torch.autograd.gradcheck(core, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(core, inputs, fast_mode=True)


@pytest.mark.parametrize("rank", [None, 1])
def test_derivatives_have_every_order_in_both_modes(rank: int | None) -> None:
    x, y = pairs(9, 3, 3)

    def value(s: Tensor) -> Tensor:
        return least_squares(R3, R3, x * s, y.sin() + s**2, rank=rank, ridge=0.2).core.matrix().square().sum()

    s = torch.tensor([1.1, 0.9, 1.2], dtype=DOUBLE)
    reverse, forward, both = torch.func.jacrev, torch.func.jacfwd, torch.func.hessian

    def differences(f: Callable[[Tensor], Tensor], h: float = 1e-4) -> Tensor:
        return torch.stack([(f(s + h * e) - f(s - h * e)) / (2 * h) for e in torch.eye(3, dtype=DOUBLE)], -1)

    gradient, hessian = reverse(value)(s), both(value)(s)
    agree(forward(value)(s), gradient, 1e3)
    for of_second_order in (torch.autograd.functional.hessian(value, s), reverse(forward(value))(s), reverse(reverse(value))(s)):
        agree(of_second_order, hessian, 1e3)
    for exact, numeric in ((hessian, differences(reverse(value))), (reverse(both(value))(s), differences(both(value)))):
        assert (exact - numeric).abs().max() < 1e-6 * exact.abs().max()
    with pytest.raises(DomainError, match="forward mode within forward mode"):
        forward(forward(value))(s)


def test_many_problems_are_solved_under_vmap() -> None:
    x, y, w = torch.randn(4, 9, 3).double(), torch.randn(4, 9, 5).double(), torch.rand(4, 9, 5).double()
    for keywords in ({}, {"ridge": torch.tensor([0.0, 1.0, 2.0])}, {"ridge": 0.1, "blocks": [(2, 1), (3, 2)]}, {"rank": 2}):

        def core(x: Tensor, y: Tensor, w: Tensor, keywords: dict[str, Any] = keywords) -> Tensor:
            weights = w[..., 0] if "rank" in keywords else w
            return least_squares(R3, R5, x, y, weights=weights, **keywords).core.matrix()

        agree(torch.func.vmap(core)(x, y, w), torch.stack([core(*each) for each in zip(x, y, w, strict=True)]), 100)


def test_autocast_changes_no_bit() -> None:
    x, y = torch.randn(200, 3), torch.randn(200, 5)
    weights, blocks = torch.rand(200, 5), [(2, 1), (3, 2)]
    kinds: list[dict[str, Any]] = [{}, {"ridge": 0.1, "prior": LowRank(torch.randn(5, 2), torch.randn(3, 2))}, {"rank": 2}]
    kinds += [{"weights": weights, "ridge": torch.rand(5, 3)}, {"blocks": blocks, "rank": 2}]
    for keywords in kinds:
        expected = least_squares(R3, R5, x, y, **keywords).core.matrix()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = least_squares(R3, R5, x, y, **keywords).core
            problem = LeastSquares(R3, R5)
            problem.update(x, y, weights=keywords.pop("weights", None))
            streamed = problem.solve(**keywords).core
            half = least_squares(R3, R5, x.bfloat16(), y.bfloat16()).core
        assert torch.equal(found.matrix(), expected) and torch.equal(streamed.matrix(), expected)
        assert half.matrix().dtype == torch.float32


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
