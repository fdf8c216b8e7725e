"""Metric (transport.md): for G = J_g^T J_g the curve c(t) = g^-1(g(x) + t J_g(x) v) starts at x with velocity v, keeps its speed,
and no other curve between its ends has less energy.

Assumed: g is smooth; J is its Jacobian at x, K that at c(t), both invertible on tangent vectors; the chain rule K c'(t) =
d/dt g(c(t)). Proved for all charts and dimensions.
"""

from sympy import Expr, Function, Integer, Symbol, integrate

from proofs_tests.proofs.symbols import Space, T, matrices, points, reduce, same

V = Space("g")
(x,) = points("x")
J, K, L, v = matrices("J K L v")
t = Symbol("t", real=True)
inverse = {K * L: Integer(1), L * K: Integer(1), T(L) * T(K): Integer(1)}
line = V.coords(x) + t * J * v


def speed(velocity: Expr) -> Expr:
    """c'^T G(c) c'."""
    return reduce(T(velocity) * T(K) * K * velocity, inverse)


def test_the_curve_starts_at_x() -> None:
    assert same(V.point(line.subs(t, 0)), x)


def test_its_velocity_at_the_start_is_v() -> None:
    """At t = 0 the Jacobian K is J, and L the inverse of J."""
    velocity = L * line.diff(t)
    assert reduce(K * velocity - line.diff(t), inverse) == 0
    assert reduce(velocity - v, {L * J: Integer(1)}) == 0


def test_its_speed_is_that_of_the_start_at_every_time() -> None:
    assert reduce(speed(L * line.diff(t)) - T(v) * T(J) * J * v) == 0


def test_another_curve_between_the_ends_has_more_energy() -> None:
    """Each coordinate: |d + w'|^2 has the mean d^2 + mean of w'^2, for w(0) = w(1) = 0."""
    d, w = Symbol("d", real=True), Function("w", real=True)(t)
    excess = ((d + w.diff(t)) ** 2 - d**2 - w.diff(t) ** 2).expand()
    ends = {w.subs(t, 0): 0, w.subs(t, 1): 0}
    assert integrate(excess, (t, 0, 1)).doit().subs(ends) == 0 != integrate(excess, (t, 0, 1)).doit()


def test_the_ordinary_line_is_refuted() -> None:
    """x + t v has the velocity v, but not its speed at every time."""
    assert reduce(speed(v) - T(v) * T(J) * J * v) != 0


def test_the_metric_of_the_other_product_is_refuted() -> None:
    """G = J J^T."""
    velocity = L * line.diff(t)
    assert reduce(T(velocity) * K * T(K) * velocity - T(v) * J * T(J) * v, inverse) != 0
