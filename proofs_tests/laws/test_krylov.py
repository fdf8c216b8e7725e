"""Norms, singular triplets, eigenvalues and least squares by products alone, against numpy and scipy."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor, nn

from induced._numerics import scaled_norm
from induced.errors import DomainError, NotConverged
from induced.operators import Dense, LowRank, as_operator, exp_multiply
from induced.operators.krylov import iterative_solve, spectral_norm, truncated_eigenvalues, truncated_svd
from proofs_tests.laws.unseen import SIZES, Unseen, dtypes, sizes
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree

SVD_METHODS = ("arpack", "randomized")
methods = pytest.mark.parametrize("method", SVD_METHODS)


def decaying(m: int, n: int, factor: float = 0.7) -> Tensor:
    """A matrix with singular values factor^k."""
    Q = torch.linalg.qr(torch.randn(m, min(m, n)).double())[0]
    P = torch.linalg.qr(torch.randn(n, min(m, n)).double())[0]
    return (Q * factor ** torch.arange(min(m, n))) @ P.mT


# ---------------------------------------------------------------------------------------------------------------- norms
@sizes
def test_a_norm_of_any_size(dtype: torch.dtype, a: float) -> None:
    x = (torch.randn(3, 5, dtype=torch.float64) * a).to(dtype)
    x[1] = 0
    exact = [float(mpmath.norm(row)) for row in x.double().tolist()]
    norms = scaled_norm(x)
    assert norms.dtype == dtype
    agree((norms.double() / a).to(dtype), torch.tensor(exact, dtype=torch.float64).div(a).to(dtype))
    whole = float(mpmath.norm(x.flatten().double().tolist()))
    assert float(scaled_norm(x, (0, 1))) == pytest.approx(whole, rel=4 * torch.finfo(dtype).eps)
    x.requires_grad_()
    scaled_norm(x).sum().backward()
    assert x.grad is not None
    agree(x.grad, torch.from_numpy(x.detach().double().numpy() / np.maximum(exact, 1e-300)[:, None]).to(dtype))
    agree(torch.vmap(scaled_norm)(x.detach()) / a, norms.detach() / a)
    compiled = torch.compile(scaled_norm, fullgraph=True, backend="aot_eager")
    agree(compiled(x.detach()) / a, norms.detach() / a)


def test_norms_at_the_edges() -> None:
    assert torch.equal(scaled_norm(torch.zeros(2, 0)), torch.zeros(2)) and scaled_norm(torch.zeros(0, 2)).shape == (0,)
    assert torch.equal(scaled_norm(torch.tensor([[math.inf, 1.0], [0.0, 0.0], [2e38, 2e38]]))[:2], torch.tensor([math.inf, 0.0]))
    assert scaled_norm(torch.tensor([math.nan, 1.0])).isnan() and scaled_norm(torch.tensor([3e38])) == 3e38
    assert scaled_norm(torch.tensor([3e-39, 4e-39])) == pytest.approx(5e-39, rel=1e-5)
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scaled_norm, x, check_forward_ad=True) and torch.autograd.gradgradcheck(scaled_norm, x)


# --------------------------------------------------------------------------------------------------- singular triplets
def check_triplets(M: Tensor, k: int, method: str) -> None:
    (U, s, V), report = truncated_svd(Unseen(M), k, method=method)
    assert report.converged and report.method == method, report
    size = max(float(torch.linalg.svdvals(M.double()).max()), 1e-30)
    agree(s / size, torch.linalg.svdvals(M)[:k] / size)
    eye = torch.eye(k, dtype=M.dtype)
    agree(U.mT @ U, eye)
    agree(V.mT @ V, eye)
    agree(M @ V / size, U * s / size)
    agree(M.mT @ U / size, V * s / size)
    assert (s.diff() <= 0).all() and (s >= 0).all()


@methods
@dtypes
@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (40, 40)], ids=str)
@pytest.mark.parametrize("k", [0, 1, 5])
def test_the_largest_singular_triplets_without_a_matrix(method: str, dtype: torch.dtype, shape: tuple[int, int], k: int) -> None:
    check_triplets(decaying(*shape).to(dtype), k, method)


@methods
@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 3), (3, 5)], ids=str)
def test_all_triplets_of_small_operators(method: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    M = torch.randn(*shape).to(dtype)
    for k in range(min(shape) + 1):
        check_triplets(M, k, method)


@methods
@pytest.mark.parametrize(
    "M",
    [torch.zeros(12, 9), torch.zeros(9, 12), 3 * torch.eye(12), torch.diag(torch.tensor([2.0] * 4 + [1.0] * 8))],
    ids=["zero", "zero wide", "all values equal", "repeated values"],
)
def test_degenerate_operators_have_orthonormal_triplets(method: str, M: Tensor) -> None:
    check_triplets(M.double(), 3, method)


@methods
def test_more_triplets_than_the_rank(method: str) -> None:
    A = LowRank(torch.randn(30, 2).double(), torch.randn(20, 2).double())
    factors, report = truncated_svd(A, 5, method=method)
    assert report.converged
    agree(factors.values, torch.linalg.svdvals(A.matrix())[:5])


@methods
@pytest.mark.parametrize("case", CORES, ids=str)
def test_triplets_of_every_operator(method: str, case: CoreCase) -> None:
    M = case.matrix()
    factors, report = truncated_svd(case.make(M), 1, method=method)
    agree(factors.values, torch.linalg.svdvals(M)[:1], 20)
    assert report.residual <= 1e-12


def test_autocast_changes_no_iteration() -> None:
    A, b = Dense(torch.randn(12, 12)), torch.randn(12)

    def found() -> list[Tensor]:
        return [*truncated_svd(A, 3)[0], truncated_eigenvalues(A, 2)[0], iterative_solve(A, b)[0], exp_multiply(A, b)[0]]

    plain = found()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, plain, found()))


@methods
def test_the_same_seed_gives_the_same_triplets(method: str) -> None:
    A = Dense(torch.randn(50, 30))
    first, second, other = (truncated_svd(A, 3, method=method, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.U, second.U) and torch.equal(first.values, second.values)
    assert not torch.equal(first.U, other.U)


def test_gradients_reach_the_singular_values() -> None:
    M = nn.Parameter(decaying(12, 8))
    truncated_svd(Dense(M), 3)[0].values.square().sum().backward()
    N = M.detach().clone().requires_grad_()
    torch.linalg.svdvals(N)[:3].square().sum().backward()
    assert M.grad is not None and N.grad is not None
    agree(M.grad, N.grad, 10)


@methods
def test_a_method_stopped_early_says_so(method: str) -> None:
    A = Dense(torch.randn(300, 300, generator=torch.Generator().manual_seed(0)).double())
    factors, report = truncated_svd(A, 4, method=method, max_iterations=1)
    assert not report.converged and "NOT converged" in str(report)
    defect = (A.apply_adjoint(factors.U.mT).mT - factors.V * factors.values).norm(dim=0).max() / factors.values[0]
    assert report.residual == pytest.approx(float(defect), rel=1e-6)
    assert torch.linalg.svdvals(A.A)[0] > factors.values[0]
    with pytest.raises(NotConverged, match="NOT converged"):
        truncated_svd(A, 4, method=method, max_iterations=1, strict=True)
    assert truncated_svd(A, 4, method=method, max_iterations=1, tol=0.9, strict=True)[1].converged


def test_a_huge_sparse_operator() -> None:
    n = 50_000
    d = 1 / (1 + np.arange(n, dtype=float))
    A = as_operator(scipy.sparse.diags_array(d))
    factors, report = truncated_svd(A, 3)
    assert report.converged
    agree(factors.values, torch.from_numpy(d[:3]))


@methods
@sizes
def test_triplets_of_an_operator_of_any_size(method: str, dtype: torch.dtype, a: float) -> None:
    M = decaying(30, 20)
    (U, s, V), report = truncated_svd(Unseen((M * a).to(dtype)), 3, method=method)
    assert report.converged, report
    agree((s.double() / a).to(dtype), torch.linalg.svdvals(M)[:3].to(dtype))
    agree((M.to(dtype) @ V).to(dtype), U * (s.double() / a).to(dtype))


@dtypes
def test_the_norm_and_its_derivative_without_a_matrix(dtype: torch.dtype) -> None:
    M = nn.Parameter(decaying(12, 8).to(dtype))
    value = spectral_norm(Dense(M))
    N = M.detach().clone().requires_grad_()
    exact = torch.linalg.matrix_norm(N, 2)
    agree(value, exact)
    agree(torch.autograd.grad(value, M)[0], torch.autograd.grad(exact, N)[0], 10)
    assert spectral_norm(Dense(torch.zeros(0, 3))) == 0 and spectral_norm(Dense(torch.zeros(4, 3))) == 0


def test_counts_may_be_integers_of_numpy() -> None:
    A = Dense(torch.randn(9, 9).double())
    counts: list[Any] = [np.int64(2), np.int32(50), np.uint8(50), np.int64(30)]
    two, most, few, many = counts
    assert truncated_svd(A, two, max_iterations=most)[0].values.shape == (2,)
    assert truncated_eigenvalues(A, two, max_iterations=few)[0].shape == (2,)
    assert iterative_solve(A, torch.ones(9).double(), max_iterations=many)[0].shape == (9,)


# --------------------------------------------------------------------------------------------------------- eigenvalues
@dtypes
@pytest.mark.parametrize("which", ["LM", "LR", "SR", "LI", "SI", "SM"])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_eigenvalues_in_each_order(dtype: torch.dtype, which: str, k: int) -> None:
    # normal, with well separated eigenvalues: pairs a +- ib and reals
    Q = torch.linalg.qr(torch.randn(24, 24).double())[0]
    pairs = [torch.tensor([[1.0 + j, j * j / 9], [-j * j / 9, 1.0 + j]]) for j in range(1, 9)]
    M = Q @ torch.block_diag(*pairs, torch.diag(torch.tensor([-3.0, -2.0, -12.0, 0.5, 11.0, 12.5, -1.0, 14.0]))).double() @ Q.mT
    values, report = truncated_eigenvalues(Dense(M.to(dtype)), k, which=which)
    assert report.converged, report
    assert values.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
    key = {
        "LM": lambda w: -w.abs(),
        "SM": lambda w: w.abs(),
        "LR": lambda w: -w.real,
        "SR": lambda w: w.real,
        "LI": lambda w: -w.imag.abs(),
        "SI": lambda w: w.imag.abs(),
    }[which]
    exact = torch.linalg.eigvals(M)
    agree(key(values).to(dtype), key(exact).sort().values[:k].to(dtype))
    for value in values:
        assert float((exact - value.to(exact)).abs().min()) <= 100 * torch.finfo(dtype).eps * 14


@pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
@pytest.mark.parametrize("k", [1, 6])
def test_eigenvalues_of_every_operator(case: CoreCase, k: int) -> None:
    M = case.matrix()
    values, _ = truncated_eigenvalues(case.make(M), k)
    expected = torch.linalg.eigvals(M).abs().sort(descending=True).values[:k]
    condition = 1.0 if case.zero else float(np.linalg.cond(np.linalg.eig(M.numpy())[1]))
    agree(values.abs(), expected, condition)


@pytest.mark.parametrize("k", [1, 3])
def test_eigenvalues_of_the_zero_operator(k: int) -> None:
    values, report = truncated_eigenvalues(Dense(torch.zeros(30, 30)), k)
    assert report.converged
    agree(values.abs(), torch.zeros(k))


@sizes
@pytest.mark.parametrize("k", [2, 20])
def test_eigenvalues_of_an_operator_of_any_size(k: int, dtype: torch.dtype, a: float) -> None:
    Q = torch.linalg.qr(torch.randn(20, 20).double())[0]
    d = 0.8 ** torch.arange(20).double()
    values, report = truncated_eigenvalues(Dense(((Q * d) @ Q.mT * a).to(dtype)), k)
    assert report.converged, report
    agree((values.to(torch.complex128) / a).real.to(dtype), d[:k].to(dtype))


def test_eigenvalues_that_do_not_converge_are_not_claimed() -> None:
    shift = Dense(torch.diag(torch.ones(99), 1).double())  # nilpotent
    values, report = truncated_eigenvalues(shift, 2, max_iterations=3)
    assert len(values) < 2 and not report.converged
    with pytest.raises(NotConverged):
        truncated_eigenvalues(shift, 2, max_iterations=3, strict=True)


def test_eigenvalues_of_a_residual_above_the_target_are_not_claimed() -> None:
    S = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.001, 1.0], [1.0, 1.0, 1.002]]).double()
    values, report = truncated_eigenvalues(Dense(S @ torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()) @ S.inverse()), 3)
    assert len(values) == 3 and report.residual > 100 * torch.finfo(torch.float64).eps and not report.converged


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_close_second_is_not_taken_for_the_first(dtype: torch.dtype) -> None:
    for seed in range(4):
        M = torch.randn(120, 120, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        values, _ = truncated_eigenvalues(Dense(M.to(dtype)), 1)
        assert float(values.abs()) == pytest.approx(float(torch.linalg.eigvals(M).abs().max()), rel=1e-4)


# ------------------------------------------------------------------------------------------------------- least squares
@dtypes
@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (9, 9), (1, 1)], ids=str)
def test_least_squares_of_least_norm(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    M = decaying(*shape, 0.9).to(dtype)
    b = torch.randn(2, shape[0]).to(dtype)
    z, report = iterative_solve(Unseen(M), b)
    assert report.converged and report.method == "lsmr", report
    agree(z, b @ torch.linalg.pinv(M).mT, 10)


def test_least_squares_of_a_singular_operator() -> None:
    M = torch.randn(12, 3).double() @ torch.randn(3, 9).double()
    b = torch.randn(12).double()
    z, report = iterative_solve(Dense(M), b)
    assert report.converged
    agree(z, torch.linalg.pinv(M, rtol=1e-10) @ b, CONDITION)


def test_the_zero_right_side_has_the_zero_solution() -> None:
    z, report = iterative_solve(Dense(torch.randn(4, 3)), torch.zeros(0, 4))
    assert z.shape == (0, 3) and report.converged
    z, report = iterative_solve(Dense(torch.randn(4, 3)), torch.zeros(4))
    assert not z.any() and report.converged


RIGHT_SIDES = [
    (dtype, a, b)
    for dtype, a in SIZES
    for b in (1e-300, 1e-30, 1e30, 1e200)
    if all(100 * torch.finfo(dtype).tiny / torch.finfo(dtype).eps < x < torch.finfo(dtype).max / 100 for x in (b, b / a))
]


@pytest.mark.parametrize(("dtype", "a", "size"), RIGHT_SIDES, ids=str)
def test_least_squares_of_any_size(dtype: torch.dtype, a: float, size: float) -> None:
    M, b = decaying(9, 6, 0.9), torch.randn(9).double()
    exact, right = torch.linalg.pinv(M) @ b, (b * size).to(dtype)
    z, report = iterative_solve(Unseen((M * a).to(dtype)), right, strict=True)
    assert report.converged
    agree((z.double() * (a / size)).to(dtype), exact.to(dtype), 10)


def test_a_residual_that_is_no_number_is_not_converged() -> None:
    class Overflowing(Unseen):
        def apply_adjoint(self, w: Tensor) -> Tensor:
            return super().apply_adjoint(w) * math.nan

    A = Overflowing(torch.randn(12, 9).double())
    _, report = truncated_svd(A, 9, max_iterations=1)
    assert math.isnan(report.residual) and not report.converged
    with pytest.raises(DomainError, match="overflows"):
        iterative_solve(A, torch.ones(12).double())
    _, report = iterative_solve(A, torch.zeros(12).double())
    assert not report.converged


def test_an_unfinished_solution_says_so() -> None:
    A, b = Dense(torch.randn(200, 200).double()), torch.randn(200).double()
    _, report = iterative_solve(A, b, max_iterations=5)
    assert not report.converged and report.residual > 1e-3 and report.iterations >= 5
    with pytest.raises(NotConverged):
        iterative_solve(A, b, max_iterations=5, strict=True)
