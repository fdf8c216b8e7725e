"""Kernels, column spaces and least-squares solutions against numpy, for every core of the registry."""

import numpy as np
import pytest
import torch
from torch import Tensor

from induced.errors import SingularOperator
from induced.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    Permutation,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    identity,
    image,
    inverse,
    kernel,
    pinv,
    rank,
    resolvent,
    solve,
)
from induced.operators.base import Sum
from induced.operators.linalg import Inverse
from proofs_tests.registry import CONDITION, CORES, DTYPES, CoreCase, agree, grad_of

every_core = pytest.mark.parametrize("case", CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_dtype
@every_core
def test_kernel_and_range_are_orthonormal_and_make_their_spaces(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A = case.make(M)
    N, Q = kernel(A).matrix(), image(A).matrix()
    r = int(np.linalg.matrix_rank(M.double().numpy(), rtol=1e-5))
    assert N.shape == (M.shape[1], M.shape[1] - r) and Q.shape == (M.shape[0], r)
    agree(N.mT @ N, torch.eye(N.shape[1], dtype=dtype))
    agree(Q.mT @ Q, torch.eye(r, dtype=dtype))
    agree(M @ N, torch.zeros(M.shape[0], N.shape[1], dtype=dtype), CONDITION)
    agree(Q @ (Q.mT @ M), M, CONDITION)
    # the range is the complement of the kernel of the adjoint
    agree(Q.mT @ kernel(A.H).matrix(), torch.zeros(r, M.shape[0] - r, dtype=dtype), CONDITION)


SMALL, LARGE = 1e-9 * torch.tensor([[2.0, 1.0], [1.0, 1.0]]), 1e9 * torch.tensor([[1.0, 2.0], [0.0, 1.0]])
ENTRIES, ORDER = torch.tensor([1e-9, 1.0, -3.0, 1e9]), Permutation([2, 0, 3, 1])
TURNS = RotationScaling(torch.tensor([1e-9, 1e9]), torch.tensor([-2e-9, 0.0]))
SPREAD: dict[str, LinearOperator] = {
    "Diagonal": Diagonal(ENTRIES),
    "BlockDiagonal": BlockDiagonal(SMALL, LARGE),
    "BlockDiagonal of a batch": BlockDiagonal(torch.stack([SMALL, LARGE])),
    "BlockDiagonal of structures": BlockDiagonal(Diagonal(ENTRIES), TURNS, SMALL),
    "RotationScaling": TURNS,
    "permuted": ORDER @ Diagonal(ENTRIES),
    "permuted blocks": BlockDiagonal(SMALL, LARGE) @ ORDER,
    "adjoint": BlockDiagonal(SMALL, LARGE).H,
    "multiple": 2 * BlockDiagonal(torch.stack([SMALL, LARGE])),
    "c I + Diagonal": identity(4, ENTRIES) * 1e-9 + Diagonal(ENTRIES),
    "c I + BlockDiagonal": BlockDiagonal(torch.stack([SMALL, LARGE])) + identity(4, ENTRIES) * 1e-9,
    "c I + RotationScaling": identity(4, ENTRIES) * 1e-9 + TURNS,
}


@pytest.mark.parametrize("name", SPREAD)
def test_each_block_is_inverted_as_if_it_stood_alone(name: str) -> None:
    # the condition of the whole, 1e18, is none of its blocks'
    A = SPREAD[name]
    exact = torch.from_numpy(np.linalg.inv(A.matrix().double().numpy()))
    b = torch.ones(len(exact))
    found = {"inverse": inverse(A), "pinv": pinv(A), "A ** -1": A**-1}
    if "permuted" not in name:
        found["resolvent"] = -1.0 * resolvent(A, 0.0)
    for what, X in found.items():  # a row of the inverse lies in one block
        assert ((X.matrix() - exact).abs() <= 1e-5 * exact.abs().amax(-1, keepdim=True)).all(), what
    assert torch.allclose(solve(A, b).double(), exact @ b.double(), rtol=1e-5, atol=0)
    assert rank(A) == len(b)


def test_a_singular_block_beside_a_large_one_is_singular() -> None:
    A = BlockDiagonal(torch.stack([1e-9 * torch.ones(2, 2), LARGE]))
    with pytest.raises(SingularOperator):
        inverse(A)
    assert rank(A) == 3 and rank(pinv(A)) == 3


def test_small_singular_values_count_as_zero_up_to_rtol() -> None:
    Q = torch.linalg.qr(random(9, 3))[0]
    for A, left in (
        (ScaledIdentityPlusLowRank(1e-3, Q[:, :2], Q[:, :2]), 2),
        (ScaledIdentityPlusLowRank(1.0, (1e-3 - 1) * Q[:, :2], Q[:, :2]), 7),
        (LowRank(Q * torch.tensor([1.0, 1.0, 1e-3]).double(), Q), 2),
        (Diagonal(torch.tensor([1.0, -1e-3, 2.0]).double()), 2),
        (Dense(torch.diag(torch.tensor([1.0, 1e-3]).double())), 1),
    ):
        assert rank(A, 1e-2) == image(A, 1e-2).shape[1] == left
        assert kernel(A, 1e-2).shape[1] == A.shape[1] - left
        assert kernel(A, 1e-4).shape[1] < A.shape[1] - left


def test_kernels_of_the_extremes_are_empty_or_everything() -> None:
    like = torch.zeros(()).double()
    assert kernel(identity(4, like)).shape == (4, 0) and image(identity(4, like)).shape == (4, 4)
    for zero in (
        0 * identity(4, like),
        LowRank(like.new_zeros(4, 0), like.new_zeros(4, 0)),
        Diagonal(like.new_zeros(4)),
        Dense(like.new_zeros(4, 4)),
    ):
        agree((kernel(zero).H @ kernel(zero)).matrix(), torch.eye(4).double())
        assert image(zero).shape == (4, 0)
    one = Dense(torch.ones(1, 1))
    assert kernel(one).shape == (1, 0) and image(one).shape == (1, 1)


def test_the_kernel_of_a_large_structured_operator_needs_no_dense_matrix() -> None:
    n = 20_000
    U = torch.linalg.qr(random(n, 2))[0]
    A = ScaledIdentityPlusLowRank(2.0, -2 * U, U)
    N = kernel(A)
    agree(N(N.H(U.mT)), U.mT)
    assert rank(A) == n - 2


def test_bases_carry_no_gradient() -> None:
    A = LowRank(torch.nn.Parameter(torch.randn(5, 2)), torch.nn.Parameter(torch.randn(5, 2)))
    for basis in (kernel(A), image(A), kernel(Dense(A.U)), image(Dense(A.U))):
        assert not basis(torch.ones(basis.shape[1])).requires_grad


# ---------------------------------------------------------------------------------------------------------------- solutions
@every_dtype
@every_core
def test_solutions_are_those_of_numpy(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A = case.make(M)
    for batch in ((), (1,), (0,), (3, 2)):
        b = torch.randn(*batch, M.shape[0], dtype=dtype)
        exact = np.linalg.lstsq(M.double().numpy(), b.double().reshape(-1, M.shape[0]).numpy().T, rcond=1e-5)[0].T
        agree(solve(A, b), torch.from_numpy(exact).to(dtype).reshape(*batch, M.shape[1]), CONDITION**2)
        agree(solve(A, b), pinv(A)(b), CONDITION**2)


def test_solutions_are_of_least_norm_with_a_residual_that_the_adjoint_kills() -> None:
    A, b = LowRank(random(7, 3), random(6, 3, seed=1)), random(7, seed=2)
    z = solve(A, b)
    agree(A.H(A(z) - b), torch.zeros(6).double(), 100)
    agree(kernel(A).H(z), torch.zeros(3).double(), 10)


def test_rtol_decides_what_a_solution_ignores() -> None:
    d, b = torch.tensor([2.0, 1e-3], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    for A in (
        Diagonal(d),
        Dense(torch.diag(d)),
        Inverse(Diagonal(1 / d)),
        Sum(Dense(torch.diag(d)), Dense(torch.zeros(2, 2).double())),
    ):
        agree(solve(A, b), torch.tensor([1.0, 1e3]).double(), 2e3)
        agree(solve(A, b, 0.01), torch.tensor([1.0, 0.0]).double())


def test_a_batch_of_operators_meets_a_batch_of_right_hand_sides() -> None:
    M, b = random(3, 4, 4), random(3, 4, seed=1)
    expected = torch.linalg.solve(M, b.unsqueeze(-1)).squeeze(-1)
    agree(solve(Dense(M), b), expected, 1e3)
    U, V, c = random(3, 7, 2), random(3, 7, 2, seed=1), 1 + random(3, seed=2).abs()
    A, b = ScaledIdentityPlusLowRank(c, U, V), random(3, 7, seed=3)
    agree(solve(A, b), torch.linalg.solve(A.matrix(), b.unsqueeze(-1)).squeeze(-1), 1e3)


@pytest.mark.parametrize("singular", [False, True])
def test_solutions_have_gradients(singular: bool) -> None:
    M = torch.diag(torch.tensor([2.0, 1.0, 0.0 if singular else 3.0]).double())
    b = random(2, 3)
    leaf = M.clone().requires_grad_()
    solve(Dense(leaf), b).square().sum().backward()
    oracle = M.clone().requires_grad_()
    (b @ torch.linalg.pinv(oracle).mT).square().sum().backward()
    agree(grad_of(leaf), grad_of(oracle), 100)
