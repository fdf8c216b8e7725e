"""Functions where eigenvalues are zero, negative or nearly equal."""

import mpmath
import pytest
import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators import Dense, Diagonal, LowRank, ScaledIdentityPlusLowRank, function, log, power, sqrt
from induced.operators.schur import analytic
from proofs_tests.laws.functions import entries, jordan, numbers, of_jordan_block
from proofs_tests.registry import DTYPES, agree

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


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
