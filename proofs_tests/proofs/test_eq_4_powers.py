"""Eq. 4: f^N = g^-1 A^N g for every integer N, where f = g^-1 A g has one chart.

Assumed: g is a bijection; for N < 0 that A has an inverse. Proved by induction over N, with N a symbol.
"""

from sympy import Symbol

from proofs_tests.proofs.symbols import Map, Space, matrices, points, same

V = Space("g")
A, inverse = matrices("A Ainv")
(x,) = points("x")
N = Symbol("N", integer=True, nonnegative=True)


def power(core: Symbol, n: Symbol | int) -> Map:
    return Map(core**n, V, V)


def test_the_power_zero_is_the_identity() -> None:
    assert same(power(A, 0)(x), x)


def test_the_step_from_n_to_n_plus_one() -> None:
    assert same(Map(A, V, V)(power(A, N)(x)), power(A, N + 1)(x))


def test_the_inverse_undoes_f_so_negative_powers_are_those_of_the_inverse() -> None:
    rules = {A * inverse: 1, inverse * A: 1}
    f, g = Map(A, V, V), Map(inverse, V, V)
    assert same(f(g(x)), x, rules) and same(g(f(x)), x, rules)
    assert same(g(power(inverse, N)(x)), power(inverse, N + 1)(x))


def test_powers_between_two_charts_are_refuted() -> None:
    f = Map(A, V, Space("other"))
    assert not same(f(f(x)), Map(A**2, V, Space("other"))(x))


def test_one_power_too_few_is_refuted() -> None:
    assert not same(Map(A, V, V)(power(A, N)(x)), power(A, N)(x))
