"""Propagators of z' = A_t z are the ordered products of the steps, and of the order of their method."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators import Dense, LinearOperator, ScaledIdentityPlusLowRank
from induced.operators.columns import compress
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, adaptive_grid, integrate, propagator
from induced.propagators.families import gaussian_rate
from induced.propagators.propagate import Stepwise
from proofs_tests.laws.families import (
    FAMILIES,
    METHODS,
    ORDERS,
    Constant,
    InDouble,
    Kind,
    Matrices,
    Rotations,
    Secretive,
    exact,
    order,
    ordered_product,
    rk4_step,
    unchained_step,
)
from proofs_tests.registry import DTYPES, agree, grad_of


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_one_operator_takes_the_steps_of_the_integrator(name: str, method: str, dtype: torch.dtype, steps: int) -> None:
    family = FAMILIES[name]().to(dtype)
    z = torch.randn(4, family.dim, dtype=dtype)
    with torch.no_grad():
        for t0, t1 in ((0.0, 1.0), (0.9, 0.2)):
            B = propagator(family, t0, t1, steps=steps, method=method)
            agree(B(z), integrate(family, z, t0, t1, steps=steps, method=method))


def test_the_propagator_stays_structured_while_its_rank_is_at_most_a_quarter() -> None:
    family = LowRankFamily(40, 2, 8, features=2, rest_std=0.3)
    with torch.no_grad():
        for B in (propagator(family, steps=20), propagator(Secretive(family), steps=20)):
            assert isinstance(B, ScaledIdentityPlusLowRank)
            assert 2 <= B.U.shape[-1] <= 6  # 2 columns for the offset and each of 2 features


def test_the_propagator_turns_dense_when_its_rank_outgrows_a_quarter() -> None:
    with torch.no_grad():
        assert isinstance(propagator(LowRankFamily(12, 2, 8), steps=20), Dense)


@pytest.mark.parametrize("name", ["low rank", "low rank, rest_std", "one shared basis", "rank that outgrows n/4"])
def test_the_propagator_is_the_same_with_and_without_gradients(name: str) -> None:
    family = FAMILIES[name]().double()
    with torch.no_grad():
        expected = propagator(family, steps=5).matrix()
    agree(propagator(family, steps=5).matrix(), expected)


@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_gradients_reach_the_family_and_are_those_of_the_integrator(kind: Kind) -> None:
    family = kind(12, 1, 4, rest_std=0.5).double()
    z = torch.randn(3, 12).double()
    propagator(family, steps=4)(z).square().sum().backward()
    through_operator = {name: grad_of(p).clone() for name, p in family.named_parameters()}
    family.zero_grad()
    integrate(family, z, steps=4).square().sum().backward()
    for name, p in family.named_parameters():
        agree(through_operator[name], grad_of(p), 10)


class Unrelated(InDouble):
    """Directions that are new at every time."""

    def at(self, t: float | Tensor) -> LinearOperator:
        generator = torch.Generator().manual_seed(round(float(t) * 1e6))
        U, V = torch.randn(2, self.dim, 2, generator=generator, dtype=torch.float64) / self.dim**0.5
        return ScaledIdentityPlusLowRank(torch.tensor(-0.5).double(), U, V)


@pytest.mark.parametrize(("steps", "form"), [(3, ScaledIdentityPlusLowRank), (11, ScaledIdentityPlusLowRank), (40, Dense)])
def test_a_rank_that_only_grows_ends_dense(steps: int, form: type[LinearOperator], monkeypatch: pytest.MonkeyPatch) -> None:
    factored: list[int] = []

    def counted(*given: Any) -> Any:
        factored.append(1)
        return compress(*given)

    monkeypatch.setattr("induced.propagators.propagate.compress", counted)
    family = Unrelated(120)
    B = propagator(family, steps=steps, method="euler")
    assert isinstance(B, form)
    agree(B.matrix(), ordered_product(lambda A, t, h: torch.eye(120).double() + h * A(t), lambda t: family.at(t).matrix(), steps))
    # each step, and all at the end in the family's precision; rank n/4 would be passed after 15
    assert len(factored) == (steps + 1 if form is ScaledIdentityPlusLowRank else 10)


@pytest.mark.fast
def test_steps_are_ordered_in_time() -> None:
    family = Rotations()
    for T in (1, 2, 7):
        agree(propagator(family, steps=T).matrix(), ordered_product(rk4_step, family.matrix, T))
    reversed_order = ordered_product(rk4_step, family.matrix, 7, backwards=True)
    B = propagator(family, steps=7).matrix()
    assert (B - reversed_order).norm() > 0.05 * B.norm()


def test_structured_steps_are_ordered_in_time() -> None:
    family = Secretive(LowRankFamily(40, 2, 8, features=2, rest_std=0.3)).double()

    def matrix(t: float) -> Tensor:
        return family.at(t).matrix()

    with torch.no_grad():
        B = propagator(family, steps=5)
        assert isinstance(B, ScaledIdentityPlusLowRank)
        agree(B.matrix(), ordered_product(rk4_step, matrix, 5))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dense", "low rank", "one shared basis"])
def test_methods_converge_with_their_order(method: str, name: str) -> None:
    family: OperatorFamily = Rotations()
    if name != "dense":
        family = LowRankFamily(24, 2, 8, features=1).double() if name == "low rank" else SharedBasisFamily(24, 4, 8).double()
        with torch.no_grad():
            family.get_parameter("hidden.0.weight").fill_(4.0)  # so that A_t varies enough for rk4 to be above rounding
    with torch.no_grad():
        B = exact(family)
        errors = [float((propagator(family, steps=T, method=method).matrix() - B).norm()) for T in (10, 20, 40)]
    expected, margin = ORDERS[method]
    assert order(errors) == pytest.approx(expected, abs=margin)


def test_unchained_stages_are_first_order_only_and_are_told_apart() -> None:
    family = Rotations()
    B = exact(family)
    errors = [float((ordered_product(unchained_step, family.matrix, T) - B).norm()) for T in (20, 40, 80)]
    assert order(errors) == pytest.approx(1, abs=0.2)
    with pytest.raises(AssertionError, match="rounding explains"):
        agree(propagator(family, steps=20).matrix(), ordered_product(unchained_step, family.matrix, 20))
    assert errors[0] > 1000 * float((propagator(family, steps=20).matrix() - B).norm())


@pytest.mark.parametrize("structured", [False, True])
def test_rk4_of_a_constant_operator_is_its_taylor_polynomial(structured: bool) -> None:
    U, V = torch.randn(12, 1).double() / 3, torch.randn(12, 1).double() / 3
    A = ScaledIdentityPlusLowRank(-0.5, U, V)
    M = A.matrix()
    B = propagator(Constant(A if structured else Dense(M)), steps=1)
    assert isinstance(B, ScaledIdentityPlusLowRank if structured else Dense)
    agree(B.matrix(), sum(torch.linalg.matrix_power(M, k) / math.factorial(k) for k in range(5)))


def test_euler_of_one_step_is_the_identity_plus_the_first_operator() -> None:
    family = Rotations()
    agree(propagator(family, steps=1, method="euler").matrix(), torch.eye(5).double() + family.matrix(0.0))
    agree(propagator(family, 0.5, 0.7, steps=1, method="euler").matrix(), torch.eye(5).double() + 0.2 * family.matrix(0.5))


@pytest.mark.parametrize("name", ["dense", "low rank, rest_std", "rank that outgrows n/4"])
def test_integrating_backwards_inverts(name: str) -> None:
    family = FAMILIES[name]().double()
    eye = torch.eye(family.dim).double()
    with torch.no_grad():
        errors = [
            float((propagator(family, 1.0, 0.2, steps=T).matrix() @ propagator(family, 0.2, 1.0, steps=T).matrix() - eye).norm())
            for T in (40, 80)
        ]
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 8 or errors[1] < 1e-12


def test_no_time_is_the_identity() -> None:
    agree(propagator(Rotations(), 0.4, 0.4, steps=3).matrix(), torch.eye(5).double())


def gaussian_generator(C: Tensor, t: float) -> Tensor:
    """A_t = (t C - (1 - t) I) ((1 - t)^2 I + t^2 C)^-1."""
    eye = torch.eye(len(C), dtype=C.dtype)
    return (t * C - (1 - t) * eye) @ torch.linalg.inv((1 - t) ** 2 * eye + t**2 * C)


@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_a_floor_family_starts_at_the_gaussian_oracle(kind: Kind) -> None:
    family = kind(8, 2, rest_std=0.2).double()
    with torch.no_grad():
        family.factors.zero_()
        C = torch.diag(torch.tensor([1.0, 1.0] + [0.2**2] * 6, dtype=torch.float64))
        for t in (0.0, 0.3, 0.8, 1.0):
            agree(family.at(t).matrix(), gaussian_generator(C, t), 25)
        errors = [float((propagator(family, steps=T).matrix() - C.sqrt()).norm()) for T in (50, 100, 200)]
    assert errors[-1] < 1e-6
    assert order(errors) == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_a_trained_floor_family_keeps_the_ends_of_every_gaussian_path(kind: Kind) -> None:
    family = kind(5, 2, rest_std=0.2).double()
    with torch.no_grad():
        for p in family.parameters():
            p.normal_()
        agree(family.at(0.0).matrix(), -torch.eye(5).double())
        agree(family.at(1.0).matrix(), torch.eye(5).double())


def test_the_gaussian_rate_is_the_logarithmic_derivative_of_the_standard_deviation() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    for s in (0.1, 1.0, 3.0):
        log_std = (((1 - t) ** 2 + (t * s) ** 2).sqrt()).log()
        agree(gaussian_rate(t, s).detach(), torch.autograd.grad(log_std.sum(), t)[0])


@pytest.mark.fast
@pytest.mark.parametrize("rest_std", [None, 0.4])
@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_a_family_at_a_batch_of_times_is_a_batch_of_operators(kind: Kind, rest_std: float | None) -> None:
    family = kind(6, 2, 8, rest_std=rest_std).double()
    times, z = torch.rand(3).double(), torch.randn(3, 6).double()
    with torch.no_grad():
        A = family.at(times)
        expected = torch.stack([family.at(float(t)).matrix() for t in times])
        agree(A.matrix(), expected)
        agree(A(z), (expected @ z.unsqueeze(-1)).squeeze(-1))
        agree(A.apply_adjoint(z), (expected.mT @ z.unsqueeze(-1)).squeeze(-1))
        agree(family.at(times[:2, None])(z), torch.stack([z @ M.mT for M in expected[:2]]))


# ------------------------------------------------------------------------------------------- what is no family, or few of it
@pytest.mark.parametrize("method", ["rk4", "magnus4"])
@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_a_family_that_is_not_finite_has_no_propagator(kind: Kind, method: str) -> None:
    for name in dict(kind(40, 2, 8, rest_std=0.3).named_parameters()):
        family = kind(40, 2, 8, rest_std=0.3)
        with torch.no_grad():
            family.get_parameter(name).view(-1)[0] = math.nan
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients), pytest.raises(DomainError, match="non-finite"):
                propagator(family, steps=3, method=method)
        with pytest.raises(DomainError, match="non-finite"):
            adaptive_grid(family, method=method)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["rk4", "magnus4"])
@pytest.mark.parametrize("part", ["c", "U", "V"])
def test_operators_that_are_not_finite_have_no_product(part: str, method: str, broken: float) -> None:
    class Broken(OperatorFamily):
        def at(self, t: float | Tensor) -> LinearOperator:
            parts = {"c": torch.ones(()), "U": torch.ones(20, 1), "V": torch.ones(20, 1)}
            if float(t) > 0.5:
                parts[part].view(-1)[0] = broken
            return ScaledIdentityPlusLowRank(**parts)

    for family in (Broken(20), Matrices(Broken(20))):
        with pytest.raises(DomainError, match="non-finite"):
            propagator(family, steps=4, method=method)


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8], ids=lambda kind: kind.__name__)
def test_a_number_of_steps_of_numpy_is_a_number(whole: Callable[[int], int]) -> None:
    family, z = LowRankFamily(6, 1, 4).requires_grad_(False), torch.randn(2, 6)
    agree(propagator(family, steps=whole(3)).matrix(), propagator(family, steps=3).matrix())
    agree(integrate(family, z, steps=whole(3)), integrate(family, z, steps=3))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(name: str, method: str, dtype: torch.dtype) -> None:
    if name == "dense":
        return  # its matrices are float64
    family = FAMILIES[name]().to(dtype).requires_grad_(False)
    B = propagator(family, steps=3, method=method)
    assert B.matrix().dtype == dtype
    z = torch.randn(4, family.dim, dtype=dtype)
    agree(
        integrate(family, z, steps=3, method=method).float() / 10,
        B(z).float() / 10,
        torch.finfo(dtype).eps / torch.finfo(torch.float32).eps,
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_no_states(name: str, method: str) -> None:
    family = FAMILIES[name]().double().requires_grad_(False)
    z = torch.zeros(0, family.dim).double()
    assert integrate(family, z, steps=2, method=method).shape == z.shape
    assert Stepwise(family, steps=2, method=method).H(z).shape == z.shape
    assert propagator(family, steps=2, method=method)(z).shape == z.shape
