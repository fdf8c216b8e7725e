"""Broken formulas beside the right ones: the laws that have no check of their own tell them apart."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from induced import InducedSpace, Linearizer
from induced.bijections import Affine, Log
from induced.fitting import least_squares
from induced.operators import Dense, LinearOperator
from induced.propagators import OperatorFamily, propagator
from induced.subspaces import Subspace
from proofs_tests.registry import agree

DOUBLE = torch.float64
POSITIVE = InducedSpace(Log((3,)))
A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, -1.0]], dtype=DOUBLE) / 4
B = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 1.0, -1.0]], dtype=DOUBLE) / 4
CONDITION = 20.0  # the coordinates of these points are below 2, their entries and the norms of A and B below 8


def points(k: int = 5) -> Tensor:
    return torch.rand(k, 3, dtype=DOUBLE) + 0.5


def on_positive(M: Tensor) -> Linearizer:
    return Linearizer(M, POSITIVE)


def refuses(actual: Tensor, right: Tensor, wrong: Tensor) -> None:
    """The law holds of the right formula, and the same comparison refuses the wrong one."""
    agree(actual, right, CONDITION)
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(actual, wrong, CONDITION)


def test_composition_rejects_the_product_in_the_other_order() -> None:
    f, h, x = on_positive(A), on_positive(B), points()
    refuses(h(f(x)), (h @ f)(x), on_positive(A @ B)(x))


def test_the_sum_of_maps_rejects_the_ordinary_sum_of_their_values() -> None:
    f, h, x = on_positive(A), on_positive(B), points()
    refuses((f + h)(x), POSITIVE.add(f(x), h(x)), f(x) + h(x))


def test_the_kernel_rejects_the_kernel_of_the_adjoint() -> None:
    M = torch.outer(torch.tensor([1.0, 2.0, 0.0], dtype=DOUBLE), torch.tensor([0.0, 1.0, -1.0], dtype=DOUBLE))
    f = on_positive(M)
    zeros = torch.zeros(2, 3, dtype=DOUBLE)
    agree(POSITIVE.coords(f(f.kernel().basis())), zeros, CONDITION)
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(POSITIVE.coords(f(f.H.kernel().basis())), zeros, CONDITION)


def test_the_projection_rejects_an_oblique_one() -> None:
    x = points()
    W = Subspace.span(POSITIVE, x[:2])
    skew = W.Q @ (W.Q.mT + torch.ones(2, 1, dtype=DOUBLE) * W.complement().Q.mT)
    oblique = POSITIVE.point(POSITIVE.coords(x) @ skew.mT)
    agree(POSITIVE.point(POSITIVE.coords(oblique) @ skew.mT), oblique, CONDITION)  # onto W, but not to the nearest point
    refuses(W.project(x), POSITIVE.point(POSITIVE.coords(x) @ W.Q @ W.Q.mT), oblique)
    assert bool((POSITIVE.distance(x[2:], W.project(x[2:])) < POSITIVE.distance(x[2:], oblique[2:])).all())


def test_the_normal_equations_reject_a_fit_of_the_points_themselves() -> None:
    x, y = points(12), points(12)
    Z, W = POSITIVE.coords(x), POSITIVE.coords(y)

    def gradient(M: Tensor) -> Tensor:
        return (M @ Z.mT - W.mT) @ Z

    zeros = torch.zeros(3, 3, dtype=DOUBLE)
    agree(gradient(least_squares(POSITIVE, POSITIVE, x, y).core.matrix()), zeros, CONDITION)
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(gradient(torch.linalg.lstsq(x, y).solution.mT), zeros, CONDITION)


M = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE))


def test_the_change_of_chart_rejects_a_core_that_is_turned_and_not_similar() -> None:
    turned = InducedSpace(Affine((3,), M.diagonal()) @ Log((3,)))
    x, inverse = points(), torch.linalg.inv(M)
    refuses(on_positive(A)(x), Linearizer(M @ A @ inverse, turned)(x), Linearizer(M @ A @ M.mT, turned)(x))


def test_similarity_rejects_the_jacobian_away_from_the_zero_vector() -> None:
    f = on_positive(A)
    at_zero = torch.func.jacrev(f)(POSITIVE.zero(dtype=DOUBLE))
    refuses(torch.trace(at_zero), f.trace(), torch.trace(torch.func.jacrev(f)(torch.tensor([2.0, 0.5, 3.0], dtype=DOUBLE))))


def test_the_speed_of_a_geodesic_rejects_the_inverse_metric() -> None:
    x, v = points(1)[0], torch.tensor([0.1, -0.2, 0.3], dtype=DOUBLE)
    G = POSITIVE.metric(x)
    refuses(POSITIVE.distance(x, POSITIVE.geodesic(x, v)).square(), v @ G @ v, v @ torch.linalg.inv(G) @ v)


class Turning(OperatorFamily):
    """A_t = A + t B, which do not commute."""

    start: Tensor

    def __init__(self) -> None:
        super().__init__(3)
        self.register_buffer("start", A)

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.start + t * B)


def magnus_step(sign: float, node: float = math.sqrt(3) / 6) -> Tensor:
    """exp(Omega) of one unit step, with this sign of the commutator and these nodes 1/2 -+ node."""
    A1, A2 = A + (0.5 - node) * B, A + (0.5 + node) * B
    return torch.linalg.matrix_exp((A1 + A2) / 2 + sign * math.sqrt(3) / 12 * (A2 @ A1 - A1 @ A2))


WRONG_MAGNUS: dict[str, Callable[[], Tensor]] = {
    "the other sign of the commutator": lambda: magnus_step(-1.0),
    "no commutator": lambda: magnus_step(0.0),
    "nodes at the ends": lambda: magnus_step(1.0, 0.5),
}


@pytest.mark.parametrize("broken", WRONG_MAGNUS)
def test_a_magnus_step_rejects(broken: str) -> None:
    refuses(propagator(Turning(), steps=1, method="magnus4").matrix(), magnus_step(1.0), WRONG_MAGNUS[broken]())
