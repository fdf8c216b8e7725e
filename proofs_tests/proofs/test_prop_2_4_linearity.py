"""Prop 2.4: f(a (.)x u (+)x b (.)x v) = a (.)y f(u) (+)y b (.)y f(v), for f = g_y^-1 A g_x.

Assumed: g_x, g_y are bijections, A is a matrix. Proved for all points, numbers, charts and dimensions.
"""

from sympy.core import Basic

from proofs_tests.proofs.symbols import Map, Space, matrices, numbers, points, same

X, Y = Space("g_x"), Space("g_y")
(A, C) = matrices("A C")
(a, b), (u, v) = numbers("a b"), points("u v")
f, h = Map(A, X, Y), Map(C, X, Y)


def combine(V: Space, x: Basic, y: Basic) -> Basic:
    return V.add(V.scale(a, x), V.scale(b, y))


def test_f_is_linear_between_the_induced_spaces() -> None:
    assert same(f(combine(X, u, v)), combine(Y, f(u), f(v)))


def test_f_maps_zero_to_zero() -> None:
    assert same(f(X.zero()), Y.zero())


def test_operators_between_two_spaces_are_combined_by_their_cores() -> None:
    assert same(Map(a * A + b * C, X, Y)(u), combine(Y, f(u), h(u)))


def test_a_bias_in_the_core_is_refuted() -> None:
    (bias,) = matrices("bias")

    def affine(x: Basic) -> Basic:
        return Y.point(A * X.coords(x) + bias)

    assert not same(affine(combine(X, u, v)), combine(Y, affine(u), affine(v)))


def test_linearity_for_the_operations_of_another_chart_is_refuted() -> None:
    Z = Space("other")
    assert not same(f(combine(Z, u, v)), combine(Y, f(u), f(v)))
    assert not same(f(combine(X, u, v)), combine(Z, f(u), f(v)))
