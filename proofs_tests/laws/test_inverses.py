"""Singular values, inverses, pseudoinverses and exponentials against numpy and scipy, and how accurate they are."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from induced.operators import (
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    exp,
    identity,
    inverse,
    pinv,
    power,
    svd,
)
from induced.operators.columns import complement
from induced.operators.linalg import Inverse
from induced.operators.rules import per_matrix
from proofs_tests.laws.tensors import number, tensor
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree, grad_of

INVERTIBLE = [case for case in SQUARE_CORES if case.invertible]
every_core = pytest.mark.parametrize("case", CORES, ids=str)
every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ------------------------------------------------------------------------------------------------------------ singular values
@every_dtype
@every_core
def test_svd_has_the_values_of_lapack_and_orthonormal_vectors(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    U, s, V = svd(case.make(M))
    k = min(M.shape)
    eye = torch.eye(k, dtype=dtype)
    agree(s, tensor(np.linalg.svd(M.double().numpy(), compute_uv=False)).to(dtype), CONDITION)
    agree(U.mT @ U, eye)
    agree(V.mT @ V, eye)
    agree((U * s) @ V.mT, M, CONDITION)
    assert (s.diff() <= 0).all() and (s >= 0).all()


@every_core
def test_svd_of_a_rank_gives_the_largest_triplets(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    full = np.linalg.svd(M.numpy(), compute_uv=False)
    for k in range(min(M.shape) + 1):
        U, s, V = svd(A, k)
        assert U.shape == (M.shape[0], k) and V.shape == (M.shape[1], k)
        agree(s, tensor(full[:k]), CONDITION)
        agree(M @ V, U * s, CONDITION)
        agree(U.mT @ U, torch.eye(k, dtype=M.dtype))


@pytest.mark.parametrize(
    ("A", "values"),
    [
        (Dense(2 * torch.linalg.qr(torch.randn(5, 5).double())[0]), [2.0] * 5),
        (Dense(torch.zeros(3, 4).double()), [0.0] * 3),
        (Diagonal(torch.tensor([1.0, -2.0, 2.0, 1.0]).double()), [2.0, 2.0, 1.0, 1.0]),
        (identity(4, torch.zeros(()).double()), [1.0] * 4),
        (ScaledIdentityPlusLowRank(-2.0, torch.eye(7, 2).double(), torch.eye(7, 2).double()), [2.0] * 5 + [1.0] * 2),
        (ScaledIdentityPlusLowRank(0.0, torch.eye(7, 2).double(), torch.eye(7, 2).double()), [1.0] * 2 + [0.0] * 5),
        (LowRank(torch.eye(7, 2).double(), torch.eye(6, 2).double()), [1.0] * 2 + [0.0] * 4),
    ],
    ids=["orthogonal", "zero", "Diagonal", "identity", "-2 I + projection", "0 I + projection", "projection"],
)
def test_svd_of_repeated_values(A: LinearOperator, values: list[float]) -> None:
    U, s, V = svd(A)
    agree(s, torch.tensor(values, dtype=torch.float64))
    agree((U * s) @ V.mT, A.matrix())
    agree(U.mT @ U, torch.eye(len(values)).double())
    agree(V.mT @ V, torch.eye(len(values)).double())


def test_svd_of_a_large_structured_operator_needs_no_dense_matrix() -> None:
    n = 20_000
    A = ScaledIdentityPlusLowRank(0.5, torch.randn(n, 1).double() / n**0.5, torch.randn(n, 1).double() / n**0.5)
    U, s, V = svd(A, 3)
    agree(A(V.mT), (U * s).mT)
    agree(U.mT @ U, torch.eye(3).double())


@pytest.mark.parametrize(("n", "p", "k"), [(5, 2, 3), (5, 0, 5), (5, 5, 0), (6, 1, 2), (1, 0, 1)])
def test_complement_is_orthonormal_and_orthogonal(n: int, p: int, k: int) -> None:
    Q = torch.linalg.qr(torch.randn(n, p).double())[0]
    R = complement(Q, k)
    agree(torch.cat([Q, R], -1).mT @ torch.cat([Q, R], -1), torch.eye(p + k).double())


# -------------------------------------------------------------------------------------------------- inverse, pseudoinverse
@pytest.mark.fast
@every_core
def test_pinv_is_that_of_scipy(case: CoreCase) -> None:
    M = case.matrix()
    P = pinv(case.make(M))
    agree(P.matrix(), tensor(scipy.linalg.pinv(M.numpy(), rtol=1e-9)), CONDITION**2)


@pytest.mark.parametrize(
    "case", [c for c in CORES if c.name in {"Dense singular", "LowRank of rank 1", "Diagonal singular"}], ids=str
)
def test_pinv_counts_values_up_to_rtol_as_zero(case: CoreCase) -> None:
    U, s, V = np.linalg.svd((M := case.matrix()).numpy())
    s = np.where(s > 0.5 * s.max(), s, np.inf)
    agree(pinv(case.make(M), 0.5).matrix(), tensor(V.T @ np.diag(1 / s) @ U.T), CONDITION**2)


def test_pinv_of_c_I_plus_low_rank_counts_small_c_as_zero() -> None:
    Q = torch.linalg.qr(torch.randn(9, 2).double())[0]
    A = ScaledIdentityPlusLowRank(1e-3, Q, Q)
    agree(pinv(A, 0.01).matrix(), Q @ Q.mT / 1.001)


@every_dtype
@pytest.mark.parametrize("case", INVERTIBLE, ids=str)
def test_the_inverse_is_that_of_lapack(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    expected = tensor(np.linalg.inv(M.double().numpy())).to(dtype)
    for A in (inverse(case.make(M)), Inverse(case.make(M)), pinv(case.make(M)), power(case.make(M), -1)):
        agree(A.matrix(), expected, CONDITION**2)
    w = torch.randn(2, len(M), dtype=dtype)
    agree(Inverse(case.make(M)).apply_adjoint(w), w @ expected, CONDITION**2)
    agree(Inverse(case.make(M)).H(w), w @ expected, CONDITION**2)
    agree(power(case.make(M), -2).matrix(), expected @ expected, CONDITION**3)


def test_the_inverse_of_c_I_plus_low_rank_holds_where_the_capacitance_is_singular() -> None:
    # c = 2 eigenvalues at 2 off the span; I + V^T U / c is orthogonal to what is inverted when c changes sign on the span.
    U = torch.eye(7, 1).double()
    agree(inverse(ScaledIdentityPlusLowRank(2.0, U, -3 * U)).matrix(), torch.diag(torch.tensor([-1.0] + [0.5] * 6)).double())
    agree(pinv(ScaledIdentityPlusLowRank(2.0, U, -2 * U)).matrix(), torch.diag(torch.tensor([0.0] + [0.5] * 6)).double())


def test_a_lazy_inverse_follows_its_operator() -> None:
    parameter = torch.nn.Parameter(torch.diag(torch.tensor([2.0, 4.0])))
    A = Dense(parameter)
    B = Inverse(A)
    z = torch.ones(2)
    with torch.no_grad():
        assert B(z).tolist() == [0.5, 0.25]
        parameter.mul_(2)
        assert B(z).tolist() == [0.25, 0.125]
    A.A = torch.nn.Parameter(torch.eye(2))
    with torch.no_grad():
        assert B(z).tolist() == [1.0, 1.0]


def test_an_inverse_factorised_without_gradients_still_gives_them_later() -> None:
    A = Dense(torch.nn.Parameter(torch.tensor([[2.0]])))
    B = Inverse(A)
    with torch.no_grad():
        B(torch.ones(1))
    B(torch.ones(1)).sum().backward()
    assert grad_of(A.A).item() == pytest.approx(-0.25)


def test_a_lazy_inverse_works_in_inference_mode() -> None:
    with torch.inference_mode():
        assert Inverse(Dense(torch.tensor([[4.0]])))(torch.ones(1)).tolist() == [0.25]


# -------------------------------------------------------------------------------------------------------------- exponential
@pytest.mark.fast
@every_square_core
def test_exp_is_that_of_scipy(case: CoreCase) -> None:
    M = case.matrix()
    norm = float(M.norm().clamp(min=1))
    A, M = case.make(M) / norm, M / norm
    for t in (1.0, -0.7, number(0.3)):
        agree(exp(A, t).matrix(), tensor(scipy.linalg.expm(float(t) * M.numpy())), CONDITION)
    agree((exp(A, 0.4) @ exp(A, 0.6)).matrix(), exp(A).matrix(), CONDITION)
    agree(exp(A, 0.0).matrix(), torch.eye(len(M), dtype=M.dtype))


def test_exp_and_powers_of_a_defective_low_rank_part() -> None:
    # V^T U = [[0, 1], [0, 0]] has no basis of eigenvectors: formulas through one are wrong here
    U = torch.eye(6, 2).double()
    A = ScaledIdentityPlusLowRank(0.5, U, U @ torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double())
    agree(exp(A, 2.0).matrix(), tensor(scipy.linalg.expm(2 * A.matrix().numpy())))
    agree((A**4).matrix(), tensor(np.linalg.matrix_power(A.matrix().numpy(), 4)))


# -------------------------------------------------------------------------------------------------------------- recompression
@pytest.mark.parametrize("rtol", [0.5, 1e-2, 1e-6, None])
@pytest.mark.parametrize("c", [None, 0.3])
def test_recompression_drops_no_more_than_its_bound(c: float | None, rtol: float | None) -> None:
    P, Q = (torch.linalg.qr(torch.randn(12, 5).double())[0] for _ in range(2))
    s = torch.tensor([1.0, 0.3, 1e-3, 1e-4, 0.0], dtype=torch.float64)
    mixed = torch.randn(5, 9).double()  # more columns than the rank
    U, V = (P * s) @ mixed, Q @ torch.linalg.pinv(mixed).mT
    A = LowRank(U, V) if c is None else ScaledIdentityPlusLowRank(c, U, V)
    B = A.compressed(rtol)
    eps = torch.finfo(torch.float64).eps
    bound = (eps if rtol is None else rtol) * ((c or 0.0) + 1.0)
    kept = int((s > bound).sum())
    assert type(B) is type(A) and B.U.shape == (12, kept)
    lost = float(np.linalg.norm((A.matrix() - B.matrix()).numpy(), 2))
    assert lost <= bound + 100 * eps
    agree(number(lost), s[kept], 1.0)  # the best approximation of its rank


def test_recompression_of_wide_batched_and_empty_factors() -> None:
    A = LowRank(torch.ones(3, 7), torch.ones(2, 7))
    agree(A.compressed().matrix(), A.matrix())
    assert A.compressed().U.shape == (3, 1)
    assert LowRank(torch.zeros(3, 2), torch.ones(4, 2)).compressed().U.shape == (3, 0)
    assert identity(4, torch.zeros(())).compressed().U.shape == (4, 0)
    trained = LowRank(torch.nn.Parameter(torch.ones(3, 4)), torch.ones(3, 4))
    with torch.no_grad():
        assert trained.compressed().U.shape == (3, 1)


# ------------------------------------------------------------------------------------------------------------------ accuracy
def _spread(n: int, r: int, sizes: Sequence[float], seed: int) -> tuple[Tensor, Tensor]:
    """U and V (n, r) whose columns, times `sizes` and over them, give an innocent U V^T from factors that are badly scaled."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    scale = torch.tensor(sizes, dtype=torch.float64)
    return 0.3 * U * scale, V / scale


