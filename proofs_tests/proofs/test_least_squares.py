"""Least squares (linearizer.md, §6): (A Z - W) D Z^T + ridge A = 0 makes A a minimum of sum_i w_i |A z_i - w_i|^2 + ridge
|A|_F^2.

Assumed: Z, W hold coordinates in their columns, D = R R^T is the diagonal of weights, ridge >= 0, tr(X) = tr(X^T), tr(XY) =
tr(YX). Proved: the cost at A + E exceeds that at A by |E Z R|_F^2 + ridge |E|_F^2 >= 0, for every E and all dimensions.
"""

from sympy import Expr, Integer, Mul, Symbol, expand

from proofs_tests.proofs.symbols import T, matrices, reduce, word

A, E, Z, W, R = matrices("A E Z W R")
D, ridge = R * T(R), Symbol("ridge", nonnegative=True)


def trace(expression: Expr) -> Expr:
    """Words up to rotation and transposition."""
    total = Integer(0)
    for term in expand(expression).as_ordered_terms():
        both = (word(term), word(T(Mul(*word(term)))))
        turns = [letters[i:] + letters[:i] for letters in both for i in range(len(letters))]
        total += Mul(*term.args_cnc()[0]) * Mul(*min(turns, key=str, default=()))
    return expand(total)


def cost(A: Expr) -> Expr:
    residual = (A * Z - W) * R
    return residual * T(residual) + ridge * A * T(A)


def normal(A: Expr) -> Expr:
    return expand((A * Z - W) * D * T(Z) + ridge * A)


def excess(gradient: Expr) -> Expr:
    """cost(A + E) - cost(A) - 2 tr(gradient E^T)."""
    return trace(cost(A + E) - cost(A) - 2 * gradient * T(E))


def test_the_cost_grows_by_squares_from_a_solution_of_the_normal_equations() -> None:
    squares = E * Z * R * T(E * Z * R) + ridge * E * T(E)
    assert reduce(excess(normal(A)) - trace(squares)) == 0


def test_normal_equations_without_the_ridge_or_the_weights_are_refuted() -> None:
    squares = trace(E * Z * R * T(E * Z * R) + ridge * E * T(E))
    assert reduce(excess(normal(A) - ridge * A) - squares) != 0
    assert reduce(excess((A * Z - W) * T(Z) + ridge * A) - squares) != 0
