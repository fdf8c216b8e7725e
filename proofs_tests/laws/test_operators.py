"""Operators against plain matrix algebra: numpy and scipy in float64 are the oracle."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced.operators import (
    Adjoint,
    Dense,
    Diagonal,
    Inverse,
    LinearOperator,
    LowRank,
    Product,
    ScaledIdentityPlusLowRank,
    Sum,
    exp,
    identity,
    inverse,
    pinv,
    power,
    svd,
)
from induced.operators.linalg import complement
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree

RECTANGULAR = CORES[len(SQUARE_CORES) :]
INVERTIBLE = [case for case in SQUARE_CORES if case.invertible]

every_core = pytest.mark.parametrize("case", CORES, ids=str)
every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(a))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------ action and algebra
@every_dtype
@every_core
def test_an_operator_acts_as_its_matrix(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A = case.make(M)
    assert A.shape == tuple(M.shape)
    agree(A.matrix(), M, CONDITION)
    for batch in ((), (1,), (0,), (3, 2)):
        z, w = torch.randn(*batch, M.shape[1], dtype=dtype), torch.randn(*batch, M.shape[0], dtype=dtype)
        agree(A(z), z @ M.mT, CONDITION)
        agree(A.apply_adjoint(w), w @ M, CONDITION)


@every_core
def test_the_adjoint_is_the_transpose_and_an_involution(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    assert A.H.shape == (M.shape[1], M.shape[0])
    assert A.H.H is A
    agree(A.H.matrix(), M.mT, CONDITION)
    w = torch.randn(2, M.shape[0], dtype=M.dtype)
    agree(A.H(w), w @ M, CONDITION)
    agree(A.H.apply_adjoint(w @ M), w @ M @ M.mT, CONDITION)


def test_the_adjoint_follows_its_operator_to_another_dtype() -> None:
    A = Dense(torch.randn(3, 2))
    B = A.H.double()
    assert B.H is not A
    agree(B.H.matrix(), A.matrix().double())


def test_a_lazy_multiple_follows_its_operator_to_another_dtype() -> None:
    A = Sum(Dense(torch.eye(2)), Diagonal(torch.ones(2))).double() * torch.ones(3).double()
    assert A.float()(torch.ones(3, 2)).dtype == torch.float32


@every_square_core
def test_sums_and_products_with_every_operator_are_those_of_matrices(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    for other in SQUARE_CORES:
        K = other.matrix()
        B = other.make(K)
        z = torch.randn(2, len(M), dtype=M.dtype)
        for joined, expected in ((A + B, M + K), (A - B, M - K), (A @ B, M @ K), (A @ B.H, M @ K.mT)):
            agree(joined.matrix(), expected, CONDITION**2)
            agree(joined(z), z @ expected.mT, CONDITION**2)
            agree(joined.apply_adjoint(z), z @ expected, CONDITION**2)


@pytest.mark.parametrize("case", RECTANGULAR, ids=str)
def test_products_and_sums_of_rectangular_operators(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    agree((A @ A.H).matrix(), M @ M.mT, CONDITION**2)
    agree((A.H @ A).matrix(), M.mT @ M, CONDITION**2)
    agree((A + A).matrix(), 2 * M, CONDITION)
    for other in RECTANGULAR:
        K = other.matrix()
        if M.shape[1] == K.shape[0]:
            agree((A @ other.make(K)).matrix(), M @ K, CONDITION**2)
        if M.shape == K.shape:
            agree((A - other.make(K)).matrix(), M - K, CONDITION)


@every_core
def test_scaling_is_that_of_the_matrix(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    for scaled, expected in ((3 * A, 3 * M), (A * number(-0.5), -0.5 * M), (number(2.0) * A, 2 * M), (A / 4, M / 4), (-A, -M)):
        agree(scaled.matrix(), expected, CONDITION)
        agree(scaled.H.matrix(), expected.mT, CONDITION)


@every_square_core
def test_powers_are_those_of_the_matrix(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    for k in (1, 2, 3, 5):
        agree((A**k).matrix(), tensor(np.linalg.matrix_power(M.numpy(), k)), CONDITION**2)
        agree(power(A, k).matrix(), tensor(np.linalg.matrix_power(M.numpy(), k)), CONDITION**2)
    agree(power(A, 0).matrix(), torch.eye(len(M), dtype=M.dtype))


def test_products_and_sums_recompress_to_the_rank_they_have() -> None:
    U, V = torch.randn(40, 2).double(), torch.randn(40, 2).double()
    A = ScaledIdentityPlusLowRank(1.0, U, V)
    B = A
    for _ in range(5):
        B = B @ A
    assert isinstance(B, ScaledIdentityPlusLowRank)
    assert B.U.shape == (40, 2)
    assert (A + A).U.shape == (40, 2)


# ---------------------------------------------------------------------------------------------------------------- batches
def _batched(kind: str) -> tuple[LinearOperator, Tensor]:
    """An operator with batch dimension 3 on R^4, and its matrices."""
    U, V, d, c = (torch.randn(*shape).double() for shape in ((3, 4, 2), (3, 4, 2), (3, 4), (3,)))
    M, eye = torch.randn(3, 4, 4).double(), torch.eye(4).double()
    operators: dict[str, tuple[LinearOperator, Tensor]] = {
        "Dense": (Dense(M), M),
        "Diagonal": (Diagonal(d), torch.diag_embed(d)),
        "LowRank": (LowRank(U, V), U @ V.mT),
        "c I + U V^T": (ScaledIdentityPlusLowRank(c, U, V), c[:, None, None] * eye + U @ V.mT),
        "Adjoint": (Adjoint(Dense(M)), M.mT),
        "Sum": (Sum(Dense(M), Diagonal(d)), M + torch.diag_embed(d)),
        "Product": (Product(Dense(M), LowRank(U, V)), M @ U @ V.mT),
        "scaled LowRank": (LowRank(U[0], V[0]) * c, c[:, None, None] * U[0] @ V[0].mT),
        "scaled Sum": (Sum(Dense(M[0]), Diagonal(d[0])) * c, c[:, None, None] * (M[0] + torch.diag_embed(d[0]))),
        "scaled Dense": (Dense(M[0]) * c, c[:, None, None] * M[0]),
    }
    return operators[kind]


BATCHED = [
    "Dense",
    "Diagonal",
    "LowRank",
    "c I + U V^T",
    "Adjoint",
    "Sum",
    "Product",
    "scaled LowRank",
    "scaled Sum",
    "scaled Dense",
]


@pytest.mark.parametrize("kind", BATCHED)
def test_a_batch_of_operators_meets_the_batch_of_coordinates(kind: str) -> None:
    A, M = _batched(kind)
    for batch in ((3,), (1,), (), (5, 3)):
        z = torch.randn(*batch, 4).double()
        agree(A(z), (M @ z.unsqueeze(-1)).squeeze(-1))
        agree(A.apply_adjoint(z), (M.mT @ z.unsqueeze(-1)).squeeze(-1))
        agree(A.H(z), (M.mT @ z.unsqueeze(-1)).squeeze(-1))


PAIRS = [(kind, other) for kind in BATCHED for other in ("Dense", "Diagonal", "LowRank", "c I + U V^T", "Sum")]


@pytest.mark.parametrize("kind", BATCHED)
def test_a_batch_of_operators_has_a_batch_of_matrices(kind: str) -> None:
    A, M = _batched(kind)
    agree(A.matrix(), M)
    agree(A.H.matrix(), M.mT)


@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_sums_and_products_of_batches_act_as_those_of_matrices(kind: str, other: str) -> None:
    A, M = _batched(kind)
    single, K = _single()[other]
    B, L = _batched(other)
    z = torch.randn(3, 4).double()

    def applied(matrices: Tensor) -> Tensor:
        return (matrices @ z.unsqueeze(-1)).squeeze(-1)

    agree((A + B)(z), applied(M + L))
    agree((A @ B)(z), applied(M @ L), 10)
    agree((A + single)(z), applied(M + K))
    agree((single + A)(z), applied(M + K))
    agree((A @ single)(z), applied(M @ K), 10)
    agree((single @ A)(z), applied(K @ M), 10)


def _single() -> dict[str, tuple[LinearOperator, Tensor]]:
    U, V, d = torch.randn(4, 2).double(), torch.randn(4, 2).double(), torch.randn(4).double()
    M = torch.randn(4, 4).double()
    return {
        "Dense": (Dense(M), M),
        "Diagonal": (Diagonal(d), torch.diag(d)),
        "LowRank": (LowRank(U, V), U @ V.mT),
        "c I + U V^T": (ScaledIdentityPlusLowRank(2.0, U, V), 2 * torch.eye(4).double() + U @ V.mT),
        "Sum": (Sum(Dense(M), Diagonal(d)), M + torch.diag(d)),
    }


@pytest.mark.parametrize("kind", ["Dense", "Diagonal", "LowRank", "c I + U V^T"])
def test_powers_and_exponentials_of_batches_are_those_of_each_operator(kind: str) -> None:
    A, M = _batched(kind)
    agree((A**3).matrix(), torch.linalg.matrix_power(M, 3), 100)
    agree(exp(A, 0.5).matrix(), torch.stack([tensor(scipy.linalg.expm(0.5 * m.numpy())) for m in M]), 100)


def test_the_pseudoinverse_of_a_batch_of_diagonals_has_a_cutoff_for_each() -> None:
    d = torch.tensor([[1e9, 1e9], [1e-9, 0.0]], dtype=torch.float64)
    agree(pinv(Diagonal(d)).matrix()[1], torch.diag(torch.tensor([1e9, 0.0], dtype=torch.float64)))


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
    assert A.A.grad.item() == pytest.approx(-0.25)


def test_a_lazy_inverse_works_in_inference_mode() -> None:
    with torch.inference_mode():
        assert Inverse(Dense(torch.tensor([[4.0]])))(torch.ones(1)).tolist() == [0.25]


# -------------------------------------------------------------------------------------------------------------- exponential
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


# ---------------------------------------------------------------------------------------------------------------- gradients
U = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
V = torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
FACTORED: list[tuple[str, Callable[..., LinearOperator]]] = [
    ("inverse", inverse),
    ("pinv", pinv),
    ("exp", exp),
    ("cube", lambda A: A**3),
    ("negative power", lambda A: power(A, -2)),
]


@pytest.mark.parametrize(("what", "function"), FACTORED, ids=[name for name, _ in FACTORED])
def test_functions_of_c_I_plus_low_rank_have_the_gradients_of_finite_differences(
    what: str, function: Callable[..., LinearOperator]
) -> None:
    def through(c: Tensor, U: Tensor, V: Tensor) -> Tensor:
        return function(ScaledIdentityPlusLowRank(c, U, V)).matrix()

    assert torch.autograd.gradcheck(through, tuple(p.clone().requires_grad_() for p in (number(2.0), U, V)))


@pytest.mark.parametrize(("what", "function"), FACTORED, ids=[name for name, _ in FACTORED])
def test_functions_of_a_symmetric_c_I_plus_low_rank_have_the_gradients_of_finite_differences(
    what: str, function: Callable[..., LinearOperator]
) -> None:
    # U and V span the same space, as they do in a LowRankFamily with a floor at its start
    def through(c: Tensor, U: Tensor, V: Tensor) -> Tensor:
        return function(ScaledIdentityPlusLowRank(c, U, V)).matrix()

    same = torch.eye(6, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(through, tuple(p.clone().requires_grad_() for p in (number(2.0), same, same)))


@pytest.mark.parametrize(("what", "function"), FACTORED, ids=[name for name, _ in FACTORED])
def test_functions_of_a_dense_operator_have_the_gradients_of_finite_differences(
    what: str, function: Callable[..., LinearOperator]
) -> None:
    start = U[:3] @ V[:3].mT + torch.eye(3)
    assert torch.autograd.gradcheck(lambda M: function(Dense(M)).matrix(), start.clone().requires_grad_())


@pytest.mark.parametrize(("what", "function"), FACTORED, ids=[name for name, _ in FACTORED])
def test_functions_of_a_dense_identity_have_the_gradients_of_finite_differences(
    what: str, function: Callable[..., LinearOperator]
) -> None:
    start = torch.eye(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda M: function(Dense(M)).matrix(), start.requires_grad_())


def test_pinv_of_singular_operators_has_finite_gradients() -> None:
    for make, factors in (
        (Diagonal, (torch.tensor([2.0, 0.0, -1.0]),)),
        (Dense, (torch.tensor([[1.0, 2.0], [2.0, 4.0]]),)),
        (LowRank, (U, V)),
        (LowRank, (torch.cat([U, U], -1)[:, :3], torch.cat([V, V], -1)[:, :3])),
    ):
        leaves = [f.clone().requires_grad_() for f in factors]
        pinv(make(*leaves)).matrix().square().sum().backward()
        assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves), make.__name__


def test_singular_values_have_the_gradients_of_lapack() -> None:
    leaf, oracle = U.clone().requires_grad_(), U.clone().requires_grad_()
    svd(LowRank(leaf, V)).values.square().sum().backward()
    torch.linalg.svdvals(oracle @ V.mT).square().sum().backward()
    agree(leaf.grad, oracle.grad, 10)


def test_a_parameter_trains_and_another_tensor_does_not() -> None:
    assert [name for name, _ in Dense(torch.nn.Parameter(torch.eye(2))).named_parameters()] == ["A"]
    assert list(Dense(torch.eye(2)).parameters()) == []
    assert set(Dense(torch.eye(2)).state_dict()) == {"A"}


@given(st.lists(st.floats(-8, 8, allow_subnormal=False), min_size=1, max_size=5), st.integers(1, 4))
def test_diagonal_operators_are_arithmetic_of_their_entries(entries: list[float], k: int) -> None:
    d = torch.tensor(entries, dtype=torch.float64)
    A = Diagonal(d)
    agree((A**k).matrix(), torch.diag(d**k))
    agree(exp(A).matrix(), torch.diag(tensor(np.exp(d.numpy()))))
    agree(svd(A).values, torch.tensor(sorted((abs(e) for e in entries), reverse=True), dtype=torch.float64))
    cutoff = max(map(abs, entries)) * len(entries) * 2.0**-52
    agree(pinv(A).matrix(), torch.diag(torch.tensor([1 / e if abs(e) > cutoff else 0.0 for e in entries], dtype=torch.float64)))


def test_lazy_structure_is_kept_where_no_closed_form_is_known() -> None:
    A, B = Diagonal(torch.ones(3)), LowRank(torch.ones(3, 1), torch.ones(3, 1))
    assert isinstance(A + B, Sum)
    assert isinstance(A @ B, Product)
    assert isinstance(B @ Dense(torch.eye(3)), LowRank | Dense)