@every_dtype
@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (1e6, 1.0, 1e-6), (1e4, 1e4, 1e4)], ids=["even", "spread", "unbalanced"])
@pytest.mark.parametrize("dependent", [False, True])
def test_closed_forms_are_as_accurate_as_the_condition_of_the_operator_allows(
    dependent: bool, sizes: tuple[float, ...], dtype: torch.dtype
) -> None:
    # the basis of span[U V] comes from a Gram matrix or, where that would lose digits, from Householder's QR
    U, V = (factor.to(dtype) for factor in _spread(30, 3, sizes, 5))
    A = ScaledIdentityPlusLowRank(torch.tensor(0.9, dtype=dtype), U, U * 0.1 / U.norm() ** 2 if dependent else V)
    c, U, V = (part.double() for part in A.parts())
    M = c * torch.eye(30).double() + U @ V.mT
    condition = float(np.linalg.cond(M.numpy())) ** 2
    agree(inverse(A).matrix(), torch.linalg.inv(M).to(dtype), condition)
    agree(pinv(A).matrix(), torch.linalg.inv(M).to(dtype), condition)
    P, s, Q = svd(A)
    agree(s, torch.linalg.svdvals(M).to(dtype))
    agree((P * s) @ Q.mT, M.to(dtype), condition)
    agree(P.mT @ P, torch.eye(30, dtype=dtype))


