"""Functions of operators against mpmath and scipy, exact Jordan blocks and their own laws."""

import math
from collections.abc import Callable, Sequence

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
    Inverse,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    eigenvalues,
    exp,
    function,
    log,
    power,
    resolvent,
    sqrt,
)
from induced.operators.base import Scaled
from induced.operators.schur import analytic
from proofs_tests.registry import CONDITION, DTYPES, SQUARE_CORES, CoreCase, agree, grad_of

every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def numbers(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def entries(A: LinearOperator) -> Tensor:
    """The diagonal of an operator that is stored as one."""
    assert isinstance(A, Diagonal)
    return A.d


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


def jordan(value: float, size: int) -> Tensor:
    return value * torch.eye(size).double() + torch.diag(torch.ones(size - 1).double(), 1)


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
FUNCTIONS: list[tuple[str, Callable[[LinearOperator], LinearOperator], Callable[[mpmath.mpf], mpmath.mpf]]] = [
    ("exp", exp, mpmath.exp),
    ("log", log, mpmath.log),
    ("sqrt", sqrt, mpmath.sqrt),
    ("power", lambda A: power(A, -1.3), lambda x: x ** mpmath.mpf(-1.3)),
    ("sin", lambda A: function(A, torch.sin), mpmath.sin),
    ("rational", lambda A: function(A, lambda z: 1 / (7 - z)), lambda x: 1 / (7 - x)),
    ("logarithm by its values", lambda A: function(A, torch.log), mpmath.log),
]
every_function = pytest.mark.parametrize(("what", "f", "scalar"), FUNCTIONS, ids=[name for name, *_ in FUNCTIONS])


def of_jordan_block(scalar: Callable[[mpmath.mpf], mpmath.mpf], value: float, size: int) -> Tensor:
    """phi of a Jordan block: phi^(k) / k! on its k-th superdiagonal."""
    with mpmath.workdps(40):
        coefficients = [float(c) for c in mpmath.taylor(scalar, mpmath.mpf(value), size - 1)]
    return sum(
        (torch.diag(torch.full((size - k,), c, dtype=torch.float64), k) for k, c in enumerate(coefficients)),
        torch.zeros(1).double(),
    )


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


# ---------------------------------------------------------------------------------------------------- the eigenvalue zero
def test_roots_of_singular_operators() -> None:
    Q = torch.linalg.qr(torch.randn(6, 6).double())[0]
    for dtype in DTYPES:
        d = torch.tensor([0.0, 0.0, 1.0, 4.0, 9.0, 16.0])
        P = (Q @ torch.diag(d.double()) @ Q.mT).to(dtype)
        agree(sqrt(Dense(P)).matrix(), (Q @ torch.diag(d.double().sqrt()) @ Q.mT).to(dtype), 10)
        agree(entries(sqrt(Diagonal(d.to(dtype)))), d.to(dtype).sqrt())
    assert sqrt(Dense(torch.zeros(3, 3))).matrix().tolist() == torch.zeros(3, 3).tolist()


def test_a_power_above_the_size_of_a_nilpotent_block_exists() -> None:
    S = torch.eye(5).double() + 0.3 * torch.randn(5, 5).double()

    def of(N: Tensor) -> Dense:
        return Dense(S @ torch.block_diag(N, jordan(2.0, 5 - len(N))) @ torch.linalg.inv(S))

    root = of_jordan_block(mpmath.sqrt, 2.0, 3)
    agree(
        power(of(jordan(0.0, 2)), 1.5).matrix(),
        of(torch.zeros(2, 2).double()).A @ S @ torch.block_diag(torch.zeros(2, 2), root) @ torch.linalg.inv(S),
        100,
    )
    agree(power(Dense(jordan(0.0, 3)), 2.5).matrix(), torch.zeros(3, 3).double())
    for N, p in ((jordan(0.0, 2), 0.5), (jordan(0.0, 3), 1.5)):
        with pytest.raises(DomainError, match="nilpotent"):
            power(of(N), p)


def test_a_negative_eigenvalue_that_rounding_splits_into_a_pair_is_found() -> None:
    S = torch.eye(2).double() + 0.3 * torch.randn(2, 2).double()
    for _ in range(10):
        S = torch.linalg.qr(torch.randn(2, 2).double())[0] @ S
        for f in (log, sqrt):
            with pytest.raises(DomainError, match="eigenvalue -1"):
                f(Dense(S @ jordan(-1.0, 2) @ torch.linalg.inv(S)))


@pytest.mark.parametrize("c", [1e-9, 1e9])
def test_functions_of_small_and_large_parts_are_those_of_their_matrix(c: float) -> None:
    V = 0.4 * c**0.5 * torch.randn(12, 4).double()
    A = ScaledIdentityPlusLowRank(c, V + 0.04 * c**0.5 * torch.randn(12, 4).double(), V)
    for f in (log, sqrt, lambda A: power(A, -0.3), lambda A: function(A, torch.log)):
        exact = f(Dense(A.matrix())).matrix()
        agree(f(A).matrix() / exact.norm(), exact / exact.norm(), 10)


def test_low_rank_operators_have_low_rank_roots() -> None:
    U, V = torch.randn(9, 2).double(), torch.randn(9, 2).double()
    U = U @ torch.linalg.inv(V.mT @ U) @ torch.tensor([[2.0, 1.0], [0.0, 3.0]]).double()
    for A in (
        LowRank(U, V),
        LowRank(torch.cat([U, U], -1), torch.cat([V, 2 * V], -1)),
        ScaledIdentityPlusLowRank(0.0, U, V),
        ScaledIdentityPlusLowRank(0.0, torch.cat([U, 0 * U], -1), torch.cat([V, V], -1)),
    ):
        root = sqrt(A)
        assert isinstance(root, LowRank) and root.U.shape[1] == 2
        agree((root @ root).matrix(), A.matrix(), 10)
    with pytest.raises(DomainError, match="nilpotent"):
        sqrt(LowRank(torch.eye(4, 1), torch.eye(4)[:, 1:2]))
    agree(power(LowRank(torch.eye(4, 1), torch.eye(4)[:, 1:2]), 1.5).matrix(), torch.zeros(4, 4))
    assert sqrt(LowRank(torch.ones(3, 0), torch.ones(3, 0))).matrix().tolist() == torch.zeros(3, 3).tolist()


@every_dtype
@pytest.mark.parametrize("n", [4, 9])
def test_projections_of_the_form_c_I_plus_low_rank_are_their_own_roots(n: int, dtype: torch.dtype) -> None:
    Q = torch.linalg.qr(torch.randn(n, 2).double())[0].to(dtype)
    P = ScaledIdentityPlusLowRank(1.0, -Q, Q)
    agree(power(P, 0.3).matrix(), P.matrix(), 10)
    with pytest.raises(DomainError, match="singular"):
        log(P)
    leaf = Q.clone().requires_grad_()
    agree(power(ScaledIdentityPlusLowRank(1.0, -leaf, leaf), 0.5).matrix(), P.matrix(), 10)


def test_a_phi_with_a_singularity_inside_a_cluster_is_an_error_and_one_between_eigenvalues_is_not() -> None:
    M = numbers(1.0, 1.0, 0.0, 1.02).reshape(2, 2)
    with pytest.raises(DomainError, match="disc round"):
        function(Dense(jordan(1.0, 2)), lambda z: torch.where(z.real > 1, z, -z))
    agree(function(Dense(M), lambda z: 1 / (z - 1.01)).matrix(), torch.linalg.inv(M - 1.01 * torch.eye(2).double()), 1e4)


def test_a_phi_known_only_near_the_eigenvalues_is_enough() -> None:
    def sine(z: Tensor) -> Tensor:
        return torch.where((z - 1.5).abs() < 0.3, torch.sin(z), torch.nan)

    agree(function(Dense(jordan(1.5, 4)), sine).matrix(), of_jordan_block(mpmath.sin, 1.5, 4))


def test_a_chain_of_close_eigenvalues_is_summed_to_the_last_term() -> None:
    M = torch.diag(torch.linspace(0, 1, 12).double()) + 0.1 * torch.triu(torch.randn(12, 12).double(), 1)
    agree(function(Dense(M), lambda z: 1 / (1.25 - z)).matrix(), torch.linalg.inv(1.25 * torch.eye(12) - M), 100)


def test_a_large_matrix_with_many_clusters_is_that_of_its_inverse() -> None:
    M = torch.randn(60, 60).double() / 60**0.5
    agree(torch.from_numpy(analytic(M.numpy(), lambda z: 1 / (1.5 - z))), torch.linalg.inv(1.5 * torch.eye(60) - M), 10)


# -------------------------------------------------------------------------------------------- gradients, batches, torch.func
START = {
    "identity": torch.eye(3).double(),
    "Jordan block": jordan(1.0, 3),
    "two equal eigenvalues": torch.diag(torch.tensor([2.0, 2.0, 1.0])).double(),
    "any": torch.tensor([[2.0, 0.3, -0.4], [0.5, 1.0, 0.2], [0.1, -0.3, 1.5]]).double(),
}


@every_function
@pytest.mark.parametrize("start", START)
def test_gradients_of_dense_functions_are_finite_differences(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: object, start: str
) -> None:
    leaf = START[start].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda M: f(Dense(M)).matrix(), leaf, nondet_tol=1e-12, fast_mode=True)


