"""Least squares (linearizer.md, §6): (A Z - W) D Z^T + (A - A_0) P = 0 makes A a minimum of sum_i w_i |A z_i - w_i|^2 +
|(A - A_0) S|^2.

Assumed: Z, W hold coordinates in their columns, D = R R^T is the diagonal of weights, P = S S^T that of penalties, tr(X) =
tr(X^T), tr(XY) = tr(YX). Proved: the cost at A + E exceeds that at A by |E Z R|_F^2 + |E S|_F^2 >= 0, for every E and all
dimensions. One row of A is a problem of its own, with weights and penalties of its own. And where (Z R)^T = Q U, Q^T Q = I, the
cost is |A U^T - W R Q|^2 + |(A - A_0) S|^2 and a number: U and W R Q are all that is kept of the data.
"""

from sympy import Expr, Integer, Mul, expand

from proofs_tests.proofs.symbols import T, matrices, reduce, word

A, E, Z, W, R, S, A_0, Q, U = matrices("A E Z W R S A_0 Q U")
D, P = R * T(R), S * T(S)


def trace(expression: Expr) -> Expr:
    """Words up to rotation and transposition."""
    total = Integer(0)
    for term in expand(expression).as_ordered_terms():
        both = (word(term), word(T(Mul(*word(term)))))
        turns = [letters[i:] + letters[:i] for letters in both for i in range(len(letters))]
        total += Mul(*term.args_cnc()[0]) * Mul(*min(turns, key=str, default=()))
    return expand(total)


def square(M: Expr) -> Expr:
    return M * T(M)


def cost(A: Expr) -> Expr:
    return square((A * Z - W) * R) + square((A - A_0) * S)


def normal(A: Expr) -> Expr:
    return expand((A * Z - W) * D * T(Z) + (A - A_0) * P)


def excess(gradient: Expr) -> Expr:
    """cost(A + E) - cost(A) - 2 tr(gradient E^T)."""
    return trace(cost(A + E) - cost(A) - 2 * gradient * T(E))


SQUARES = trace(square(E * Z * R) + square(E * S))


def test_the_cost_grows_by_squares_from_a_solution_of_the_normal_equations() -> None:
    assert reduce(excess(normal(A)) - SQUARES) == 0


def test_normal_equations_without_the_penalty_the_prior_or_the_weights_are_refuted() -> None:
    assert reduce(excess(normal(A) - (A - A_0) * P) - SQUARES) != 0
    assert reduce(excess(normal(A) + A_0 * P) - SQUARES) != 0
    assert reduce(excess((A * Z - W) * T(Z) + (A - A_0) * P) - SQUARES) != 0


def of_triangle(A: Expr) -> Expr:
    """The cost of the data, of which Q and U are known."""
    return square(A * T(U) * T(Q) - W * R)


def test_the_triangle_and_the_turned_targets_are_all_that_is_kept_of_the_data() -> None:
    orthonormal = {T(Q) * Q: 1}
    kept = square(A * T(U) - W * R * Q)
    rest = square(W * R) - square(W * R * Q)  # what no A explains
    assert reduce(trace(reduce(of_triangle(A), orthonormal) - kept - rest)) == 0
    assert reduce(trace(of_triangle(A) - kept - rest)) != 0  # it needs Q^T Q = I
