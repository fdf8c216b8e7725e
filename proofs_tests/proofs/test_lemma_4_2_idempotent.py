"""Lemma 4.2: f f = f if and only if A A = A, for f = g^-1 A g with one chart.

Assumed: g is a bijection. Proved in both directions, for all points, charts and dimensions.
"""

from proofs_tests.proofs.symbols import Map, Space, T, matrices, points, reduce, same

V = Space("g")
A, Q, z = matrices("A Q z")
(x,) = points("x")
f = Map(A, V, V)


def test_an_idempotent_core_makes_f_idempotent() -> None:
    assert same(f(f(x)), f(x), {A * A: A})


def test_an_idempotent_f_has_an_idempotent_core() -> None:
    """At x = g^-1(z), z any column, f f = f says (A A - A) z = 0; taken for the columns of I it says A A = A."""
    p = V.point(z)
    difference = reduce(V.coords(f(f(p))) - V.coords(f(p)))
    assert difference == reduce((A * A - A) * z)
    assert difference.subs(z, 1) == A**2 - A


def test_the_orthogonal_projection_is_idempotent_and_self_adjoint() -> None:
    """g^-1 Q Q^T g, the columns of Q orthonormal; its residual is orthogonal to its range."""
    project, rules = Map(Q * T(Q), V, V), {T(Q) * Q: 1}
    assert same(project(project(x)), project(x), rules) and same(project.H(x), project(x), rules)
    assert same(project(V.point(Q * z)), V.point(Q * z), rules)  # the points of the span stay
    residual = V.add(x, V.neg(project(x)))
    assert reduce(V.inner(V.point(Q * z), residual), rules) == 0
    assert not same(project(project(x)), project(x))  # columns that are not orthonormal


def test_a_core_that_is_not_idempotent_is_refuted() -> None:
    assert not same(f(f(x)), f(x))
    assert not same(f(f(x)), f(x), {A * A: 1})  # a reflection


def test_two_charts_are_refuted() -> None:
    h = Map(A, V, Space("other"))
    assert not same(h(h(x)), h(x), {A * A: A})