@pytest.mark.parametrize(("what", "f", "scalar"), FUNCTIONS[1:], ids=[name for name, *_ in FUNCTIONS[1:]])
def test_gradients_of_gradients_and_transforms_exist(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: object
) -> None:
    def through(M: Tensor) -> Tensor:
        return f(Dense(M)).matrix()

    M = START["any"]
    leaf = M[:2, :2].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(through, leaf, nondet_tol=1e-12, fast_mode=True)
    agree(torch.func.jacrev(through)(M), torch.func.jacfwd(through)(M), 100)
    agree(torch.func.vmap(through, in_dims=1)(torch.stack([M, 2 * M], 1)), torch.stack([through(M), through(2 * M)]))


@every_function
@pytest.mark.parametrize("kind", ["any", "U = V", "dependent columns", "U = 0"])
def test_gradients_of_structured_functions_are_finite_differences(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: object, kind: str
) -> None:
    U, V = (0.4 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))
    U = {"any": U, "U = V": V, "dependent columns": U[:, :1].expand(5, 2), "U = 0": 0 * U}[kind]
    leaves = tuple(x.clone().requires_grad_() for x in (torch.tensor(1.5).double(), U, V))
    assert torch.autograd.gradcheck(
        lambda c, U, V: f(ScaledIdentityPlusLowRank(c, U, V)).matrix(), leaves, nondet_tol=1e-12, fast_mode=True
    )


