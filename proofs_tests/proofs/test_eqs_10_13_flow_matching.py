"""Eqs. 10-13: the path z_t = (1-t) z_0 + t z_1 runs from z_0 to z_1, its velocity is z_1 - z_0 = g(x_1 (-) x_0), and the loss
|A_t z_t - (z_1 - z_0)|^2 is zero for pairs z_1 = B z_0 and A_t = (B - I) ((1-t) I + t B)^-1.

Assumed: g is a bijection; W is the inverse of (1-t) I + t B at this t. Proved for all charts and dimensions.
"""

from sympy import Expr, Symbol

from proofs_tests.proofs.symbols import Space, T, matrices, points, reduce, same

V = Space("g")
x0, x1 = points("x_0 x_1")
B, W = matrices("B W")
t = Symbol("t", real=True)
z0, z1 = V.coords(x0), V.coords(x1)
path = (1 - t) * z0 + t * z1
inverse = {W * B: (1 - (1 - t) * W) / t}  # W ((1-t) I + t B) = I


def loss(A: Expr, image: Expr) -> Expr:
    """At z_1 = image."""
    residual = A * ((1 - t) * z0 + t * image) - (image - z0)
    return reduce(T(residual) * reduce(residual, inverse), inverse)


def test_the_path_runs_from_one_end_to_the_other_and_is_a_line_of_the_space() -> None:
    assert path.subs(t, 0) == z0 and path.subs(t, 1) == z1
    assert same(V.point(path), V.add(V.scale(1 - t, x0), V.scale(t, x1)))


def test_the_velocity_is_the_difference_in_the_space() -> None:
    assert reduce(path.diff(t) - (z1 - z0)) == 0
    assert reduce(path.diff(t) - V.coords(V.add(x1, V.neg(x0)))) == 0


def test_the_loss_is_zero_where_noise_goes_to_data_by_one_matrix() -> None:
    assert loss((B - 1) * W, B * z0) == 0


def test_a_path_that_runs_backwards_is_refuted() -> None:
    backwards = t * z0 + (1 - t) * z1
    assert backwards.subs(t, 0) != z0 and reduce(backwards.diff(t) - (z1 - z0)) != 0


def test_the_model_of_time_zero_at_every_time_is_refuted() -> None:
    """A_0 = B - I."""
    assert loss(B - 1, B * z0) != 0
