"""Prop 2.5: L(g_y, g_z, A2) L(g_x, g_y, A1) = L(g_x, g_z, A2 A1).

Assumed: the charts are bijections, the middle one is the same. Proved for all points, charts and cores.
"""

from proofs_tests.proofs.symbols import Map, Space, matrices, points, same

X, Y, Z = Space("g_x"), Space("g_y"), Space("g_z")
A1, A2, A3 = matrices("A1 A2 A3")
(x,) = points("x")


def test_the_cores_multiply_where_the_middle_space_is_the_same() -> None:
    assert same(Map(A2, Y, Z)(Map(A1, X, Y)(x)), Map(A2 * A1, X, Z)(x))


def test_composition_is_associative() -> None:
    assert same(Map(A3, Z, X)(Map(A2 * A1, X, Z)(x)), Map(A3 * A2, Y, X)(Map(A1, X, Y)(x)))


def test_two_different_middle_charts_are_refuted() -> None:
    assert not same(Map(A2, Space("other"), Z)(Map(A1, X, Y)(x)), Map(A2 * A1, X, Z)(x))


def test_the_reversed_product_is_refuted() -> None:
    assert not same(Map(A2, Y, Z)(Map(A1, X, Y)(x)), Map(A1 * A2, X, Z)(x))