@every_function
def test_gradients_of_diagonals_are_derivatives(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: Callable[[mpmath.mpf], mpmath.mpf]
) -> None:
    d = torch.tensor([1.0, 1.0, 2.5]).double().requires_grad_()
    entries(f(Diagonal(d))).sum().backward()
    agree(grad_of(d), numbers(*(float(mpmath.diff(scalar, x)) for x in d.tolist())), 100)


def test_gradients_at_the_eigenvalue_zero() -> None:
    d = torch.tensor([0.0, 4.0]).requires_grad_()
    entries(sqrt(Diagonal(d))).sum().backward()
    assert grad_of(d).tolist() == [0.0, 0.25]
    U, V = (torch.tensor([[1.0], [2.0], [0.5]]).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda U, V: power(LowRank(U, V), 0.3).matrix(), (U, V), nondet_tol=1e-12, fast_mode=True)
    M = torch.diag(torch.tensor([0.0, 1.0])).requires_grad_()
    with pytest.raises(DomainError, match="gradient"):
        sqrt(Dense(M)).matrix().sum().backward()


def test_gradients_of_a_zero_or_an_ill_conditioned_float32_matrix_are_finite() -> None:
    for M in (torch.zeros(2, 2), torch.diag(torch.tensor([1e-4, 1.0, 1e-4]))):
        leaf = M.requires_grad_()
        function(Dense(leaf), torch.exp).matrix().sum().backward()
        assert grad_of(leaf).isfinite().all()
    leaf = torch.diag(torch.tensor([1e-4, 1.0, 1e-4])).requires_grad_()
    sqrt(Dense(leaf)).matrix().diagonal().sum().backward()
    agree(grad_of(leaf).diagonal(), torch.tensor([50.0, 0.5, 50.0]))


