"""Propagators: T steps of an integrator are one operator. The oracle is plain matrix algebra and scipy."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor

from induced.errors import DomainError, NotConverged
from induced.operators import Dense, LinearOperator, ScaledIdentityPlusLowRank
from induced.operators.base import Adjoint
from induced.operators.columns import compress
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, Stepwise, adaptive_grid, integrate, propagator
from induced.propagators.families import gaussian_rate
from induced.propagators.magnus import MAGNUS4
from proofs_tests.registry import DTYPES, agree, grad_of

METHODS = ("euler", "midpoint", "rk4", "magnus4")
ORDERS = {"euler": (1, 0.1), "midpoint": (2, 0.2), "rk4": (4, 0.3), "magnus4": (4, 0.3)}


class Rotations(OperatorFamily):
    """A dense family whose matrices do not commute: A_t = M_0 + sin(3 t) M_1 + t^2 M_2."""

    M: Tensor

    def __init__(self, dim: int = 5) -> None:
        super().__init__(dim)
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("M", torch.randn(3, dim, dim, generator=generator, dtype=torch.float64) / dim**0.5)

    def matrix(self, t: float) -> Tensor:
        return self.M[0] + math.sin(3 * t) * self.M[1] + t**2 * self.M[2]

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.matrix(float(t)))


class Constant(OperatorFamily):
    """A_t = A."""

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A.shape[0])
        self.A = A

    def at(self, t: float | Tensor) -> LinearOperator:
        return self.A


class Secretive(OperatorFamily):
    """A family that gives its operators alone."""

    def __init__(self, family: OperatorFamily) -> None:
        super().__init__(family.dim)
        self.family = family

    def at(self, t: float | Tensor) -> LinearOperator:
        return self.family.at(t)


Kind = Callable[..., LowRankFamily | SharedBasisFamily]

FAMILIES: dict[str, Callable[[], OperatorFamily]] = {
    "low rank": lambda: LowRankFamily(40, 2, 8, features=2),
    "low rank, rest_std": lambda: LowRankFamily(40, 2, 8, features=2, rest_std=0.3),
    "low rank of rank 0, rest_std": lambda: LowRankFamily(5, 0, 8, rest_std=0.3),
    "low rank that tells of no basis": lambda: Secretive(LowRankFamily(40, 2, 8, features=2, rest_std=0.3)),
    "one shared basis": lambda: SharedBasisFamily(20, 3, 8),
    "one shared basis, rest_std": lambda: SharedBasisFamily(20, 3, 8, rest_std=0.3),
    "one shared basis of rank 0": lambda: SharedBasisFamily(5, 0, 8, rest_std=0.3),
    "one shared basis of full rank": lambda: SharedBasisFamily(3, 3, 8, rest_std=0.3),
    "rank that outgrows n/4": lambda: LowRankFamily(12, 2, 8),
    "rank that outgrows n/4, rest_std": lambda: LowRankFamily(12, 2, 8, rest_std=0.3),
    "full rank": lambda: LowRankFamily(3, 3, 8),
    "one coordinate": lambda: LowRankFamily(1, 1, 8, rest_std=0.5),
    "one coordinate, one shared basis": lambda: SharedBasisFamily(1, 1, 8, rest_std=0.5),
    "dense": Rotations,
}


def exact(family: OperatorFamily, t0: float = 0.0, t1: float = 1.0) -> Tensor:
    """The propagator of z' = A_t z by scipy's adaptive method of order 8."""
    n = family.dim

    def velocity(t: float, z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return (family.at(float(t)).matrix().detach().numpy() @ z.reshape(n, n)).reshape(-1)

    start = torch.eye(n, dtype=torch.float64).numpy().reshape(-1)
    solved = scipy.integrate.solve_ivp(velocity, (t0, t1), start, method="DOP853", rtol=1e-13, atol=1e-14)
    return torch.from_numpy(solved.y[:, -1].reshape(n, n).copy())


def rk4_step(A: Callable[[float], Tensor], t: float, h: float) -> Tensor:
    """S_k of eqs. 48-53, with matrices."""
    eye = torch.eye(len(A(t)), dtype=torch.float64)
    K1 = A(t)
    K2 = A(t + h / 2) @ (eye + h / 2 * K1)
    K3 = A(t + h / 2) @ (eye + h / 2 * K2)
    K4 = A(t + h) @ (eye + h * K3)
    return eye + h / 6 * (K1 + 2 * K2 + 2 * K3 + K4)


def unchained_step(A: Callable[[float], Tensor], t: float, h: float) -> Tensor:
    """The known mistake: the weights of RK4 on stages that forget each other's products."""
    eye = torch.eye(len(A(t)), dtype=torch.float64)
    return eye + h / 6 * (A(t) + 4 * A(t + h / 2) + A(t + h))


