"""Steps one by one, on given times, and on times that are found from a tolerance."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from induced.errors import NotConverged
from induced.operators import Dense, LinearOperator
from induced.propagators import LowRankFamily, adaptive_grid, integrate, propagator
from induced.propagators.propagate import Stepwise
from proofs_tests.laws.families import FAMILIES, METHODS, Constant, InDouble, Rotations, Unstructured, exact, rk4_step
from proofs_tests.registry import DTYPES, agree


# ----------------------------------------------------------------------------------------------------- one by one, grids
def test_the_times_of_steps_may_lie_in_an_interval_whose_square_underflows() -> None:
    family = Constant(Dense(1e200 * torch.diag(torch.tensor([1.0, -1.0]).double())))
    given = propagator(family, 0.0, 1e-200, steps=[0.0, 5e-201, 1e-200])
    agree(given.matrix(), propagator(family, 0.0, 1e-200, steps=2).matrix())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_one_by_one_are_the_collapsed_operator(name: str, method: str, dtype: torch.dtype) -> None:
    family = FAMILIES[name]().to(dtype)
    with torch.no_grad():
        lazy = Stepwise(family, 0.1, 0.9, steps=5, method=method)
        B = propagator(family, 0.1, 0.9, steps=5, method=method).matrix()
        agree(lazy.matrix(), B)
        w = torch.randn(3, family.dim, dtype=dtype)
        agree(lazy.H(w), w @ B)


@pytest.mark.parametrize("method", METHODS)
def test_the_adjoint_of_a_magnus_step_by_products(method: str) -> None:
    family = Unstructured(40)
    lazy, w = Stepwise(family, steps=3, method=method), torch.randn(1, 40).double()
    agree(lazy.H(w), w @ propagator(family.inner, steps=3, method=method).matrix())


def test_few_states_are_stepped_one_by_one() -> None:
    family = LowRankFamily(40, 2, 8)
    assert isinstance(propagator(family, steps=3, states=10), Stepwise)
    assert not isinstance(propagator(family, steps=3, states=11), Stepwise)
    assert not isinstance(propagator(family, steps=3), Stepwise)


def test_a_stepwise_operator_trains_and_says_what_it_does() -> None:
    family = LowRankFamily(6, 1, 4)
    lazy = Stepwise(family, steps=3, method="magnus4")
    assert set(lazy.parameters()) == set(family.parameters())
    assert "3 magnus4 steps from 0 to 1" in repr(lazy)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dense", "low rank, rest_std"])
def test_times_of_equal_steps_are_equal_steps(method: str, name: str) -> None:
    family = FAMILIES[name]().double()
    with torch.no_grad():
        expected = propagator(family, 0.0, 1.0, steps=4, method=method).matrix()
        agree(propagator(family, 0.0, 1.0, steps=[0.0, 0.25, 0.5, 0.75, 1.0], method=method).matrix(), expected)
        z = torch.randn(2, family.dim).double()
        agree(integrate(family, z, steps=(0.0, 0.25, 0.5, 0.75, 1.0), method=method), z @ expected.mT)


def test_unequal_steps_compose() -> None:
    family = Rotations()
    B = propagator(family, 0.0, 1.0, steps=[0.0, 0.3, 1.0]).matrix()
    agree(B, rk4_step(family.matrix, 0.3, 0.7) @ rk4_step(family.matrix, 0.0, 0.3))


# ------------------------------------------------------------------------------------------------------------- adaptive
@pytest.mark.parametrize(
    ("method", "tolerance"), [("euler", 1e-2), ("midpoint", 1e-4), ("rk4", 1e-9), ("rk4", 1e-5), ("magnus4", 1e-9)]
)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.3)], ids=str)
@pytest.mark.parametrize("name", ["dense", "dense of 20", "low rank"])
def test_adaptive_steps_meet_the_tolerance(method: str, tolerance: float, span: tuple[float, float], name: str) -> None:
    family = {
        "dense": Rotations,
        "dense of 20": lambda: Rotations(20),
        "low rank": lambda: LowRankFamily(24, 2, 8, features=1, rest_std=0.1).double(),
    }[name]()
    grid = adaptive_grid(family, *span, tolerance=tolerance, method=method)
    assert grid.times[0] == span[0] and grid.times[-1] == span[1] and grid.error <= tolerance
    with torch.no_grad():
        B = propagator(family, *span, steps=grid.times, method=method).matrix()
        expected = exact(family, *span)
    error = float((B - expected).norm() / expected.norm())
    assert error <= 1.5 * tolerance  # the 16 probes estimate a Frobenius norm
    assert grid.error / 3 <= error <= 3 * grid.error
    assert error >= tolerance / 100  # and no step is wasted


def test_steps_are_short_where_the_operator_is_fast() -> None:
    class Burst(InDouble):
        def at(self, t: float | Tensor) -> LinearOperator:
            return Dense(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double() * (1 + 50 * math.exp(-200 * (float(t) - 0.7) ** 2)))

    grid = adaptive_grid(Burst(2), tolerance=1e-6)
    steps = [(b - a, a) for a, b in pairwise(grid.times)]
    assert 0.6 < min(steps)[1] < 0.8
    assert max(steps)[0] > 10 * min(steps)[0]
    uniform = propagator(Burst(2), steps=len(steps)).matrix()
    expected = exact(Burst(2))
    assert (propagator(Burst(2), steps=grid.times).matrix() - expected).norm() < (uniform - expected).norm() / 10


def test_the_default_tolerance_suits_the_precision() -> None:
    family = LowRankFamily(8, 1, 4)
    assert adaptive_grid(family).error <= 100 * torch.finfo(torch.float32).eps
    assert adaptive_grid(family.double()).error <= 1e-8
    assert adaptive_grid(family) == adaptive_grid(family)
    assert "rk4 steps" in str(adaptive_grid(family))


def test_no_step_is_needed_for_no_change() -> None:
    grid = adaptive_grid(Constant(Dense(torch.zeros(3, 3))))
    assert grid.error == 0 and grid.rejected == 0
    agree(propagator(Constant(Dense(torch.zeros(3, 3))), steps=grid.times).matrix(), torch.eye(3))


def test_a_jump_is_resolved_or_refused() -> None:
    class Jump(InDouble):
        def at(self, t: float | Tensor) -> LinearOperator:
            return Dense(torch.eye(2).double() * (100.0 if float(t) > 0.3337 else 0.0))

    with pytest.raises(NotConverged, match=r"t = 0\.333"):
        adaptive_grid(Jump(2), tolerance=1e-12)