@pytest.mark.parametrize("kind", ["Dense", "Diagonal", "c I + U V^T"])
def test_functions_of_a_batch_are_those_of_each_operator(kind: str) -> None:
    M = 3 * torch.eye(4).double() + 0.4 * torch.randn(3, 4, 4).double()
    U, V, c = 0.5 * torch.randn(3, 6, 2).double(), 0.5 * torch.randn(6, 2).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    kinds: dict[str, tuple[LinearOperator, Sequence[LinearOperator]]] = {
        "Dense": (Dense(M), [Dense(m) for m in M]),
        "Diagonal": (Diagonal(M.diagonal(dim1=-2, dim2=-1)), [Diagonal(m.diagonal()) for m in M]),
        "c I + U V^T": (
            ScaledIdentityPlusLowRank(c, U, V),
            [ScaledIdentityPlusLowRank(a, u, V) for a, u in zip(c, U, strict=True)],
        ),
    }
    A, each = kinds[kind]
    t = torch.tensor([0.1, 0.2, 0.3]).double()
    agree(exp(A, t).matrix(), torch.stack([exp(a, s).matrix() for a, s in zip(each, t, strict=True)]))
    for f in (lambda A: power(A, 3), lambda A: power(A, 0.5), log, lambda A: function(A, torch.sin), lambda A: resolvent(A, 9.0)):
        agree(f(A).matrix(), torch.stack([f(a).matrix() for a in each]), 100)


def test_an_empty_batch_and_one_number() -> None:
    assert log(Dense(torch.eye(2).expand(0, 2, 2))).matrix().shape == (0, 2, 2)
    agree(log(Dense(torch.tensor([[math.e]]))).matrix(), torch.ones(1, 1))
    agree(sqrt(ScaledIdentityPlusLowRank(2.0, torch.ones(1, 1), torch.ones(1, 1) * 2)).matrix(), torch.full((1, 1), 2.0))
    agree(log(ScaledIdentityPlusLowRank(-1.0, torch.ones(1, 1), 2 * torch.ones(1, 1))).matrix(), torch.zeros(1, 1))
    agree(log(ScaledIdentityPlusLowRank(2.0, torch.ones(3, 0), torch.ones(3, 0))).matrix(), math.log(2) * torch.eye(3))


def test_a_scaled_operator_is_exponentiated_by_its_structure() -> None:
    A = Scaled(2.0, Diagonal(torch.ones(3)))
    assert isinstance(exp(A, 0.5), Diagonal)
    agree(exp(A, 0.5).matrix(), math.e * torch.eye(3))


def test_functions_stay_within_vmap_where_values_may_not_be_looked_at() -> None:
    V = torch.eye(5, 2).double()
    U = V + 0.2 * torch.rand(3, 5, 2).double()

    def through(U: Tensor) -> Tensor:
        return sqrt(LowRank(U, V)).matrix() + function(Diagonal(U[:, 0]), torch.sin).matrix()

    agree(torch.func.vmap(through)(U), torch.stack([through(u) for u in U]), 1e3)
