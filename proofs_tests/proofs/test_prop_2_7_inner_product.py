"""Prop 2.7: <x, y>_g = <g(x), g(y)> is an inner product, and g an isometry onto R^n (App. C), so V is complete.

Assumed: g is a bijection onto R^n. Proved: symmetry, bilinearity, positivity (by induction over n), the isometry. That a
space isometric to the complete R^n is complete is then the usual argument: g takes Cauchy sequences and limits to and fro.
"""

from sympy import Expr, Symbol
from sympy.core import Basic

from proofs_tests.proofs.symbols import Space, T, matrices, numbers, points, reduce

V = Space("g")
(a, b), (x, y, z) = numbers("a b"), points("x y z")
(M,) = matrices("M")


class Form(Space):
    """<x, y> = g(x)^T M g(y): an inner product only for M symmetric and positive."""

    def inner(self, x: Basic, y: Basic) -> Expr:
        return T(self.coords(x)) * M * self.coords(y)


def is_symmetric(V: Space) -> bool:
    # a number is its own transpose
    return bool(reduce(T(V.inner(x, y)) - V.inner(y, x)) == 0)


def test_symmetry() -> None:
    assert is_symmetric(V)


def test_bilinearity() -> None:
    combined = V.add(V.scale(a, x), V.scale(b, y))
    assert reduce(V.inner(combined, z) - a * V.inner(x, z) - b * V.inner(y, z)) == 0
    assert reduce(V.inner(z, combined) - a * V.inner(z, x) - b * V.inner(z, y)) == 0


def test_positivity_by_induction_over_the_dimension() -> None:
    """|z|^2 in n + 1 dimensions is s + c^2, s that in n dimensions: >= 0, and 0 only for s = 0 and c = 0."""
    s, positive = Symbol("s", nonnegative=True), Symbol("s", positive=True)
    c, nonzero = Symbol("c", real=True), Symbol("c", real=True, nonzero=True)
    assert (c**2).is_nonnegative and (nonzero**2).is_positive  # n = 1
    assert (s + c**2).is_nonnegative
    assert (s + nonzero**2).is_positive and (positive + c**2).is_positive


def test_only_the_zero_of_the_space_has_the_coordinates_zero() -> None:
    assert V.coords(V.zero()) == 0 and V.inner(V.zero(), V.zero()) == 0


def test_the_chart_keeps_distances() -> None:
    between = V.add(x, V.neg(y))
    difference = V.coords(x) - V.coords(y)
    assert reduce(V.inner(between, between) - T(difference) * difference) == 0


def test_a_form_that_is_not_symmetric_is_refuted() -> None:
    assert not is_symmetric(Form("g"))


def test_an_indefinite_form_is_refuted() -> None:
    s, c = Symbol("s", nonnegative=True), Symbol("c", real=True)
    assert not (s - c**2).is_nonnegative
