"""Analytic functions (linearizer.md): phi(f) = g^-1 phi(A) g, for f = g^-1 A g with one chart.

Assumed: g is a bijection. Proved for polynomials of any degree, taken with the operations of V, by induction over Horner's
steps, hence for power series; for roots and resolvents, by their equations. All points, charts and dimensions.
"""

from sympy import Integer

from proofs_tests.proofs.symbols import Map, Space, matrices, numbers, points, same

V = Space("g")
A, P, S, R = matrices("A P S R")
c, (x,) = numbers("c")[0], points("x")
f = Map(A, V, V)


def test_a_constant_polynomial() -> None:
    assert same(V.scale(c, x), Map(c, V, V)(x))


def test_a_step_of_horner() -> None:
    """With p(f) = g^-1 P g: c (.) x (+) f(p(f)(x)) has the core c I + A P."""
    assert same(V.add(V.scale(c, x), f(Map(P, V, V)(x))), Map(c + A * P, V, V)(x))


def test_a_square_root() -> None:
    root = Map(S, V, V)
    assert same(root(root(x)), f(x), {S * S: A})


def test_a_resolvent() -> None:
    """(c I - A) R = R (c I - A) = I: the map x -> c (.) x (-) f(x) has the inverse g^-1 R g."""
    rules, resolvent = {A * R: c * R - 1, R * A: c * R - 1}, Map(R, V, V)
    y = resolvent(x)
    assert same(V.add(V.scale(c, y), V.neg(f(y))), x, rules)
    assert same(resolvent(V.add(V.scale(c, x), V.neg(f(x)))), x, rules)


def test_functions_between_two_charts_are_refuted() -> None:
    W = Space("other")
    h, p = Map(A, V, W), Map(P, V, W)
    assert not same(W.add(W.scale(c, x), h(p(x))), Map(c + A * P, V, W)(x))


def test_a_root_of_another_core_is_refuted() -> None:
    root = Map(S, V, V)
    assert not same(root(root(x)), f(x), {S * S: Integer(1)})
