"""Least squares of data that come in batches, in several processes, or through charts."""

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch

from induced import EuclideanSpace
from induced.errors import SpaceMismatch
from induced.fitting import LeastSquares, least_squares
from proofs_tests.laws.fitted import R3, R5, curved, pairs, penalties, problems, stacked, weighting, well_conditioned
from proofs_tests.registry import DTYPES, agree

DOUBLE = torch.float64


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
