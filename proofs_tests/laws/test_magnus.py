"""Steps of the fourth-order Magnus method: exact where A_t is constant, stable where it is stiff."""

import math

import pytest
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor

from induced.operators import Dense, ScaledIdentityPlusLowRank
from induced.propagators import LowRankFamily, OperatorFamily, adaptive_grid, integrate, propagator
from induced.propagators.magnus import MAGNUS4
from proofs_tests.laws.families import (
    FAMILIES,
    METHODS,
    Constant,
    Matrices,
    Rotations,
    Secretive,
    Unstructured,
    magnus_step,
    ordered_product,
)
from proofs_tests.registry import agree, grad_of


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
