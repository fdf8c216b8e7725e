"""Propagators of z' = A_t z: integrator steps are matrices, and T of them collapse into one operator (docs/mathematics.md, 3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators.base import LinearOperator
from induced.operators.dense import Dense
from induced.operators.families import OperatorFamily
from induced.operators.lowrank import Parts, ScaledIdentityPlusLowRank, compress, identity


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method whose stage i needs stage i-1 alone: K_i = A(t + nodes_i h) (I + nodes_i h K_{i-1})."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


METHODS = {
    "euler": Tableau((0.0,), (1.0,)),
    "midpoint": Tableau((0.0, 0.5), (0.0, 1.0)),
    "rk4": Tableau((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def propagator(
    family: OperatorFamily, t0: float = 0.0, t1: float = 1.0, *, steps: int = 100, method: str = "rk4"
) -> LinearOperator:
    """B = S_{T-1} ... S_1 S_0, the operator that T integrator steps from t0 to t1 apply to a state (eqs. 14-17, 48-53).

    A family of c I + U V^T keeps B in that form while its rank is at most n/4; past that, and for other families, B is a dense
    matrix. The choice is made by rank and size. The factors are multiplied in float64 and recompressed after each step to eps / T
    of the family's precision, so that all T truncations together cost one rounding.

    Arguments:
        family: t -> A_t.
        t0, t1: start and end of time; t1 < t0 integrates backwards.
        steps: number T >= 1 of equal steps.
        method: "euler", "midpoint" or "rk4".

    Returns:
        The operator B of shape (n, n).

    Raises:
        DomainError: unknown method, or steps < 1.

    Law:
        `propagator(F, ...)(z) == integrate(F, z, ...)` (eq. 17; laws/test_propagators.py)

    Example:
        >>> import torch
        >>> from induced.operators import LowRankFamily
        >>> family = LowRankFamily(dim=6, rank=2)
        >>> z = torch.randn(5, 6)
        >>> torch.allclose(propagator(family, steps=10)(z), integrate(family, z, steps=10), atol=1e-5)
        True
    """
    grid = _grid(t0, t1, steps, method)
    like = family.reference()
    like = torch.zeros(()) if like is None else like
    precise = torch.promote_types(like.dtype, torch.float64)
    rtol = max(torch.finfo(precise).eps, torch.finfo(like.dtype).eps / steps)
    B = identity(family.dim, like.to(precise))
    stages = _Stages(family, method)
    for k, step in enumerate(grid):
        operators = stages.at(step)
        if not all(hasattr(A, "parts") for A in operators):
            return _dense(family, B, grid[k:], method, like)
        B = _product(_step(operators, METHODS[method], step.h, precise), B.parts(), rtol)
        if B.U.shape[-1] > family.dim // 4:
            return _dense(family, B, grid[k + 1 :], method, like)
    return ScaledIdentityPlusLowRank(*(part.to(like.dtype) for part in compress(*B.parts(), torch.finfo(like.dtype).eps)))


def integrate(
    family: OperatorFamily, z: Tensor, t0: float = 0.0, t1: float = 1.0, *, steps: int = 100, method: str = "rk4"
) -> Tensor:
    """The state at t1 of z' = A_t z after `steps` integrator steps from z of shape (*batch, n) at t0: the multi-step sampler.

    Raises:
        DomainError: unknown method, or steps < 1.
    """
    return _advance(family, z, _grid(t0, t1, steps, method), method)


class _Step(NamedTuple):
    t0: float
    k: int
    h: float

    def time(self, node: float) -> float:
        """t0 + (k + node) h, in one rounding, so that the end of a step and the start of the next are the same number."""
        return self.t0 + (self.k + node) * self.h


def _grid(t0: float, t1: float, steps: int, method: str) -> list[_Step]:
    if method not in METHODS:
        raise DomainError(f"unknown integrator {method!r}; known are {', '.join(sorted(METHODS))}")
    if steps < 1:
        raise DomainError(f"the number of steps is at least 1, got {steps}")
    h = (t1 - t0) / steps
    return [_Step(t0, k, h) for k in range(steps)]


class _Stages:
    """The operators of one step; the end of a step is the start of the next, and equal nodes are evaluated once."""

    def __init__(self, family: OperatorFamily, method: str) -> None:
        self.family, self.nodes = family, METHODS[method].nodes
        self.known: dict[float, LinearOperator] = {}

    def at(self, step: _Step) -> list[LinearOperator]:
        times = [step.time(node) for node in self.nodes]
        self.known = {s: self.known.get(s) or self.family.at(s) for s in times}
        return [self.known[s] for s in times]


def _advance(family: OperatorFamily, z: Tensor, grid: list[_Step], method: str) -> Tensor:
    tableau, stages = METHODS[method], _Stages(family, method)
    for step in grid:
        h = step.h
        increment, K = torch.zeros_like(z), torch.zeros_like(z)
        for A, node, weight in zip(stages.at(step), tableau.nodes, tableau.weights, strict=True):
            K = A(z + (node * h) * K) if node else A(z)
            increment = increment + weight * K
        z = z + h * increment
    return z


def _dense(family: OperatorFamily, B: LinearOperator, grid: list[_Step], method: str, like: Tensor) -> LinearOperator:
    """The remaining steps, applied to the columns of B (which are the rows of its transpose)."""
    return Dense(_advance(family, B.matrix(family.dim).mT.to(like.dtype), grid, method).mT)


def _step(operators: list[LinearOperator], tableau: Tableau, h: float, dtype: torch.dtype) -> Parts:
    """S = I + h sum_i w_i K_i with the true stage products, all stages held as kappa I + basis W^T in one basis [U_1 U_2 ...]."""
    distinct = list({id(A): A for A in operators}.values())
    parts: dict[int, Parts] = {id(A): tuple(p.to(dtype) for p in A.parts()) for A in distinct}  # type: ignore[operator]
    slots, start = {}, 0
    for key, (_, U, _) in parts.items():
        slots[key] = slice(start, start + U.shape[-1])
        start += U.shape[-1]
    basis = torch.cat([U for _, U, _ in parts.values()], -1)
    kappa, W = basis.new_zeros(()), torch.zeros_like(basis)
    total_c, total_W = basis.new_ones(()), torch.zeros_like(basis)
    for A, node, weight in zip(operators, tableau.nodes, tableau.weights, strict=True):
        c, _, V = parts[id(A)]
        a = node * h
        # A (I + a (kappa I + basis W^T)) = c (1 + a kappa) I + basis (a c W)^T + U ((1 + a kappa) V + a W basis^T V)^T
        own = (1 + a * kappa) * V + a * (W @ (basis.mT @ V))
        kappa, W = c * (1 + a * kappa), _add_columns(a * c * W, slots[id(A)], own)
        total_c, total_W = total_c + h * weight * kappa, total_W + (h * weight) * W
    return total_c, basis, total_W


def _add_columns(W: Tensor, slot: slice, own: Tensor) -> Tensor:
    return torch.cat([W[:, : slot.start], W[:, slot] + own, W[:, slot.stop :]], -1)


def _product(S: Parts, B: Parts, rtol: float) -> ScaledIdentityPlusLowRank:
    """(s I + X W^T)(b I + P Q^T) = s b I + [s P, X] [Q, b W + Q P^T W]^T, recompressed."""
    (s, X, W), (b, P, Q) = S, B
    left, right = torch.cat([s * P, X], -1), torch.cat([Q, b * W + Q @ (P.mT @ W)], -1)
    return ScaledIdentityPlusLowRank(*compress(s * b, left, right, rtol))
