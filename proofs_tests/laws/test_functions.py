"""Functions of operators: against scipy and mpmath, and the laws of logarithms, roots and resolvents."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced.errors import DomainError
from induced.operators import (
    Dense,
    Diagonal,
    LinearOperator,
    ScaledIdentityPlusLowRank,
    eigenvalues,
    exp,
    function,
    log,
    power,
    resolvent,
    sqrt,
)
from induced.operators.linalg import Inverse
from proofs_tests.laws.functions import entries, every_function, jordan, numbers, of_jordan_block
from proofs_tests.registry import CONDITION, DTYPES, SQUARE_CORES, CoreCase, agree

every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)


def through_mpmath(f: Callable[[mpmath.matrix], mpmath.matrix], M: Tensor) -> Tensor:
    """The real part of f(M), computed in 25 digits."""
    with mpmath.workdps(25):
        image = f(mpmath.matrix(M.double().tolist()))
        return numbers(*(float(mpmath.re(x)) for x in image)).reshape(M.shape)


def principal(case: CoreCase, *, singular: bool = False) -> Tensor | None:
    """A matrix of the case whose eigenvalues keep away from (-inf, 0], 0 excepted if asked; None if 300 draws give none."""
    for _ in range(300):
        M = case.matrix()
        w = np.linalg.eigvals(M.numpy())
        kept = w[np.abs(w) > 1e-6] if singular else w
        if (np.abs(np.angle(kept)) < 2.5).all() and (np.abs(kept) > 0.1).all():
            return M
    return None


with torch.random.fork_rng():
    torch.manual_seed(0)
    WITH_LOGARITHM = [(case, M) for case in SQUARE_CORES if (M := principal(case)) is not None]
    WITH_ROOT = [(case, M) for case in SQUARE_CORES if (M := principal(case, singular=True)) is not None]
    WITH_NEITHER = [case for case in SQUARE_CORES if case not in [c for c, _ in WITH_ROOT]]
every_logarithm = pytest.mark.parametrize(("case", "M"), WITH_LOGARITHM, ids=[str(case) for case, _ in WITH_LOGARITHM])
every_root = pytest.mark.parametrize(("case", "M"), WITH_ROOT, ids=[str(case) for case, _ in WITH_ROOT])


def test_most_cores_are_under_the_laws_of_logarithms_and_roots() -> None:
    assert {"Dense", "c I + U V^T", "Inverse", "LowRank of full rank"} <= {case.name for case, _ in WITH_LOGARITHM}
    assert {"Dense singular", "LowRank of rank 1", "c I + U V^T, singular"} <= {case.name for case, _ in WITH_ROOT}


# ------------------------------------------------------------------------------------------------------- against mpmath
@pytest.mark.parametrize("name", ["Dense", "c I + U V^T", "LowRank of full rank"])
def test_log_and_real_powers_are_those_of_mpmath(name: str) -> None:
    [(case, M)] = [(case, M) for case, M in WITH_LOGARITHM if case.name == name]
    for f, oracle in (
        (log, mpmath.logm),
        (sqrt, mpmath.sqrtm),
        (lambda A: power(A, -1.75), lambda X: mpmath.expm(-1.75 * mpmath.logm(X))),
    ):
        exact = through_mpmath(oracle, M)
        for dtype in DTYPES:
            agree(f(case.make(M.to(dtype))).matrix(), exact.to(dtype), CONDITION**2)


@every_square_core
def test_entire_functions_are_those_of_scipy(case: CoreCase) -> None:
    M = case.matrix()
    for functions, oracle in (
        ((exp, lambda A: function(A, torch.exp)), scipy.linalg.expm),
        ((lambda A: function(A, torch.sin),), scipy.linalg.sinm),
        ((lambda A: function(A, lambda z: 1 / (60 - z)),), lambda X: np.linalg.inv(60 * np.eye(len(X)) - X)),
    ):
        exact = torch.from_numpy(oracle(M.numpy()))
        for f in functions:
            for dtype in DTYPES:
                agree(f(case.make(M.to(dtype))).matrix(), exact.to(dtype), CONDITION**2)


@every_square_core
def test_functions_of_a_structure_are_those_of_its_matrix(case: CoreCase) -> None:
    M = case.matrix()
    A, D = case.make(M), Dense(M)
    for phi in (torch.sin, torch.exp, lambda z: 1 / (40 - z), lambda z: torch.log(z + 60)):
        agree(function(A, phi).matrix(), function(D, phi).matrix(), CONDITION**2)
    agree(resolvent(A, 40.0).matrix(), torch.linalg.inv(40 * torch.eye(len(M)) - M), CONDITION)


def test_a_complex_or_constant_phi_is_taken_as_it_is() -> None:
    A = Dense(torch.randn(3, 3).double())
    agree(function(A, lambda z: torch.ones_like(z)).matrix(), torch.eye(3).double())
    agree(function(A, lambda z: torch.ones(())).matrix(), torch.eye(3).double())
    constant = function(Diagonal(torch.ones(3)), lambda z: 2.0)  # type: ignore[arg-type, return-value]
    agree(entries(constant), 2 * torch.ones(3))


# ----------------------------------------------------------------------------------------------------------------- laws
@every_root
def test_laws_of_roots(case: CoreCase, M: Tensor) -> None:
    A = case.make(M)
    root = sqrt(A)
    agree((root @ root).matrix(), M, CONDITION**2)
    assert eigenvalues(root).real.min() >= -1e-7
    agree((power(A, 0.3) @ power(A, 0.45)).matrix(), power(A, 0.75).matrix(), CONDITION**2)
    agree((power(A, 1.5) @ power(A, 0.5)).matrix(), M @ M, CONDITION**2)
    agree(power(A, 2.0).matrix(), M @ M, CONDITION)


@every_logarithm
def test_laws_of_the_logarithm(case: CoreCase, M: Tensor) -> None:
    A = case.make(M)
    agree(exp(log(A)).matrix(), M, CONDITION**2)
    agree(power(A, -0.5).matrix(), exp(log(A), -0.5).matrix(), CONDITION**2)
    agree(log(Inverse(A)).matrix(), -log(A).matrix(), CONDITION**2)


@pytest.mark.parametrize("case", WITH_NEITHER, ids=str)
def test_a_negative_eigenvalue_has_no_logarithm_and_no_root(case: CoreCase) -> None:
    A = case.make(case.matrix())
    for f in (log, sqrt, lambda A: power(A, -0.3)):
        with pytest.raises(DomainError, match="eigenvalue"):
            f(A)


@every_square_core
def test_log_exp_is_the_identity_while_the_imaginary_parts_stay_below_pi(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    t = 3.0 / max(1.0, float(np.abs(np.linalg.eigvals(M.numpy())).max()))
    agree(log(exp(A, t)).matrix(), t * M, 1e3)


def test_log_exp_is_not_the_identity_beyond_pi_nor_sqrt_square_for_negative_real_parts() -> None:
    turn = torch.tensor([[0.0, -4.0], [4.0, 0.0]]).double()
    agree(log(exp(Dense(turn))).matrix(), turn * (4 - 2 * math.pi) / 4)
    agree(sqrt(Dense(turn) @ Dense(turn) @ Dense(turn) @ Dense(turn)).matrix(), 16 * torch.eye(2).double())
    agree(sqrt(Dense(torch.diag(torch.tensor([-2.0, 3.0]))) ** 2).matrix(), torch.diag(torch.tensor([2.0, 3.0])))


@every_square_core
def test_a_function_commutes_with_its_operator(case: CoreCase) -> None:
    A = case.make(case.matrix())
    B = function(A, torch.cos)
    agree((B @ A).matrix(), (A @ B).matrix(), CONDITION**2)
    # of one operator functions are an algebra
    agree((B @ B + function(A, torch.sin) @ function(A, torch.sin)).matrix(), torch.eye(A.shape[0]).double(), 1e6)


@every_square_core
def test_the_resolvent_identity(case: CoreCase) -> None:
    A = case.make(case.matrix())
    s, t = 30.0, torch.tensor(-25.0).double()
    left = resolvent(A, s) - resolvent(A, t)
    agree(left.matrix(), (float(t) - s) * (resolvent(A, s) @ resolvent(A, t)).matrix(), CONDITION)


@given(st.lists(st.floats(0.1, 8, allow_subnormal=False), min_size=1, max_size=5), st.floats(-3, 3, allow_subnormal=False))
def test_functions_of_a_diagonal_are_those_of_its_entries(entries: list[float], p: float) -> None:
    A, d = Diagonal(torch.tensor(entries, dtype=torch.float64)), np.array(entries)
    agree(power(A, p).matrix(), torch.diag(torch.from_numpy(d**p)), 10)
    agree(log(A).matrix(), torch.diag(torch.from_numpy(np.log(d))))
    agree(resolvent(A, -1.0).matrix(), torch.diag(torch.from_numpy(-1 / (1 + d))))


# -------------------------------------------------------------------------------------------- defective and nearly so
@every_function
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_functions_of_a_jordan_block_are_derivatives(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: Callable[[mpmath.mpf], mpmath.mpf], size: int
) -> None:
    agree(f(Dense(jordan(1.5, size))).matrix(), of_jordan_block(scalar, 1.5, size))


@every_function
@pytest.mark.parametrize("gap", [0.0, 1e-8, 1e-3, 0.1])
def test_functions_of_nearly_defective_matrices_are_those_of_mpmath(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: Callable[[mpmath.mpf], mpmath.mpf], gap: float
) -> None:
    # a small well-conditioned change of basis, which rounding makes nearly defective even where gap = 0
    S = torch.eye(5).double() + 0.3 * torch.randn(5, 5).double()
    M = (
        S
        @ torch.block_diag(jordan(1.0, 3) + gap * torch.diag(torch.tensor([0.0, 1.0, -1.0])), jordan(0.8, 2))
        @ torch.linalg.inv(S)
    )
    with mpmath.workdps(50):
        roots, right = mpmath.eig(mpmath.matrix(M.tolist()))
        image = right * mpmath.diag([scalar(r) for r in roots]) * right**-1
        expected = numbers(*(float(mpmath.re(x)) for x in image)).reshape(5, 5)
    agree(f(Dense(M)).matrix(), expected, 100)


def test_eigenvectors_are_what_the_oracle_of_defective_matrices_rejects() -> None:
    w, X = np.linalg.eig(jordan(1.5, 4).numpy())
    with pytest.raises(AssertionError):
        agree(torch.from_numpy((X * np.log(w)) @ np.linalg.pinv(X)), of_jordan_block(mpmath.log, 1.5, 4))


@every_function
@pytest.mark.parametrize(
    "M", [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[1e-9, 1.0], [0.0, -1e-9]], [[0.0, -1.0], [1.0, 0.0]]]
)
def test_functions_of_c_I_plus_low_rank_hold_for_singular_and_defective_parts(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: Callable[[mpmath.mpf], mpmath.mpf], M: list[list[float]]
) -> None:
    U = torch.linalg.qr(torch.randn(7, 2).double())[0]
    A = ScaledIdentityPlusLowRank(1.5, U, U @ torch.tensor(M).double().mT)
    agree(f(A).matrix(), f(Dense(A.matrix())).matrix(), 10)
    assert isinstance(f(A), ScaledIdentityPlusLowRank)


@pytest.mark.parametrize("size", [1e-6, 1e6])
@pytest.mark.parametrize("c", [1e-5, 2.0, 1e5])
def test_functions_of_badly_scaled_parts_keep_their_digits(c: float, size: float) -> None:
    A = ScaledIdentityPlusLowRank(c, size * torch.eye(5, 2).double(), torch.eye(5, 2).double())
    exact = torch.full((5,), c, dtype=torch.float64)
    exact[:2] += size
    for f, oracle in ((sqrt, torch.sqrt), (log, torch.log), (lambda A: power(A, -0.3), lambda d: d**-0.3)):
        agree(f(A).matrix() / oracle(exact).abs().max(), torch.diag(oracle(exact)) / oracle(exact).abs().max())


def test_a_large_structured_operator_needs_no_dense_matrix() -> None:
    n = 50_000
    U, V = (torch.randn(n, 3).double() / n**0.5 for _ in range(2))
    A = ScaledIdentityPlusLowRank(2.0, U, V)
    z = torch.randn(2, n).double()
    agree(exp(log(A))(z), A(z), 10)
    agree(sqrt(A)(sqrt(A)(z)), A(z), 10)
    agree(function(A, torch.sin)(z) ** 2, (function(A, torch.sin)(z)) ** 2)
    agree(resolvent(A, 9.0)(9 * z - A(z)), z, 10)


def test_high_powers_in_float32_have_the_error_of_one_rounding() -> None:
    n, r = 256, 8
    U, V = (torch.linalg.qr(torch.randn(n, r))[0] * 0.03 for _ in range(2))
    A = ScaledIdentityPlusLowRank(0.999, U, V)
    exact = np.linalg.matrix_power(np.eye(n) * float(A.c) + U.double().numpy() @ V.double().numpy().T, 1000)
    for B in (power(A, 1000), A**1000):
        assert np.linalg.norm(B.matrix().double().numpy() - exact) <= 1e-6 * np.linalg.norm(exact)