@every_dtype
@pytest.mark.parametrize("function", [inverse, pinv])
def test_even_factors_of_any_rank_are_inverted_without_a_basis(
    function: Callable[..., ScaledIdentityPlusLowRank], dtype: torch.dtype
) -> None:
    # ||U||_F ||V||_F grows with the rank, and would refuse Woodbury's formula here; ||U|| ||V|| does not
    A = ScaledIdentityPlusLowRank(0.9, *(factor.to(dtype) for factor in _spread(200, 64, [1.0] * 64, 5)))
    found = function(A)
    assert found.V is A.V
    agree(found.matrix(), torch.linalg.inv(A.matrix().double()).to(dtype))


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-4), (torch.float64, 1e-6)], ids=str)
def test_the_inverse_does_not_trust_the_capacitance_matrix(dtype: torch.dtype, tiny: float) -> None:
    # S = c I + V^T U is nearly singular, for the columns of U and of V nearly depend on one another; A = 2 I + u v^T is not.
    # Rounding of order ||U|| ||V|| = 2 / tiny is in the factors; through S it would be 1 / tiny^2
    u, v = (torch.linalg.qr(torch.randn(20, 2, generator=torch.Generator().manual_seed(k)).double())[0] for k in (1, 2))
    U = torch.stack([u[:, 0], u[:, 0] + tiny * u[:, 1]], -1).to(dtype)
    V = torch.stack([v[:, 0] - v[:, 1] / tiny, v[:, 1] / tiny], -1).to(dtype)
    M = 2 * torch.eye(20).double() + U.double() @ V.double().mT
    assert float(np.linalg.cond(M.numpy())) < 10
    A = ScaledIdentityPlusLowRank(2.0, U, V)
    for found in (inverse(A), pinv(A)):
        agree(found.matrix(), torch.linalg.inv(M).to(dtype), 1 if dtype == torch.float32 else 2 / tiny)


