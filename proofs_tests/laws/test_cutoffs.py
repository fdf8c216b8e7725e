"""What counts as zero: eps times the size of the block that was factored times the norm of what was mixed to form it.

The singular values are known by construction; numpy in float64 is the oracle elsewhere (docs/theory/numerical_honesty.md).
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from induced.bijections import Linear
from induced.operators import (
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    image,
    inverse,
    kernel,
    pinv,
    polar,
    power,
    rank,
    singular_values,
    solve,
    sqrt,
    svd,
)

F32, F64 = torch.float32, torch.float64


def orthonormal(n: int, r: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, r, dtype=F64))[0]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# -------------------------------------------------------------------------------------------------------- large operators
def test_a_diagonal_of_a_million_numbers_keeps_all_of_them() -> None:
    d = torch.linspace(0.05, 1, 10**6)
    A = Diagonal(d)
    found = pinv(A)
    assert isinstance(found, Diagonal)
    assert torch.equal(found.d, 1 / d)
    assert rank(A) == 10**6 and kernel(A).shape == (10**6, 0) and image(A).shape == (10**6, 10**6)
    tiny = Diagonal(torch.tensor([1.0, 1e-30, 0.0, 1e-44]))
    assert rank(tiny) == 3 and kernel(tiny).shape == (4, 1)


def test_the_inverse_of_a_diagonal_is_exact_entry_by_entry_whatever_its_condition() -> None:
    d = torch.tensor([2.0**-30, 1.0, -(2.0**30)])
    A = Diagonal(d)
    for found in (inverse(A), power(A, -1), A**-1, pinv(A)):
        assert isinstance(found, Diagonal) and torch.equal(found.d, 1 / d)
    assert torch.equal(Linear(A).inverse(torch.ones(3)), 1 / d)


@pytest.mark.parametrize("dtype", (F32, F64))
def test_c_i_plus_a_low_rank_of_an_image_keeps_a_small_c(dtype: torch.dtype) -> None:
    n, r = 49_152, 16
    U, V = (torch.randn(n, r, dtype=F64).to(dtype) / n**0.5 for _ in range(2))
    A = ScaledIdentityPlusLowRank(0.005, U, V)
    assert rank(A) == n and kernel(A).shape == (n, 0)
    _, R = np.linalg.qr(np.concatenate([U.double().numpy(), V.double().numpy()], 1))
    s = np.linalg.svdvals(0.005 * np.eye(2 * r) + R[:, :r] @ R[:, r:].T)
    z = torch.randn(2, n, dtype=F64).to(dtype)
    for back in (pinv(A)(A(z)), inverse(A)(A(z)), solve(A, A(z))):
        assert relative(back, z) < 10 * torch.finfo(dtype).eps * s[0] / s[-1]


def test_a_low_rank_of_an_image_keeps_values_of_a_fiftieth() -> None:
    n, r = 12_288, 64
    U, V = orthonormal(n, r), orthonormal(n, r)
    A = LowRank((U * torch.logspace(0, np.log10(1 / 50), r, dtype=F64)).float(), V.float())
    assert rank(A) == r and kernel(A).shape == (n, n - r) and image(A).shape == (n, r)
    x = V[:, -1:].mT.float()
    for back in (pinv(A)(A(x)), solve(A, A(x))):
        assert relative(back, x) < 1e-4


@pytest.mark.parametrize("dtype", (F32, F64))
def test_the_deconvolution_of_an_image_is_exact(dtype: torch.dtype) -> None:
    K = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.62, 0.1], [0.0, 0.1, 0.0]], dtype=dtype)  # its symbol lies between 0.22 and 1.02
    A = Convolution(K[None, None], (1, 256, 256), mode="circular")
    z = torch.randn(256**2, dtype=dtype)
    assert rank(A) == 256**2
    for back in (pinv(A)(A(z)), solve(A, A(z))):
        assert relative(back, z) < 100 * torch.finfo(dtype).eps
    least = singular_values(A).values.min()
    assert abs(float(least) - 0.22) < 100 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("dtype", "tiny", "mid"), ((F32, 1e-6, 5e-3), (F64, 1e-12, 1e-10), (F64, 1e-15, 1e-11)))
def test_one_tiny_eigenvalue_takes_no_other_with_it(dtype: torch.dtype, tiny: float, mid: float) -> None:
    n, r = 3072, 16
    Q = orthonormal(n, r)
    d = torch.full((r,), mid, dtype=F64)
    d[0], d[1] = tiny, 0.5
    A = ScaledIdentityPlusLowRank(1.0, (Q * (d - 1)).to(dtype), Q.to(dtype))
    z = Q[:, 2].to(dtype)
    root = sqrt(A)
    # eps on 1 - mid moves the eigenvalue `mid` itself by eps / mid
    slack = 20 * torch.finfo(dtype).eps / mid
    assert abs(float((root(z) * z).sum()) / mid**0.5 - 1) < slack
    assert float((root(root(z)) - A(z)).norm()) < slack * mid


@pytest.mark.parametrize("wide", (False, True))
def test_a_tall_factorisation_in_float32_is_known_to_a_few_eps(wide: bool) -> None:
    M = torch.randn(10**6, 3) * torch.tensor([1.0, 0.5, 2.0])
    A = Dense(M.mT.contiguous() if wide else M)
    expected = np.linalg.svd(M.numpy().T.astype(np.float64) @ M.numpy().astype(np.float64), compute_uv=False) ** 0.5
    eps = torch.finfo(F32).eps
    for found in (singular_values(A).values, svd(A, 3).values):
        assert np.abs(found.numpy() / expected - 1).max() < 4 * eps
    U = svd(A, 3)[2 if wide else 0].double()
    assert float((U.mT @ U - torch.eye(3, dtype=F64)).abs().max()) < 4 * eps
    if not wide:  # else P would have 10^12 entries
        Q = polar(A).Q.matrix(10**6).double()
        assert float((Q.mT @ Q - torch.eye(3, dtype=F64)).abs().max()) < 10 * eps


def test_tall_float32_columns_that_depend_on_one_another_are_told() -> None:
    X = torch.randn(200_000, 4)
    M = torch.cat([X, X @ torch.randn(4, 4)], 1)  # rank 4: a float32 factorisation leaves 500 eps of the zeros
    A = Dense(M)
    assert rank(A) == rank(A.H) == 4 and kernel(A).shape == (8, 4) and image(A).shape[1] == 4
    assert rank(LowRank(M, torch.eye(8))) == 4


# ------------------------------------------------------------------------------------------------------- direct sums
def test_small_blocks_do_not_drown_beside_large_ones() -> None:
    small, large = 1e-9 * torch.randn(3, 3, dtype=F64), 1e9 * torch.randn(2, 2, dtype=F64)
    A = BlockDiagonal(small, large)
    parts = torch.block_diag(*(torch.from_numpy(np.linalg.inv(X.numpy())) for X in (small, large)))
    assert rank(A) == 5 and kernel(A).shape == (5, 0) and image(A).shape[1] == 5
    for found in (pinv(A), inverse(A)):
        F = found.matrix()
        for block in ((slice(0, 3),) * 2, (slice(3, 5),) * 2):
            assert relative(F[block], parts[block]) < 1e-12
    b = torch.randn(5, dtype=F64)
    assert relative(solve(A, A(b)), b) < 1e-12


def test_rank_and_pinv_of_a_direct_sum_are_those_of_the_parts() -> None:
    whole, short = torch.randn(3, 3, dtype=F64), torch.outer(torch.randn(4, dtype=F64), torch.randn(2, dtype=F64))
    short = (short + 1e-17 * torch.randn(4, 2, dtype=F64)) * 1e-9
    parts = [Dense(whole), Dense(short), Diagonal(torch.tensor([1e9, 0.0], dtype=F64)), LowRank(whole[:, :1], whole[:, 1:2])]
    A = BlockDiagonal(*parts)
    assert rank(A) == sum(map(rank, parts)) == 3 + 1 + 1 + 1
    assert kernel(A).shape[1] == sum(kernel(B).shape[1] for B in parts)
    assert image(A).shape[1] == 6 and rank(pinv(A)) == 6
    expected = torch.block_diag(*(pinv(B).matrix() for B in parts))
    assert torch.equal(pinv(A).matrix(), expected)


def test_a_batch_of_blocks_has_a_cut_off_for_each() -> None:
    blocks = torch.randn(4, 3, 3, dtype=F64)
    blocks[1, :, 2] = blocks[1, :, :2].sum(-1)
    A = BlockDiagonal(blocks * torch.tensor([1e9, 1e-9, 1e-9, 1.0], dtype=F64)[:, None, None])
    assert rank(A) == 11 and kernel(A).shape == (12, 1) and rank(pinv(A)) == 11


def test_the_numbers_of_turning_pairs_stand_alone() -> None:
    A = RotationScaling(torch.tensor([1e9, 0.0, 1e-9]), torch.tensor([0.0, 0.0, 1e-9]))
    assert rank(A) == 4 and kernel(A).shape == (6, 2)
    z = torch.tensor([1.0, 2.0, 0.0, 0.0, 3.0, 4.0])
    assert torch.allclose(pinv(A)(A(z)), z)


# ------------------------------------------------------------------------------------------------- a cut-off that is given
STRUCTURES: dict[str, Callable[[], LinearOperator]] = {  # of the singular values 1, 0.1, 0.01 and 0.001 each
    "Dense": lambda: Dense((orthonormal(4, 4) * torch.tensor([1, 0.1, 0.01, 0.001])) @ orthonormal(4, 4)),
    "Diagonal": lambda: Diagonal(torch.tensor([0.1, -1, 0.001, 0.01], dtype=F64)),
    "BlockDiagonal": lambda: BlockDiagonal(
        Diagonal(torch.tensor([0.1, 0.001], dtype=F64)), (orthonormal(2, 2) * torch.tensor([1, 0.01])) @ orthonormal(2, 2)
    ),
    "LowRank": lambda: LowRank(orthonormal(9, 4) * torch.tensor([1, 0.1, 0.01, 0.001]), orthonormal(7, 4)),
    "RotationScaling": lambda: RotationScaling(
        torch.tensor([1, 0.1, 0.01, 0.0], dtype=F64), torch.tensor([0.0, 0, 0, 0.001], dtype=F64)
    ),
    "c I + U V^T": lambda: ScaledIdentityPlusLowRank(
        1.0, (Q := orthonormal(9, 3)) * (torch.tensor([0.1, 0.01, 0.001], dtype=F64) - 1), Q
    ),
}


@pytest.mark.parametrize("scale", (1.0, 1e6, 1e-6))
@pytest.mark.parametrize("name", STRUCTURES)
def test_a_given_cut_off_is_relative_to_the_norm(name: str, scale: float) -> None:
    A = STRUCTURES[name]() * scale
    s = np.linalg.svd(A.matrix().numpy(), compute_uv=False)
    for rtol in (0.5, 0.05, 0.005):
        kept = int((s > rtol * s[0]).sum())
        assert rank(A, rtol) == kept
        assert kernel(A, rtol).shape[1] == A.shape[1] - kept and image(A, rtol).shape[1] == kept
        expected = torch.from_numpy(np.linalg.pinv(A.matrix().numpy(), rcond=rtol))
        assert relative(pinv(A, rtol).matrix(), expected) < 1e-10
        b = torch.ones(A.shape[0], dtype=F64)
        assert relative(solve(A, b, rtol), expected @ b) < 1e-10


# ------------------------------------------------------------------------------------------------------ near the cut-off
def graded(n: int, r: int, low: int) -> tuple[Tensor, Tensor]:
    return orthonormal(n, r) * torch.logspace(0, low, r, dtype=F64), orthonormal(n, r)


def dense_from(n: int, low: int, dtype: torch.dtype) -> LinearOperator:
    U, V = graded(n, n, low)
    return Dense((U @ V.mT).to(dtype))


def factors(low: int, dtype: torch.dtype, c: float | None = None) -> LinearOperator:
    U, V = (X.to(dtype) for X in graded(40, 12 if c is None else 8, low))
    return LowRank(U, V) if c is None else ScaledIdentityPlusLowRank(c, U, V)


def wide_factors() -> LinearOperator:
    return LowRank(torch.randn(10, 30, dtype=F64) * torch.logspace(0, -16, 30, dtype=F64), torch.randn(10, 30, dtype=F64))


NEAR: dict[str, Callable[[], LinearOperator]] = {
    "Dense, float64": lambda: dense_from(40, -17, F64),
    "Dense, float32": lambda: dense_from(40, -8, F32),
    "LowRank, float32": lambda: factors(-8, F32),
    "LowRank, float64": lambda: factors(-17, F64),
    "LowRank of more columns than rows": wide_factors,
    "c I + U V^T, float32": lambda: factors(-8, F32, 1e-6),
    "c I + U V^T, float64": lambda: factors(-17, F64, 1e-15),
    "BlockDiagonal": lambda: BlockDiagonal(dense_from(12, -17, F64), 1e-9 * dense_from(9, -17, F64).matrix()),
    "Convolution": lambda: Convolution(
        torch.tensor([[[0.25, 0.5, 0.25]]]) + 1e-7 * torch.randn(1, 1, 3), (1, 64), mode="circular"
    ),
    "tall Dense, float32": lambda: Dense(torch.cat([(X := torch.randn(500, 5)), X + 1e-7 * torch.randn(500, 5)], 1)),
}


UNBALANCED = ("c I + U V^T, float32",)
"""A+ = 1e6 I + U V^T has the singular value 1, below what rounding of its factors leaves of a zero, 2 r eps (|c| + |U| |V|)."""


@pytest.mark.parametrize("name", NEAR)
def test_rank_kernel_image_and_pinv_agree_near_the_cut_off(name: str) -> None:
    wrong: list[tuple[int, ...]] = []
    for seed in range(100):
        torch.manual_seed(seed)
        A = NEAR[name]()
        r = rank(A)
        found: tuple[int, ...] = (seed, r, A.shape[1] - kernel(A).shape[1], image(A).shape[1])
        if name not in UNBALANCED:
            found = (*found, rank(pinv(A)))
        if len(set(found[1:])) > 1:
            wrong.append(found)
    assert not wrong, f"(seed, rank, n - dim kernel, dim image, rank of pinv): {len(wrong)} of 100, {wrong[:3]}"


def test_cancelling_factors_count_as_much_as_they_are_large() -> None:
    """c I + U V^T with |U| |V| = 1e8 |A|: its float32 entries are known to 1e8 eps, and a zero of it is no smaller."""
    U, V = torch.randn(50, 2), torch.randn(50, 2)
    A = ScaledIdentityPlusLowRank(0.0, torch.cat([1e4 * U, -1e4 * U], 1), torch.cat([1e4 * V, 1e4 * V * (1 + 1e-9)], 1))
    assert rank(A) == 0  # U V^T cancels to the last bit, or to what rounding leaves
    B = LowRank(torch.cat([1e4 * U, -1e4 * U, U], 1), torch.cat([1e4 * V, 1e4 * V, V], 1))
    assert rank(B) == 0
