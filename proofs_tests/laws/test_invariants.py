"""Rank, norms, condition, trace and determinant against numpy, for every core of the registry."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced.operators import (
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    Permutation,
    ScaledIdentityPlusLowRank,
    cond,
    det,
    exp,
    identity,
    inverse,
    norm,
    rank,
    singular_values,
    slogdet,
    trace,
)
from induced.operators.base import Adjoint, Product, Scaled, Sum
from induced.operators.linalg import Inverse
from induced.operators.reduction import SignLogDet
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree

Kind = Literal["spectral", "frobenius", "nuclear"]
KINDS: dict[Kind, Any] = {"spectral": 2, "frobenius": "fro", "nuclear": "nuc"}

every_core = pytest.mark.parametrize("case", CORES, ids=str)
every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def number(value: float | np.floating[Any], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(float(value), dtype=dtype)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------- singular values, norms
@every_dtype
@every_core
def test_norms_rank_and_condition_are_those_of_numpy(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A = case.make(M)
    exact = M.double().numpy()
    for kind, name in KINDS.items():
        agree(norm(A, kind), number(np.linalg.norm(exact, name), dtype), CONDITION)
    assert rank(A) == np.linalg.matrix_rank(exact, rtol=1e-5)
    if case.invertible and rank(A) == min(A.shape):
        agree(cond(A), number(np.linalg.cond(exact), dtype), CONDITION**2)


@every_core
def test_singular_values_are_all_of_those_of_numpy(case: CoreCase) -> None:
    M = case.matrix()
    values, times, _ = singular_values(case.make(M))
    listed = values.repeat_interleave(times).sort(descending=True)[0]
    agree(listed, torch.from_numpy(np.linalg.svd(M.numpy(), compute_uv=False)), CONDITION)


def test_the_rank_counts_values_above_rtol() -> None:
    Q = torch.linalg.qr(random(9, 2))[0]
    low = LowRank(Q * torch.tensor([1.0, 1e-3]).double(), Q)
    small_c = ScaledIdentityPlusLowRank(1e-3, Q, Q)
    assert (rank(low), rank(low, 1e-2), rank(small_c), rank(small_c, 1e-2)) == (2, 1, 9, 2)
    assert rank(Diagonal(torch.tensor([1.0, 0.1, 0.01])), 0.05) == 2


def test_the_condition_of_a_singular_operator_is_infinite_or_beyond_rounding() -> None:
    assert cond(Diagonal(torch.tensor([1.0, 0.0]))) == torch.inf
    assert cond(LowRank(random(5, 2), random(5, 2, seed=1))) == torch.inf
    assert cond(Dense(torch.ones(2, 2).double())) > 1e15
    agree(cond(Dense(torch.diag(torch.tensor([4.0, -0.5])))), torch.tensor(8.0))


def test_an_operator_of_no_columns_has_norm_zero() -> None:
    A = LowRank(torch.ones(3, 1), torch.ones(0, 1))
    assert [float(norm(A, kind)) for kind in KINDS] == [0.0] * 3
    assert (float(cond(A)), rank(A)) == (0.0, 0)


def test_invariants_of_a_large_structured_operator_need_no_dense_matrix() -> None:
    # U = V with orthonormal columns: eigenvalues 0.5 + 0.25 twice, 0.5 else
    n = 20_000
    Q = torch.linalg.qr(random(n, 2))[0]
    A = ScaledIdentityPlusLowRank(0.5, 0.25 * Q, Q)
    expected = {norm: 0.75, cond: 1.5, trace: 0.5 * n + 0.5}
    for function, value in expected.items():
        agree(function(A), number(value))
    agree(slogdet(A).logabs, number((n - 2) * np.log(0.5) + 2 * np.log(0.75)))
    agree(norm(A, "frobenius") ** 2, number((n - 2) * 0.25 + 2 * 0.75**2))
    assert rank(A) == n


def test_determinants_of_a_large_lazy_product_need_no_dense_matrix() -> None:
    n = 20_000
    signs = [random(n, seed=seed).sign() for seed in (0, 1)]
    A = Product(Diagonal(signs[0]), Scaled(-1.0, Diagonal(signs[1])))
    sign = float(torch.cat(signs).prod())
    assert float(det(A)) == sign
    assert [float(x) for x in slogdet(A)] == [sign, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_batches_are_those_of_each_operator(kind: Kind) -> None:
    U, V, c = random(3, 7, 2), random(3, 7, 2, seed=1), random(3, seed=2)
    M = U @ V.mT
    shifted = c[:, None, None] * torch.eye(7).double()
    for A, matrices in (
        (LowRank(U, V), M),
        (LowRank(U, V[0]), U @ V[0].mT),
        (ScaledIdentityPlusLowRank(c, U, V), shifted + M),
        (ScaledIdentityPlusLowRank(c, U[0], V[0]), shifted + M[0]),
        (Dense(M), M),
        (Diagonal(U[..., 0]), torch.diag_embed(U[..., 0])),
        (Scaled(c, Sum(Dense(M), Dense(M))), 2 * c[:, None, None] * M),
    ):
        agree(norm(A, kind), torch.stack([number(np.linalg.norm(m.numpy(), KINDS[kind])) for m in matrices]), 10)
        agree(det(A), torch.from_numpy(np.linalg.det(matrices.numpy())), CONDITION)
        agree(trace(A), matrices.diagonal(dim1=-2, dim2=-1).sum(-1), 10)


# --------------------------------------------------------------------------------------------------------- trace, determinant
@every_dtype
@every_square_core
def test_trace_and_determinant_are_those_of_numpy(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A = case.make(M)
    exact = M.double().numpy()
    agree(trace(A), number(np.trace(exact), dtype), CONDITION)
    # a determinant changes by its cofactors where an entry does: at most ||A||^(n - 1) each
    size = CONDITION * float(np.linalg.norm(exact, 2)) ** (len(M) - 1) * len(M)
    agree(det(A), number(np.linalg.det(exact), dtype), max(size, 1.0))
    sign, logabs = slogdet(A)
    agree(sign * logabs.exp(), number(np.linalg.det(exact), dtype), max(size, 1.0))
    if case.invertible:
        agree_all(slogdet(A), SignLogDet(*(number(v, dtype) for v in np.linalg.slogdet(exact))), CONDITION)


def agree_all(found: SignLogDet, expected: SignLogDet, condition: float) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        agree(mine, theirs, condition)


@every_square_core
def test_the_determinant_is_multiplicative_and_the_trace_cyclic(case: CoreCase) -> None:
    M, K = case.matrix(), random(6, 6)
    A, B = case.make(M), Dense(K)
    scale = float(torch.linalg.matrix_norm(M, 2) * torch.linalg.matrix_norm(K, 2)) ** 6
    for joined in (Product(A, B), Product(B, A)):
        agree(det(joined), det(A) * det(B), max(scale, 1.0))
        agree(trace(joined), number(np.trace((M @ K).numpy())), CONDITION**2)


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4, 5], [1, 2, 0, 3, 4, 5]], ids=["odd", "even"])
def test_the_sign_of_an_orthogonal_factor_enters_the_determinant(order: list[int]) -> None:
    P, U = Permutation(order, dtype=torch.float64), random(6, 2) / 3
    S = ScaledIdentityPlusLowRank(torch.tensor(0.9, dtype=torch.float64), U, random(6, 2, seed=1) / 3)
    for A in (P @ S, S @ P, P @ S @ P, 2.0 * (P @ S), (P @ S).H):
        expected = np.linalg.slogdet(A.matrix().numpy())
        agree(slogdet(A).sign, number(expected[0], torch.float64), 1.0)
        reduced = A.reduced()
        assert reduced is not None
        agree(reduced.slogdet().sign, number(expected[0], torch.float64), 1.0)
        agree(reduced.slogdet().logabs, number(expected[1], torch.float64), 10.0)


def test_the_determinant_of_a_product_of_rectangular_factors() -> None:
    A, B = random(3, 5), random(5, 3, seed=1)
    product = Product(Dense(A), Dense(B))
    agree(det(product), torch.linalg.det(A @ B), 10)
    agree(slogdet(product).logabs, torch.linalg.slogdet(A @ B)[1], 10)
    assert abs(float(det(Product(Dense(B), Dense(A))))) < 1e-10


def test_the_logarithm_of_the_determinant_of_exp_is_the_trace() -> None:
    A = ScaledIdentityPlusLowRank(0.1, random(9, 2) / 3, random(9, 2, seed=1) / 3)
    agree(slogdet(exp(A)).logabs, trace(A), 10)
    agree(slogdet(exp(Dense(A.matrix()))).logabs, trace(A), 10)


def test_determinants_of_singular_operators() -> None:
    U, V = random(5, 2), random(5, 2, seed=1)
    for A in (LowRank(U, V), ScaledIdentityPlusLowRank(0.0, U, V), Diagonal(torch.tensor([1.0, 0.0]).double())):
        assert det(A) == 0 and slogdet(A).sign == 0 and slogdet(A).logabs == -torch.inf
    square = ScaledIdentityPlusLowRank(0.0, random(3, 3), random(3, 3, seed=1))
    agree(det(square), torch.linalg.det(square.matrix()), 10)
    agree(slogdet(square).logabs, torch.linalg.slogdet(square.matrix())[1], 10)


SIXTEENTHS = st.integers(-64, 64).map(lambda k: k / 16)  # whose products are exact and do not underflow


@pytest.mark.parametrize("n", [1, 2, 5])
def test_invariants_of_a_multiple_of_the_identity(n: int) -> None:
    A = identity(n, torch.zeros(()).double()) * -2
    assert [float(f(A)) for f in (det, trace, norm, cond)] == [(-2.0) ** n, -2.0 * n, 2.0, 1.0]
    assert rank(A) == n and rank(0 * A) == 0 and det(0 * A) == 0


@given(st.lists(SIXTEENTHS, min_size=1, max_size=5), SIXTEENTHS)
def test_invariants_of_diagonals_and_their_multiples_are_arithmetic(entries: list[float], a: float) -> None:
    d = torch.tensor(entries, dtype=torch.float64)
    for A, values in ((Diagonal(d), d), (Scaled(a, Diagonal(d)), a * d), (Adjoint(Diagonal(d)), d)):
        agree(det(A), values.prod(), 100)
        agree(trace(A), values.sum(), 10)
        agree(norm(A), values.abs().max())
        agree(norm(A, "nuclear"), values.abs().sum())
        agree(slogdet(A).sign, values.sign().prod())


def test_invariants_of_an_inverse_come_from_its_operator() -> None:
    M = torch.diag(torch.tensor([2.0, -4.0, 0.5]).double()) + 0.1 * random(3, 3)
    A = Inverse(Dense(M))
    exact = torch.linalg.inv(M)
    for function, oracle in ((det, torch.linalg.det), (trace, torch.trace), (cond, torch.linalg.cond)):
        agree(function(A), oracle(exact), CONDITION)
    agree(norm(A), torch.linalg.matrix_norm(exact, 2), CONDITION)
    agree(norm(Inverse(identity(4, M) * 4)), number(0.25))
    agree(cond(A), norm(Dense(M)) * norm(inverse(Dense(M))), CONDITION)


# ---------------------------------------------------------------------------------------------------------------- gradients
NUMBERS: list[tuple[str, Callable[[LinearOperator], Tensor]]] = [
    ("spectral norm", norm),
    ("frobenius norm", lambda A: norm(A, "frobenius")),
    ("nuclear norm", lambda A: norm(A, "nuclear")),
    ("trace", trace),
    ("det", det),
    ("slogdet", lambda A: slogdet(A).logabs),
    ("cond", cond),
]


@pytest.mark.parametrize(("what", "function"), NUMBERS, ids=[name for name, _ in NUMBERS])
def test_numbers_of_c_I_plus_low_rank_have_the_gradients_of_the_dense_ones(
    what: str, function: Callable[[LinearOperator], Tensor]
) -> None:
    c, U, V = number(2.0).requires_grad_(), random(7, 2).requires_grad_(), random(7, 2, seed=1).requires_grad_()
    A = ScaledIdentityPlusLowRank(c, U, V)
    found = torch.autograd.grad(function(A), (c, U, V))
    expected = torch.autograd.grad(function(Dense(c * torch.eye(7).double() + U @ V.mT)), (c, U, V))
    for mine, theirs in zip(found, expected, strict=True):
        agree(mine, theirs, 100)


@pytest.mark.parametrize(("what", "function"), NUMBERS[:3], ids=[name for name, _ in NUMBERS[:3]])
def test_norms_of_low_rank_have_the_gradients_of_the_dense_ones(what: str, function: Callable[[LinearOperator], Tensor]) -> None:
    U, V = random(7, 2).requires_grad_(), random(5, 2, seed=1).requires_grad_()
    found = torch.autograd.grad(function(LowRank(U, V)), (U, V))
    expected = torch.autograd.grad(function(Dense(U @ V.mT)), (U, V))
    for mine, theirs in zip(found, expected, strict=True):
        agree(mine, theirs, 100)


@pytest.mark.parametrize(("what", "function"), NUMBERS[:6], ids=[name for name, _ in NUMBERS[:6]])
def test_numbers_have_finite_gradients_at_repeated_singular_values_and_dependent_factors(
    what: str, function: Callable[[LinearOperator], Tensor]
) -> None:
    same = torch.eye(7, 2).double()
    for make in (
        lambda a: ScaledIdentityPlusLowRank(2.0, a, a),
        lambda a: ScaledIdentityPlusLowRank(1.0, a @ a.mT @ a, torch.cat([a[:, :1], a[:, :1]], -1)),
        lambda a: Dense(torch.eye(7).double() + 0 * a @ a.mT),
    ):
        leaf = same.clone().requires_grad_()
        function(make(leaf)).backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all()


def test_norms_have_finite_gradients_at_zero() -> None:
    for kind in KINDS:
        for make in (lambda a: Dense(a), lambda a: LowRank(a, torch.eye(4).double()), lambda a: Diagonal(a[0])):
            leaf = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
            norm(make(leaf), kind).backward()
            assert leaf.grad is not None and leaf.grad.isfinite().all()


def test_numbers_work_under_functional_transforms() -> None:
    U, V = random(7, 2), random(7, 2, seed=1)

    def size(U: Tensor) -> Tensor:
        return norm(ScaledIdentityPlusLowRank(2.0, U, V), "frobenius") + slogdet(ScaledIdentityPlusLowRank(2.0, U, V)).logabs

    def dense(U: Tensor) -> Tensor:
        M = 2 * torch.eye(7).double() + U @ V.mT
        return torch.linalg.matrix_norm(M) + torch.linalg.slogdet(M)[1]

    agree(torch.func.grad(size)(U), torch.func.grad(dense)(U), 10)
    agree(torch.func.jvp(size, (U,), (V,))[1], torch.func.jvp(dense, (U,), (V,))[1], 10)
    batch = random(3, 7, 2, seed=3)
    agree(torch.func.vmap(size)(batch), torch.stack([dense(u) for u in batch]), 10)
