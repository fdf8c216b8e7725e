"""One step of an integrator of z' = A_t z is a linear map S: applied to states, transposed, or as s I + X W^T."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor

from induced.operators.base import LinearOperator
from induced.operators.reduction import Triplets as Parts
from induced.operators.rules import Scalar, per_matrix
from induced.propagators.families import OperatorFamily


class Step(ABC):
    """The map S of one step, made from the operators at the nodes of its method."""

    @abstractmethod
    def apply(self, z: Tensor) -> Tensor:
        """S z."""

    @abstractmethod
    def apply_adjoint(self, w: Tensor) -> Tensor:
        """S^T w."""

    @abstractmethod
    def parts(self, dtype: torch.dtype) -> Parts | None:
        """(s, X, W) of S = s I + X W^T, computed in `dtype`; None where the operators have no such form.

        Batches of operators and as many lengths h give the parts of as many steps.
        """


class Method(NamedTuple):
    """An integrator: the nodes in [0, 1] at which a step evaluates the family, the step made of them, its order."""

    nodes: tuple[float, ...]
    step: Callable[[list[LinearOperator], Scalar], Step]
    order: int


class Interval(NamedTuple):
    """The times between which one step goes; h is their difference, as the grid gives it."""

    start: float
    end: float
    h: float

    def time(self, node: float) -> float:
        """The ends themselves for 0 and 1: the end of a step and the start of the next are the same number."""
        return self.start if node == 0 else self.end if node == 1 else self.start + node * self.h


def walk(family: OperatorFamily, grid: Iterable[Interval], method: Method) -> Iterator[Step]:
    """The steps in order; each distinct time is evaluated once, the end of a step serving as the start of the next."""
    known: dict[float, LinearOperator] = {}
    for interval in grid:
        times = [interval.time(node) for node in method.nodes]
        known = {s: known.get(s) or family.at(s) for s in times}
        yield method.step([known[s] for s in times], interval.h)


def parts_of(operators: list[LinearOperator], dtype: torch.dtype) -> dict[int, Parts] | None:
    """The parts (c, U, V) of each distinct operator, by identity; None if one of them has none."""
    if not all(hasattr(A, "parts") for A in operators):
        return None
    distinct = {id(A): A for A in operators}
    return {key: tuple(p.to(dtype) for p in A.parts()) for key, A in distinct.items()}  # type: ignore[operator]


@final
class RungeKutta(Step):
    """S = I + h sum_i weights_i K_i with the true stage products, K_i = A(t + nodes_i h) (I + nodes_i h K_{i-1}).

    Explicit methods whose stage i needs stage i-1 alone (eqs. 14-16, 48-53).
    """

    def __init__(self, nodes: Sequence[float], weights: Sequence[float], operators: list[LinearOperator], h: Scalar) -> None:
        self.stages = list(zip(operators, nodes, weights, strict=True))
        self.h = h

    def apply(self, z: Tensor) -> Tensor:
        increment, K = torch.zeros_like(z), torch.zeros_like(z)
        for A, node, weight in self.stages:
            K = A(z + (node * self.h) * K) if node else A(z)
            increment = increment + weight * K
        return z + self.h * increment

    def apply_adjoint(self, w: Tensor) -> Tensor:
        # K_i^T g = x + nodes_i h K_{i-1}^T x with x = A_i^T g: from the last stage to the first
        increment, x, chained = torch.zeros_like(w), torch.zeros_like(w), 0.0
        for A, node, weight in reversed(self.stages):
            x = A.apply_adjoint(weight * w + (chained * self.h) * x)
            increment, chained = increment + x, node
        return w + self.h * increment

    def parts(self, dtype: torch.dtype) -> Parts | None:
        """All stages h K_i are held as kappa I + basis W^T in one basis [U_1 U_2 ...]."""
        parts = parts_of([A for A, _, _ in self.stages], dtype)
        if parts is None:
            return None
        slots, start = {}, 0
        for key, (_, U, _) in parts.items():
            slots[key] = slice(start, start + U.shape[-1])
            start += U.shape[-1]
        basis = torch.cat([U for _, U, _ in parts.values()], -1)
        kappa, W = basis.new_zeros(()), torch.zeros_like(basis)
        total_c, total_W = basis.new_ones(()), torch.zeros_like(basis)
        for A, node, weight in self.stages:
            c, _, V = parts[id(A)]
            c, V = self.h * c, per_matrix(self.h) * V  # of h A: a product of two A_t may overflow
            # A (I + a (kappa I + basis W^T)) = c (1 + a kappa) I + basis (a c W)^T + U ((1 + a kappa) V + a W basis^T V)^T
            own = per_matrix(1 + node * kappa) * V + node * (W @ (basis.mT @ V))
            kappa, W = c * (1 + node * kappa), _add_columns(per_matrix(node * c) * W, slots[id(A)], own)
            total_c, total_W = total_c + weight * kappa, total_W + weight * W
        return total_c, basis, total_W


def _add_columns(W: Tensor, slot: slice, own: Tensor) -> Tensor:
    return torch.cat([W[..., : slot.start], W[..., slot] + own, W[..., slot.stop :]], -1)


def _runge_kutta(nodes: tuple[float, ...], weights: tuple[float, ...], order: int) -> Method:
    return Method(nodes, partial(RungeKutta, nodes, weights), order)


EULER = _runge_kutta((0.0,), (1.0,), 1)
MIDPOINT = _runge_kutta((0.0, 0.5), (0.0, 1.0), 2)
RK4 = _runge_kutta((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4)
