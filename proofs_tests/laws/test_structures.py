"""Structured operators, direct sums, projections and selections: what they promise. Oracles: numpy and scipy."""

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
    BlockCirculant,
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    Orthogonal,
    Permutation,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    Selection,
    SkewExponential,
    eigenvalues,
    exp,
    function,
    identity,
    inverse,
    kernel,
    log,
    pinv,
    polar,
    power,
    resolvent,
    sqrt,
    svd,
)
from induced.operators.base import Product
from induced.operators.convolution import Mode
from induced.operators.invariants import cond, det, norm, rank, singular_values, slogdet, trace
from proofs_tests.registry import CONDITION, CORES, CoreCase, Pads, agree, convolution_matrix, grad_of

NAMES = ("Orthogonal", "Householder", "SkewExponential", "Permutation", "LU", "Projection", "Convolution", "BlockCirculant")
STRUCTURES = [case for case in CORES if case.name.startswith(NAMES)]
ORTHOGONAL = [case for case in CORES if case.name in NAMES[:4]]
every_structure = pytest.mark.parametrize("case", STRUCTURES, ids=str)
every_orthogonal = pytest.mark.parametrize("case", ORTHOGONAL, ids=str)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(a))


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


# --------------------------------------------------------------------------------------------------------------- convolutions
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pads", [[(0, 0), (0, 0)], [(1, 1), (1, 1)], [(0, 1), (1, 1)], [(2, 0), (1, 3)]], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_and_its_adjoint_are_exact_for_every_padding(mode: Mode, stride: int, pads: Pads, groups: int) -> None:
    shape, kernel = (2, 4, 5), double(4, 2 // groups, 2, 3)
    A = Convolution(kernel, shape, padding=pads, mode=mode, stride=stride, groups=groups)
    M = convolution_matrix(kernel, shape, pads, mode, stride, groups)
    agree(A.matrix(), M)
    agree(A.H.matrix(), M.mT)
    cyclic = mode == "circular" and stride == 1 and A.out_shape[1:] == shape[1:]
    assert (A.circulant() is not None) == cyclic
    if (C := A.circulant()) is not None:
        agree(C.matrix(), M)
        agree(C.H.matrix(), M.mT)
        agree(C.H.matrix(), M.mT)


def test_the_law_of_the_adjoint_rejects_the_flipped_kernel_under_reflect_padding() -> None:
    kernel = double(1, 1, 3)
    modes: dict[Mode, bool] = {"zeros": True, "circular": True, "reflect": False, "replicate": False}
    for mode, exact in modes.items():
        A, flipped = (Convolution(K, (1, 5), mode=mode) for K in (kernel, kernel.flip(-1)))
        if exact:
            agree(flipped.matrix(), A.H.matrix())
        else:
            with pytest.raises(AssertionError, match="rounding explains"):
                agree(flipped.matrix(), A.H.matrix())


def test_a_convolution_says_its_geometry() -> None:
    assert repr(Convolution(double(2, 1, 3), (1, 5))) == (
        "Convolution((1, 5) -> (2, 5), kernel=(2, 1, 3), padding=((1, 1),) zeros)"
    )


@pytest.mark.parametrize("k", range(1, 6))
def test_same_padding_keeps_the_size_of_odd_and_even_kernels(k: int) -> None:
    for mode in ("zeros", "circular"):
        A = Convolution(double(1, 1, k), (1, 6), mode=mode)
        assert A.out_shape == (1, 6) and A.pads == (((k - 1) // 2, k // 2),)
    assert Convolution(double(1, 1, k), (1, 6), stride=2).out_shape == (1, 3)
    assert Convolution(double(1, 1, k), (1, 6), padding=2).pads == ((2, 2),)


def test_a_circular_kernel_may_be_longer_than_the_grid() -> None:
    A = Convolution(kernel := double(1, 1, 8), (1, 3), mode="circular")
    circulant = A.circulant()
    assert circulant is not None
    agree(circulant.matrix(), convolution_matrix(kernel, (1, 3), [(3, 4)], "circular"))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_a_batch_of_kernels_meets_the_batch_of_coordinates(mode: Mode) -> None:
    kernels, z, w = double(3, 2, 1, 3, 2), double(5, 3, 2 * 12), double(5, 3, 2 * 12)
    A = Convolution(kernels, (2, 4, 3), mode=mode, groups=2)
    each = [Convolution(K, (2, 4, 3), mode=mode, groups=2) for K in kernels]
    agree(A(z), torch.stack([B(z[:, i]) for i, B in enumerate(each)], 1))
    agree(A.H(w), torch.stack([B.H(w[:, i]) for i, B in enumerate(each)], 1))
    agree(A(z[0, 0]), torch.stack([B(z[0, 0]) for B in each]))
    agree(A.matrix(), torch.stack([B.matrix() for B in each]))
    weights = double(3)
    agree((A * weights).matrix(), torch.stack([a * B.matrix() for a, B in zip(weights, each, strict=True)]))
    if (C := A.circulant()) is not None:
        agree(C(z), A(z))
        agree(C(z[0, 0]), A(z[0, 0]))
        agree((C * weights).matrix(), (A * weights).matrix())
        agree(inverse(C)(A(z)), z, float(cond(C).max()))
        agree(exp(C, weights).matrix(), torch.linalg.matrix_exp(weights[:, None, None] * A.matrix()), 100)
        agree(trace(C), torch.stack([trace(B) for B in each]))
        agree(C(z[:0]), A(z[:0]))


def test_kernels_train_through_every_padding_and_their_adjoint() -> None:
    for mode in ("zeros", "circular", "reflect", "replicate"):
        z = double(4)
        assert torch.autograd.gradcheck(
            lambda K, m=mode, x=z: Convolution(K, (1, 4), mode=m)(x), double(1, 1, 2).requires_grad_()
        )
        assert torch.autograd.gradcheck(
            lambda K, m=mode, x=z: Convolution(K, (1, 4), mode=m).H(x), double(1, 1, 2).requires_grad_()
        )
    A = Convolution(nn.Parameter(double(1, 1, 3)), (1, 4), mode="reflect")
    adjoint = A.H
    with torch.no_grad():
        A.kernel.mul_(2)
    agree(adjoint.matrix(), A.matrix().mT)  # an adjoint follows its operator
    assert [name for name, _ in A.named_parameters()] == ["kernel"]


FUNCTIONS: dict[str, Callable[[LinearOperator], LinearOperator]] = {
    "inverse": inverse,
    "pinv": pinv,
    "exp": exp,
    "cube": lambda A: A**3,
    "resolvent": lambda A: resolvent(A, 9.0),
    "slogdet": lambda A: Diagonal(slogdet(A).logabs.reshape(1)),
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_of_a_circular_convolution_have_gradients(f: Callable[[LinearOperator], LinearOperator]) -> None:
    def through(K: Tensor) -> Tensor:
        return f(Convolution(K, (2, 3), mode="circular")).matrix()

    start = double(2, 2, 2) + 2 * torch.eye(2)[..., None]
    assert torch.autograd.gradcheck(through, start.requires_grad_())


def test_interpolation_between_kernels_is_a_convolution() -> None:
    A, B = (Convolution(double(1, 1, 3), (1, 5), mode="reflect") for _ in range(2))
    C = 0.25 * A + 0.75 * B
    assert isinstance(C, Convolution)
    agree(C.matrix(), 0.25 * A.matrix() + 0.75 * B.matrix())


def test_the_algebra_of_circular_convolutions_stays_in_the_fourier_domain() -> None:
    A, B = Convolution(double(2, 2, 2), (2, 5), mode="circular"), Convolution(double(2, 2, 3), (2, 5), mode="circular")
    M, K, eye = A.matrix(), B.matrix(), torch.eye(10).double()
    one, circulant = identity(10, M), A.circulant()
    assert circulant is not None
    for joined, expected in (
        (A + B, M + K),
        (A @ B, M @ K),
        (A.H @ A, M.mT @ M),
        (circulant @ B.H, M @ K.mT),
        (A - 2 * one, M - 2 * eye),
        (inverse(A @ B), torch.linalg.inv(M @ K)),
        (-circulant, -M),
        (circulant**3, M @ M @ M),
        (sqrt(A.H @ A), tensor(scipy.linalg.sqrtm((M.mT @ M).numpy()).real)),
        (log(A.H @ A), tensor(scipy.linalg.logm((M.mT @ M).numpy()).real)),
        (power(A.H @ A, -0.5), torch.linalg.inv(tensor(scipy.linalg.sqrtm((M.mT @ M).numpy()).real))),
    ):
        assert isinstance(joined, BlockCirculant)
        agree(joined.matrix(), expected, float(torch.linalg.cond(M)) ** 2 * 100)
    other_grid = Convolution(double(5, 5, 1), (5, 2), mode="circular")
    agree((A + other_grid).matrix(), M + other_grid.matrix())
    agree((A + Dense(M)).matrix(), 2 * M)


@pytest.mark.parametrize("size", [(1,), (2,), (5,), (1, 1), (2, 2), (3, 4), (4, 3), (1, 6)], ids=str)
@pytest.mark.parametrize("channels", [(1, 1), (2, 3), (3, 2)], ids=str)
def test_real_singular_vectors_come_from_pairs_of_frequencies(size: tuple[int, ...], channels: tuple[int, int]) -> None:
    A = BlockCirculant.of(double(*channels, *size), len(size))
    M = A.matrix()
    U, s, V = svd(A)
    k = min(M.shape)
    agree(s, tensor(np.linalg.svd(M.numpy(), compute_uv=False)))
    agree((U * s) @ V.mT, M, 10)
    agree(U.mT @ U, torch.eye(k).double())
    agree(V.mT @ V, torch.eye(k).double())


def test_a_shift_has_repeated_singular_values_and_orthonormal_vectors() -> None:
    shift = Convolution(torch.tensor([[[1.0, 0.0]]]).double(), (1, 6), mode="circular", padding=[(1, 0)])
    U, s, V = svd(shift)
    agree(s, torch.ones(6).double())
    agree((U * s) @ V.mT, shift.matrix())
    assert torch.equal(shift.matrix().argmax(-1), torch.tensor([5, 0, 1, 2, 3, 4]))


def test_the_pseudoinverse_of_a_singular_convolution_cuts_over_all_frequencies() -> None:
    difference = Convolution(torch.tensor([[[-1.0, 1.0]]]).double(), (1, 6), mode="circular")
    assert rank(difference) == 5 and rank(difference, rtol=0.6) == 3
    agree(pinv(difference).matrix(), tensor(np.linalg.pinv(difference.matrix().numpy(), rcond=1e-9)))
    agree(pinv(difference, 0.6).matrix(), tensor(np.linalg.pinv(difference.matrix().numpy(), rcond=0.6)))


def test_a_large_circular_convolution_needs_no_dense_matrix() -> None:
    A = Convolution(double(8, 8, 3, 3) / 9, (8, 64, 64), mode="circular")
    U, s, V = svd(A, 4)
    agree(A(V.mT), (U * s).mT, 10)
    agree(A.H(U.mT), (V * s).mT, 10)
    z = double(2, 8 * 64 * 64)
    agree(inverse(A)(A(z)), z, float(cond(A).detach()))
    agree(slogdet(exp(A)).logabs, trace(A), 100)


@pytest.mark.parametrize(("kernels", "points"), [((0,), (0,)), ((0,), ()), ((1,), (0,)), ((3, 0), (3, 1))])
def test_batches_without_any_kernel_have_operators_and_gradients(kernels: tuple[int, ...], points: tuple[int, ...]) -> None:
    batch = torch.broadcast_shapes(kernels, points)
    x, y = torch.randn(*points, 50, requires_grad=True), torch.randn(*points, 75)
    A = Convolution(torch.randn(*kernels, 3, 2, 3, 3), (2, 5, 5), mode="circular")
    for f in (A, A.circulant(), A.H.H):
        assert f is not None
        assert f(x).shape == (*batch, 75) and f.H(y).shape == (*batch, 50)
        (gradient,) = torch.autograd.grad(f(x).sum(), [x])
        assert gradient.shape == x.shape and not gradient.any()
    assert pinv(A)(y).shape == (*batch, 50) and A.matrix().shape == (*kernels, 75, 50)


def test_a_circulant_follows_to_another_dtype() -> None:
    A = BlockCirculant.of(double(2, 2, 3), 1)
    z = torch.randn(4, 6)
    agree(A.float()(z), z @ A.matrix().mT)
    assert A.float().symbol.dtype == torch.complex64 and A.double().symbol.dtype == torch.complex128


# ------------------------------------------------------------------------------------------- direct sums, turns, selections
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
