"""Gradients of functions of operators against finite differences and those of LAPACK's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators import Dense, Diagonal, LinearOperator, LowRank, ScaledIdentityPlusLowRank, exp, inverse, pinv, power, svd
from proofs_tests.laws.tensors import number
from proofs_tests.registry import agree, grad_of

U = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
V = torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


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
