"""Functions of c I + U V^T (linearizer.md): phi(c I + U V^T) = phi(c) I + U psi(M) V^T, M = V^T U, psi(mu) = (phi(c + mu) -
phi(c)) / mu; psi(M) is the upper right block of phi([[cI + M, I], [0, cI]]).

Assumed: V^T U = M, whatever U, V, M. Proved for phi = z^k by induction over k, hence for polynomials and, by absolute
convergence, for power series; for 1/z, hence with c - d for c and by products for rational functions. M may be singular or
defective: psi is divided before M enters.
"""

from sympy import Expr, Function, Matrix, Symbol, cancel, expand, simplify

from proofs_tests.proofs.symbols import T, matrices, numbers, reduce

U, V, M, psi, inverse, K = matrices("U V M psi_k R K")
c, mu = numbers("c mu")
k = Symbol("k", integer=True, nonnegative=True)
A = c + U * T(V)
rules = {T(V) * U: M}


def divided(phi: Expr, at: Symbol) -> Expr:
    return (phi.subs(at, c + mu) - phi.subs(at, c)) / mu


def test_the_formula_holds_for_the_power_zero() -> None:
    assert reduce(1 - (1 + U * (0 * M) * T(V))) == 0  # psi_0 = 0


def test_psi_of_the_next_power() -> None:
    """psi_{k+1}(mu) = c^k + (c + mu) psi_k(mu)."""
    z = Symbol("z")
    psi_k, psi_next = divided(z**k, z), divided(z ** (k + 1), z)
    assert simplify(expand(psi_next - c**k - (c + mu) * psi_k)) == 0


def test_the_step_from_k_to_k_plus_one() -> None:
    """A A^k with A^k = c^k I + U psi_k(M) V^T."""
    following = c**k + (c + M) * psi
    assert reduce(A * (c**k + U * psi * T(V)) - (c ** (k + 1) + U * following * T(V)), rules) == 0


def test_psi_is_a_block_of_the_function_of_a_triangular_matrix() -> None:
    """By induction: [[c + M, I], [0, c]]^k = [[(c + M)^k, psi_k(M)], [0, c^k]]; K = (c + M)^k, and I, M, psi commute."""
    block = Matrix([[c + M, 1], [0, c]])
    following = (block * Matrix([[K, psi], [0, c**k]])).applyfunc(expand)
    expected = Matrix([[(c + M) * K, (c + M) * psi + c**k], [0, c ** (k + 1)]]).applyfunc(expand)
    assert following == expected


def test_the_inverse() -> None:
    """phi = 1/z has psi(mu) = -1 / (c (c + mu)): Woodbury, R = (c + M)^-1."""
    z = Symbol("z")
    assert cancel(divided(1 / z, z) + 1 / (c * (c + mu))) == 0
    solved = 1 / c - U * inverse * T(V) / c
    undone = {**rules, M * inverse: 1 - c * inverse, inverse * M: 1 - c * inverse}
    assert reduce(A * solved - 1, undone) == 0 == reduce(solved * A - 1, undone)


def test_the_formula_holds_for_products() -> None:
    """(phi chi)(A) = phi(A) chi(A): its psi is phi(c) psi_chi + psi_phi chi(c + mu), chi(c + mu) = chi(c) + mu psi_chi."""
    z, phi, chi = Symbol("z"), Function("phi"), Function("chi")
    p_mu, q_mu = divided(phi(z), z), divided(chi(z), z)
    assert expand(divided(phi(z) * chi(z), z) - phi(c) * q_mu - p_mu * (chi(c) + mu * q_mu)) == 0
    p, q = matrices("p q")
    fc, gc = numbers("fc gc")
    product = (fc + U * p * T(V)) * (gc + U * q * T(V))
    assert reduce(product - (fc * gc + U * (fc * q + p * (gc + M * q)) * T(V)), rules) == 0


def test_the_transposed_capacitance_is_refuted() -> None:
    following = c**k + (c + T(M)) * psi
    assert reduce(A * (c**k + U * psi * T(V)) - (c ** (k + 1) + U * following * T(V)), rules) != 0


def test_phi_in_place_of_its_divided_difference_is_refuted() -> None:
    """c^k I + U (c + M)^k V^T is not the power."""
    assert reduce(A * (c**k + U * K * T(V)) - (c ** (k + 1) + U * (c + M) * K * T(V)), rules) != 0
