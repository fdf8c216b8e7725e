"""Operators against plain matrix algebra: numpy and scipy in float64 are the oracle."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import induced.operators.linalg
from induced.errors import DomainError, ShapeError
from induced.operators import (
    Dense,
    Diagonal,
    Inverse,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    exp,
    identity,
    inverse,
    pinv,
    power,
    resolvent,
    svd,
)
from induced.operators.base import Adjoint, Product, Scaled, Sum
from induced.operators.columns import complement
from induced.operators.rules import per_matrix
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree, grad_of

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
@pytest.mark.parametrize("case", [case for case in CORES if case.name != "ForeignOperator"], ids=str)  # that one calls numpy
def test_a_matrix_lies_on_the_device_of_its_operator(case: CoreCase) -> None:
    A = case.make(case.matrix(torch.float32)).to("meta")
    assert A.matrix().is_meta and A.matrix().dtype == torch.float32


@pytest.mark.fast
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


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_operators_on_no_coordinates_are_zero(shape: tuple[int, int]) -> None:
    m, n = shape
    for A in (Dense(torch.ones(m, n)), LowRank(torch.ones(m, 2), torch.ones(n, 2))):
        assert A.shape == shape
        assert torch.equal(A(torch.ones(2, n)), torch.zeros(2, m))
        assert torch.equal(A.H(torch.ones(2, m)), torch.zeros(2, n))


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


def test_times_of_an_operator_meet_the_samples_as_a_batch_of_operators_does() -> None:
    M, z, t = torch.randn(4, 4).double(), torch.randn(5, 4).double(), torch.rand(3, 1).double()
    found = exp(Dense(M), t)(z)
    agree(found, torch.stack([z @ tensor(scipy.linalg.expm(float(s) * M.numpy())).mT for s in t]), 10)


@every_square_core
def test_a_sum_starts_at_0(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    agree(sum([A, A, A]).matrix(), 3 * M, 10)  # type: ignore[union-attr]
    assert 0 + A is A
    with pytest.raises(TypeError, match="unsupported"):
        1 + A


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
    B: LinearOperator = A
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


@pytest.mark.parametrize("kind", BATCHED)
def test_the_multiples_of_a_batch_fit_it(kind: str) -> None:
    A, M = _batched(kind)
    for own in [(3,), (1,), (2, 3)]:
        a = torch.rand(own).double()
        agree((a * A).matrix(), a[..., None, None] * M)
        agree(exp(A, a).matrix(), torch.linalg.matrix_exp(a[..., None, None] * M), 100)
    for own in [(3, 1), (2,)]:
        for act in (lambda a: a * A, lambda a: A / a, lambda a: exp(A, a), lambda a: resolvent(A, a)):
            with pytest.raises(ShapeError, match=r"a multiple or time for each operator of a batch has the shape"):
                act(torch.ones(own).double())


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
    agree(grad_of(leaf), grad_of(oracle), 10)


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
    # an entry is exact, however small beside the others: only 0 counts as zero
    B = pinv(A)
    assert isinstance(B, Diagonal)
    assert torch.equal(B.d, torch.tensor([1 / e if e else 0.0 for e in entries], dtype=torch.float64))


# --------------------------------------------------------------------------------------------------------- mixed structures
def _kinds() -> dict[str, LinearOperator]:
    M, U, V = torch.randn(8, 8).double(), torch.randn(8, 2).double(), torch.randn(8, 2).double()
    return {
        "Dense": Dense(M),
        "Diagonal": Diagonal(M[0]),
        "U V^T": LowRank(U, V),
        "c I": identity(8, M) * 3,
        "c I + U V^T": ScaledIdentityPlusLowRank(2.0, V, U),
        "other": Sum(Dense(M), Diagonal(M[1])),
    }


def _structure(A: LinearOperator) -> str:
    if isinstance(A, ScaledIdentityPlusLowRank):
        return "c I + U V^T" if A.U.shape[-1] else "c I"
    return "U V^T" if isinstance(A, LowRank) else "scaled" if isinstance(A, Scaled) else type(A).__name__


def _documented(corner: str) -> dict[tuple[str, str], str]:
    """The table of induced.operators.linalg whose first cell is `corner`."""
    lines = [line.strip() for line in (induced.operators.linalg.__doc__ or "").splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {corner} |"))
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(bool, lines[start:])
    )
    return {(row[0], column): cell for row in rows for column, cell in zip(header[1:], row[1:], strict=True)}


@pytest.mark.parametrize(("left", "right"), list(_documented("+")))
def test_sums_and_products_have_the_documented_structure(left: str, right: str) -> None:
    A, B = _kinds()[left], _kinds()[right]
    for joined, exact, table in (
        (A + B, A.matrix() + B.matrix(), "+"),
        (A @ B, A.matrix() @ B.matrix(), "left @ right"),
    ):
        assert _structure(joined) == _documented(table)[left, right]
        agree(joined.matrix(), exact, 100)
        z = torch.randn(2, 8).double()
        agree(joined.H(z), z @ exact, 100)


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


# ------------------------------------------------------------------------------------------------ gradients of singular values
def _leaf(a: Tensor) -> Tensor:
    return a.clone().requires_grad_()


def test_singular_values_of_repeated_values_have_finite_gradients() -> None:
    same = torch.eye(7, 2, dtype=torch.float64)
    for make in (
        lambda a: ScaledIdentityPlusLowRank(2.0, a, a),
        lambda a: LowRank(a, a),
        lambda a: LowRank(torch.cat([a, a], -1), torch.cat([a, a], -1)),
        lambda a: Dense(a @ a.mT),
    ):
        leaf = _leaf(same)
        svd(make(leaf)).values.square().sum().backward()
        oracle = _leaf(same)
        torch.linalg.svdvals(make(oracle).matrix()).square().sum().backward()
        agree(grad_of(leaf), grad_of(oracle), 10)


def test_singular_vectors_have_the_gradients_of_lapack_or_none() -> None:
    def entry(A: LinearOperator, i: int) -> Tensor:
        P, _, Q = svd(A)
        return P[0, i] * Q[1, i]  # a sign cancels

    U, V = (torch.randn(7, 2, generator=torch.Generator().manual_seed(k)).double() for k in (3, 4))
    for make in (LowRank, lambda U, V: ScaledIdentityPlusLowRank(0.1, U, V)):
        leaf, oracle = _leaf(U), _leaf(U)
        entry(make(leaf, V), 0).backward()
        M = make(oracle, V).matrix()
        # an eigenvector needs its own value to be simple; torch wants all to be, so that the oracle is perturbed
        P, _, Qh = torch.linalg.svd(M + 1e-7 * torch.diag(torch.arange(7.0).double()))
        (P[0, 0] * Qh[0, 1]).backward()
        assert float((grad_of(leaf) - grad_of(oracle)).norm() / grad_of(oracle).norm()) < 1e-4
        with pytest.raises(DomainError, match="no derivative"):
            entry(make(_leaf(U), V), 4).backward()
    with pytest.raises(DomainError, match="have no derivative where values repeat"):
        entry(ScaledIdentityPlusLowRank(1.0, same := _leaf(torch.eye(7, 2).double()), same), 0).backward()


def test_pinv_of_independent_factors_has_the_gradients_of_the_dense_one() -> None:
    def through(U: Tensor, V: Tensor) -> Tensor:
        return pinv(LowRank(U, V)).matrix()

    assert torch.autograd.gradcheck(through, (_leaf(U), _leaf(V)))
    leaf, oracle = _leaf(U), _leaf(U)
    A = pinv(LowRank(leaf, V))
    assert isinstance(A, LowRank)
    A.matrix().square().sum().backward()
    torch.linalg.pinv(oracle @ V.mT, rtol=1e-9).square().sum().backward()
    agree(grad_of(leaf), grad_of(oracle), 1e3)


def test_gradients_at_cut_off_values_are_finite() -> None:
    # with rtol, rank 0, and c cut off
    for factors, rtol in (
        ((U, V), 0.5),
        ((U[:, :0], V[:, :0]), None),
        ((torch.cat([U, 1e-9 * U], -1), torch.cat([V, V], -1)), 1e-6),
    ):
        leaves = [_leaf(f) for f in factors]
        pinv(LowRank(*leaves), rtol).matrix().square().sum().backward()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves)
    Q = torch.linalg.qr(torch.randn(9, 2).double())[0]
    leaf, c = _leaf(Q), _leaf(number(1e-3))
    pinv(ScaledIdentityPlusLowRank(c, leaf, Q), 0.01).matrix().square().sum().backward()
    assert grad_of(leaf).isfinite().all() and grad_of(c).isfinite()


def _shifted(U: Tensor, V: Tensor) -> LinearOperator:
    return ScaledIdentityPlusLowRank(2.0, U, V)


@pytest.mark.parametrize(("function", "make"), [(pinv, LowRank), (pinv, _shifted), (inverse, _shifted)])
def test_inverses_work_under_functional_transforms(
    function: Callable[[LinearOperator], LinearOperator], make: Callable[[Tensor, Tensor], LinearOperator]
) -> None:
    def through(U: Tensor) -> Tensor:
        return function(make(U, V)).matrix().square().sum()

    def dense(U: Tensor) -> Tensor:
        return torch.linalg.pinv(make(U, V).matrix(), rtol=1e-9).square().sum()

    expected = torch.func.grad(dense)(U)
    agree(torch.func.grad(through)(U), expected, 1e3)
    agree(torch.func.jvp(through, (U,), (V,))[1], (expected * V).sum(), 1e4)
    agree(torch.func.vmap(through)(torch.stack([U, 2 * U])), torch.stack([dense(U), dense(2 * U)]), 1e3)
