"""Families whose operators all act in one basis: restrictions, and steps that are made in it."""

import pytest
import torch
from torch import Tensor

from induced.operators import Dense, ScaledIdentityPlusLowRank
from induced.propagators import LowRankFamily, SharedBasisFamily, propagator
from induced.propagators.families import gaussian_rate
from induced.propagators.propagate import Stepwise
from proofs_tests.laws.families import Kind, Rotations, magnus_step, ordered_product, rk4_step
from proofs_tests.registry import DTYPES, agree

TIMES = torch.linspace(0, 1, 7).double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rest_std", [None, 0.4])
@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_a_restriction_is_the_family_in_one_basis(kind: Kind, rest_std: float | None, dtype: torch.dtype) -> None:
    family = kind(30, 2, 8, features=3, rest_std=rest_std).to(dtype)
    with torch.no_grad():
        restricted = family.restricted(TIMES, 30)
        assert restricted is not None
        (Q, core), eye = restricted, torch.eye(30).double()
        agree(Q.mT @ Q, torch.eye(Q.shape[1]).double())
        for t, c, X, Y in zip(TIMES, *core(TIMES), strict=True):
            agree((c * eye + Q @ X @ Y.mT @ Q.mT).to(dtype), family.at(t).matrix())


def test_a_restriction_has_the_columns_that_the_times_call_for() -> None:
    family = LowRankFamily(60, 2, 8, features=3).double()
    last = family.get_parameter("hidden.2.weight")

    def columns(times: Tensor) -> int:
        restricted = family.restricted(times, 60)
        assert restricted is not None
        return restricted.basis.shape[1]

    with torch.no_grad():
        assert [columns(TIMES[:k]) for k in (1, 2, 3, 7)] == [4, 8, 12, 16]  # 2 factors of rank 2, by 1 and 3 features at most
        last[1:] = 0.0  # one feature is left to vary
        assert columns(TIMES) == 8
        last.zero_()
        assert columns(TIMES) == 4
        family.factors.zero_()
        family.offset.zero_()
        assert columns(TIMES) == 0
        agree(propagator(family, steps=2).matrix(), torch.eye(60).double())


def test_a_family_has_no_restriction_past_the_columns_of_use_nor_where_a_truncation_would_need_a_derivative() -> None:
    low, shared = LowRankFamily(30, 2, 8, features=1), SharedBasisFamily(30, 8, 8)
    assert low.restricted(TIMES, 30) is None and shared.restricted(TIMES, 30) is not None
    assert Rotations().restricted(TIMES, 5) is None
    with torch.no_grad():
        assert low.restricted(TIMES, 7) is None and low.restricted(TIMES, 8) is not None
        assert shared.restricted(TIMES, 7) is None and shared.restricted(TIMES, 8) is not None
    assert low.requires_grad_(False).restricted(TIMES, 8) is not None


@pytest.mark.parametrize("rest_std", [None, 0.3])
@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_steps_in_one_basis_are_those_of_the_matrices(kind: Kind, rest_std: float | None) -> None:
    family = kind(40, 2, 8, features=2, rest_std=rest_std).double()
    with torch.no_grad():
        assert family.restricted(TIMES, 20) is not None
        for method, step in (("rk4", rk4_step), ("magnus4", magnus_step)):
            B = propagator(family, steps=5, method=method)
            agree(B.matrix(), ordered_product(step, lambda t: family.at(t).matrix(), 5))


def test_steps_in_one_basis_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    family = LowRankFamily(40, 2, 8, features=2, rest_std=0.3).double()
    with torch.no_grad():
        expected = propagator(family, steps=7).matrix()
        monkeypatch.setattr("induced.propagators.propagate.BLOCK", 2 * 12**2)  # two steps of 12 columns
        agree(propagator(family, steps=7).matrix(), expected)


def test_a_rank_past_a_quarter_is_dense_in_one_basis_too() -> None:
    with torch.no_grad():
        assert isinstance(propagator(SharedBasisFamily(20, 5, 8, rest_std=0.3), steps=3), ScaledIdentityPlusLowRank)
        assert isinstance(propagator(SharedBasisFamily(20, 6, 8, rest_std=0.3), steps=3), Dense)


def test_many_steps_in_one_basis_are_multiplied_even_for_one_state() -> None:
    family = SharedBasisFamily(40, 2, 8)
    assert isinstance(propagator(family, steps=15, states=1), Stepwise)
    assert not isinstance(propagator(family, steps=16, states=1), Stepwise)
    assert isinstance(propagator(Rotations(), steps=16, states=1), Stepwise)


def test_the_shared_basis_is_orthonormal_and_the_parameter_itself_where_that_is() -> None:
    family = SharedBasisFamily(9, 4).double()
    with torch.no_grad():
        Q = family.basis()
        agree(Q.mT @ Q, torch.eye(4).double())
        agree(Q @ (Q.mT @ family.directions), family.directions)
        family.directions.copy_(Q)
        agree(family.basis(), Q)
        agree(SharedBasisFamily(9, 4, rest_std=0.1).basis(), torch.eye(9, 4))


def test_a_shared_basis_family_is_a_small_matrix_in_its_basis() -> None:
    family = SharedBasisFamily(9, 2, rest_std=0.3).double()
    with torch.no_grad():
        family.directions.normal_()
        family.factors.normal_()
        Q = torch.linalg.qr(family.directions)[0]
        outside = torch.linalg.qr(family.directions, mode="complete")[0][:, 2:]
        K = {}
        for t in (0.2, 0.7):
            A = family.at(t).matrix()
            agree(A @ outside, float(gaussian_rate(torch.tensor(t, dtype=torch.float64), 0.3)) * outside)
            K[t] = Q.mT @ A @ Q
            agree(A @ Q, Q @ K[t])
        assert (K[0.2] @ K[0.7] - K[0.7] @ K[0.2]).norm() > 1e-3  # and it can be any matrix: nothing commutes
