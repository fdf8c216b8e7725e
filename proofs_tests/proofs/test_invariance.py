"""Invariance (linearizer.md): g -> M g, A -> M A M^-1 leaves f, its powers, trace, determinant and rank; the adjoint changes
unless M is orthogonal.

Assumed: g is a bijection, M has the inverse W; tr(XY) = tr(YX), det(XY) = det X det Y. Proved for every dimension.
"""

from sympy import Expr, Integer, Mul, Symbol, expand

from proofs_tests.proofs.symbols import Coords, Map, Space, T, matrices, points, reduce, same, word

A, M, W = matrices("A M W")
(x,) = points("x")
z = Coords(Symbol("g"), x)
inverse = {M * W: Integer(1), W * M: Integer(1), T(M) * T(W): Integer(1), T(W) * T(M): Integer(1)}
similar = M * A * W
N = Symbol("N", integer=True, nonnegative=True)


def through(core: Expr) -> Expr:
    """The old coordinates of (M g)^-1 core (M g)(x)."""
    return W * core * M * z


def rotated(expression: Expr) -> Expr:
    """tr: every word turned so that W comes first, where it meets M."""
    total = Integer(0)
    for term in expand(expression).as_ordered_terms():
        letters = word(term)
        at = letters.index(W) if W in letters else 0
        total += Mul(*term.args_cnc()[0]) * Mul(*letters[at:], *letters[:at])
    return reduce(total, inverse)


def test_f_is_the_same_map() -> None:
    assert reduce(through(similar) - A * z, inverse) == 0


def test_powers_are_similar_by_induction() -> None:
    """(M A W)^(N+1) = (M A W) (M A^N W) = M A^(N+1) W."""
    assert reduce(similar * (M * A**N * W) - M * A ** (N + 1) * W, inverse) == 0


def test_the_traces_of_all_powers_are_the_same() -> None:
    """tr(M A^N W) = tr(A^N W M) = tr A^N: these determine the eigenvalues with their multiplicities (Newton)."""
    assert rotated(M * A**N * W) == A**N


def test_the_characteristic_polynomial_is_the_same() -> None:
    """c I - M A W = M (c I - A) W, and det M det W = det(M W) = 1; at c = 0 this is the determinant."""
    c = Symbol("c")
    assert reduce(c - similar - M * (c - A) * W, inverse) == 0


def test_the_rank_is_the_same() -> None:
    """z -> M z maps the kernel of A onto that of M A W, with the inverse W."""
    kernel = {A * z: Integer(0)}
    assert reduce(similar * (M * z), {**inverse, **kernel}) == 0
    other = {M * A * W * z: Integer(0)}
    assert reduce(W * (M * A * W * z), other) == 0 == reduce(A * (W * z) - W * (M * A * W * z), inverse)


def test_the_core_is_similar_to_the_jacobian_at_zero() -> None:
    """f keeps 0_g, where the chain rule in g(f(x)) = A g(x) says J F = A J: F = J^-1 A J, F that of f, J = M that of g."""
    V, (F, elsewhere) = Space("g"), matrices("F J")
    assert same(Map(A, V, V)(V.zero()), V.zero())
    assert reduce(W * M * F - W * A * M, {M * F: A * M}) == 0 == reduce(W * M * F - F, inverse)
    assert reduce(W * M * F - W * A * M, {M * F: A * elsewhere}) != 0


def test_eigenvectors_are_those_of_the_core_pulled_back() -> None:
    """f(g^-1(v)) = c (.) g^-1(v) for A v = c v, and for no other v: their coordinates are A v and c v."""
    V, (v,), c = Space("g"), matrices("v"), Symbol("c", real=True)
    f = Map(A, V, V)
    assert same(f(V.point(v)), V.scale(c, V.point(v)), {A * v: c * v}) and not same(f(V.point(v)), V.scale(c, V.point(v)))
    assert not same(Map(A, V, Space("other"))(V.point(v)), V.scale(c, V.point(v)), {A * v: c * v})


def test_the_adjoint_is_the_same_for_orthogonal_m() -> None:
    assert reduce(through(T(similar)) - T(A) * z, {**inverse, T(M): W, T(W): M}) == 0


def test_the_adjoint_for_any_other_m_is_refuted() -> None:
    assert reduce(through(T(similar)) - T(A) * z, inverse) != 0


def test_an_unchanged_core_is_refuted() -> None:
    assert reduce(through(A) - A * z, inverse) != 0