def test_a_thousandth_power_in_float32_keeps_its_digits() -> None:
    U, V = _spread(200, 8, (1.0,) * 8, 3)
    A = ScaledIdentityPlusLowRank(torch.tensor(0.998), (0.1 * U).float(), V.float())
    c, U, V = (part.double() for part in A.parts())
    exact = torch.linalg.matrix_power(c * torch.eye(200).double() + U @ V.mT, 1000).float()
    for found in (A**1000, power(A, 1000)):
        assert float((found.matrix() - exact).norm() / exact.norm()) <= 1e-6


# ------------------------------------------------------------------------------------------------------ batches of closed forms
@pytest.mark.parametrize("n", [4, 7])
@pytest.mark.parametrize("function", [inverse, pinv])
def test_inverses_of_batches_are_those_of_each_operator(function: Callable[..., LinearOperator], n: int) -> None:
    U, V, c = torch.randn(3, n, 2).double(), torch.randn(3, n, 2).double(), 1 + torch.rand(3).double()
    eye = torch.eye(n).double()
    for A in (
        ScaledIdentityPlusLowRank(c, 0.1 * U, V),
        ScaledIdentityPlusLowRank(c, 30 * U, V),
        ScaledIdentityPlusLowRank(c, U[0], V[0]),
        ScaledIdentityPlusLowRank(c[0], U, V[1]),
    ):
        expected = per_matrix(A.c) * eye + A.U @ A.V.mT
        agree(function(A).matrix(), torch.linalg.inv(expected), float(torch.linalg.cond(expected).max()) ** 2)
    agree(pinv(LowRank(U, V[0])).matrix(), torch.linalg.pinv(U @ V[0].mT), 1e4)
    empty = ScaledIdentityPlusLowRank(c[:0], U[:0], V[:0])
    assert pinv(empty).matrix().shape == (0, n, n)
