"""Convolution: its adjoint is the transposed convolution, then each padded entry added back to the entry it is a copy of.

Assumed: sequences of finitely many entries, zero elsewhere, so sums may be exchanged; a padded entry i is x at source(i), any
function. Proved for every kernel, stride, length and padding, along one axis; axes and channels are sums of these.
"""

from sympy import Expr, Function, IndexedBase, KroneckerDelta, Matrix, eye, oo, summation, symbols

from proofs_tests.proofs.symbols import Map, Space, T, matrices, points, reduce

x, y, c = IndexedBase("x"), IndexedBase("y"), IndexedBase("c")
i, j, k, s = symbols("i j k s", integer=True)
C, P = matrices("C P")


def copied(at: Expr) -> Expr:
    """The part of <x', y> that entry i gives, as a sum over x: each x_j times what is added back to it."""
    return summation(x[j] * KroneckerDelta(j, at) * y[i], (j, -oo, oo))


def test_adding_back_is_the_adjoint_of_any_padding() -> None:
    source = Function("source", integer=True)
    assert copied(source(i)) == x[source(i)] * y[i]


def test_a_transposed_convolution_is_the_adjoint_of_a_convolution() -> None:
    """y_i sum_k c_k x_(s i + k) = sum_j x_j sum_k c_k y_i [j = s i + k], k by k."""
    assert c[k] * copied(s * i + k) == c[k] * x[s * i + k] * y[i]


def test_the_adjoints_follow_in_reversed_order() -> None:
    X, Y = Space("g_x"), Space("g_y")
    u, v = points("u v")
    f = Map(C * P, X, Y)
    assert f.H.core == T(P) * T(C)
    assert reduce(Y.inner(f(u), v) - T(X.coords(u)) * T(P) * T(C) * Y.coords(v)) == 0


def padded(*rows: int) -> Matrix:
    """The matrix of a kernel of three over a padded side of four."""
    return kernel(c) * Matrix([eye(4).row(row) for row in rows])


def kernel(entries: IndexedBase) -> Matrix:
    return Matrix(4, 6, lambda row, column: entries[column - row] if 0 <= column - row < 3 else 0)


def test_the_flipped_kernel_is_the_adjoint_for_circular_and_refuted_for_reflect_and_replicate_padding() -> None:
    flip = {c[0]: c[2], c[2]: c[0]}
    circular, reflect, replicate = padded(3, 0, 1, 2, 3, 0), padded(1, 0, 1, 2, 3, 2), padded(0, 0, 1, 2, 3, 3)
    assert circular.T == circular.subs(flip, simultaneous=True)
    for matrix in (reflect, replicate):
        assert matrix.T != matrix.subs(flip, simultaneous=True)
