"""App. F, eqs. 48-53: one RK4 step of z' = A(t) z is the matrix S = I + h/6 (K1 + 2 K2 + 2 K3 + K4), a polynomial in A(t),
A(t + h/2) and A(t + h); for constant A it is the degree-4 Taylor polynomial of exp(hA).

Assumed: nothing about the matrices, which do not commute. Proved for every dimension; the step of the state is the classical
one.
"""

from sympy import Expr, Rational, expand, factorial

from proofs_tests.proofs.symbols import matrices, numbers, reduce

A, B, C, z = matrices("A B C z")  # A(t), A(t + h/2), A(t + h), the state
(h,) = numbers("h")
EXPANDED = (
    1
    + h * (A + 4 * B + C) / 6
    + h**2 * (B * A + B * B + C * B) / 6
    + h**3 * (B * B * A + C * B * B) / 12
    + h**4 * C * B * B * A / 24
)


def step_matrix(A: Expr, B: Expr, C: Expr, *, chained: bool = True) -> Expr:
    K1 = A
    K2 = B * (1 + h / 2 * K1)
    K3 = B * (1 + h / 2 * (K2 if chained else K1))
    K4 = C * (1 + h * (K3 if chained else K1))
    return expand(1 + h / 6 * (K1 + 2 * K2 + 2 * K3 + K4))


def step_of_the_state(z: Expr) -> Expr:
    """The textbook's RK4 for z' = F(t, z)."""
    k1 = A * z
    k2 = B * (z + h / 2 * k1)
    k3 = B * (z + h / 2 * k2)
    k4 = C * (z + h * k3)
    return z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def taylor(X: Expr, degree: int) -> Expr:
    return sum(((h * X) ** k * Rational(1, factorial(k)) for k in range(1, degree + 1)), start=1 + 0 * h)


def test_the_step_matrix_expanded() -> None:
    assert reduce(step_matrix(A, B, C) - EXPANDED) == 0


def test_the_matrix_takes_the_step_of_the_state() -> None:
    assert reduce(step_matrix(A, B, C) * z - step_of_the_state(z)) == 0


def test_for_a_constant_matrix_it_is_the_taylor_polynomial_of_degree_four() -> None:
    assert reduce(step_matrix(A, A, A) - taylor(A, 4)) == 0
    assert reduce(step_matrix(A, A, A) - taylor(A, 5)) != 0


def test_stages_that_forget_each_other_are_refuted() -> None:
    false = step_matrix(A, B, C, chained=False)
    assert reduce(false * z - step_of_the_state(z)) != 0
    assert reduce(step_matrix(A, A, A, chained=False) - taylor(A, 4)) != 0


def test_stages_without_any_products_are_refuted_at_the_second_order() -> None:
    false = 1 + h / 6 * (A + 4 * A + A)
    assert reduce(step_matrix(A, A, A) - false).coeff(h, 2) == A**2 / 2


def test_matrices_in_the_wrong_order_are_refuted() -> None:
    assert reduce(step_matrix(A, B, C) - step_matrix(C, B, A)) != 0