def ordered_product(step: Callable[..., Tensor], A: Callable[[float], Tensor], T: int, *, backwards: bool = False) -> Tensor:
    """S_{T-1} ... S_0, or S_0 ... S_{T-1}."""
    B = torch.eye(len(A(0.0)), dtype=torch.float64)
    for k in range(T):
        S = step(A, k / T, 1 / T)
        B = B @ S if backwards else S @ B
    return B


def order(errors: list[float]) -> float:
    """The slope of log error over log h, for errors at halved steps."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


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


class InDouble(OperatorFamily):
    """A family without parameters, in float64."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("like", torch.zeros(()).double())


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


# ----------------------------------------------------------------------------------------------------------- one basis
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


# ------------------------------------------------------------------------------------------------------------- magnus4
class Unstructured(OperatorFamily):
    """The rotations as products of operators without a matrix of their own: every step is applied by products alone."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__(dim)
        self.inner = Rotations(dim)

    def at(self, t: float | Tensor) -> LinearOperator:
        return Adjoint(Dense(self.inner.matrix(float(t)).mT.contiguous()))


def magnus_step(A: Callable[[float], Tensor], t: float, h: float) -> Tensor:
    """exp(Omega) with matrices and scipy."""
    A1, A2 = A(t + (0.5 - math.sqrt(3) / 6) * h), A(t + (0.5 + math.sqrt(3) / 6) * h)
    omega = h / 2 * (A1 + A2) + math.sqrt(3) * h**2 / 12 * (A2 @ A1 - A1 @ A2)
    return torch.from_numpy(scipy.linalg.expm(omega.numpy()))


def test_a_magnus_step_is_the_exponential_of_two_gauss_nodes() -> None:
    family = Rotations()
    for T in (1, 3):
        agree(propagator(family, steps=T, method="magnus4").matrix(), ordered_product(magnus_step, family.matrix, T))


def test_a_structured_magnus_step_is_the_exponential_of_two_gauss_nodes() -> None:
    family = Secretive(LowRankFamily(40, 2, 8, features=1, rest_std=0.3)).double()
    with torch.no_grad():
        B = propagator(family, steps=4, method="magnus4")
        assert isinstance(B, ScaledIdentityPlusLowRank)
        agree(B.matrix(), ordered_product(magnus_step, lambda t: family.at(t).matrix(), 4))


@pytest.mark.parametrize("states", [1, 30])
def test_a_magnus_step_by_products_is_that_of_the_matrix(states: int) -> None:
    family = Unstructured(40)
    z = torch.randn(states, 40).double()
    expected = z @ ordered_product(magnus_step, family.inner.matrix, 3).mT
    agree(integrate(family, z, steps=3, method="magnus4"), expected)


@pytest.mark.parametrize("structured", [False, True])
def test_magnus_of_a_constant_operator_is_exact_in_one_step(structured: bool) -> None:
    U, V = torch.randn(12, 1).double() / 3, torch.randn(12, 1).double() / 3
    A = ScaledIdentityPlusLowRank(-0.5, U, V)
    B = propagator(Constant(A if structured else Dense(A.matrix())), 0.0, 2.0, steps=1, method="magnus4")
    agree(B.matrix(), torch.from_numpy(scipy.linalg.expm(2 * A.matrix().numpy())))


@pytest.mark.parametrize("name", ["dense", "low rank, rest_std", "rank that outgrows n/4"])
def test_magnus_backwards_inverts_exactly(name: str) -> None:
    family = FAMILIES[name]().double()
    with torch.no_grad():
        for grid in (3, [0.2, 0.3, 0.7, 1.0]):
            B = propagator(family, 0.2, 1.0, steps=grid, method="magnus4").matrix()
            back = propagator(family, 1.0, 0.2, steps=grid if isinstance(grid, int) else grid[::-1], method="magnus4").matrix()
            agree(back @ B, torch.eye(family.dim).double(), float(torch.linalg.cond(B)))
        other = propagator(family, 1.0, 0.2, steps=3).matrix() @ propagator(family, 0.2, 1.0, steps=3).matrix()
        with pytest.raises(AssertionError, match="rounding explains"):  # rk4 is not time-symmetric
            agree(other, torch.eye(family.dim).double(), float(torch.linalg.cond(B)))


@pytest.mark.parametrize("name", ["dense", "low rank", "low rank, rest_std"])
def test_the_determinant_of_magnus_is_the_exponential_of_the_traces(name: str) -> None:
    family, T = FAMILIES[name]().double(), 3
    nodes = [(k + node) / T for k in range(T) for node in (0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6)]
    with torch.no_grad():
        expected = sum(float(family.at(t).matrix().trace()) for t in nodes) / (2 * T)
        sign, logdet = torch.linalg.slogdet(propagator(family, steps=T, method="magnus4").matrix())
        assert sign == 1
        assert float(logdet) == pytest.approx(expected, abs=1e-11)
        of_rk4 = torch.linalg.slogdet(propagator(family, steps=T).matrix())[1]
        assert abs(float(of_rk4) - expected) > 1e-8


def test_gradients_of_magnus_are_those_of_the_integrator() -> None:
    family = LowRankFamily(12, 1, 4, rest_std=0.5).double()
    z = torch.randn(3, 12).double()
    propagator(family, steps=2, method="magnus4")(z).square().sum().backward()
    through_operator = {name: grad_of(p).clone() for name, p in family.named_parameters()}
    family.zero_grad()
    integrate(family, z, steps=2, method="magnus4").square().sum().backward()
    for name, p in family.named_parameters():
        agree(through_operator[name], grad_of(p), 10)


class Moving(OperatorFamily):
    """A_t = scale (-I + (U_0 + s U_1) (V_0 + s^2 V_1)^T) at s = scale t; the factors U or V hold the scale, or both its root."""

    def __init__(self, scale: float, dtype: torch.dtype, factor: str = "both", *, gain: float = 1.0) -> None:
        super().__init__(20)
        generator = torch.Generator().manual_seed(5)
        self.U, self.V = torch.randn(2, 2, 20, 2, generator=generator, dtype=torch.float64) * (gain / 20) ** 0.5
        powers = {"U": (1.0, 0.0), "V": (0.0, 1.0), "both": (0.5, 0.5)}[factor]
        self.scale, (self.u, self.v) = scale, (scale**power for power in powers)
        self.register_buffer("like", torch.zeros((), dtype=dtype))

    def at(self, t: float | Tensor) -> ScaledIdentityPlusLowRank:
        s = torch.as_tensor(t, dtype=torch.float64)[..., None, None] * self.scale
        U, V = self.u * (self.U[0] + s * self.U[1]), self.v * (self.V[0] + s**2 * self.V[1])
        c = torch.full(U.shape[:-2], -self.scale, dtype=torch.float64)
        return ScaledIdentityPlusLowRank(c.to(self.dtype), U.to(self.dtype), V.to(self.dtype))


class Matrices(OperatorFamily):
    """The same operators as `family` without their structure."""

    def __init__(self, family: OperatorFamily) -> None:
        super().__init__(family.dim)
        self.family = family

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.family.at(t).matrix())


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("stiffness", [1e2, 1e3, 1e4, 1e5, 1e6])
def test_a_stiff_magnus_step_does_not_cancel(stiffness: float, steps: int, gradients: bool) -> None:
    Q = torch.linalg.qr(torch.randn(30, 3).double())[0].requires_grad_(gradients)
    A = ScaledIdentityPlusLowRank(-1.0, -stiffness * Q, Q)
    P = (Q @ Q.mT).detach()
    expected = math.exp(-1) * (torch.eye(30).double() - P) + math.exp(-1 - stiffness) * P
    for family in (Constant(A), Matrices(Constant(A))):
        agree(propagator(family, steps=steps, method="magnus4").matrix(), expected, stiffness)


@pytest.mark.parametrize("gain", [1.0, 10.0, 30.0])
def test_a_magnus_step_in_a_basis_is_that_of_the_matrices(gain: float) -> None:
    family = Moving(1.0, torch.float64, gain=gain)
    expected = ordered_product(magnus_step, lambda t: family.at(t).matrix(), 2)
    B = propagator(family, steps=2, method="magnus4").matrix()
    agree(B / expected.norm(), expected / expected.norm(), gain**2)
    z = torch.randn(3, 20).double()
    stepped = integrate(family, z, steps=2, method="magnus4") / expected.norm()
    agree(stepped, z @ expected.mT / expected.norm(), gain**2)


def test_the_derivative_of_a_stiff_magnus_step_is_that_of_the_matrices() -> None:
    found = []
    for wrap in (Constant, lambda A: Matrices(Constant(A))):
        Q = torch.eye(12, 2).double().requires_grad_()
        B = propagator(wrap(ScaledIdentityPlusLowRank(-1.0, -300 * Q, Q)), steps=2, method="magnus4").matrix()
        (gradient,) = torch.autograd.grad((B * torch.arange(144.0).double().reshape(12, 12)).sum(), Q)
        found.append(gradient)
    agree(found[0], found[1], 300)
    assert found[0].norm() > 1


def test_stiff_magnus_steps_are_made_at_once() -> None:
    family = Moving(1.0, torch.float64, gain=30.0)
    h = torch.tensor([0.5, 0.01, 1.0]).double()
    nodes = [torch.tensor([0.1, 0.2, 0.7]).double(), torch.tensor([0.3, 0.3, 0.9]).double()]
    s, X, W = MAGNUS4.step([family.at(t) for t in nodes], h).parts(torch.float64) or pytest.fail()
    for k in range(3):
        one = MAGNUS4.step([family.at(float(t[k])) for t in nodes], float(h[k])).parts(torch.float64)
        assert one is not None
        expected = ScaledIdentityPlusLowRank(*one).matrix()
        agree(ScaledIdentityPlusLowRank(s[k], X[k], W[k]).matrix() / expected.norm(), expected / expected.norm(), 30)
    none = torch.zeros(0).double()
    parts = MAGNUS4.step([family.at(none), family.at(none)], none).parts(torch.float64)
    assert parts is not None and parts[1].shape == (0, 20, 4)


@pytest.mark.parametrize("factor", ["U", "V", "both"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1e30), (torch.float32, 1e-30), (torch.float64, 1e200), (torch.float64, 1e-200)]
)
def test_the_unit_of_time_does_not_matter(dtype: torch.dtype, scale: float, method: str, factor: str) -> None:
    expected = propagator(Moving(1.0, torch.float64), steps=3, method=method).matrix().to(dtype)
    family, t1 = Moving(scale, dtype, factor), 1 / scale
    z = torch.randn(4, 20, dtype=dtype)
    for each in (family, Matrices(family)):
        agree(propagator(each, 0.0, t1, steps=3, method=method).matrix(), expected)
        agree(integrate(each, z, 0.0, t1, steps=3, method=method), z @ expected.mT)
    assert len(adaptive_grid(family, 0.0, t1).times) == len(adaptive_grid(Moving(1.0, dtype)).times)


@pytest.mark.parametrize("size", [1e200, 1e20, 1e-20, 1e-200])
def test_a_restriction_is_the_family_however_its_factors_share_their_size(size: float) -> None:
    family = LowRankFamily(40, 2, 8, features=2).double()
    times = torch.tensor([0.2, 0.7]).double()
    with torch.no_grad():
        family.factors[0, 0], family.factors[1, 1] = 0.0, 0.0  # one feature moves V_t alone, the other U_t
        for held in (family.offset, family.factors.transpose(0, 1)):
            held[0] *= size
            held[1] /= size
        restricted = family.restricted(times, 40)
        assert restricted is not None
        _, X, Y = restricted.core(times)
        for t, x, y in zip(times, X, Y, strict=True):
            agree(restricted.basis @ x @ y.mT @ restricted.basis.mT, family.at(t).matrix())


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


# ----------------------------------------------------------------------------------------------------- one by one, grids
def test_the_times_of_steps_may_lie_in_an_interval_whose_square_underflows() -> None:
    family = Constant(Dense(1e200 * torch.diag(torch.tensor([1.0, -1.0]).double())))
    given = propagator(family, 0.0, 1e-200, steps=[0.0, 5e-201, 1e-200])
    agree(given.matrix(), propagator(family, 0.0, 1e-200, steps=2).matrix())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_one_by_one_are_the_collapsed_operator(name: str, method: str, dtype: torch.dtype) -> None:
    family = FAMILIES[name]().to(dtype)
    with torch.no_grad():
        lazy = Stepwise(family, 0.1, 0.9, steps=5, method=method)
        B = propagator(family, 0.1, 0.9, steps=5, method=method).matrix()
        agree(lazy.matrix(), B)
        w = torch.randn(3, family.dim, dtype=dtype)
        agree(lazy.H(w), w @ B)


@pytest.mark.parametrize("method", METHODS)
def test_the_adjoint_of_a_magnus_step_by_products(method: str) -> None:
    family = Unstructured(40)
    lazy, w = Stepwise(family, steps=3, method=method), torch.randn(1, 40).double()
    agree(lazy.H(w), w @ propagator(family.inner, steps=3, method=method).matrix())


def test_few_states_are_stepped_one_by_one() -> None:
    family = LowRankFamily(40, 2, 8)
    assert isinstance(propagator(family, steps=3, states=10), Stepwise)
    assert not isinstance(propagator(family, steps=3, states=11), Stepwise)
    assert not isinstance(propagator(family, steps=3), Stepwise)


def test_a_stepwise_operator_trains_and_says_what_it_does() -> None:
    family = LowRankFamily(6, 1, 4)
    lazy = Stepwise(family, steps=3, method="magnus4")
    assert set(lazy.parameters()) == set(family.parameters())
    assert "3 magnus4 steps from 0 to 1" in repr(lazy)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dense", "low rank, rest_std"])
def test_times_of_equal_steps_are_equal_steps(method: str, name: str) -> None:
    family = FAMILIES[name]().double()
    with torch.no_grad():
        expected = propagator(family, 0.0, 1.0, steps=4, method=method).matrix()
        agree(propagator(family, 0.0, 1.0, steps=[0.0, 0.25, 0.5, 0.75, 1.0], method=method).matrix(), expected)
        z = torch.randn(2, family.dim).double()
        agree(integrate(family, z, steps=(0.0, 0.25, 0.5, 0.75, 1.0), method=method), z @ expected.mT)


def test_unequal_steps_compose() -> None:
    family = Rotations()
    B = propagator(family, 0.0, 1.0, steps=[0.0, 0.3, 1.0]).matrix()
    agree(B, rk4_step(family.matrix, 0.3, 0.7) @ rk4_step(family.matrix, 0.0, 0.3))


# ------------------------------------------------------------------------------------------------------------- adaptive
@pytest.mark.parametrize(
    ("method", "tolerance"), [("euler", 1e-2), ("midpoint", 1e-4), ("rk4", 1e-9), ("rk4", 1e-5), ("magnus4", 1e-9)]
)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.3)], ids=str)
@pytest.mark.parametrize("name", ["dense", "dense of 20", "low rank"])
def test_adaptive_steps_meet_the_tolerance(method: str, tolerance: float, span: tuple[float, float], name: str) -> None:
    family = {
        "dense": Rotations,
        "dense of 20": lambda: Rotations(20),
        "low rank": lambda: LowRankFamily(24, 2, 8, features=1, rest_std=0.1).double(),
    }[name]()
    grid = adaptive_grid(family, *span, tolerance=tolerance, method=method)
    assert grid.times[0] == span[0] and grid.times[-1] == span[1] and grid.error <= tolerance
    with torch.no_grad():
        B = propagator(family, *span, steps=grid.times, method=method).matrix()
        expected = exact(family, *span)
    error = float((B - expected).norm() / expected.norm())
    assert error <= 1.5 * tolerance  # the 16 probes estimate a Frobenius norm
    assert grid.error / 3 <= error <= 3 * grid.error
    assert error >= tolerance / 100  # and no step is wasted


def test_steps_are_short_where_the_operator_is_fast() -> None:
    class Burst(InDouble):
        def at(self, t: float | Tensor) -> LinearOperator:
            return Dense(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double() * (1 + 50 * math.exp(-200 * (float(t) - 0.7) ** 2)))

    grid = adaptive_grid(Burst(2), tolerance=1e-6)
    steps = [(b - a, a) for a, b in pairwise(grid.times)]
    assert 0.6 < min(steps)[1] < 0.8
    assert max(steps)[0] > 10 * min(steps)[0]
    uniform = propagator(Burst(2), steps=len(steps)).matrix()
    expected = exact(Burst(2))
    assert (propagator(Burst(2), steps=grid.times).matrix() - expected).norm() < (uniform - expected).norm() / 10


def test_the_default_tolerance_suits_the_precision() -> None:
    family = LowRankFamily(8, 1, 4)
    assert adaptive_grid(family).error <= 100 * torch.finfo(torch.float32).eps
    assert adaptive_grid(family.double()).error <= 1e-8
    assert adaptive_grid(family) == adaptive_grid(family)
    assert "rk4 steps" in str(adaptive_grid(family))


def test_no_step_is_needed_for_no_change() -> None:
    grid = adaptive_grid(Constant(Dense(torch.zeros(3, 3))))
    assert grid.error == 0 and grid.rejected == 0
    agree(propagator(Constant(Dense(torch.zeros(3, 3))), steps=grid.times).matrix(), torch.eye(3))


def test_a_jump_is_resolved_or_refused() -> None:
    class Jump(InDouble):
        def at(self, t: float | Tensor) -> LinearOperator:
            return Dense(torch.eye(2).double() * (100.0 if float(t) > 0.3337 else 0.0))

    with pytest.raises(NotConverged, match=r"t = 0\.333"):
        adaptive_grid(Jump(2), tolerance=1e-12)
