"""Direct sums, turns with scaling, and selections of coordinates."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from induced.errors import DomainError
from induced.operators import (
    BlockDiagonal,
    Dense,
    Diagonal,
    LinearOperator,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    Selection,
    eigenvalues,
    exp,
    inverse,
    kernel,
    log,
    pinv,
    polar,
    power,
    sqrt,
    svd,
)
from induced.operators.invariants import det, rank
from proofs_tests.laws.tensors import double, tensor
from proofs_tests.registry import agree


def test_a_direct_sum_is_block_diagonal() -> None:
    A, B, C = double(2, 3), double(3, 3, 1), double(4, 4)
    S = BlockDiagonal(A, B, ScaledIdentityPlusLowRank(1.0, C[:, :1], C[:, 1:2]))
    M = scipy.linalg.block_diag(A, *B, np.eye(4) + np.outer(C[:, 0], C[:, 1]))
    assert S.shape == M.shape == (15, 10)
    agree(S.matrix(), tensor(M))
    z, w = double(5, 2, 10), double(5, 2, 15)
    agree(S(z), z @ tensor(M).mT)
    agree(S.H(w), w @ tensor(M))


@pytest.mark.parametrize(
    ("of_operator", "of_matrix"),
    [
        (exp, scipy.linalg.expm),
        (log, scipy.linalg.logm),
        (sqrt, scipy.linalg.sqrtm),
        (inverse, np.linalg.inv),
        (pinv, np.linalg.pinv),
    ],
)
def test_functions_of_a_direct_sum_are_direct_sums_of_those_of_its_blocks(
    of_operator: Callable[[LinearOperator], LinearOperator], of_matrix: Callable[[np.ndarray], np.ndarray]
) -> None:
    A, B, d = (
        4 * torch.eye(3).double() + double(3, 3) / 2,
        4 * torch.eye(2).double() + double(3, 2, 2) / 2,
        torch.rand(2).double() + 1,
    )
    f = of_operator(BlockDiagonal(A, B, Diagonal(d)))
    assert isinstance(f, BlockDiagonal)
    agree(f.matrix(), tensor(scipy.linalg.block_diag(*(of_matrix(X.numpy()) for X in (A, *B, torch.diag(d))))), 20)


def test_sums_products_multiples_and_adjoints_of_direct_sums_are_direct_sums() -> None:
    S, T = BlockDiagonal(double(2, 3), double(3, 1, 2)), BlockDiagonal(double(2, 3), double(3, 1, 2))
    for made, expected in (
        (S + T, S.matrix() + T.matrix()),
        (S @ T.H, S.matrix() @ T.matrix().mT),
        (-2.0 * S, -2 * S.matrix()),
    ):
        assert isinstance(made, BlockDiagonal)
        agree(made.matrix(), expected)


def test_a_small_block_does_not_drown_beside_a_large_one() -> None:
    small, large = double(3, 3) + 3 * torch.eye(3), double(3, 3) + 3 * torch.eye(3)
    S = BlockDiagonal((1e-12 * small).float(), (1e6 * large).float())
    z = torch.randn(6)
    for inverted in (pinv(S), inverse(S)):
        assert (inverted(S(z)) - z).abs().max() < 1e-4
    assert rank(S) == 6
    expected = np.concatenate([1e6 * np.linalg.svd(large)[1], 1e-12 * np.linalg.svd(small)[1]])
    np.testing.assert_allclose(svd(S).values.numpy(), expected, rtol=1e-5)
    assert rank(Dense(S.matrix())) == 3  # where all is one block, it does


def test_the_cores_of_a_direct_sum_train() -> None:
    A, B = nn.Parameter(double(2, 2) / 2), nn.Parameter(double(3, 2, 2) / 2)
    S = BlockDiagonal(A, B)
    assert {id(p) for p in S.parameters()} == {id(A), id(B)}
    z = double(8)

    def through_blocks(A: Tensor, B: Tensor) -> Tensor:
        return torch.matrix_exp(torch.block_diag(A, *B)) @ z

    found = torch.autograd.grad(exp(S)(z).square().sum(), [A, B])
    expected = torch.autograd.grad(through_blocks(A, B).square().sum(), [A, B])
    for one, other in zip(found, expected, strict=True):
        agree(one, other, 10)


def test_turning_and_scaling_is_multiplication_by_complex_numbers() -> None:
    a, b, t = double(4), double(4), 0.7
    A, numbers = RotationScaling(a, b), a.numpy() + 1j * b.numpy()

    def of(values: np.ndarray) -> Tensor:
        return tensor(scipy.linalg.block_diag(*(np.array([[v.real, -v.imag], [v.imag, v.real]]) for v in values)))

    agree(A.matrix(), of(numbers))
    for made, values in (
        (exp(A, t), np.exp(t * numbers)),
        (log(A), np.log(numbers)),
        (power(A, -1.5), numbers**-1.5),
        (inverse(A), 1 / numbers),
        (A**3, numbers**3),
        (A.H, numbers.conj()),
        (A @ RotationScaling(b, a), numbers * (b + 1j * a).numpy()),
        (A + RotationScaling(b, a), numbers + (b + 1j * a).numpy()),
        (polar(A).Q, numbers / np.abs(numbers)),
        (polar(A).P, np.abs(numbers) + 0j),
    ):
        assert isinstance(made, RotationScaling)
        agree(made.matrix(), of(values), 100)
    pairs = sorted(np.concatenate([numbers, numbers.conj()]), key=lambda v: (abs(v), v.imag))
    np.testing.assert_allclose(sorted(eigenvalues(A).numpy(), key=lambda v: (round(abs(v), 9), v.imag)), pairs, rtol=1e-12)
    agree(det(A), torch.tensor(np.prod(np.abs(numbers) ** 2)), 10)


@pytest.mark.parametrize(
    "shapes", [[(3, 3), (2, 2, 2), (1, 1)], [(2, 2), (1, 3, 3)], [(1, 3, 3)], [(4, 2, 2)], [(0, 2, 2)]], ids=str
)
def test_a_direct_sum_has_a_time_for_each(shapes: list[tuple[int, ...]]) -> None:
    S, t = BlockDiagonal(*(double(*shape) for shape in shapes)), double(3, 2) / 3
    found, multiples = exp(S, t), t * S
    assert found.shape == multiples.shape == S.shape
    for i, j in np.ndindex(3, 2):
        M = float(t[i, j]) * S.matrix()
        agree(found.matrix()[i, j], tensor(scipy.linalg.expm(M.numpy())), 10)
        agree(multiples.matrix()[i, j], M)


def test_direct_sums_of_other_segments_are_added_and_multiplied_all_the_same() -> None:
    S, T = BlockDiagonal(double(2, 3), double(3, 1)), BlockDiagonal(double(3, 1), double(2, 3))
    R = BlockDiagonal(double(2, 2), double(3, 3), Diagonal(double(0)))
    for made, expected in (
        (S + T, S.matrix() + T.matrix()),
        (T + S, S.matrix() + T.matrix()),
        (S @ T.H, S.matrix() @ T.matrix().mT),
        (R @ T, R.matrix() @ T.matrix()),
        (S + Dense(T.matrix()), S.matrix() + T.matrix()),
    ):
        agree(made.matrix(), expected)


def test_a_turn_by_half_has_no_real_logarithm_nor_root() -> None:
    A = RotationScaling(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.0]))
    for f in (log, sqrt):
        with pytest.raises(DomainError):
            f(A)
    agree(power(A, 2).matrix(), A.matrix() @ A.matrix())


def test_a_batch_of_turns_has_a_time_for_each() -> None:
    A, t = RotationScaling(double(3, 2), double(3, 2)), double(3)
    for i in range(3):
        agree(exp(A, t).matrix()[i], tensor(scipy.linalg.expm(float(t[i]) * A.matrix()[i].numpy())), 10)


@given(st.permutations(range(6)), st.integers(0, 6))
def test_a_selection_is_rows_of_the_identity(order: list[int], k: int) -> None:
    S, rows = Selection(order[:k], 6), torch.eye(6)[order[:k]]
    z, w, M = torch.randn(2, 6), torch.randn(2, k), torch.randn(6, 3)
    assert torch.equal(S.matrix(), rows) and torch.equal(S(z), z[:, order[:k]])
    assert torch.equal(S(S.H(w)), w) and torch.equal(pinv(S)(w), S.H(w))
    assert torch.equal((S @ Dense(M)).matrix(), M[order[:k]])
    rest = kernel(S)
    assert rest.shape == (6, 6 - k) and rank(S) == k
    agree(rest.matrix() @ rest.matrix().mT + rows.mT @ rows, torch.eye(6))


def test_a_selection_takes_inf_and_nan_where_they_are_and_no_farther() -> None:
    S = Selection([2, 0], 3)
    assert torch.equal(S(torch.tensor([1.0, torch.nan, torch.inf])), torch.tensor([torch.inf, 1.0]))
    assert S.double()(torch.ones(3).double()).dtype == torch.float64
