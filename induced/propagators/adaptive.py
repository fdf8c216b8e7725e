"""Step sizes that meet a tolerance: chosen by the operator A_t alone, so that every state takes the same steps."""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from induced._validate import require_finite
from induced.errors import DomainError, NotConverged
from induced.operators.rules import kind
from induced.propagators.families import OperatorFamily
from induced.propagators.propagate import METHODS, integrate, intervals

PROBES = 16
"""Fixed random states whose errors stand for that of the operator; all n unit vectors where n is smaller."""

_SAFETY, _SHRINK, _GROW = 0.8, 0.2, 4.0
_SHORTEST = 1e-10  # of t1 - t0


@final
class AdaptiveGrid(NamedTuple):
    """What `adaptive_grid` found: `times` is what the argument `steps` of `propagator` and `integrate` takes.

    Attributes:
        times: from t0 to t1.
        rejected: steps that were tried and found too long.
        error: an estimate of the relative error of B in the Frobenius norm.
        method: the integrator that the times are for.
    """

    times: tuple[float, ...]
    rejected: int
    error: float
    method: str

    def __str__(self) -> str:
        return f"{len(self.times) - 1} {self.method} steps, {self.rejected} rejected, estimated error {self.error:.1e}"


def adaptive_grid(
    family: OperatorFamily,
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    tolerance: float | None = None,
    method: str = "rk4",
    max_steps: int = 10_000,
) -> AdaptiveGrid:
    """Times between which the steps of `method` reach t1 within `tolerance`, by step doubling on the operator.

    A step h is compared with two of h/2, which are kept, on 16 fixed random states that are carried along from t0, and so are
    their errors. That estimates the error of B = S_{T-1} ... S_0 in the Frobenius norm, and where it exceeds the tolerance
    the steps are chosen again for a smaller one.

    Arguments:
        family: t -> A_t, smooth in t.
        t0, t1: start and end of time; t1 < t0 goes backwards.
        tolerance: of the relative error of B; at least 100 eps of the family's precision; 1e-8 by default, 1.2e-5 in float32.
        method: any of `propagator`.
        max_steps: most steps that may be taken.

    Returns:
        The times, and what was done; gradients do not pass through them.

    Raises:
        DomainError: unknown method, a tolerance below 100 eps, or an A_t that is not finite.
        ShapeError: t0 or t1 is a batch of times.
        NotConverged: the steps become shorter than 1e-10 of the interval, as before a singular A_t, or more than `max_steps`.

    Law:
        `propagator(F, steps=adaptive_grid(F, tolerance=e).times)` is within e of the exact one (laws/test_steps.py)

    Example:
        >>> from induced.propagators import LowRankFamily, propagator
        >>> family = LowRankFamily(6, 2).double()
        >>> grid = adaptive_grid(family, tolerance=1e-6)
        >>> B = propagator(family, steps=grid.times)
        >>> grid.error < 1e-6
        True
    """
    intervals(t0, t1, 1, method)  # raises for all but single times and a known method
    like = kind(family)
    floor = 100 * torch.finfo(like.dtype).eps
    tolerance = max(1e-8, floor) if tolerance is None else tolerance
    if not tolerance >= floor:
        raise DomainError(f"a tolerance of {tolerance:g} is below {floor:.1e}, 100 eps of {like.dtype}: use family.double()")
    local = tolerance
    while True:
        found = _attempt(family, t0, t1, tolerance=local, method=method, max_steps=max_steps, like=like)
        if found.error <= tolerance:
            return found
        local *= _SAFETY * tolerance / found.error


def _attempt(
    family: OperatorFamily, t0: float, t1: float, *, tolerance: float, method: str, max_steps: int, like: Tensor
) -> AdaptiveGrid:
    """Steps whose local errors, each relative to the states it meets, add up to the tolerance."""
    order, length = METHODS[method].order, t1 - t0
    times, rejected, h = [t0], 0, length / 10
    Y = _probes(family.dim, like)
    D = torch.zeros_like(Y)
    with torch.no_grad():
        while times[-1] != t1:
            start = times[-1]
            end = t1 if abs(t1 - start) <= 1.01 * abs(h) else start + h
            h = end - start
            middle, both = start + h / 2, torch.cat([Y, D])  # the errors are carried on beside the states
            whole = integrate(family, Y, start, end, steps=(start, end), method=method)
            fine, carried = torch.split(integrate(family, both, start, end, steps=(start, middle, end), method=method), len(Y))
            difference = (whole - fine) / (2**order - 1)  # the error of the half steps
            size = torch.linalg.vector_norm(fine)
            local = float(torch.linalg.vector_norm(difference) / size)
            allowed = tolerance * abs(h / length)
            if local <= allowed:
                times += [middle, end]
                Y, D = fine / size, (carried + difference) / size
            else:
                rejected += 1
            scale = (allowed / local) ** (1 / order) if local > 0 else _GROW
            h *= min(_GROW, max(_SHRINK, _SAFETY * scale)) if math.isfinite(local) else _SHRINK
            if abs(h) < _SHORTEST * abs(length) and times[-1] != t1:
                require_finite(fine, f"a {method} step at t = {times[-1]:g}", "A_t is not finite there")
                raise NotConverged(
                    f"the {method} step fell to {abs(h):.1e} at t = {times[-1]:g} for a tolerance of {tolerance:g}: A_t is "
                    f"singular or not smooth there; stop before it, or allow a larger tolerance"
                )
            if len(times) > max_steps:
                raise NotConverged(
                    f"{max_steps} {method} steps reached t = {times[-1]:g} only, for a tolerance of {tolerance:g}: A_t is stiff, "
                    f"the tolerance too small, or max_steps too low"
                )
    return AdaptiveGrid(tuple(times), rejected, float(torch.linalg.vector_norm(D)), method)


def _probes(n: int, like: Tensor) -> Tensor:
    """Orthonormal states of shape (min(n, 16), n), the same in every call; together of norm 1."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(n, min(n, PROBES), generator=generator, dtype=torch.float64)
    columns: Tensor = torch.linalg.qr(random)[0]
    states: Tensor = columns.mT.to(like) / min(n, PROBES) ** 0.5
    return states
