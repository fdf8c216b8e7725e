"""Lemma 4.1, App. D: f+ = g_x^-1 A+ g_y obeys f f+ f = f, f+ f f+ = f+, (f f+)* = f f+, (f+ f)* = f+ f, and nothing else
does.

Assumed: the charts are bijections and A+ obeys the four equations of Penrose for A. Proved for all points, charts and
dimensions; also that V S+ U^T obeys them for A = U S V^T, and that two solutions are one.
"""

from sympy import Expr

from proofs_tests.proofs.symbols import Map, Space, T, matrices, numbers, points, reduce, same

X, Y = Space("g_x"), Space("g_y")
A, P, Q, U, V, S, R = matrices("A P Q U V S R")
x, y = points("x y")
penrose = {A * P * A: A, P * A * P: P, T(P) * T(A): A * P, T(A) * T(P): P * A}


def equations(core: Expr, candidate: Expr, rules: dict[Expr, Expr]) -> list[bool]:
    f, g = Map(core, X, Y), Map(candidate, Y, X)
    ff, gf = Map(core * candidate, Y, Y), Map(candidate * core, X, X)
    assert same(ff(y), f(g(y))) and same(gf(x), g(f(x)))  # Prop 2.5
    return [
        same(f(g(f(x))), f(x), rules),
        same(g(f(g(y))), g(y), rules),
        same(ff.H(y), f(g(y)), rules),
        same(gf.H(x), g(f(x)), rules),
    ]


def test_the_four_equations_hold_for_f() -> None:
    assert equations(A, P, penrose) == [True] * 4


def test_the_pseudoinverse_made_of_the_singular_values_obeys_them() -> None:
    """R = S+, diagonal: S R S = S, R S R = R, and S R, R S are symmetric."""
    rules = {T(U) * U: 1, T(V) * V: 1, S * R * S: S, R * S * R: R, T(R) * T(S): S * R, T(S) * T(R): R * S}
    assert equations(U * S * T(V), V * R * T(U), rules) == [True] * 4


def test_the_pseudoinverse_of_a_multiple_of_the_identity_plus_a_low_rank() -> None:
    """A = Q K Q^T + c (I - Q Q^T), Q^T Q = I: A+ = Q R Q^T + c^-1 (I - Q Q^T), R = K+; for c = 0 without the second part."""
    K, (c,) = S, numbers("c")
    rules = {T(Q) * Q: 1, K * R * K: K, R * K * R: R, T(R) * T(K): K * R, T(K) * T(R): R * K}
    rest = 1 - Q * T(Q)
    assert equations(Q * K * T(Q) + c * rest, Q * R * T(Q) + rest / c, rules) == [True] * 4
    assert equations(Q * K * T(Q), Q * R * T(Q), rules) == [True] * 4
    assert equations(Q * K * T(Q) + c * rest, Q * R * T(Q) + rest, rules) != [True] * 4


def test_there_is_only_one() -> None:
    """A P = A Q A P = (A Q)^T (A P)^T = (A P A Q)^T = (A Q)^T = A Q, likewise P A = Q A; so P = P A P = Q A P = Q A Q = Q."""
    plain = {A * P * A: A, A * Q * A: A}
    assert reduce(A * Q * A * P - A * P, plain) == 0 == reduce(P * A * Q * A - P * A, plain)
    assert reduce(T(A * P * A * Q) - T(A * Q) * T(A * P)) == 0 == reduce(T(P * A * Q * A) - T(Q * A) * T(P * A))
    assert reduce(A * P * A * Q - A * Q, plain) == 0 == reduce(Q * A * P * A - Q * A, plain)
    assert reduce(P * A * P - Q * A * P, {P * A: Q * A}) == 0 == reduce(Q * A * P - Q * A * Q, {A * P: A * Q})


def test_the_transpose_as_pseudoinverse_is_refuted() -> None:
    assert equations(A, T(A), penrose) == [False, False, True, True]


def test_a_generalised_inverse_is_refuted() -> None:
    """P with the first two equations only: the projections f f+ and f+ f are oblique."""
    assert equations(A, P, {A * P * A: A, P * A * P: P}) == [True, True, False, False]
