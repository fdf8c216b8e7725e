"""Prop 2.8: f* = g_x^-1 A^T g_y is the adjoint of f = g_y^-1 A g_x: <f(x), y>_y = <x, f*(y)>_x.

Assumed: g_x, g_y are bijections; A is real. Proved for all points, with f** = f and (f2 f1)* = f1* f2*; and that no other
core does.
"""

from proofs_tests.proofs.symbols import Map, Space, T, matrices, points, reduce, same, word

X, Y, Z = Space("g_x"), Space("g_y"), Space("g_z")
A, A2, C = matrices("A A2 C")
x, y, z = points("x y z")
f, f2 = Map(A, X, Y), Map(A2, Y, Z)


def test_the_adjoint_moves_f_to_the_other_side() -> None:
    assert reduce(Y.inner(f(x), y) - X.inner(x, f.H(y))) == 0


def test_the_adjoint_of_the_adjoint_is_f() -> None:
    assert same(f.H.H(x), f(x))


def test_the_adjoint_of_a_product_is_the_product_of_adjoints_reversed() -> None:
    assert same(Map(A2 * A, X, Z).H(z), f.H(f2.H(z)))


def test_the_core_of_the_adjoint_is_the_only_one() -> None:
    """The difference for a core C is g(x)^T (A^T - C) g(y), which vanishes for all coordinates only with its middle."""
    difference = reduce(Y.inner(f(x), y) - X.inner(x, Map(C, Y, X)(y)))
    assert {word(term) for term in difference.args} == {(T(X.coords(x)), K, Y.coords(y)) for K in (T(A), C)}
    assert difference == reduce(T(X.coords(x)) * (T(A) - C) * Y.coords(y))


def test_a_for_its_transpose_is_refuted() -> None:
    assert reduce(Y.inner(f(x), y) - X.inner(x, Map(A, Y, X)(y))) != 0


def test_the_adjoint_in_the_wrong_charts_is_refuted() -> None:
    assert reduce(Y.inner(f(x), y) - X.inner(x, Map(T(A), X, Y)(y))) != 0
