"""Limits (limits.md, §3.1): the fibres of f are g_x^-1 of translates of the kernel of A: a fibre has no, one or infinitely
many points.

Assumed: g_x, g_y are bijections. Proved for all charts, cores and dimensions.
"""

from proofs_tests.proofs.symbols import Map, Space, matrices, numbers, points, same

X, Y = Space("g_x"), Space("g_y")
A, k = matrices("A k")
(t,) = numbers("t")
x, u = points("x u")
f = Map(A, X, Y)


def test_a_translate_by_the_kernel_stays_in_the_fibre() -> None:
    """f(x (+) t (.) g_x^-1(k)) = f(x) for A k = 0 and every number t: a fibre with two points contains their whole line."""
    moved = X.add(x, X.scale(t, X.point(k)))
    assert same(f(moved), f(x), {A * k: 0})


def test_two_points_of_a_fibre_differ_by_the_kernel() -> None:
    """g_y is one-to-one, so f(x) = f(u) says A g(x) = A g(u), which is A g(x (-) u) = 0."""
    assert same(f(X.add(x, X.neg(u))), Y.zero(), {A * X.coords(x): A * X.coords(u)})


def test_with_two_zeros_their_whole_line_are_zeros() -> None:
    zeros = {A * X.coords(x): 0, A * X.coords(u): 0}
    assert same(f(X.add(X.scale(1 - t, x), X.scale(t, u))), Y.zero(), zeros)


def test_a_translate_by_no_kernel_vector_is_refuted() -> None:
    assert not same(f(X.add(x, X.scale(t, X.point(k)))), f(x))


def test_a_linear_flow_with_two_fixed_points_has_a_line_of_them() -> None:
    """For one chart: f(x) = x and f(u) = u give f(p) = p for p = (1 - t) x (+) t u."""
    g = Map(A, X, X)
    p = X.add(X.scale(1 - t, x), X.scale(t, u))
    fixed = {A * X.coords(x): X.coords(x), A * X.coords(u): X.coords(u)}
    assert same(g(p), p, fixed) and not same(g(p), p)
