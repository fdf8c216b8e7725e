"""Gaussian oracle (flow_matching.md): for z_0 ~ N(0, I), z_1 ~ N(0, C) independent, A_t = (t C - (1-t) I)((1-t)^2 I + t^2 C)^-1
is the least-squares velocity, and B = C^1/2.

Assumed: E z_0 z_0^T = I, E z_1 z_1^T = C, E z_0 z_1^T = 0; the A_t are functions of C, so they commute, and B is the
exponential of their integral, eigenvalue by eigenvalue c > 0. Proved for every dimension.
"""

from sympy import Expr, Integer, Symbol, exp, log, simplify, sqrt

from proofs_tests.proofs.symbols import T, matrices, reduce

z0, z1, C = matrices("z_0 z_1 C")
t, c = Symbol("t", real=True), Symbol("c", positive=True)
moments = {z0 * T(z0): Integer(1), z1 * T(z1): C, z0 * T(z1): Integer(0), z1 * T(z0): Integer(0)}
variance = (1 - t) ** 2 + t**2 * c
rate = (t * c - (1 - t)) / variance


def mean(expression: Expr) -> Expr:
    return reduce(expression, moments)


def test_the_moments_of_straight_paths() -> None:
    """A_t = E[(z_1 - z_0) z_t^T] E[z_t z_t^T]^-1, z_t = (1-t) z_0 + t z_1."""
    zt = (1 - t) * z0 + t * z1
    assert reduce(mean((z1 - z0) * T(zt)) - (t * C - (1 - t))) == 0
    assert reduce(mean(zt * T(zt)) - ((1 - t) ** 2 + t**2 * C)) == 0


def test_the_rate_is_the_logarithmic_derivative_of_the_standard_deviation() -> None:
    assert simplify(log(variance).diff(t) / 2 - rate) == 0


def test_the_propagator_is_the_standard_deviation_of_the_data() -> None:
    """exp of the integral from 0 to 1 is sqrt(variance(1) / variance(0)) = sqrt(c)."""
    assert variance.subs(t, 0) == 1 and variance.subs(t, 1) == c
    assert exp(log(variance.subs(t, 1) / variance.subs(t, 0)) / 2) == sqrt(c)


def test_the_covariance_itself_as_propagator_is_refuted() -> None:
    assert exp(log(variance.subs(t, 1) / variance.subs(t, 0)) / 2) != c


def test_the_rate_with_the_other_sign_of_the_noise_is_refuted() -> None:
    assert simplify(log(variance).diff(t) / 2 - (t * c + (1 - t)) / variance) != 0
