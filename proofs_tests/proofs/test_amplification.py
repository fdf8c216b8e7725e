"""Amplification (numerical_honesty.md): an error e_l of z_l, on the way up or down, reaches the point as J_l^-1 e_l, J_l the
Jacobian of (g_l ... g_1): to first order the round trip loses the sum over l, and rounding has |e_l| of about eps |z_l|.

Assumed: the layers are smooth. Proved by induction for any number of layers and dimensions; that the rest is of second order,
for a layer of one coordinate. How far rounding is from eps |z_l| is no theorem: a constant stands for it.
"""

from sympy import Function, Integer, Symbol, series

from proofs_tests.proofs.symbols import matrices, reduce

J, W, M, N, d, e, x = matrices("J W M N d e x")
inverses = {W * J: Integer(1), N * M: Integer(1)}  # M = J_l, the layers so far, and J the next one


def test_the_error_of_the_next_layer_is_added_through_its_whole_inverse() -> None:
    """With coordinates M x + d, which decode to x + N d, the next layer has J (M x + d) + e: N W is the inverse of J M."""
    before = reduce(N * (M * x + d) - x, inverses)
    after = reduce(N * W * (J * (M * x + d) + e) - x, inverses)
    assert before == N * d
    assert reduce(after - before - N * W * e) == 0 == reduce(N * W * (J * M) - 1, inverses)


def test_no_layer_loses_nothing() -> None:
    assert reduce(N * (M * x) - x, inverses) == 0


def test_the_rest_is_of_second_order() -> None:
    """h(g(x) + t) = x + t / g'(x) + O(t^2), h the inverse: h'(g(x)) g'(x) = 1 is the derivative of h(g(x)) = x."""
    t, p = Symbol("t"), Symbol("x")
    g, h = Function("g"), Function("h")
    first = series(h(g(p) + t), t, 0, 2).removeO().doit()
    slope = h(g(p)).diff(p).doit() / g(p).diff(p)
    assert (first - h(g(p)) - t * slope).doit().simplify() == 0


def test_the_inverse_of_the_last_layer_alone_and_inverses_in_the_wrong_order_are_refuted() -> None:
    after = reduce(N * W * (J * (M * x + d) + e) - x, inverses)
    assert reduce(after - N * d - W * e) != 0 != reduce(after - N * d - W * N * e)
