"""exp(t A) z without exp(t A): against scipy and mpmath, for states and operators of every size."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import NotConverged
from induced.operators import Dense, Diagonal, ScaledIdentityPlusLowRank, as_operator, exp_multiply
from proofs_tests.laws.unseen import Unseen, dtypes, sizes
from proofs_tests.registry import SQUARE_CORES, CoreCase, agree


def generators(n: int) -> dict[str, Tensor]:
    G = torch.randn(n, n).double() / n**0.5
    return {
        "random": G,
        "rotation": (G - G.mT) / 2,
        "decay": -G @ G.mT / 2,
        "level": G / 2 - torch.eye(n).double(),
        "nilpotent": torch.diag(torch.ones(n - 1), 1).double(),
        "zero": 0 * G,
    }


@dtypes
@pytest.mark.parametrize("name", generators(2))
@pytest.mark.parametrize("t", [1.0, -1.0, 8.0, 30.0, 0.0])
def test_the_exponential_of_a_state_without_the_exponential(dtype: torch.dtype, name: str, t: float) -> None:
    M = generators(30)[name].to(dtype)
    z = torch.randn(3, 30).to(dtype)
    x, report = exp_multiply(Unseen(M), z, t)
    assert report.converged and report.residual <= torch.finfo(dtype).eps
    exact = torch.from_numpy(scipy.sparse.linalg.expm_multiply(t * M.double().numpy(), z.double().numpy().T).T.copy())
    # a relative perturbation of M by eps, the least error there can be
    nearby = scipy.linalg.expm(t * M.double().numpy() * (1 + 1e-6))
    sensitivity = float(np.linalg.norm(nearby @ z.double().numpy().T - exact.numpy().T) / 1e-6 / np.linalg.norm(exact))
    size = float(exact.norm())
    agree(x / size, (exact / size).to(dtype), 1 + abs(t) * float(torch.linalg.matrix_norm(M.double(), 2)) + sensitivity)


def test_the_exponential_of_zero_products_of_one_coordinate() -> None:
    x, _ = exp_multiply(Dense(torch.tensor([[2.0]])), torch.tensor([3.0]))
    agree(x, torch.tensor([3 * math.exp(2.0)]), 2)
    assert exp_multiply(Dense(torch.eye(2)), torch.zeros(0, 2))[0].shape == (0, 2)
    assert exp_multiply(Dense(torch.eye(2)), torch.ones(2), torch.zeros(0))[0].shape == (0, 2)
    assert exp_multiply(Dense(torch.zeros(0, 0)), torch.zeros(2, 0))[0].shape == (2, 0)
    assert not exp_multiply(Dense(torch.eye(2)), torch.zeros(2))[0].any()


@pytest.mark.parametrize("case", SQUARE_CORES, ids=str)
def test_the_exponential_of_every_operator(case: CoreCase) -> None:
    M = case.matrix() / 4
    z = torch.randn(2, len(M)).double()
    x, report = exp_multiply(case.make(4 * M), z, 0.25)
    assert report.converged
    agree(x, z @ torch.linalg.matrix_exp(M).mT, 20)


def test_each_sample_may_have_a_time_and_an_operator_of_its_own() -> None:
    M, z, t = torch.randn(3, 4, 4).double(), torch.randn(3, 4).double(), torch.tensor([0.5, -2.0, 0.0]).double()
    x, _ = exp_multiply(Dense(M), z, t)
    agree(x, (torch.linalg.matrix_exp(t[:, None, None] * M) @ z[..., None])[..., 0], 100)


def test_gradients_reach_the_state_the_time_and_the_operator() -> None:
    M, z = (torch.randn(4, 4) / 2).double().requires_grad_(), torch.randn(2, 4).double().requires_grad_()
    t = torch.tensor(1.5).double().requires_grad_()
    found = torch.autograd.grad(exp_multiply(Dense(M), z, t)[0].pow(3).sum(), (M, z, t))
    expected = torch.autograd.grad((z @ torch.linalg.matrix_exp(t * M).mT).pow(3).sum(), (M, z, t))
    for mine, theirs in zip(found, expected, strict=True):
        agree(mine, theirs, 20)


def test_the_exponential_under_transformations() -> None:
    M, z = (torch.randn(4, 4) / 2).double(), torch.randn(3, 4).double()
    A, E = Dense(M), torch.linalg.matrix_exp(M)
    agree(torch.vmap(lambda z: exp_multiply(A, z)[0])(z), z @ E.mT, 10)
    agree(torch.func.jacrev(lambda z: exp_multiply(A, z)[0])(z[0]), E, 10)
    agree(torch.func.jvp(lambda z: exp_multiply(A, z)[0], (z,), (z,))[1], z @ E.mT, 10)
    compiled = torch.compile(lambda z: exp_multiply(A, z, norm=4.0)[0], fullgraph=True, backend="eager")
    agree(compiled(z), z @ E.mT, 10)
    seen: list[Any] = []
    torch.vmap(lambda z: (z, seen.append(exp_multiply(A, z)[1]))[0])(z)  # type: ignore[func-returns-value]
    assert seen[0].converged and 0 < seen[0].residual <= torch.finfo(torch.float64).eps


def test_a_norm_estimated_too_low_costs_terms_and_not_accuracy() -> None:
    M, z = torch.randn(8, 8).double(), torch.randn(8).double()
    x, report = exp_multiply(Dense(M), z, norm=0.3)
    assert report.converged
    agree(x, torch.linalg.matrix_exp(M) @ z, 10)


def test_a_series_that_is_cut_off_says_so() -> None:
    M = 20 * torch.randn(8, 8).double()
    _, report = exp_multiply(Dense(M), torch.randn(8).double(), norm=0.1)
    assert not report.converged and report.residual > 1e-3
    with pytest.raises(NotConverged, match="taylor"):
        exp_multiply(Dense(M), torch.randn(8).double(), norm=0.1, strict=True)


def test_a_larger_tolerance_needs_fewer_products() -> None:
    A, z = Dense(torch.randn(8, 8).double()), torch.randn(8).double()
    rough, exact = exp_multiply(A, z, tol=1e-3), exp_multiply(A, z)
    assert rough[1].iterations < exact[1].iterations
    assert 1e-9 < float((rough[0] - exact[0]).norm() / exact[0].norm()) < 1e-2


def test_the_level_of_an_operator_costs_no_products() -> None:
    small = ScaledIdentityPlusLowRank(0.0, torch.randn(50, 1).double() / 7, torch.randn(50, 1).double() / 7)
    z = torch.randn(50).double()
    _, without = exp_multiply(small, z)
    x, raised = exp_multiply(small + ScaledIdentityPlusLowRank(-80.0, small.U[:, :0], small.V[:, :0]), z)
    assert raised.iterations <= without.iterations + 2
    agree(x * math.exp(80.0), exp_multiply(small, z)[0], 80)


DIAGONALS = [(torch.float32, d) for d in ((0, 40), (0, 50), (0, 70), (0, 80), (-50, -60), (-60, -80), (80, 0, 0, 0, 0))] + [
    (torch.float64, d) for d in ((0, 340), (0, 400), (0, 600), (-600, -650))
]


@pytest.mark.parametrize(("dtype", "diagonal"), DIAGONALS, ids=str)
def test_states_may_grow_and_decay_through_the_range_of_the_dtype(dtype: torch.dtype, diagonal: tuple[float, ...]) -> None:
    d = torch.tensor(diagonal, dtype=dtype)
    x, report = exp_multiply(Diagonal(d), torch.ones(2, len(d), dtype=dtype))
    exact = torch.exp(d.double())
    assert report.converged
    # the condition of exp(d) is |d|: three roundings of the exponent
    agree((x.double() / exact).to(dtype), torch.ones(2, len(d), dtype=dtype), 0.03 * float(d.abs().max()))


@sizes
def test_a_state_of_any_size(dtype: torch.dtype, a: float) -> None:
    M, z = torch.randn(8, 8).double(), torch.randn(8).double()
    x, report = exp_multiply(Dense(M.to(dtype)), (z * a).to(dtype))
    assert report.converged
    agree((x.double() / a).to(dtype), (torch.linalg.matrix_exp(M) @ z).to(dtype), 20)


def far_from_normal() -> dict[str, tuple[Tensor, int]]:
    R = torch.randn(30, 30).double() / 30**0.5
    return {  # and the number of products: once for each unit of the norm would be ten times as many
        "a shear": (torch.tensor([[1.0, 1e4], [0.0, -1.0]]).double(), 200),
        "a stiff oscillator": (torch.tensor([[0.0, 1.0], [-1e4, 0.0]]).double(), 2000),
        "a block above the diagonal": (1e4 * torch.kron(torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double(), R), 100),
    }


@pytest.mark.parametrize("name", far_from_normal())
def test_the_steps_follow_the_growth_of_powers_and_not_the_norm(name: str) -> None:
    M, most = far_from_normal()[name]
    z = torch.randn(len(M)).double()
    x, report = exp_multiply(Unseen(M), z)
    assert report.converged and report.iterations <= most
    exact = mpmath.expm(mpmath.matrix(M.tolist())) * mpmath.matrix(z.tolist()) if len(M) == 2 else z + M @ z
    expected = torch.tensor([float(value) for value in exact], dtype=torch.float64)
    agree(x / expected.norm(), expected / expected.norm(), 10)
    batch, joint = exp_multiply(Dense(M.expand(2, *M.shape)), z)
    agree(batch / expected.norm(), expected.expand(2, -1) / expected.norm(), 10)
    assert joint.iterations <= most
    assert exp_multiply(Unseen(M), 1e-3 * z)[1].iterations == report.iterations  # they depend on A alone


def test_the_level_of_an_operator_far_from_normal_is_no_guess() -> None:
    # the mean of a few entries v^T A v says nothing here: the corner of 1e4 outweighs the level
    M = torch.kron(torch.tensor([[0.0, 1e4], [0.0, 0.0]]).double(), torch.eye(200).double()) - 3 * torch.eye(400).double()
    z = torch.randn(400).double()
    x, report = exp_multiply(Unseen(M), z)
    expected = math.exp(-3) * (z + (M + 3 * torch.eye(400)) @ z)
    assert report.iterations <= 300
    agree(x / expected.norm(), expected / expected.norm(), 10)


def test_an_operator_without_an_adjoint_needs_a_norm() -> None:
    A = as_operator(scipy.sparse.linalg.LinearOperator((3, 3), matvec=lambda x: 2 * x, dtype=np.float64))
    agree(exp_multiply(A, torch.ones(3).double(), norm=2.0)[0], torch.full((3,), math.exp(2.0), dtype=torch.float64))


def test_values_are_looked_at_in_eager_mode_only() -> None:
    seen: list[bool] = []
    torch.vmap(lambda z: (z, seen.append(eager(z)))[0])(torch.zeros(2))  # type: ignore[func-returns-value]
    assert seen == [False] and eager(torch.zeros(2))


def test_diagonals_agree_with_the_scalar_exponential() -> None:
    d, z = torch.tensor([-5.0, 0.0, 4.0]).double(), torch.ones(3).double()
    agree(exp_multiply(Diagonal(d), z, 2.0)[0], torch.exp(2 * d), 20)
