"""Magnus-4 (flow_matching.md): S = exp(Omega), Omega = h/2 (A1 + A2) + sqrt(3) h^2/12 [A2, A1], A1, A2 at the Gauss nodes,
differs from the time-ordered exponential of A(t) by O(h^5); S(-h) = S(h)^-1 (time symmetry); det S = exp(h/2 tr(A1 + A2)).

Assumed: A(t + s) = a0 + a1 s + a2 s^2 + a3 s^3 + O(s^4), the coefficients not commuting; det exp = exp tr. Proved: every
coefficient through h^4 of Dyson's series, for every dimension; the same for RK4, which has the order 4 but not the symmetry.
"""

from functools import cache

from sympy import Expr, Integer, Mul, Rational, expand, factorial, sqrt

from proofs_tests.proofs.symbols import matrices, numbers, reduce, word

a = matrices("a0 a1 a2 a3 a4")
A1, A2, A, B, C = matrices("A1 A2 A B C")
(h,) = numbers("h")
GAUSS = (Rational(1, 2) - sqrt(3) / 6, Rational(1, 2) + sqrt(3) / 6)


def truncated(expression: Expr, order: int) -> Expr:
    """Without the powers of h above `order`."""
    expression = expand(expression)
    return sum((expression.coeff(h, k) * h**k for k in range(order + 1)), start=Integer(0))


def at(node: Expr) -> Expr:
    return sum((coefficient * (node * h) ** k for k, coefficient in enumerate(a)), start=Integer(0))


@cache
def dyson(order: int) -> Expr:
    """Y' = A(s) Y, Y(0) = I, as a power series: (k + 1) Y_{k+1} = sum_j a_j Y_{k-j}."""
    Y = [Integer(1)]
    for k in range(order):
        Y.append(expand(sum((a[j] * Y[k - j] for j in range(k + 1)), start=Integer(0)) / (k + 1)))
    return sum((Y[k] * h**k for k in range(order + 1)), start=Integer(0))


def omega(A1: Expr, A2: Expr, *, sign: int = 1, h: Expr = h) -> Expr:
    return h / 2 * (A1 + A2) + sign * sqrt(3) * h**2 / 12 * (A2 * A1 - A1 * A2)


def exponential(X: Expr, order: int) -> Expr:
    """The series of exp, for X without a term h^0."""
    total, power = Integer(1), Integer(1)
    for k in range(1, order + 1):
        power = truncated(power * X, order)
        total += power * Rational(1, factorial(k))
    return expand(total)


def magnus(order: int, sign: int = 1) -> Expr:
    return exponential(truncated(omega(at(GAUSS[0]), at(GAUSS[1]), sign=sign), order), order)


def rk4(A: Expr, B: Expr, C: Expr) -> Expr:
    K2 = B * (1 + h / 2 * A)
    K3 = B * (1 + h / 2 * K2)
    return 1 + h / 6 * (A + 2 * K2 + 2 * K3 + C * (1 + h * K3))


def error(scheme: Expr, order: int) -> list[bool]:
    """Whether the coefficients of h^0 .. h^order are those of the time-ordered exponential."""
    difference = expand(scheme - dyson(order))
    return [bool(difference.coeff(h, k) == 0) for k in range(order + 1)]


def trace(expression: Expr) -> Expr:
    """Words up to rotation: tr(XY) = tr(YX), and nothing else."""
    total = Integer(0)
    for term in expand(expression).as_ordered_terms():
        letters = word(term)
        turns = [letters[i:] + letters[:i] for i in range(len(letters))] or [()]
        total += Mul(*term.args_cnc()[0]) * Mul(*min(turns, key=str))
    return expand(total)


def test_magnus4_agrees_with_the_dyson_series_through_h4_and_not_beyond() -> None:
    assert error(magnus(5), 5) == [True] * 5 + [False]


def test_rk4_agrees_with_the_dyson_series_through_h4_and_not_beyond() -> None:
    assert error(rk4(at(Integer(0)), at(Rational(1, 2)), at(Integer(1))), 5) == [True] * 5 + [False]


def test_magnus4_backwards_is_its_inverse() -> None:
    """Going back the nodes change places and h its sign: Omega becomes -Omega, and exp(-Omega) exp(Omega) = I."""
    assert reduce(omega(A2, A1, h=-h) + omega(A1, A2)) == 0


def test_rk4_backwards_is_not_its_inverse() -> None:
    backwards = rk4(C, B, A).subs(h, -h)
    assert truncated(backwards * rk4(A, B, C), 2) != 1
    constant = truncated(rk4(A, A, A).subs(h, -h) * rk4(A, A, A), 6)
    assert constant == 1 + h**6 * A**6 / 72


def test_the_determinant_of_magnus4_is_that_of_the_quadrature() -> None:
    """tr of a commutator is 0; the two nodes integrate tr A exactly up to cubic terms."""
    assert trace(omega(A1, A2)) == expand(h / 2 * (A1 + A2))
    integral = sum((a[k] * h ** (k + 1) / (k + 1) for k in range(4)), start=Integer(0))
    assert truncated(trace(omega(at(GAUSS[0]), at(GAUSS[1]))), 4) == integral


def test_a_commutator_of_the_wrong_sign_or_none_is_refuted_at_h3() -> None:
    assert error(magnus(4, sign=-1), 4) == error(magnus(4, sign=0), 4) == [True] * 3 + [False] * 2


def test_the_series_of_the_reversed_time_order_is_refuted() -> None:
    """(k + 1) Y_{k+1} = sum_j Y_{k-j} a_j solves Y' = Y A: it differs from h^3 on."""
    reversed_terms = expand(dyson(4)).as_ordered_terms()
    mirrored = sum((Mul(*t.args_cnc()[0]) * Mul(*word(t)[::-1]) for t in reversed_terms), start=Integer(0))
    assert error(mirrored, 4) == [True] * 3 + [False] * 2
