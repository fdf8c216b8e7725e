"""Families of operators, and their propagators by matrices and by scipy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor

from induced.operators import Dense, LinearOperator
from induced.operators.base import Adjoint
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily

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


class InDouble(OperatorFamily):
    """A family without parameters, in float64."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("like", torch.zeros(()).double())


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


class Matrices(OperatorFamily):
    """The same operators as `family` without their structure."""

    def __init__(self, family: OperatorFamily) -> None:
        super().__init__(family.dim)
        self.family = family

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(self.family.at(t).matrix())
