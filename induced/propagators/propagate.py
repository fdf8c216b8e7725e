"""Propagators of z' = A_t z: integrator steps are matrices; T of them collapse into one (docs/theory/flow_matching.md)."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import final

import torch
from torch import Tensor

from induced._module import reference
from induced._numerics import linear_algebra
from induced._registry import saved_as
from induced._validate import eager, require_finite
from induced.errors import DomainError, ShapeError
from induced.operators.base import Dense, LinearOperator
from induced.operators.columns import compress
from induced.operators.lowrank import ScaledIdentityPlusLowRank, identity
from induced.operators.reduction import Triplets as Parts
from induced.operators.rules import kind
from induced.propagators.families import OperatorFamily, Restriction
from induced.propagators.magnus import MAGNUS4
from induced.propagators.steps import EULER, MIDPOINT, RK4, Interval, Method, Step, walk

BLOCK = 2**21
"""Numbers that the parts of steps made at once may hold, about: many steps for batched products, little memory."""

MANY = 16
"""Steps from which products in one basis cost less than taking the steps with a single state (12 at n = 1024, rank 8)."""

UNRELATED = 10
"""Steps after which a rank that still grows by half of each step's columns is taken to go on: smooth A_t repeat themselves."""

_PRODUCT = (
    "the product of the steps",
    "A_t is not finite at one of their times, or too large: take shorter steps",
)

METHODS = {"euler": EULER, "midpoint": MIDPOINT, "rk4": RK4, "magnus4": MAGNUS4}


@linear_algebra
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

    The product is made in the form that costs least (benchmarks/bench_collapse.py measures them):

    | form | when |
    |---|---|
    | p x p matrices in one basis | the family has a basis of p <= n/2 columns for all its times (`OperatorFamily.restricted`) |
    | one by one, `Stepwise` | B is to meet at most n/4 states in all (`states`), and has no such basis or fewer than 16 steps |
    | c I + U V^T | the family has that form, and while the rank of B is at most n/4 |
    | dense | past that rank, or when bound for it, by updates s B + X (W^T B) at O(n^2 r); for other families, at O(n^3) |

    At n = 1024, rank 8 and 100 rk4 steps, one thread: collapsing takes 0.03 s in one basis, 0.4 s factored and 0.4 s dense,
    stepping n/16, n/4 and n states 0.2, 0.5 and 2.3 s. B is held as c I + U V^T while its rank is at most n/4. Factors are
    multiplied in float64; those of n rows are recompressed after each step to eps / T of the family's precision, so that all T
    truncations together cost one rounding.

    Arguments:
        family: t -> A_t.
        t0, t1: start and end of time; t1 < t0 integrates backwards.
        steps: number T >= 1 of equal steps, or their T + 1 times from t0 to t1, as `adaptive_grid` finds them.
        method: "euler", "midpoint", "rk4" or "magnus4".
        states: how many states B will be applied to in all, None for many: few of them are cheaper to step one by one.

    Returns:
        The operator B of shape (n, n).

    Raises:
        DomainError: unknown method, steps < 1, times that do not lead from t0 to t1 in one direction, or a B that is not finite.
        ShapeError: t0 or t1 is a batch of times.

    Law:
        `propagator(F, ...)(z) == integrate(F, z, ...)` (eq. 17; laws/test_propagators.py)

    Example:
        >>> import torch
        >>> from induced.propagators import LowRankFamily
        >>> family = LowRankFamily(dim=6, rank=2)
        >>> z = torch.randn(5, 6)
        >>> torch.allclose(propagator(family, steps=10)(z), integrate(family, z, steps=10), atol=1e-5)
        True
    """
    stepwise = Stepwise(family, t0, t1, steps=steps, method=method)
    few = states is not None and 4 * states <= family.dim
    B = None if few and len(stepwise.grid) < MANY else stepwise._in_one_basis()
    if B is None:
        B = stepwise if few else stepwise._product()
    for part in (B.A,) if isinstance(B, Dense) else B.parts() if isinstance(B, ScaledIdentityPlusLowRank) else ():
        require_finite(part, *_PRODUCT)
    return B


@linear_algebra
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
        ShapeError: t0 or t1 is a batch of times.
    """
    return Stepwise(family, t0, t1, steps=steps, method=method).forward(z)


def _built(family: OperatorFamily, grid: list[list[float]], method: str) -> "Stepwise":
    made = Stepwise(family, steps=1, method=method)
    made.grid = [Interval(*step) for step in grid]
    return made


