"""Derivatives of functions of operators, their batches, and torch.func."""

import math
from collections.abc import Callable, Sequence

import mpmath
import pytest
import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators import (
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    exp,
    function,
    log,
    power,
    resolvent,
    sqrt,
)
from induced.operators.base import Scaled
from proofs_tests.laws.functions import FUNCTIONS, entries, every_function, jordan, numbers
from proofs_tests.registry import agree, grad_of

START = {
    "identity": torch.eye(3).double(),
    "Jordan block": jordan(1.0, 3),
    "two equal eigenvalues": torch.diag(torch.tensor([2.0, 2.0, 1.0])).double(),
    "any": torch.tensor([[2.0, 0.3, -0.4], [0.5, 1.0, 0.2], [0.1, -0.3, 1.5]]).double(),
}


@every_function
@pytest.mark.parametrize("start", START)
def test_gradients_of_dense_functions_are_finite_differences(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: object, start: str
) -> None:
    leaf = START[start].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda M: f(Dense(M)).matrix(), leaf, nondet_tol=1e-12, fast_mode=True)


@pytest.mark.parametrize(("what", "f", "scalar"), FUNCTIONS[1:], ids=[name for name, *_ in FUNCTIONS[1:]])
def test_gradients_of_gradients_and_transforms_exist(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: object
) -> None:
    def through(M: Tensor) -> Tensor:
        return f(Dense(M)).matrix()

    M = START["any"]
    leaf = M[:2, :2].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(through, leaf, nondet_tol=1e-12, fast_mode=True)
    agree(torch.func.jacrev(through)(M), torch.func.jacfwd(through)(M), 100)
    agree(torch.func.vmap(through, in_dims=1)(torch.stack([M, 2 * M], 1)), torch.stack([through(M), through(2 * M)]))


@every_function
@pytest.mark.parametrize("kind", ["any", "U = V", "dependent columns", "U = 0"])
def test_gradients_of_structured_functions_are_finite_differences(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: object, kind: str
) -> None:
    U, V = (0.4 * torch.randn(5, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))
    U = {"any": U, "U = V": V, "dependent columns": U[:, :1].expand(5, 2), "U = 0": 0 * U}[kind]
    leaves = tuple(x.clone().requires_grad_() for x in (torch.tensor(1.5).double(), U, V))
    assert torch.autograd.gradcheck(
        lambda c, U, V: f(ScaledIdentityPlusLowRank(c, U, V)).matrix(), leaves, nondet_tol=1e-12, fast_mode=True
    )


@every_function
def test_gradients_of_diagonals_are_derivatives(
    what: str, f: Callable[[LinearOperator], LinearOperator], scalar: Callable[[mpmath.mpf], mpmath.mpf]
) -> None:
    d = torch.tensor([1.0, 1.0, 2.5]).double().requires_grad_()
    entries(f(Diagonal(d))).sum().backward()
    agree(grad_of(d), numbers(*(float(mpmath.diff(scalar, x)) for x in d.tolist())), 100)


def test_gradients_at_the_eigenvalue_zero() -> None:
    d = torch.tensor([0.0, 4.0]).requires_grad_()
    entries(sqrt(Diagonal(d))).sum().backward()
    assert grad_of(d).tolist() == [0.0, 0.25]
    U, V = (torch.tensor([[1.0], [2.0], [0.5]]).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda U, V: power(LowRank(U, V), 0.3).matrix(), (U, V), nondet_tol=1e-12, fast_mode=True)
    M = torch.diag(torch.tensor([0.0, 1.0])).requires_grad_()
    with pytest.raises(DomainError, match="gradient"):
        sqrt(Dense(M)).matrix().sum().backward()


def test_gradients_of_a_zero_or_an_ill_conditioned_float32_matrix_are_finite() -> None:
    for M in (torch.zeros(2, 2), torch.diag(torch.tensor([1e-4, 1.0, 1e-4]))):
        leaf = M.requires_grad_()
        function(Dense(leaf), torch.exp).matrix().sum().backward()
        assert grad_of(leaf).isfinite().all()
    leaf = torch.diag(torch.tensor([1e-4, 1.0, 1e-4])).requires_grad_()
    sqrt(Dense(leaf)).matrix().diagonal().sum().backward()
    agree(grad_of(leaf).diagonal(), torch.tensor([50.0, 0.5, 50.0]))


@pytest.mark.parametrize("kind", ["Dense", "Diagonal", "c I + U V^T"])
def test_functions_of_a_batch_are_those_of_each_operator(kind: str) -> None:
    M = 3 * torch.eye(4).double() + 0.4 * torch.randn(3, 4, 4).double()
    U, V, c = 0.5 * torch.randn(3, 6, 2).double(), 0.5 * torch.randn(6, 2).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    kinds: dict[str, tuple[LinearOperator, Sequence[LinearOperator]]] = {
        "Dense": (Dense(M), [Dense(m) for m in M]),
        "Diagonal": (Diagonal(M.diagonal(dim1=-2, dim2=-1)), [Diagonal(m.diagonal()) for m in M]),
        "c I + U V^T": (
            ScaledIdentityPlusLowRank(c, U, V),
            [ScaledIdentityPlusLowRank(a, u, V) for a, u in zip(c, U, strict=True)],
        ),
    }
    A, each = kinds[kind]
    t = torch.tensor([0.1, 0.2, 0.3]).double()
    agree(exp(A, t).matrix(), torch.stack([exp(a, s).matrix() for a, s in zip(each, t, strict=True)]))
    for f in (lambda A: power(A, 3), lambda A: power(A, 0.5), log, lambda A: function(A, torch.sin), lambda A: resolvent(A, 9.0)):
        agree(f(A).matrix(), torch.stack([f(a).matrix() for a in each]), 100)


def test_an_empty_batch_and_one_number() -> None:
    assert log(Dense(torch.eye(2).expand(0, 2, 2))).matrix().shape == (0, 2, 2)
    agree(log(Dense(torch.tensor([[math.e]]))).matrix(), torch.ones(1, 1))
    agree(sqrt(ScaledIdentityPlusLowRank(2.0, torch.ones(1, 1), torch.ones(1, 1) * 2)).matrix(), torch.full((1, 1), 2.0))
    agree(log(ScaledIdentityPlusLowRank(-1.0, torch.ones(1, 1), 2 * torch.ones(1, 1))).matrix(), torch.zeros(1, 1))
    agree(log(ScaledIdentityPlusLowRank(2.0, torch.ones(3, 0), torch.ones(3, 0))).matrix(), math.log(2) * torch.eye(3))


def test_a_scaled_operator_is_exponentiated_by_its_structure() -> None:
    A = Scaled(2.0, Diagonal(torch.ones(3)))
    assert isinstance(exp(A, 0.5), Diagonal)
    agree(exp(A, 0.5).matrix(), math.e * torch.eye(3))


def test_functions_stay_within_vmap_where_values_may_not_be_looked_at() -> None:
    V = torch.eye(5, 2).double()
    U = V + 0.2 * torch.rand(3, 5, 2).double()

    def through(U: Tensor) -> Tensor:
        return sqrt(LowRank(U, V)).matrix() + function(Diagonal(U[:, 0]), torch.sin).matrix()

    agree(torch.func.vmap(through)(U), torch.stack([through(u) for u in U]), 1e3)
