"""Group law of exp (linearizer.md): exp(s f) exp(t f) = exp((s + t) f), exp(0 f) = id, d/dt exp(t f) = f exp(t f), for f = g^-1 A
g with one chart.

Assumed: g is a bijection; exp(tA) = sum_k t^k A^k / k!, which converges absolutely, so its products may be ordered by degree.
Proved for the coefficients of all degrees, with the degree a symbol.
"""

from sympy import Expr, Rational, Symbol, combsimp, expand, factorial, simplify

from proofs_tests.proofs.symbols import Map, Space, matrices, numbers, points, reduce, same

V = Space("g")
A, B, Es, Et, Est = matrices("A B E_s E_t E_st")
(s, t), (x,) = numbers("s t"), points("x")
N, k = Symbol("N", integer=True, positive=True), Symbol("k", integer=True, positive=True)


def term(n: Expr | int, t: Expr, X: Expr) -> Expr:
    """The n-th term of exp(tX)."""
    return t**n * X**n / factorial(n)


def coefficient(N: Expr | int, k: Expr | int) -> Expr:
    """That of s^k t^(N-k) A^N in exp(sA) exp(tA)."""
    return 1 / (factorial(k) * factorial(N - k))


def test_a_product_of_two_terms_has_one_power_of_a() -> None:
    """A commutes with its powers, hence terms of degree k and N - k multiply to coefficient(N, k) s^k t^(N-k) A^N."""
    product = term(k, s, A) * term(N - k, t, A)
    assert simplify(product - coefficient(N, k) * s**k * t ** (N - k) * A**N) == 0


def test_the_terms_of_degree_n_sum_to_those_of_s_plus_t_by_induction() -> None:
    """F_N = sum_k coefficient(N, k) s^k t^(N-k) is (s + t)^N / N!: F_0 = 1, and (N + 1) F_{N+1} = (s + t) F_N term by term."""
    assert coefficient(0, 0) == 1
    pascal = (N + 1) * coefficient(N + 1, k) - coefficient(N, k - 1) - coefficient(N, k)
    assert combsimp(pascal) == 0  # 1 <= k <= N
    assert combsimp((N + 1) * coefficient(N + 1, 0) - coefficient(N, 0)) == 0
    assert combsimp((N + 1) * coefficient(N + 1, N + 1) - coefficient(N, N)) == 0


def test_the_derivative_of_a_term_is_a_times_the_term_before() -> None:
    assert simplify((t**k).diff(t) - k * t ** (k - 1)) == 0 and A * A ** (k - 1) == A**k
    assert combsimp(k / factorial(k) - 1 / factorial(k - 1)) == 0


def test_the_group_law_holds_for_f() -> None:
    """With E_s E_t = E_st in coordinates; and exp(0 f) is the identity."""
    one, two = Map(Es, V, V), Map(Et, V, V)
    assert same(one(two(x)), Map(Est, V, V)(x), {Es * Et: Est})
    assert same(Map(A**0, V, V)(x), x)


def test_the_exponential_of_a_sum_of_matrices_that_do_not_commute_is_refuted() -> None:
    """The terms of degree 2 of exp(A) exp(B) and exp(A + B) differ by [A, B] / 2."""
    product = A**2 / 2 + A * B + B**2 / 2
    assert reduce(product - expand((A + B) ** 2) / 2 - Rational(1, 2) * (A * B - B * A)) == 0
    assert reduce(product - expand((A + B) ** 2) / 2) != 0


def test_the_group_law_between_two_charts_is_refuted() -> None:
    Y = Space("other")
    assert not same(Map(Es, V, Y)(Map(Et, V, Y)(x)), Map(Est, V, Y)(x), {Es * Et: Est})


def test_binomials_in_place_of_their_quotient_by_n_factorial_are_refuted() -> None:
    def false(N: Expr, k: Expr) -> Expr:
        return factorial(N) * coefficient(N, k)

    assert combsimp((N + 1) * false(N + 1, k) - false(N, k - 1) - false(N, k)) != 0
