"""Propagators: T steps of an integrator are one operator. The oracle is plain matrix algebra and scipy."""

import math
from collections.abc import Callable

import pytest
import scipy.integrate
import torch
from torch import Tensor

from induced.operators import (
    Dense,
    LinearOperator,
    LowRankFamily,
    OperatorFamily,
    ScaledIdentityPlusLowRank,
    gaussian_rate,
    integrate,
    propagator,
)
from proofs_tests.registry import DTYPES, agree

METHODS = ("euler", "midpoint", "rk4")
ORDERS = {"euler": (1, 0.1), "midpoint": (2, 0.2), "rk4": (4, 0.3)}


class Rotations(OperatorFamily):
    """A dense family whose matrices do not commute: A_t = M_0 + sin(3 t) M_1 + t^2 M_2."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__(dim)
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("M", torch.randn(3, dim, dim, generator=generator, dtype=torch.float64) / dim**0.5)

    def matrix(self, t: float) -> Tensor:
        M: Tensor = self.M
        return M[0] + math.sin(3 * t) * M[1] + t**2 * M[2]

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.matrix(float(t)))


class Constant(OperatorFamily):
    """A_t = A."""

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A.shape[0])
        self.A = A

    def at(self, t: float | Tensor) -> LinearOperator:
        return self.A


FAMILIES: dict[str, Callable[[], OperatorFamily]] = {
    "low rank": lambda: LowRankFamily(40, 2, 8, features=2),
    "low rank with a floor": lambda: LowRankFamily(40, 2, 8, features=2, floor=0.3),
    "low rank of rank 0 with a floor": lambda: LowRankFamily(5, 0, 8, floor=0.3),
    "rank that outgrows n/4": lambda: LowRankFamily(12, 2, 8),
    "rank that outgrows n/4, with a floor": lambda: LowRankFamily(12, 2, 8, floor=0.3),
    "full rank": lambda: LowRankFamily(3, 3, 8),
    "one coordinate": lambda: LowRankFamily(1, 1, 8, floor=0.5),
    "dense": Rotations,
}


def exact(family: OperatorFamily, t0: float = 0.0, t1: float = 1.0) -> Tensor:
    """The propagator of z' = A_t z by scipy's adaptive method of order 8."""
    n = family.dim

    def velocity(t: float, z: Tensor) -> Tensor:
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
    with torch.no_grad():
        B = propagator(LowRankFamily(40, 2, 8, features=2, floor=0.3), steps=20)
    assert isinstance(B, ScaledIdentityPlusLowRank)
    assert 2 <= B.U.shape[-1] <= 6  # 2 columns for the offset and each of 2 features


def test_the_propagator_turns_dense_when_its_rank_outgrows_a_quarter() -> None:
    with torch.no_grad():
        assert isinstance(propagator(LowRankFamily(12, 2, 8), steps=20), Dense)


@pytest.mark.parametrize("name", ["low rank", "low rank with a floor", "rank that outgrows n/4"])
def test_the_propagator_is_the_same_with_and_without_gradients(name: str) -> None:
    family = FAMILIES[name]().double()
    with torch.no_grad():
        expected = propagator(family, steps=5).matrix()
    agree(propagator(family, steps=5).matrix(), expected)


def test_gradients_reach_the_family_and_are_those_of_the_integrator() -> None:
    family = LowRankFamily(12, 1, 4, floor=0.5).double()
    z = torch.randn(3, 12).double()
    propagator(family, steps=4)(z).square().sum().backward()
    through_operator = {name: p.grad.clone() for name, p in family.named_parameters()}
    family.zero_grad()
    integrate(family, z, steps=4).square().sum().backward()
    for name, p in family.named_parameters():
        agree(through_operator[name], p.grad, 10)


def test_steps_are_ordered_in_time() -> None:
    family = Rotations()
    for T in (1, 2, 7):
        agree(propagator(family, steps=T).matrix(), ordered_product(rk4_step, family.matrix, T))
    reversed_order = ordered_product(rk4_step, family.matrix, 7, backwards=True)
    B = propagator(family, steps=7).matrix()
    assert (B - reversed_order).norm() > 0.05 * B.norm()


def test_structured_steps_are_ordered_in_time() -> None:
    family = LowRankFamily(40, 2, 8, features=2, floor=0.3).double()

    def matrix(t: float) -> Tensor:
        return family.at(t).matrix()

    with torch.no_grad():
        B = propagator(family, steps=5)
        assert isinstance(B, ScaledIdentityPlusLowRank)
        agree(B.matrix(), ordered_product(rk4_step, matrix, 5))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["dense", "low rank"])
def test_methods_converge_with_their_order(method: str, name: str) -> None:
    family = Rotations() if name == "dense" else LowRankFamily(24, 2, 8, features=1).double()
    if name == "low rank":
        with torch.no_grad():
            family.hidden[0].weight.fill_(4.0)  # so that A_t varies enough for rk4 to be above rounding
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


@pytest.mark.parametrize("name", ["dense", "low rank with a floor", "rank that outgrows n/4"])
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


def test_a_floor_family_starts_at_the_gaussian_oracle() -> None:
    family = LowRankFamily(8, 2, floor=0.2).double()
    with torch.no_grad():
        family.factors.zero_()
        C = torch.diag(torch.tensor([1.0, 1.0] + [0.2**2] * 6, dtype=torch.float64))
        for t in (0.0, 0.3, 0.8, 1.0):
            agree(family.at(t).matrix(), gaussian_generator(C, t), 25)
        errors = [float((propagator(family, steps=T).matrix() - C.sqrt()).norm()) for T in (50, 100, 200)]
    assert errors[-1] < 1e-6
    assert order(errors) == pytest.approx(4, abs=0.3)


def test_a_trained_floor_family_keeps_the_ends_of_every_gaussian_path() -> None:
    family = LowRankFamily(5, 2, floor=0.2).double()
    with torch.no_grad():
        family.offset.normal_()
        agree(family.at(0.0).matrix(), -torch.eye(5).double())
        agree(family.at(1.0).matrix(), torch.eye(5).double())


def test_the_gaussian_rate_is_the_logarithmic_derivative_of_the_standard_deviation() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    for s in (0.1, 1.0, 3.0):
        log_std = (((1 - t) ** 2 + (t * s) ** 2).sqrt()).log()
        agree(gaussian_rate(t, s).detach(), torch.autograd.grad(log_std.sum(), t)[0])


@pytest.mark.parametrize("floor", [None, 0.4])
def test_a_family_at_a_batch_of_times_is_a_batch_of_operators(floor: float | None) -> None:
    family = LowRankFamily(6, 2, 8, floor=floor).double()
    times, z = torch.rand(3).double(), torch.randn(3, 6).double()
    with torch.no_grad():
        A = family.at(times)
        expected = torch.stack([family.at(float(t)).matrix() for t in times])
        agree(A.matrix(), expected)
        agree(A(z), (expected @ z.unsqueeze(-1)).squeeze(-1))
        agree(A.apply_adjoint(z), (expected.mT @ z.unsqueeze(-1)).squeeze(-1))
