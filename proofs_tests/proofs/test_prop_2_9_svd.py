"""Prop 2.9, App. B: for A = U S V^T, f(v~_i) = s_i (.)y u~_i and f*(u~_i) = s_i (.)x v~_i, with v~_i = g_x^-1(v_i), u~_i =
g_y^-1(u_i); both sets are orthonormal.

Assumed: U^T U = I, V^T V = I, S e_i = s_i e_i and S^T e_i = s_i e_i for unit columns e_i with e_i^T e_j = delta_ij. Proved
for all charts, dimensions and i, j; and that f(x) = sum_i s_i <v~_i, x> (.) u~_i, since I = sum_i e_i e_i^T.
"""

from sympy import Integer
from sympy.core import Basic

from proofs_tests.proofs.symbols import Map, Space, T, matrices, numbers, points, reduce, same

X, Y = Space("g_x"), Space("g_y")
U, V, S, ei, ej = matrices("U V S e_i e_j")
(si,) = numbers("s_i")
(x,) = points("x")
f = Map(U * S * T(V), X, Y)
orthogonal = {T(U) * U: Integer(1), T(V) * V: Integer(1)}
units = {S * ei: si * ei, T(S) * ei: si * ei, T(ei) * ei: Integer(1), T(ei) * ej: Integer(0), T(ei) * S: si * T(ei)}
rules = {**orthogonal, **units}


def left(e: Basic) -> Basic:
    return Y.point(U * e)


def right(e: Basic) -> Basic:
    return X.point(V * e)


def test_f_takes_right_singular_vectors_to_left_ones() -> None:
    assert same(f(right(ei)), Y.scale(si, left(ei)), rules)


def test_the_adjoint_takes_left_singular_vectors_to_right_ones() -> None:
    assert same(f.H(left(ei)), X.scale(si, right(ei)), rules)


def test_both_sets_are_orthonormal() -> None:
    assert reduce(X.inner(right(ei), right(ei)), rules) == 1 == reduce(Y.inner(left(ei), left(ei)), rules)
    assert reduce(X.inner(right(ei), right(ej)), rules) == 0 == reduce(Y.inner(left(ei), left(ej)), rules)


def test_f_is_the_sum_of_its_singular_triplets() -> None:
    """The i-th part of f(x) = sum_i U S e_i e_i^T V^T g(x) is s_i <v~_i, x> u_i."""
    part = U * S * ei * T(ei) * T(V) * X.coords(x)
    assert reduce(part - si * U * ei * X.inner(right(ei), x), rules) == 0


def test_the_largest_singular_value_is_the_operator_norm() -> None:
    """c^2 |x|^2 - |f(x)|^2 = sum_i (c^2 - s_i^2) <v~_i, x>^2 for V V^T = I: >= 0 for c = max s_i, and 0 at its v~_i."""
    (c,), w = numbers("c"), T(V) * X.coords(x)
    gap = T(w) * (c**2 - T(S) * S) * w
    assert reduce(c**2 * X.inner(x, x) - Y.inner(f(x), f(x)) - gap, {**orthogonal, V * T(V): Integer(1)}) == 0
    assert reduce((c**2 - T(S) * S) * ei - (c**2 - si**2) * ei, rules) == 0
    assert reduce(si**2 * X.inner(right(ei), right(ei)) - Y.inner(f(right(ei)), f(right(ei))), rules) == 0


def test_factors_that_are_not_orthogonal_are_refuted() -> None:
    assert not same(f(right(ei)), Y.scale(si, left(ei)), units)
    assert reduce(Y.inner(left(ei), left(ei)), units) != 1


def test_left_and_right_exchanged_are_refuted() -> None:
    assert not same(f(X.point(U * ei)), Y.scale(si, Y.point(V * ei)), rules)
