"""Eigenvalues, invariant subspaces and polar factors against numpy, scipy and their own laws."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor

from induced.operators import Dense, Diagonal, LinearOperator, LowRank, ScaledIdentityPlusLowRank, eigenvalues, polar
from induced.operators.linalg import Inverse
from induced.operators.spectral import InvariantSubspace, invariant_subspaces
from proofs_tests.registry import CONDITION, CORES, DTYPES, SQUARE_CORES, CoreCase, agree, grad_of

every_square_core = pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def numbers(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def distance_of_spectra(v: Tensor, w: Tensor) -> float:
    """The largest distance between partners of the best matching of two lists of eigenvalues."""
    cost = np.abs(v.detach().numpy()[:, None] - w.numpy()[None, :])
    return float(cost[scipy.optimize.linear_sum_assignment(cost)].max(initial=0.0))


# ----------------------------------------------------------------------------------------------------------- eigenvalues
@every_dtype
@every_square_core
def test_eigenvalues_are_those_of_numpy(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    w = eigenvalues(case.make(M))
    assert w.shape == (len(M),) and w.is_complex() and w.real.dtype == dtype
    expected = torch.from_numpy(np.linalg.eigvals(M.double().numpy()).astype(complex))
    # an eigenvalue of condition k moves by k eps ||M||, and a double one, as 0 of a low rank, by its root
    bound = 10 * torch.finfo(dtype).eps ** 0.5 * float(M.norm().clamp(min=1))
    assert distance_of_spectra(w.to(torch.complex128), expected) <= bound


@every_square_core
def test_eigenvalues_sum_to_the_trace_and_descend(case: CoreCase) -> None:
    M = case.matrix()
    w = eigenvalues(case.make(M))
    agree(w.sum().real, M.trace(), CONDITION)
    agree((w**2).sum().real, (M @ M).trace(), CONDITION**2)
    assert (w.abs().diff() <= 0).all()


def test_eigenvalues_of_one_modulus_descend_in_real_then_imaginary_part() -> None:
    M = torch.block_diag(numbers(0, -1, 1, 0).reshape(2, 2), torch.diag(numbers(-1, 1, 0.5)))
    assert eigenvalues(Dense(M)).tolist() == [1, 1j, -1j, -1, 0.5]
    assert eigenvalues(Diagonal(numbers(-2, 1, 2))).tolist() == [2, -2, 1]


def test_eigenvalues_of_a_structure_need_no_dense_matrix() -> None:
    U = torch.eye(100_000, 2).double()
    few = numbers(1, 5, 0, 2).reshape(2, 2)
    w = eigenvalues(ScaledIdentityPlusLowRank(3.0, U, U @ few.mT))
    assert w[:3].tolist() == [5, 4, 3] and w.shape == (100_000,) and (w[2:] == 3).all()
    w = eigenvalues(LowRank(U, U @ few.mT))
    assert w[:2].tolist() == [2, 1] and (w[2:] == 0).all()


def test_eigenvalues_of_a_batch_are_those_of_each_operator() -> None:
    M, c = torch.randn(3, 4, 4).double(), numbers(1, 2, 3)
    agree(eigenvalues(Dense(M))[1], eigenvalues(Dense(M[1])))
    batch = eigenvalues(ScaledIdentityPlusLowRank(c, M[..., :2], M[0, :, 2:]))
    agree(batch[2], eigenvalues(ScaledIdentityPlusLowRank(3.0, M[2, :, :2], M[0, :, 2:])))
    agree(
        eigenvalues(ScaledIdentityPlusLowRank(c, M[0, :, :2], M[0, :, 2:]))[2].sum(), 12 + (M[0, :, :2] * M[0, :, 2:]).sum() + 0j
    )


def test_distinct_eigenvalues_have_gradients() -> None:
    def through(c: Tensor, U: Tensor, V: Tensor) -> Tensor:
        return eigenvalues(ScaledIdentityPlusLowRank(c, U, V)).abs()

    leaves = [x.requires_grad_() for x in (numbers(0.5)[0], torch.randn(5, 2).double(), torch.randn(5, 2).double())]
    assert torch.autograd.gradcheck(through, leaves)
    assert torch.autograd.gradcheck(lambda M: eigenvalues(Dense(M)).abs(), torch.randn(4, 4).double().requires_grad_())


# ----------------------------------------------------------------------------------------------------- invariant subspaces
def require_invariant(M: Tensor, found: list[InvariantSubspace], gap: float = 1e-3) -> None:
    """Assert that the subspaces are orthonormal, invariant, independent, complete, and that their eigenvalues are far apart."""
    values = torch.cat([s.eigenvalues for s in found]).to(torch.complex128)
    assert values.shape == (len(M),)
    for subspace in found:
        B = subspace.basis
        agree(B.mT @ B, torch.eye(B.shape[1], dtype=M.dtype))
        K = B.mT @ M @ B
        agree(M @ B, B @ K, 10)
        own = torch.from_numpy(np.linalg.eigvals(K.double().numpy()).astype(complex))
        size = float(M.norm().clamp(min=1))
        assert distance_of_spectra(own, subspace.eigenvalues.to(torch.complex128)) <= 20 * torch.finfo(M.dtype).eps ** 0.25 * size
        assert torch.allclose(subspace.eigenvalues.sum().imag, torch.zeros(1, dtype=M.dtype), atol=1e-5)
    every = torch.cat([s.basis for s in found], -1)
    assert every.shape == M.shape and torch.linalg.matrix_rank(every) == len(M)


@every_dtype
@every_square_core
def test_invariant_subspaces_are_invariant_independent_and_complete(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    found = invariant_subspaces(case.make(M))
    require_invariant(M, found)
    moduli = [float(s.eigenvalues[0].abs()) for s in found]
    assert moduli == sorted(moduli, reverse=True)


def test_the_check_of_invariance_rejects_other_subspaces() -> None:
    M = torch.randn(3, 3).double()
    eye = torch.eye(3).double()
    w = eigenvalues(Dense(M))
    with pytest.raises(AssertionError):
        require_invariant(M, [InvariantSubspace(w[:1], eye[:, :1]), InvariantSubspace(w[1:], eye[:, 1:])])


def test_a_defective_eigenvalue_and_a_pair_stay_together() -> None:
    S = torch.linalg.qr(torch.randn(7, 7).double())[0] @ torch.diag(torch.linspace(1, 2, 7).double())
    J = torch.block_diag(2 * torch.eye(3) + torch.diag(torch.ones(2), 1), torch.tensor([[0.0, -4.0], [4.0, 0.0]]), -torch.eye(2))
    M = S @ J.double() @ torch.linalg.inv(S)
    found = invariant_subspaces(Dense(M))
    require_invariant(M, found)
    assert [s.basis.shape[1] for s in found] == [2, 3, 2]
    assert found[0].eigenvalues.imag.tolist() == pytest.approx([4, -4])
    apart = invariant_subspaces(Dense(torch.nn.Parameter(torch.diag(numbers(1, 1.001, 2)))))
    assert not apart[0].basis.requires_grad
    assert [s.basis.shape[1] for s in apart] == [1, 1, 1]
    joined = invariant_subspaces(Dense(torch.diag(numbers(1, 1.001, 2))), rtol=0.01)
    assert [s.basis.shape[1] for s in joined] == [1, 2]


def test_the_repeated_eigenvalue_of_c_I_plus_low_rank_is_one_subspace() -> None:
    U, V = torch.randn(30, 2).double(), torch.randn(30, 2).double()
    for A in (ScaledIdentityPlusLowRank(2.0, U, V), LowRank(U, V), ScaledIdentityPlusLowRank(2.0, U, 0 * V)):
        found = invariant_subspaces(A)
        require_invariant(A.matrix(), found)
        assert max(s.basis.shape[1] for s in found) >= 28


# ------------------------------------------------------------------------------------------------------------------ polar
@every_dtype
@pytest.mark.parametrize("case", CORES, ids=str)
def test_polar_factors_are_those_of_scipy(case: CoreCase, dtype: torch.dtype) -> None:
    M = case.matrix(dtype)
    A = case.make(M)
    Q, P = polar(A)
    assert Q.shape == A.shape and P.shape == (M.shape[1], M.shape[1])
    expected = scipy.linalg.polar(M.double().numpy())[1]
    agree(P.matrix(), torch.from_numpy(expected).to(dtype), CONDITION)
    agree((Q @ P).matrix(), M, CONDITION)
    agree(P.matrix().mT, P.matrix())
    assert torch.linalg.eigvalsh(P.matrix().double()).min() >= -1e3 * torch.finfo(dtype).eps * float(M.norm())
    agree((Q.H @ Q @ P).matrix(), P.matrix(), CONDITION)
    # a partial isometry: Q^T Q is the projection onto the complement of the kernel
    s = torch.linalg.svdvals(Q.matrix().double())
    assert ((s - 1).abs().minimum(s.abs()) < 1e4 * torch.finfo(dtype).eps).all()
    assert int((s > 0.5).sum()) == np.linalg.matrix_rank(M.double().numpy(), rtol=1e-5)


def test_polar_keeps_structure() -> None:
    U, V = torch.randn(40_000, 2).double() / 200, torch.randn(40_000, 2).double() / 200
    z = torch.randn(3, 40_000).double()
    for A in (ScaledIdentityPlusLowRank(-2.0, U, V), LowRank(U, V), Diagonal(z[0]), Inverse(Diagonal(1 + z[0] ** 2))):
        Q, P = polar(A)
        agree(Q(P(z)), A(z), 10)
        agree(P(P(z)), A.apply_adjoint(A(z)), 100)
        assert not isinstance(Q, Dense) and not isinstance(P, Dense)


def test_polar_takes_for_zero_what_rounding_leaves_of_it() -> None:
    d = numbers(2, -1e-20, -1)
    for A in (Dense(torch.diag(d)), LowRank(torch.diag(d), torch.eye(3).double())):
        agree(polar(A)[0].matrix(), torch.diag(numbers(1, 0, -1)))
    agree(polar(Diagonal(d))[0].matrix(), torch.diag(numbers(1, -1, -1)))  # nothing was mixed: -1e-20 is exact


def polar_of(A: LinearOperator) -> tuple[Tensor, Tensor]:
    Q, P = polar(A)
    return Q.matrix(), P.matrix()


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
@pytest.mark.parametrize("equal", [True, False])
def test_polar_has_gradients_also_at_equal_singular_values(shape: tuple[int, int], equal: bool) -> None:
    M = torch.eye(*shape).double() if equal else torch.randn(*shape).double()
    parts = 1 if shape[0] < shape[1] else 2  # P is not differentiable where A has a kernel, but at its own rank
    assert torch.autograd.gradcheck(lambda M: polar_of(Dense(M))[:parts], M.requires_grad_())


def test_polar_of_structures_has_gradients() -> None:
    U, V = torch.randn(4, 1).double().requires_grad_(), torch.randn(4, 1).double().requires_grad_()
    c = numbers(2.0)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda c, U, V: polar_of(ScaledIdentityPlusLowRank(c, U, V)), (c, U, V))
    assert torch.autograd.gradcheck(lambda U, V: polar_of(LowRank(U, V)), (U, V))
    assert torch.autograd.gradcheck(lambda d: polar_of(Diagonal(d)), numbers(1, -2).requires_grad_())


def test_polar_of_a_singular_operator_has_finite_gradients() -> None:
    for M in (torch.zeros(2, 2), torch.ones(3, 3), torch.diag(torch.tensor([1.0, 0.0, 1.0]))):
        leaf = M.clone().requires_grad_()
        Q, P = polar_of(Dense(leaf))
        (Q.square().sum() + P.sum()).backward()
        assert grad_of(leaf).isfinite().all()
