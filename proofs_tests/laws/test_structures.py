"""Orthogonal and triangular operators and projections: structure, inverses and functions, to the bit where they are exact."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from induced.errors import DomainError
from induced.operators import (
    LU,
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    Orthogonal,
    Permutation,
    Projection,
    SkewExponential,
    eigenvalues,
    exp,
    function,
    inverse,
    pinv,
    power,
    resolvent,
    svd,
)
from induced.operators.base import Product
from induced.operators.invariants import cond, det, norm, rank, singular_values, slogdet, trace
from proofs_tests.laws.tensors import double, tensor
from proofs_tests.registry import CONDITION, CORES, CoreCase, agree, grad_of

NAMES = ("Orthogonal", "Householder", "SkewExponential", "Permutation", "LU", "Projection", "Convolution", "BlockCirculant")
STRUCTURES = [case for case in CORES if case.name.startswith(NAMES)]
ORTHOGONAL = [case for case in CORES if case.name in NAMES[:4]]
every_structure = pytest.mark.parametrize("case", STRUCTURES, ids=str)
every_orthogonal = pytest.mark.parametrize("case", ORTHOGONAL, ids=str)


# ------------------------------------------------------------------------------------------------------------ every structure
@every_structure
def test_the_invariants_are_those_of_the_matrix(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    s = tensor(np.linalg.svd(M.numpy(), compute_uv=False))
    found = singular_values(A)
    values = found.values.repeat_interleave(found.times).sort(descending=True).values
    agree(values.detach(), s, CONDITION)
    agree(norm(A), s.max(), CONDITION)
    agree(norm(A, "frobenius"), M.norm(), CONDITION)
    agree(norm(A, "nuclear"), s.sum(), CONDITION)
    assert rank(A) == int((s > 1e-9).sum())
    if case.invertible:
        agree(cond(A), s.max() / s.min(), CONDITION**2)
    if M.shape[0] == M.shape[1]:
        sign, logabs = np.linalg.slogdet(M.numpy())
        agree(trace(A), M.trace(), CONDITION)
        agree(det(A), torch.tensor(sign * np.exp(logabs)), CONDITION**2)
        agree(eigenvalues(A).sum().real, M.trace(), CONDITION)
        agree(eigenvalues(A).prod().real, torch.tensor(sign * np.exp(logabs)), CONDITION**2)
        if case.invertible:
            assert float(slogdet(A).sign) == sign
            agree(slogdet(A).logabs, torch.tensor(logabs), CONDITION**2)


@every_structure
def test_functions_are_those_of_scipy(case: CoreCase) -> None:
    M = case.matrix()
    if M.shape[0] != M.shape[1]:
        return
    A, size = case.make(M), float(M.norm().clamp(min=1))
    agree(exp(A, 0.3).matrix(), tensor(scipy.linalg.expm(0.3 * M.numpy())), CONDITION)
    agree(function(A, torch.cos).matrix(), tensor(scipy.linalg.cosm(M.numpy())), 1e4)
    eye = torch.eye(len(M), dtype=M.dtype)
    agree(resolvent(A, 2 * size).matrix(), torch.linalg.inv(2 * size * eye - M), CONDITION)
    agree(power(A, 3).matrix(), M @ M @ M, CONDITION**2)


@every_structure
def test_operators_work_under_transforms(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    z, w = double(3, M.shape[1]), double(3, M.shape[0])
    agree(torch.func.vmap(A)(z).detach(), z @ M.mT, CONDITION)
    agree(torch.func.vmap(A.H)(w).detach(), w @ M, CONDITION)
    agree(torch.func.jacrev(A)(z[0]).detach(), M, CONDITION)
    agree(torch.func.jacfwd(A.apply_adjoint)(w[0]).detach(), M.mT, CONDITION)


@pytest.mark.parametrize(
    "case", [c for c in STRUCTURES if "of one" not in c.name and "stride" not in c.name and "no padding" not in c.name], ids=str
)
def test_operators_compile_to_one_graph(case: CoreCase) -> None:
    M = case.matrix()
    A = case.make(M)
    torch.compiler.reset()
    both = torch.compile(lambda z, w: (A(z), A.apply_adjoint(w)), backend="eager", fullgraph=True)
    z, w = double(2, M.shape[1]), double(2, M.shape[0])
    forward, back = both(z, w)
    agree(forward.detach(), z @ M.mT, CONDITION)
    agree(back.detach(), w @ M, CONDITION)


# ----------------------------------------------------------------------------------------------------------------- orthogonal
@every_orthogonal
def test_the_inverse_of_an_orthogonal_operator_is_its_adjoint(case: CoreCase) -> None:
    M = case.matrix()
    Q = case.make(M)
    for back in (inverse(Q), pinv(Q), Q.H, power(Q, -1)):
        assert back.orthogonal
        agree(back.matrix(), M.mT)
    assert Q.H.orthogonal and Q.H.H is Q
    z = double(4, 6)
    agree(Q.H(Q(z)), z)
    agree(norm(Q), torch.ones(()).double())
    agree(cond(Q), torch.ones(()).double())
    agree(det(Q), torch.linalg.det(M).round())
    agree(det(Q.H), torch.linalg.det(M).round())
    agree(slogdet(Q).logabs, torch.zeros(()).double())
    assert rank(Q) == 6


@every_orthogonal
def test_products_and_powers_of_orthogonal_operators_stay_orthogonal(case: CoreCase) -> None:
    M = case.matrix()
    Q = case.make(M)
    for other in ORTHOGONAL:
        K = other.matrix()
        R = other.make(K)
        for joined, expected in ((Q @ R, M @ K), (Q @ R.H, M @ K.mT), (Q.H @ R, M.mT @ K)):
            assert joined.orthogonal
            agree(joined.matrix(), expected)
    assert (Q**5).orthogonal
    agree((Q**1000).matrix() @ (Q**1000).matrix().mT, torch.eye(6).double(), 1000)
    assert isinstance(Q @ Dense(M), Dense) and isinstance(Q @ LowRank(double(6, 1), double(6, 1)), LowRank)
    agree((Q @ Dense(K)).matrix(), M @ K)
    agree((Q.H.apply_adjoint(K) @ M), K @ M.mT @ M)
    agree((Q @ Projection(torch.ones(6).double())).matrix(), M)
    U, s, V = svd(Q, 4)
    assert U.shape == V.shape == (6, 4) and torch.equal(s, torch.ones(4).double())
    agree(U, M @ V)


def test_structures_of_orthogonal_products_are_kept() -> None:
    P, H = Permutation([1, 2, 0]), Householder(double(1, 3))
    assert isinstance(P @ P, Permutation) and isinstance(P**3, Permutation) and isinstance(P.H, Permutation)
    assert (P**3)(torch.arange(3.0)).tolist() == [0.0, 1.0, 2.0]
    assert isinstance(H @ H, Householder) and (H @ H).V.shape == (2, 3)
    assert isinstance(H @ H @ H @ H, Orthogonal)
    assert isinstance(SkewExponential(double(3, 3)) ** 2, SkewExponential)


@given(st.permutations(range(7)))
def test_permutations_move_entries_exactly(order: list[int]) -> None:
    P = Permutation(order)
    z = torch.randn(3, 7)
    assert torch.equal(P(z), z[:, order])
    assert torch.equal(P.H(P(z)), z) and torch.equal(P.apply_adjoint(P(z)), z)
    assert det(P) == round(float(np.linalg.det(np.eye(7)[order])))


def test_the_sign_of_a_permutation_is_known_where_its_values_are_not() -> None:
    orders = torch.tensor(list(permutations(range(4))))
    signs = tensor(np.linalg.det(np.eye(4)[orders.numpy()])).round()
    assert torch.equal(torch.func.vmap(lambda order: det(Permutation(order, torch.float64)))(orders), signs)


def test_products_of_orthogonal_operators_are_formed_where_their_factors_hold_no_fewer_numbers() -> None:
    P, V = Permutation([1, 2, 0, 3], torch.float64), double(5, 4)
    assert isinstance(Householder(V[:2]) @ Householder(V[2:4]), Householder)
    for n, k, kind in ((4, 2, Product), (4, 3, Orthogonal), (4, 5, Orthogonal)):  # n k + n numbers against n^2
        assert isinstance(Householder(V[:k]) @ P, kind) and isinstance(P @ Householder(V[:k, :n]), kind)
    assert isinstance(Householder(V[:2]) @ Householder(V[2:]), Orthogonal)


@given(st.integers(1, 6), st.integers(0, 8), st.floats(-30, 30))
def test_reflections_are_orthogonal_at_every_size_of_their_vectors(n: int, k: int, exponent: float) -> None:
    V = double(k, n) * 10.0**exponent
    expected = np.eye(n)
    for v in (V / 10.0**exponent).numpy():
        expected = expected @ (np.eye(n) - 2 * np.outer(v, v) / (v @ v))
    agree(Householder(V).matrix(), tensor(expected), 100)
    Q = Householder(V.float()).matrix()
    agree(Q @ Q.mT, torch.eye(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_may_be_off_orthogonal_by_10_n_eps(dtype: torch.dtype) -> None:
    Q, bound = torch.eye(64, dtype=dtype), 640 * torch.finfo(dtype).eps  # by d where an entry of the diagonal is 1 + d / 2
    Orthogonal(Q + torch.diag(torch.full((64,), 0.49 * bound, dtype=dtype)))
    with pytest.raises(DomainError, match="not orthogonal"):
        Orthogonal(Q + torch.diag(torch.full((64,), 0.51 * bound, dtype=dtype)))


def test_nearly_parallel_reflections_stay_orthogonal() -> None:
    Q = Householder(torch.ones(16, 32) + 1e-3 * torch.randn(16, 32)).matrix()
    agree(Q @ Q.mT, torch.eye(32))


@pytest.mark.parametrize("make", [Householder, SkewExponential], ids=lambda make: make.__name__)
def test_trained_orthogonal_operators_have_gradients_and_stay_orthogonal(make: Callable[[Tensor], LinearOperator]) -> None:
    assert torch.autograd.gradcheck(lambda X: make(X).matrix(), double(3, 3).requires_grad_())
    assert torch.autograd.gradcheck(lambda X: make(X).H.matrix(), double(3, 3).requires_grad_())
    Q = make(nn.Parameter(double(4, 4)))
    target = torch.linalg.qr(double(4, 4))[0]
    target[0] *= torch.linalg.det(target).sign()  # a rotation, which both reach
    z, adjoint = double(64, 4), Q.H
    optimiser = torch.optim.Adam(Q.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = (Q(z) - z @ target.mT).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
    agree(Q.matrix().mT @ Q.matrix(), torch.eye(4).double())
    agree(adjoint(Q(z)), z)  # an adjoint made before the training follows


# ---------------------------------------------------------------------------------------------------------------- triangular
def test_an_lu_starts_orthogonal_and_is_its_factors() -> None:
    A = LU(5).double()
    agree(A.matrix() @ A.matrix().mT, torch.eye(5).double(), 1e9)  # made in float32
    L, U = A.factors()
    assert torch.equal(torch.tril(L), L) and torch.equal(torch.triu(U), U) and (L.diagonal() == 1).all()
    agree(A.matrix(), (L @ U)[A.order])


def test_an_lu_trains_its_inverse_follows_and_it_never_becomes_singular() -> None:
    A = LU.of(torch.eye(4).double())
    B = inverse(A)
    z, target = double(32, 4), torch.diag(torch.tensor([1.0, -1.0, 1e-3, 0.0])).double()
    optimiser = torch.optim.SGD(A.parameters(), lr=0.3)
    for _ in range(100):
        optimiser.zero_grad()
        (A(z) - z @ target).square().mean().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in A.parameters())
    agree(B(A(z)), z, float(cond(A).detach()))
    agree(B.apply_adjoint(A.apply_adjoint(z)), z, float(cond(A).detach()))
    agree(slogdet(A).logabs, torch.linalg.slogdet(A.matrix()).logabsdet, 100)
    assert inverse(B) is A and {name for name, _ in A.named_parameters()} == {"triangles", "log_diagonal"}


def test_an_lu_of_no_coordinates_and_of_one() -> None:
    assert LU(0).matrix().shape == (0, 0) and inverse(LU(0)).matrix().shape == (0, 0)
    assert LU(1).matrix().abs().item() == pytest.approx(1.0)


def test_the_state_of_an_lu_is_loaded_with_its_signs_and_order() -> None:
    A, B = LU(4), LU(4)
    B.load_state_dict(A.state_dict())
    assert torch.equal(A.matrix(), B.matrix())


# ---------------------------------------------------------------------------------------------------------------- projections
@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=8))
def test_projections_are_exact_and_idempotent_bit_for_bit(entries: list[float]) -> None:
    p = torch.tensor(entries)
    z = torch.randn(3, len(p)) * torch.tensor(10.0) ** torch.randint(-30, 30, (len(p),))
    for P in (Projection(p), Projection(nn.Parameter(p)), Projection(nn.Parameter(p)).eval()):
        once = P(z).detach()
        assert torch.equal(once, torch.where(p > 0.5, z, 0.0)) and torch.equal(P(once), once)
        assert not (torch.signbit(once) & (once == 0)).any()
        assert P.H is P and pinv(P) is P and P**3 is P and P.H.H is P
        assert set(P.diagonal().tolist()) <= {0.0, 1.0}
        assert torch.equal(P.complement()(z) + P(z), z)
        assert rank(P) == int((p > 0.5).sum())


def test_a_dropped_coordinate_is_0_whatever_it_held() -> None:
    P = Projection(nn.Parameter(torch.tensor([1.0, 0.0, 0.0])))
    for mode in (True, False):
        z = torch.tensor([torch.inf, torch.nan, -torch.inf])
        assert P.train(mode)(z).tolist() == [torch.inf, 0.0, 0.0]


def test_gradients_of_a_projection_pass_straight_through_the_rounding() -> None:
    p = nn.Parameter(torch.tensor([0.9, 0.2, 0.6, 1.4]).double())
    z, w = double(4).requires_grad_(), double(4)
    P = Projection(p)
    (P(z) * w).sum().backward()
    agree(grad_of(p), (z * w * torch.tensor([1.0, 1.0, 1.0, 0.0])).detach())  # past the clamp nothing arrives
    agree(grad_of(z), w * torch.tensor([1.0, 0.0, 1.0, 1.0]))
    P.zero_grad()
    z.grad = None
    P.diagonal().mean().backward()
    agree(grad_of(p), torch.tensor([0.25, 0.25, 0.25, 0.0]).double())
    (P.eval()(z) * w).sum().backward()
    agree(grad_of(z), w * torch.tensor([1.0, 0.0, 1.0, 1.0]))
    agree(grad_of(p), torch.tensor([0.25, 0.25, 0.25, 0.0]).double())
    assert not P.complement().training


@pytest.mark.parametrize("jacobian", [torch.func.jacfwd, torch.func.jacrev], ids=["forward", "reverse"])
@pytest.mark.parametrize("training", [True, False])
def test_both_modes_of_differentiation_pass_through_the_rounding(jacobian: Callable[..., Any], training: bool) -> None:
    P, z = Projection(double(4).sigmoid()).train(training), double(4)
    found = jacobian(lambda p: torch.func.functional_call(P, {"p": p}, (z,)))(P.p)
    agree(found, training * torch.diag(z))


def test_products_of_projections_keep_what_both_keep() -> None:
    P, Q = Projection(torch.tensor([True, True, False, False])), Projection(torch.tensor([0.7, 0.1, 0.9, 0.2]))
    both, added = P @ Q, P + Q
    assert isinstance(both, Projection) and both.mask().tolist() == [True, False, False, False]
    assert isinstance(added, Diagonal) and isinstance(P @ Dense(torch.ones(4, 4)), Dense)
    assert added.d.tolist() == [2.0, 1.0, 1.0, 0.0]
    assert torch.equal((P + LowRank(torch.ones(4, 1), torch.ones(4, 1))).matrix(), P.matrix() + 1)
    assert inverse(Projection(torch.ones(3)))(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_a_batch_of_projections_meets_the_batch_of_coordinates() -> None:
    masks = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    P, M = Projection(masks), torch.randn(2, 2)
    assert P(torch.ones(5, 3, 2))[0].tolist() == masks.tolist()
    assert P.shape == (2, 2) and P.matrix().shape == (3, 2, 2) and (P @ P).batch == (3,)
    for A in (Dense(M), Dense(M.expand(3, 2, 2))):
        assert torch.equal((P @ A).matrix(), masks[..., None] * M)
        assert torch.equal((Projection(masks[0]) @ A).matrix().expand(3, 2, 2), (masks[0, :, None] * M).expand(3, 2, 2))


def test_a_mask_that_is_computed_passes_its_gradients_on() -> None:
    q = torch.tensor([2.0, -1.0, 0.3]).requires_grad_()
    Projection(q.sigmoid())(torch.tensor([5.0, 6.0, 7.0])).sum().backward()
    agree(grad_of(q), (torch.tensor([5.0, 6.0, 7.0]) * q.sigmoid() * (1 - q.sigmoid())).detach())


def test_a_mask_that_training_moves_out_of_0_1_counts_as_its_nearest_end_and_stops_there() -> None:
    for value in (lambda A: A.diagonal(), lambda A: A(torch.ones(4))):
        p = nn.Parameter(torch.tensor([-0.7, 0.2, 0.8, 1.7]))
        found = value(Projection(p).train())
        assert found.tolist() == [0, 0, 1, 1]
        found.sum().backward()
        assert grad_of(p).tolist() == [0, 1, 1, 0]