@final
@saved_as("propagators.Stepwise", "family", "grid", "method", build=_built)
class Stepwise(LinearOperator):
    """S_{T-1} ... S_1 S_0 that is never multiplied out: each state, or state of the adjoint, takes the T steps.

    Arguments:
        family, t0, t1, steps, method: as of `propagator`.

    Raises:
        DomainError, ShapeError: as `propagator`.

    Law:
        `Stepwise(F, ...)(z) == integrate(F, z, ...)`, its adjoint S_0^T ... S_{T-1}^T (laws/test_steps.py)
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
        self.family, self.grid, self.method = family, intervals(t0, t1, steps, method), method

    def _reference(self) -> Tensor | None:
        return reference(self.family)

    def forward(self, z: Tensor) -> Tensor:
        for step in walk(self.family, self.grid, METHODS[self.method]):
            z = step.apply(z)
        return z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        for step in walk(self.family, reversed(self.grid), METHODS[self.method]):
            w = step.apply_adjoint(w)
        return w

    def _in_one_basis(self) -> LinearOperator | None:
        """The same steps multiplied out in the family's basis of p <= n/2 columns; None where it has none."""
        like, n, method = kind(self.family), self.family.dim, METHODS[self.method]
        times = torch.tensor(
            [[interval.time(node) for node in method.nodes] for interval in self.grid], dtype=torch.float64, device=like.device
        )
        restricted = self.family.restricted(times.flatten(), n // 2)
        return None if restricted is None else _embedded(restricted, times, self.grid, method, like.dtype)

    def _product(self) -> LinearOperator:
        """The steps multiplied one after the other, as n x n operators."""
        like, n = kind(self.family), self.family.dim
        precise = torch.promote_types(like.dtype, torch.float64)
        rtol = max(torch.finfo(precise).eps, torch.finfo(like.dtype).eps / len(self.grid))
        B = identity(n, like.to(precise))
        walked = walk(self.family, self.grid, METHODS[self.method])
        for taken, step in enumerate(walked, 1):
            parts, before = step.parts(precise), B.U.shape[-1]
            if parts is None:
                return _dense(step.apply(B.matrix(n).mT.to(like.dtype)).mT, walked)
            B = _product(parts, B.parts(), rtol)
            rank, grown = B.U.shape[-1], B.U.shape[-1] - before
            unrelated = taken >= UNRELATED and 2 * grown >= parts[1].shape[-1]
            if rank > n // 4 or (unrelated and rank + (len(self.grid) - taken) * grown > n // 4):
                return _dense(B.matrix(n).to(like.dtype), walked)
        return ScaledIdentityPlusLowRank(*(part.to(like.dtype) for part in compress(*B.parts(), torch.finfo(like.dtype).eps)))

    def extra_repr(self) -> str:
        return f"shape={self.shape}, {len(self.grid)} {self.method} steps from {self.grid[0].start:g} to {self.grid[-1].end:g}"


def intervals(t0: float, t1: float, steps: int | Sequence[float], method: str) -> list[Interval]:
    """The steps; raises where there is no such method, or none from t0 to t1."""
    if method not in METHODS:
        raise DomainError(f"unknown integrator {method!r}; known are {', '.join(sorted(METHODS))}")
    for t in (t0, t1):
        if isinstance(t, Tensor) and t.dim():
            raise ShapeError(
                f"t0 and t1 are one number each, for all samples, got a tensor of shape {tuple(t.shape)}: call once for "
                f"each pair of times"
            )
    if isinstance(steps, int | Real):
        if not isinstance(steps, Integral) or (count := int(steps)) < 1:
            raise DomainError(f"the number of steps is a whole number of at least 1, got {steps}")
        h = (t1 - t0) / count
        return [Interval(t0 + k * h, t0 + (k + 1) * h, h) for k in range(count)]
    times = [float(t) for t in steps]
    grid = [Interval(a, b, b - a) for a, b in pairwise(times)]
    if not grid or (times[0], times[-1]) != (t0, t1) or not all(math.copysign(1.0, t1 - t0) * step.h > 0 for step in grid):
        raise DomainError(f"the times of the steps must lead from t0={t0} to t1={t1} in one direction, got {times}")
    return grid


def _embedded(restricted: Restriction, times: Tensor, grid: list[Interval], method: Method, dtype: torch.dtype) -> LinearOperator:
    """The steps on R^p and, as the number s, on what is orthogonal to Q: s I + Q (B - s I) Q^T."""
    Q, lengths = restricted.basis, times.new_tensor([interval.h for interval in grid])
    n, p = Q.shape
    size = max(1, BLOCK // max(1, p**2))
    eye = torch.eye(p, dtype=Q.dtype, device=Q.device)
    s, B = Q.new_ones(()), eye
    for block, h in zip(torch.split(times, size), torch.split(lengths, size), strict=True):
        at = dict(zip(method.nodes, block.unbind(-1), strict=True))
        made = {node: ScaledIdentityPlusLowRank(*restricted.core(t)) for node, t in at.items()}
        parts = method.step([made[node] for node in method.nodes], h).parts(Q.dtype)
        assert parts is not None
        for step in zip(*(part.unbind() for part in parts), strict=True):
            s, B = step[0] * s, _update(step, B)
    require_finite(B, *_PRODUCT)
    s, U, V = compress(s, B - s * eye, eye, torch.finfo(dtype).eps)
    found = ScaledIdentityPlusLowRank(s.to(dtype), (Q @ U).to(dtype), (Q @ V).to(dtype))
    return Dense(found.matrix(n)) if U.shape[-1] > n // 4 else found


def _dense(B: Tensor, steps: Iterable[Step]) -> LinearOperator:
    """The remaining steps applied to B, as updates where they have the form s I + X W^T."""
    for step in steps:
        parts = step.parts(B.dtype)
        B = step.apply(B.mT).mT if parts is None else _update(parts, B)
    return Dense(B)


def _update(S: Parts, B: Tensor) -> Tensor:
    """s B + X (W^T B), in one pass over B where no gradient needs s, and the host need not wait for it."""
    s, X, W = S
    if X.is_cpu and eager(X) and not (torch.is_grad_enabled() and any(part.requires_grad for part in (s, X, W, B))):
        return torch.addmm(B, X, W.mT @ B, beta=float(s))
    return s * B + X @ (W.mT @ B)


def _product(S: Parts, B: Parts, rtol: float) -> ScaledIdentityPlusLowRank:
    """(s I + X W^T)(b I + P Q^T) = s b I + [s P, X] [Q, b W + Q P^T W]^T, recompressed."""
    (s, X, W), (b, P, Q) = S, B
    left, right = torch.cat([s * P, X], -1), torch.cat([Q, b * W + Q @ (P.mT @ W)], -1)
    for factor in (left, right):
        require_finite(factor, *_PRODUCT)
    return ScaledIdentityPlusLowRank(*compress(s * b, left, right, rtol))
