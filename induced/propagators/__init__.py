"""Operators that depend on time, and what their integrator steps collapse into."""

from induced.propagators.adaptive import adaptive_grid
from induced.propagators.families import LowRankFamily, OperatorFamily, SharedBasisFamily
from induced.propagators.propagate import integrate, propagator

__all__ = [
    "LowRankFamily", "OperatorFamily", "SharedBasisFamily", "adaptive_grid", "integrate", "propagator",
]  # fmt: skip
