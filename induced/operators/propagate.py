"""Propagators of z' = A_t z: integrator steps are matrices, and T of them collapse into one operator (docs/mathematics.md, 3)."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import DomainError
from induced.operators.base import LinearOperator
from induced.operators.dense import Dense
from induced.operators.families import OperatorFamily
from induced.operators.lowrank import Parts, ScaledIdentityPlusLowRank, compress, identity
from induced.operators.magnus import MAGNUS4
from induced.operators.steps import EULER, MIDPOINT, RK4, Interval, Step, walk

METHODS = {"euler": EULER, "midpoint": MIDPOINT, "rk4": RK4, "magnus4": MAGNUS4}


def propagator(
    family: OperatorFamily,
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    steps: int | Sequence[float] = 100,
    method: str = "rk4",
    states: int | None = None,
) -> LinearOperator:
    """B = S_{T-1} ... S_1 S_0, the operator that T integrator steps from t0 to t1 apply to a state (eqs. 14-17, 48-53).

    The product is held in the form that costs least (benchmarks/bench_collapse.py measures the three):

    | form | when |
    |---|---|
    | one by one, `Stepwise` | B is to meet at most n/4 states in all (`states`): cheaper than any product |
    | c I + U V^T | the family has that form, and while the rank of B is at most n/4 |
    | dense | past that rank, by updates s B + X (W^T B) at O(n^2 r); and for other families, at O(n^3) |

    At n = 1024, rank 8 and 100 rk4 steps, one thread: collapsing takes 0.47 s factored and 0.59 s dense, stepping n/16, n/4 and
    n states 0.2, 0.5 and 2.3 s. Factors are multiplied in float64 and recompressed after each step to eps / T of the family's
    precision, so that all T truncations together cost one rounding.

    Arguments:
        family: t -> A_t.
        t0, t1: start and end of time; t1 < t0 integrates backwards.
        steps: number T >= 1 of equal steps, or their T + 1 times from t0 to t1, as `adaptive_grid` finds them.
        method: "euler", "midpoint", "rk4" or "magnus4".
        states: how many states B will be applied to in all, None for many: few of them are cheaper to step one by one.

    Returns:
        The operator B of shape (n, n).

    Raises:
        DomainError: unknown method, steps < 1, or times that do not lead from t0 to t1 in one direction.

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
    stepwise = Stepwise(family, t0, t1, steps=steps, method=method)
    if states is not None and 4 * states <= family.dim:
        return stepwise
    return stepwise.collapsed()


def integrate(
    family: OperatorFamily,
    z: Tensor,
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    steps: int | Sequence[float] = 100,
    method: str = "rk4",
) -> Tensor:
    """The state at t1 of z' = A_t z after `steps` integrator steps from z of shape (*batch, n) at t0: the multi-step sampler.

    Raises:
        DomainError: unknown method, steps < 1, or times that do not lead from t0 to t1 in one direction.
    """
    for step in walk(family, _grid(t0, t1, steps, method), METHODS[method]):
        z = step.apply(z)
    return z


@final
class Stepwise(LinearOperator):
    """S_{T-1} ... S_1 S_0 that is never multiplied out: each state, or state of the adjoint, takes the T steps.

    Arguments:
        family, t0, t1, steps, method: as of `propagator`.

    Raises:
        DomainError: as `propagator`.

    Law:
        `Stepwise(F, ...)(z) == integrate(F, z, ...)`, its adjoint S_0^T ... S_{T-1}^T (laws/test_propagators.py)
    """

    def __init__(
        self,
        family: OperatorFamily,
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        steps: int | Sequence[float] = 100,
        method: str = "rk4",
    ) -> None:
        super().__init__((family.dim, family.dim))
        self.family, self.grid, self.method = family, _grid(t0, t1, steps, method), method

    def reference(self) -> Tensor | None:
        return self.family.reference()

    def forward(self, z: Tensor) -> Tensor:
        for step in walk(self.family, self.grid, METHODS[self.method]):
            z = step.apply(z)
        return z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        for step in walk(self.family, reversed(self.grid), METHODS[self.method]):
            w = step.apply_adjoint(w)
        return w

    def collapsed(self) -> LinearOperator:
        """The same steps multiplied out: c I + U V^T while the rank is at most n/4, dense past that."""
        like, n = self.family.reference(), self.family.dim
        like = torch.zeros(()) if like is None else like
        precise = torch.promote_types(like.dtype, torch.float64)
        rtol = max(torch.finfo(precise).eps, torch.finfo(like.dtype).eps / len(self.grid))
        B = identity(n, like.to(precise))
        walked = walk(self.family, self.grid, METHODS[self.method])
        for step in walked:
            parts = step.parts(precise)
            if parts is None:
                return _dense(step.apply(B.matrix(n).mT.to(like.dtype)).mT, walked)
            B = _product(parts, B.parts(), rtol)
            if B.U.shape[-1] > n // 4:
                return _dense(B.matrix(n).to(like.dtype), walked)
        return ScaledIdentityPlusLowRank(*(part.to(like.dtype) for part in compress(*B.parts(), torch.finfo(like.dtype).eps)))

    def extra_repr(self) -> str:
        return f"shape={self.shape}, {len(self.grid)} {self.method} steps from {self.grid[0].start:g} to {self.grid[-1].end:g}"


def _grid(t0: float, t1: float, steps: int | Sequence[float], method: str) -> list[Interval]:
    if method not in METHODS:
        raise DomainError(f"unknown integrator {method!r}; known are {', '.join(sorted(METHODS))}")
    if isinstance(steps, int):
        if steps < 1:
            raise DomainError(f"the number of steps is at least 1, got {steps}")
        h = (t1 - t0) / steps
        return [Interval(t0 + k * h, t0 + (k + 1) * h, h) for k in range(steps)]
    times = [float(t) for t in steps]
    grid = [Interval(a, b, b - a) for a, b in pairwise(times)]
    if not grid or (times[0], times[-1]) != (t0, t1) or not all(step.h * (t1 - t0) > 0 for step in grid):
        raise DomainError(f"the times of the steps must lead from t0={t0} to t1={t1} in one direction, got {times}")
    return grid


def _dense(B: Tensor, steps: Iterable[Step]) -> LinearOperator:
    """The remaining steps applied to B, as updates where they have the form s I + X W^T."""
    for step in steps:
        parts = step.parts(B.dtype)
        B = step.apply(B.mT).mT if parts is None else _update(parts, B)
    return Dense(B)


def _update(S: Parts, B: Tensor) -> Tensor:
    """s B + X (W^T B), in one pass over B where no gradient needs s."""
    s, X, W = S
    if eager(X) and not (torch.is_grad_enabled() and any(part.requires_grad for part in (s, X, W, B))):
        return torch.addmm(B, X, W.mT @ B, beta=float(s))
    return s * B + X @ (W.mT @ B)


def _product(S: Parts, B: Parts, rtol: float) -> ScaledIdentityPlusLowRank:
    """(s I + X W^T)(b I + P Q^T) = s b I + [s P, X] [Q, b W + Q P^T W]^T, recompressed."""
    (s, X, W), (b, P, Q) = S, B
    left, right = torch.cat([s * P, X], -1), torch.cat([Q, b * W + Q @ (P.mT @ W)], -1)
    return ScaledIdentityPlusLowRank(*compress(s * b, left, right, rtol))
