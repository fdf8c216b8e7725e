"""A chart in one of its two directions, and whether gradients of a function there are its slopes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from induced.bijections import Bijection, rounding
from induced.bijections.amplification import zero_size
from induced.checks.measure import FACTOR, Noise, compare, exactly, longest, not_applicable, unit_normal, unjudgeable
from induced.checks.report import JUDGEABLE, Report

# Gauss (3 nodes) within Kronrod (7) on [-1, 1], and the ends, where variation is looked at
_OUT, _MID, _IN = 0.960491268708020283, 0.774596669241483377, 0.434243749346802558
NODES = (-1.0, -_OUT, -_MID, -_IN, 0.0, _IN, _MID, _OUT, 1.0)
_HALF = (0.0, 0.104656226026467265, 0.268488089868333441, 0.401397414775962223)
KRONROD = (*_HALF, 0.450916538658474143, *reversed(_HALF))
GAUSS = (0.0, 0.0, 5 / 9, 0.0, 8 / 9, 0.0, 5 / 9, 0.0, 0.0)
STEPS = (0.05, 0.006, 0.0008)
FINE = 1e-3
STEEP = 4.0
FEW = 8
"""So many samples are enough to see a gradient that is not one."""

Function = Callable[[Tensor], Tensor]


class Side(NamedTuple):
    """A chart in one of its two directions, and what it is tried at."""

    name: str
    f: Bijection
    x: Tensor
    result: Tensor
    known: Noise
    """What rounding may do to the result."""


def both_sides(g: Bijection, x: Tensor, z: Tensor, back: Tensor) -> tuple[Side, Side]:
    """A chart and its inverse at points, their coordinates, and the points of those."""
    try:
        floor = zero_size(g, x)
        to_points, to_coordinates = Noise(rounding(g, x.clone()), floor), Noise(rounding(g.inv, z.clone()), floor)
    except Exception:  # the chart does not take every batch, which a law of its own reports
        to_points, to_coordinates = Noise(longest(x)), Noise(longest(z))
    return Side("g", g, x, z, to_coordinates), Side("g^-1", g.inv, z, back, to_points)


def slopes(law: str, statement: str, f: Function, side: Side, known: Noise) -> Report:
    """f(y) - f(x) is the integral of df along the segment from x a step toward another sample.

    A kink between the nodes of the quadrature is missed now and then, a wrong gradient is wrong at every step: two must agree.
    A step so short that rounding would hide what a longer one saw says nothing.

    Arguments:
        f: the chart, or a function of the same points.
        known: what rounding may do to its values.
    """
    if side.f.lattice_step:
        return not_applicable(law, statement, "a chart onto a lattice has steps, not slopes")
    held: list[Report] = []
    violated: list[Report] = []
    for others in (side.x.roll(1, 0)[:FEW], _elsewhere(side)[:FEW]):
        for step in STEPS:
            found, rough = _integral(law, statement, f, side.x[:FEW], step * (others - side.x[:FEW]), known)
            seen = min((report.residual for report in violated), default=math.inf)
            if found.tolerance <= JUDGEABLE and not (found.ok and found.tolerance > seen):
                (held if found.ok else violated).append(found)
                if held and held[-1].tolerance <= FINE:
                    break
            if not (rough or violated):
                break
        if held or len(violated) > 1:
            return min(held or violated, key=lambda report: report.tolerance)
    return not_applicable(law, statement, "slopes cannot be told from rounding or kinks here")


def _integral(law: str, statement: str, f: Function, x: Tensor, step: Tensor, known: Noise) -> tuple[Report, bool]:
    """The report for one step, and whether the integral is less well known than its ends, so that a shorter step is better."""
    n, ones = len(x), (1,) * (x.dim() - 1)
    moved = f(x + step) - f(x.clone())
    if not moved.isfinite().all():
        return unjudgeable(law, statement, "the values overflow"), True
    t = ((1 + torch.tensor(NODES, dtype=torch.float64)) / 2).to(x).repeat_interleave(n).requires_grad_()
    w = unit_normal(x, *moved.shape, seed=2)
    with torch.enable_grad():
        along = f(x.repeat(len(NODES), *ones) + t.reshape(-1, *ones) * step.repeat(len(NODES), *ones))
        projected = (w.repeat(len(NODES), *(1,) * (w.dim() - 1)) * along).sum()
    if not projected.requires_grad and not moved.any():
        return exactly(law, statement, 0, x, "constant"), False
    gradient = torch.autograd.grad(projected, t, allow_unused=True)[0] if projected.requires_grad else None
    along_step = (torch.zeros_like(t) if gradient is None else gradient).reshape(len(NODES), n)
    fine, coarse = (torch.tensor([KRONROD, GAUSS], dtype=torch.float64) / 2).to(x) @ along_step
    change, values = (w * moved).reshape(n, -1).sum(-1), along.detach().reshape(len(NODES), n, -1)
    quotients = (w.reshape(n, -1) * values.diff(dim=0)).sum(-1) / (t.detach().reshape(len(NODES), n).diff(dim=0))
    # of a smooth function the two rules differ by far less than it varies; a kink errs by a share of the variation, a jump by all
    jump = torch.where(quotients.abs().amax(0) > STEEP * change.abs(), change.abs(), 0.0)
    variation = 0.25 * along_step.diff(dim=0).abs().sum(0) + jump
    smooth = (fine - coarse).abs()
    quadrature = float(torch.where((smooth < 0.02 * variation) & (jump == 0), 3 * smooth, variation).max())
    difference = change - fine
    quadrature /= FACTOR * torch.finfo(x.dtype).eps
    error = 2 * known + quadrature
    return compare(
        law, statement, difference, longest(moved) or torch.finfo(x.dtype).tiny, error, x
    ), quadrature > known.roundings


def _elsewhere(side: Side) -> Tensor:
    """Another point for each sample, half its coordinates and as much at random, or as the chart computes with at zero."""
    size = max(longest(side.result), side.known.floor) or 1.0
    return side.f.inverse(0.5 * side.result + 0.5 * size * unit_normal(side.x, *side.result.shape, seed=3))
