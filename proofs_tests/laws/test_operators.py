"""Linear operators: action, algebra and batches are those of their matrices."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import induced.operators.linalg
from induced.errors import ShapeError
from induced.operators import (
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    exp,
    identity,
    pinv,
    power,
    resolvent,
    svd,
)
from induced.operators.base import Adjoint, Product, Scaled, Sum
from proofs_tests.laws.tensors import number, tensor
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree

RECTANGULAR = CORES[len(SQUARE_CORES) :]
every_core = pytest.mark.parametrize("case", CORES, ids=str)
every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


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


# ---------------------------------------------------------------------------------------------------------------- gradients
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
