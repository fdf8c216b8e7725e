"""Kernel and range (linearizer.md): ker f = g_x^-1(ker A) and ran f = g_y^-1(ran A) are subspaces, ran f is orthogonal to ker f*.

Assumed: g_x, g_y are bijections. Proved for all charts, cores and dimensions.
"""

from proofs_tests.proofs.symbols import Map, Space, T, matrices, numbers, points, reduce, same

X, Y = Space("g_x"), Space("g_y")
A, k = matrices("A k")
(a, b), (x, u, y) = numbers("a b"), points("x u y")
f = Map(A, X, Y)


def test_the_kernel_is_that_of_the_core_pulled_back() -> None:
    """f(g_x^-1(k)) = 0 for A k = 0, and A g_x(x) is the coordinate of f(x), so no other point has f(x) = 0_g."""
    assert same(f(X.point(k)), Y.zero(), {A * k: 0})
    assert Y.coords(f(x)) == A * X.coords(x) and Y.coords(Y.zero()) == 0


def test_the_kernel_is_a_subspace() -> None:
    kernel = {A * X.coords(x): 0, A * X.coords(u): 0}
    combination = X.add(X.scale(a, x), X.scale(b, u))
    assert same(f(combination), Y.zero(), kernel) and not same(f(combination), Y.zero())


def test_the_range_is_that_of_the_core_pulled_back_and_a_subspace() -> None:
    assert f(X.point(k)) == Y.point(A * k)
    assert same(Y.add(Y.scale(a, f(x)), Y.scale(b, f(u))), f(X.add(X.scale(a, x), X.scale(b, u))))


def test_the_range_is_orthogonal_to_the_kernel_of_the_adjoint() -> None:
    """<y, f(x)> = (A^T g(y))^T g(x) = 0 where f*(y) = 0_g."""
    assert reduce(Y.inner(y, f(x)) - X.inner(f.H(y), x)) == 0
    assert reduce(Y.inner(y, f(x)), {T(Y.coords(y)) * A: 0}) == 0


def test_the_range_is_not_orthogonal_to_the_kernel_of_the_map() -> None:
    """One space, A k = 0: <k, f(x)> = k^T A g(x) does not vanish."""
    g = Map(A, X, X)
    assert reduce(X.inner(X.point(k), g(x)), {A * k: 0, T(k) * T(A): 0}) != 0
