"""Thm H.5 (Lemma H.4), as built by `interpolate`: f(x_i) = y_i for any finite data with distinct x_i, max(n, m) >= 2.

Assumed: [C B ..] and [E D] are orthogonal frames, and u_i = C^T x_i, D^T y_i are distinct where y_i are (true of almost every
frame: each pair excludes a null set); for n = 1 E^T y_i are. Written: w_i = D^T y_i, a_i = E^T y_i. Proved, for any number of
points and all dimensions: the bumps of `Shear` are disjoint and interpolate, shears are bijections, the charts and A = D B^T
(for n = 1, A = D) take x_i to y_i.
"""

from sympy import Expr, IndexedBase, Integer, KroneckerDelta, Max, Sum, Symbol, expand, symbols

from proofs_tests.proofs.symbols import T, matrices, reduce

B, C, D, E, x, y, z, s = matrices("B C D E x_i y_i z s")
frame_x = {T(B) * B: Integer(1), T(C) * C: Integer(1), T(C) * B: Integer(0), T(B) * C: Integer(0)}
frame_y = {T(D) * D: Integer(1), T(E) * E: Integer(1), T(D) * E: Integer(0), T(E) * D: Integer(0), E * T(E): 1 - D * T(D)}


def shear(x: Expr, B: Expr, shift: Expr) -> Expr:
    return x + B * shift


def bump(distance: Expr, radius: Expr) -> Expr:
    return Max(0, expand(1 - distance**2 / radius**2)) ** 2


def test_a_bump_is_one_at_its_centre_and_zero_at_every_other() -> None:
    """The radius r is half the least distance: every other centre is 2 r + e away, e >= 0."""
    r, e = Symbol("r", positive=True), Symbol("e", nonnegative=True)
    assert bump(Integer(0), r) == 1
    inside = expand(r**2 - (2 * r + e) ** 2)  # 1 - distance^2 / r^2, times r^2
    assert inside.is_negative and Max(0, inside) == 0


def test_a_point_inside_a_bump_is_nearest_to_its_centre_so_bumps_are_disjoint() -> None:
    """|u - u_j| = a < r_j = a + d; |u - u_k| >= |u_j - u_k| - a >= 2 r_j - a > a."""
    a, e = symbols("a e", nonnegative=True)
    d = Symbol("d", positive=True)
    assert expand((2 * (a + d) + e - a) - a).is_positive


def test_the_shift_takes_its_values_at_any_number_of_centres() -> None:
    """sum_j b_j delta_ij = b_i for 1 <= i <= N = i + K, and nothing for i > N: a point in no bump stays."""
    i, j = (Symbol(name, integer=True, positive=True) for name in "ij")
    K, b = Symbol("K", integer=True, nonnegative=True), IndexedBase("b")
    values = b[j] * KroneckerDelta(i, j)
    assert Sum(values, (j, 1, i + K)).doit() == b[i]
    assert Sum(values, (j, 1, i - 1 - K)).doit() == 0


def test_a_shear_does_not_move_what_its_shift_sees_so_it_is_a_bijection() -> None:
    """C^T (x + B s) = C^T x: the inverse subtracts the same s(C^T x)."""
    moved = shear(z, B, s)
    assert reduce(T(C) * moved - T(C) * z, frame_x) == 0
    assert reduce(shear(moved, B, -s) - z) == 0


def test_the_charts_take_the_data_to_one_linear_map_from_n_at_least_two() -> None:
    """g_x(x_i) = x_i + B (w_i - B^T x_i), g_y(y_i) = y_i - E a_i: A g_x(x_i) = D w_i = g_y(y_i)."""
    w, a = T(D) * y, T(E) * y
    gx, gy = shear(x, B, w - T(B) * x), shear(y, E, -a)
    assert reduce(T(C) * gx - T(C) * x, frame_x) == 0 and reduce(T(B) * gx - w, frame_x) == 0
    assert reduce(T(D) * gy - w, frame_y) == 0 and reduce(T(E) * gy, frame_y) == 0
    A = D * T(B)
    image = A * gx
    assert reduce(image - gy, {**frame_x, **frame_y}) == 0
    # g_y^-1 looks up its shift at D^T A g_x(x_i) = w_i, where it is -a_i
    assert reduce(T(D) * image - w, {**frame_x, **frame_y}) == 0
    assert reduce(shear(image, E, a) - y, {**frame_x, **frame_y}) == 0


def test_without_directions_left_over_the_chart_of_y_is_the_identity() -> None:
    """m <= n - p: D is orthogonal, and A g_x(x_i) = D D^T y_i = y_i."""
    gx = shear(x, B, T(D) * y - T(B) * x)
    assert reduce(D * T(B) * gx - y, {**frame_x, D * T(D): Integer(1)}) == 0


def test_the_charts_take_the_data_to_one_linear_map_from_the_line() -> None:
    """n = 1: the first shear of Y makes w_i into x_i where it sees a_i, the second a_i into 0 where it sees x_i; A = D."""
    w, a = T(D) * y, T(E) * y
    first = shear(y, D, x - w)
    assert reduce(T(E) * first - a, frame_y) == 0 and reduce(T(D) * first - x, frame_y) == 0
    second = shear(first, E, -a)
    assert reduce(second - D * x, frame_y) == 0
    assert reduce(shear(shear(D * x, E, a), D, w - x) - y, frame_y) == 0


def test_a_radius_of_the_whole_distance_is_refuted() -> None:
    """Radius 2 r reaches a centre at 2 r - e: it is not proved zero, and is positive at e = r."""
    r, e = Symbol("r", positive=True), Symbol("e", positive=True)
    inside = expand((2 * r) ** 2 - (2 * r - e) ** 2)
    assert not inside.is_nonpositive and inside.subs(e, r).is_positive


def test_a_shear_along_what_its_shift_sees_is_refuted() -> None:
    assert reduce(T(C) * shear(z, C, s) - T(C) * z, frame_x) != 0


def test_the_fit_without_the_chart_of_y_is_refuted() -> None:
    gx = shear(x, B, T(D) * y - T(B) * x)
    assert reduce(D * T(B) * gx - y, {**frame_x, **frame_y}) != 0
