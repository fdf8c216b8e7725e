"""The formulas behind a report: each computed again from its docstring, at numbers where every term counts."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Report
from induced.bijections import Affine
from induced.checks.measure import (
    Noise,
    attempt,
    compare,
    estimated,
    exactly,
    farthest,
    finite_gradients,
    lengths,
    longest,
    noises,
    not_applicable,
    per_sample,
    raised,
    random_like,
    shrunk,
    unit,
    unit_normal,
    unjudgeable,
)
from induced.checks.sides import GAUSS, KRONROD, NODES
from induced.errors import DomainError, SingularOperator
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.orbits import HOLDS, VIOLATED, wide


# -------------------------------------------------------------------------------------------------------------------- noise
def test_noise_is_carried_along() -> None:
    a, b = Noise(3.0, 5.0), Noise(4.0, 7.0)
    assert a + b == Noise(7.0, 12.0)
    assert a + 2.0 == 2.0 + a == Noise(5.0, 5.0)
    assert 3 * a == a * 3 == Noise(9.0, 15.0)
    assert a / 4 == Noise(0.75, 1.25)
    assert Noise(math.inf, 1.0) * 0.0 == Noise(0.0, 0.0)


def test_noises_are_those_of_the_worst_point_of_each_group() -> None:
    X = EuclideanSpace(2)
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    assert noises(X, x[:1], x[1:]) == [Noise(5.0), Noise(2.0)]
    shifted = InducedSpace(Affine((2,), 1.0, 100.0))
    assert [noise.floor for noise in noises(shifted, shifted.point(x))] == [pytest.approx(100 * math.sqrt(2))]


def test_what_cannot_be_asked_counts_as_one_rounding_of_each_number() -> None:
    result = torch.tensor([[3.0, 4.0], [6.0, 8.0]])

    def refuses() -> Noise:
        raise ValueError

    assert estimated(refuses, result) == Noise(10.0)
    assert estimated(lambda: Noise(2.0), result) == Noise(2.0)


# ------------------------------------------------------------------------------------------------------------------ lengths
def test_lengths_are_norms_of_samples() -> None:
    x = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 0.0]]])
    assert lengths(x).tolist() == [5.0, 3.0] and longest(x) == 5.0
    assert lengths(torch.tensor([-2.0, 1.0])).tolist() == [2.0, 1.0]
    assert per_sample(x).tolist() == [7.0, 5.0]
    assert per_sample(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert torch.equal(unit(x)[1], x[1] / 3) and not unit(0 * x).any()


def test_random_directions_have_length_one_and_are_those_of_the_seed() -> None:
    for shape in ((3, 4), (3, 2, 2)):
        drawn = unit_normal(torch.empty(0, dtype=torch.float64), *shape, seed=5)
        expected = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).reshape(3, 4)
        assert torch.allclose(drawn.reshape(3, 4), expected / expected.norm(dim=-1, keepdim=True))
    X = EuclideanSpace(4)
    x = torch.tensor([[0.0] * 4, [0.5, 0, 0, 0], [0, 3.0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(X.norm(random_like(X, x, seed=5)), torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64))
    assert torch.allclose(X.norm(random_like(X, x, least=2.0)), torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64))
    z = unit_normal(x, 3, 4, seed=5)
    assert torch.allclose(unit(random_like(X, x, seed=5)), z) and not torch.allclose(unit(random_like(X, x)), z)


# ------------------------------------------------------------------------------------------------------------------ compare
@every_dtype
@pytest.mark.parametrize(("size", "floor", "scale"), [(4.0, 0.0, 4.0), (4.0, 10.0, 10.0), (4.0, 50.0, 20.0), (0.0, 0.0, 0.0)])
def test_residual_and_tolerance_are_over_one_size(size: float, floor: float, scale: float, dtype: torch.dtype) -> None:
    x = torch.arange(6, dtype=dtype).reshape(3, 2)
    difference = torch.tensor([[0.0, 1.0], [3.0, 4.0], [0.0, 0.0]], dtype=dtype)
    report = compare("law", "Prop 1", difference, size, Noise(20.0, floor), x, note="n")
    assert report.residual == pytest.approx(5.0 / scale if scale else math.inf)
    assert report.tolerance == pytest.approx(10 * torch.finfo(dtype).eps * 20.0 / scale if scale else 0.0)
    assert report.worst is not None and torch.equal(report.worst, x[1]) and report.note == "n"
    equal = compare("law", "Prop 1", 0 * difference, size, Noise(20.0, floor), x)
    assert equal.residual == 0.0 and equal.tolerance == report.tolerance


def test_the_worst_of_several_differences_a_sample_names_the_sample() -> None:
    x = torch.arange(3.0)[:, None]
    for worst in range(6):
        report = compare("law", "", torch.eye(6)[worst], 1.0, 1.0, x, per=2)
        assert report.worst is not None and report.worst.item() == worst // 2
    late = compare("law", "", torch.eye(9)[8], 1.0, 1.0, x, per=2)  # there may be more of them
    assert late.worst is not None and late.worst.item() == 2.0


@pytest.mark.parametrize(("size", "said"), [(0.0, False), (1e-5, True), (0.9e-3, True), (1.1e-3, False), (1.0, False)])
def test_a_report_says_how_far_below_the_numbers_at_zero_it_is(size: float, said: bool) -> None:
    report = compare("law", "", torch.ones(1), size, Noise(2.0, 1.0), torch.ones(1), note="first")
    expected = f"first; relative to the numbers at the zero vector, {1 / size:.0e} times what is compared" if said else "first"
    assert report.note == expected


def test_where_a_chart_overflows_nothing_is_judged() -> None:
    report = compare("law", "", torch.ones(1), 1.0, math.inf, torch.ones(1))
    assert report.residual == report.tolerance == math.inf and report.verdict == "unjudgeable"
    assert unjudgeable("law", "", "why").verdict == "unjudgeable" and unjudgeable("law", "", "why").note == "why"
    assert not_applicable("law", "", "why").verdict == "not applicable"


def test_exact_laws_count_what_differs() -> None:
    x = torch.arange(3.0)[:, None]
    report = exactly("law", "", torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0]]), x, "n")
    assert (report.residual, report.tolerance, report.note) == (3.0, 0.0, "n")
    assert report.worst is not None and report.worst.item() == 1.0
    assert exactly("law", "", 2, x).worst is not None and exactly("law", "", 2, x).residual == 2.0
    assert exactly("law", "", 0).ok and exactly("law", "", 1).worst is None


# ------------------------------------------------------------------------------------------------ raising, farther, shorter
def test_what_a_law_raises_is_a_report_with_the_line() -> None:
    def fails(law: str, statement: str) -> Report:
        raise ValueError("no\n  luck")

    def refuses(law: str, statement: str) -> Report:
        raise DomainError("outside")

    found = attempt("law", "Prop 1", fails, chosen=True)
    line = fails.__code__.co_firstlineno + 1
    assert found.verdict == "violated" and math.isnan(found.residual) and found.tolerance == 0.0
    assert found.note == f"raised ValueError: no luck (line {line} of test_measures.py, in fails)"
    assert attempt("law", "Prop 1", refuses, chosen=True).note == "refused: DomainError: outside"
    assert attempt("law", "Prop 1", refuses).note == "raised DomainError: outside"
    assert raised("law", "", SingularOperator("flat")).note == "raised SingularOperator: flat"
    assert attempt("law", "Prop 1", lambda law, statement: HOLDS) is HOLDS


@pytest.mark.parametrize(
    ("tries", "found"),
    [
        ([], None),
        ([wide(1e-3), wide(1e-4)], 1),
        ([wide(1e-3), wide(0.5), wide(1e-3)], 0),
        ([HOLDS, VIOLATED, wide(1e-3)], 1),
        ([wide(0.5), HOLDS], None),
    ],
)
def test_the_farthest_try_that_can_be_judged_counts(tries: list[Report], found: int | None) -> None:
    assert farthest(iter(tries), HOLDS) is (HOLDS if found is None else tries[found])


def test_tries_end_where_a_chart_refuses() -> None:
    def tries():  # type: ignore[no-untyped-def]
        yield wide(1e-3)
        raise DomainError("outside")

    assert farthest(tries(), HOLDS).tolerance == 1e-3


FACTORS = [1.0]
for number in range(11):
    FACTORS.append(FACTORS[-1] / 3.0 ** (number + 1))


def visited(laws: Callable[[float], list[Report]], x: Tensor, **keywords: float) -> tuple[list[float], list[Report]]:
    """The factors at which the laws are tried, and what counts of them."""
    factors: list[float] = []

    def of(points: Tensor) -> list[Report]:
        factors.append(float(points.norm() / x.norm()))
        return laws(factors[-1])

    return factors, shrunk("the laws", of, EuclideanSpace(2), x, **keywords)  # type: ignore[arg-type]


X1 = torch.tensor([[3.0, 4.0]], dtype=torch.float64)


def test_points_shrink_as_long_as_that_narrows_what_cannot_be_judged() -> None:
    factors, found = visited(lambda a: [wide(a)], X1)
    assert factors == pytest.approx(FACTORS[:4])  # 1/729 is within 1e-2
    assert found[0].tolerance == pytest.approx(FACTORS[3]) and found[0].note == f"at the samples scaled by {FACTORS[3]:.3g}"
    factors, found = visited(lambda a: [HOLDS, wide(0.5)], X1)
    assert factors == pytest.approx(FACTORS[:3]) and found[1].note == ""  # two that narrow nothing; the longest counts
    for share, tries in ((0.95, 3), (0.85, 12)):  # narrower by less than a tenth, twice
        tolerances = iter([0.9 * share**k for k in range(12)])
        factors, _ = visited(lambda a, tolerances=tolerances: [wide(next(tolerances))], X1)  # type: ignore[misc]
        assert len(factors) == tries
    factors, _ = visited(lambda a: [wide(math.inf)], X1)
    assert factors == pytest.approx(FACTORS)
    factors, _ = visited(lambda a: [HOLDS], X1)
    assert factors == [1.0]
    factors, found = visited(lambda a: [VIOLATED, wide(0.5)], X1)
    assert factors == [1.0] and found[0] is VIOLATED
    factors, _ = visited(lambda a: [wide(math.inf)], X1, tries=3)
    assert len(factors) == 3


def test_the_multiple_counts_at_which_most_laws_are_judged() -> None:
    reports = {0: [wide(1.0), wide(1.0)], 1: [HOLDS, wide(0.5)], 2: [wide(0.2), wide(0.2)], 3: [wide(0.1), HOLDS]}
    factors, found = visited(lambda a: reports.get(int(np.argmin(np.abs(np.array(FACTORS) - a))), [wide(0.1), wide(0.1)]), X1)
    assert found[1].tolerance == 0.5 and found[0].note == "at the samples scaled by 0.333" and len(factors) == 6


class Offset(EuclideanSpace):  # type: ignore[misc]
    """R^2 with numbers of this size at the zero vector."""

    floor = 2.0

    def zero_size(self, like: Tensor) -> float:
        return self.floor


def test_points_shrink_no_further_than_the_numbers_at_zero() -> None:
    for reach, tries in ((1.0, 1), (2.0, 2), (100.0, 3)):  # 5 reach shrinks to 1.7, 0.19 and 0.007 of it
        tried: list[Tensor] = []

        def laws(points: Tensor, tried: list[Tensor] = tried) -> list[Report]:
            tried.append(points)
            return [wide(math.inf)]

        shrunk("the laws", laws, Offset(2), X1, reach=reach)
        assert len(tried) == tries


def test_a_chart_that_refuses_is_asked_at_shorter_points_and_then_said() -> None:
    def up_to(a: float, limit: float) -> list[Report]:
        if a > limit:
            raise DomainError(f"refused at {a:.3g}")
        return [HOLDS]

    factors, found = visited(lambda a: up_to(a, 0.1), X1)
    assert factors == pytest.approx(FACTORS[:3]) and found[0].note == "at the samples scaled by 0.037"
    with pytest.raises(
        DomainError, match="the laws cannot be tried at the samples or at smaller multiples of them: refused at 1"
    ):
        visited(lambda a: up_to(a, -1.0), X1)

    def fails(points: Tensor) -> list[Report]:
        raise ValueError("no luck")

    (report,) = shrunk("the laws", fails, EuclideanSpace(2), X1)
    assert (report.law, report.statement, report.verdict) == ("the laws", "contract", "violated") and "no luck" in report.note


def test_gradients_that_are_not_finite_are_counted_at_their_sample() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    report = finite_gradients("law", "", x, (torch.sqrt, x), (lambda z: 2 * z, x))
    assert report.residual == 3.0 and report.worst is not None and torch.equal(report.worst, x[2])
    assert finite_gradients("law", "", x, (lambda z: 2 * z, x)).ok
    detached = finite_gradients("law", "", x, (torch.sqrt, x + 1), (lambda z: z.detach(), x))
    assert detached.verdict == "violated" and detached.worst is not None and torch.equal(detached.worst, x[0])


# --------------------------------------------------------------------------------------------------------------- quadrature
def test_the_nodes_integrate_polynomials_of_the_degrees_of_gauss_and_kronrod() -> None:
    nodes = np.array(NODES)
    for weights, degree in ((GAUSS, 5), (KRONROD, 11)):
        off = [abs(np.dot(weights, nodes**k) - (2 / (k + 1) if k % 2 == 0 else 0.0)) for k in range(degree + 2)]
        assert max(off[:-1]) < 1e-14 < 1e-4 < off[-1]
