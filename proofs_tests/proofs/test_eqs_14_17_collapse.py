"""Eqs. 14-17: T steps z_{k+1} = S_k z_k are one matrix B = S_{T-1} ... S_0, later steps on the left, and x_1 = g_1^-1(B
g_0(x_0)) is exactly the sample of T steps.

Assumed: every step is linear in the state; Euler's is z + h A(t_k) z. Proved for every T by induction, all charts and
dimensions.
"""

from sympy.core import Basic

from proofs_tests.proofs.symbols import Map, Space, matrices, numbers, points, reduce, same

X, Y = Space("g_0"), Space("g_1")
A, S, B, z = matrices("A S B z")
steps = matrices("S0 S1 S2 S3 S4")
(h,) = numbers("h")
(x,) = points("x_0")


def sample(cores: list[Basic]) -> Basic:
    """Encode, take the steps one after the other, decode."""
    state = X.coords(x)
    for core in cores:
        state = core * state
    return Y.point(state)


def product(cores: list[Basic]) -> Basic:
    whole = 1
    for core in cores:
        whole = core * whole
    return whole


def test_an_euler_step_is_a_matrix() -> None:
    assert reduce(z + h * (A * z) - (1 + h * A) * z) == 0


def test_no_step_is_the_identity() -> None:
    assert X.point(product([]) * X.coords(x)) == x


def test_the_step_from_t_to_t_plus_one() -> None:
    """With z_T = B z_0 the next state S z_T is (S B) z_0: the new step stands on the left."""
    after = Map(S, X, Y)(Map(B, X, X)(x))
    assert same(after, Map(S * B, X, Y)(x))


def test_five_steps_are_one() -> None:
    assert same(sample(steps), Map(product(steps), X, Y)(x))
    assert product(steps) == steps[4] * steps[3] * steps[2] * steps[1] * steps[0]


def test_five_euler_steps_are_one() -> None:
    euler = [1 + h * core for core in steps]
    assert same(sample(euler), Map(product(euler), X, Y)(x))


def test_the_reversed_order_of_time_is_refuted() -> None:
    assert not same(sample(steps), Map(product(steps[::-1]), X, Y)(x))
    assert not same(Map(S, X, Y)(Map(B, X, X)(x)), Map(B * S, X, Y)(x))


def test_the_sum_of_the_steps_is_refuted() -> None:
    euler = [1 + h * core for core in steps]
    assert not same(sample(euler), Map(1 + h * sum(steps), X, Y)(x))
