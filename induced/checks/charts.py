"""Laws of charts."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from induced.bijections import Bijection, rounding
from induced.bijections.certificate import zero_size
from induced.checks.batches import left_alone, rearrangements, same_again
from induced.checks.measure import (
    FACTOR,
    Noise,
    attempt,
    compare,
    exactly,
    finite_gradients,
    lengths,
    longest,
    not_applicable,
    require_samples,
)
from induced.checks.report import JUDGEABLE, Report, Reports
from induced.checks.untouched import different_bits, untouched
from induced.checks.volume import volume_laws
from induced.errors import DomainError

# Gauss (3 nodes) within Kronrod (7) on [-1, 1], and the ends, where variation is looked at
_OUT, _MID, _IN = 0.960491268708020283, 0.774596669241483377, 0.434243749346802558
NODES = (-1.0, -_OUT, -_MID, -_IN, 0.0, _IN, _MID, _OUT, 1.0)
_HALF = (0.0, 0.104656226026467265, 0.268488089868333441, 0.401397414775962223)
KRONROD = (*_HALF, 0.450916538658474143, *reversed(_HALF))
GAUSS = (0.0, 0.0, 5 / 9, 0.0, 8 / 9, 0.0, 5 / 9, 0.0, 0.0)
STEPS = (0.05, 0.006, 0.0008)
FINE = 1e-3
FEW = 8
"""So many samples are enough to see a gradient that is not one."""


class Side(NamedTuple):
    """A chart in one of its two directions, and what it is tried at."""

    name: str
    f: Bijection
    x: Tensor
    result: Tensor
    known: Noise
    """What rounding may do to the result."""


def check_bijection(g: Bijection, x: Tensor) -> Reports:
    """g^-1 g = id, g g^-1 = id, and what a chart promises besides, in both directions.

    - The round trips (Def 2.2), also at coordinates up to 64 times as long as those of the samples, as far as the chart can be
      judged there.
    - A sample's result is its own: the same in a batch, alone, without a batch, permuted, with more batch dimensions.
    - The same bits when asked again, in train and eval mode. What is given is left as it is; dtype and shape are as declared.
    - Gradients are finite, and those of g: g(y) - g(x) is the integral of dg from x to y.
    - log|det J|, by autograd, where the chart has one; coordinates on the lattice, where the chart has one.

    Arguments:
        g: the chart; it is given back bit for bit as it was.
        x: points (*batch, *shape), at least one.

    Raises:
        ShapeError: there are no samples. Whatever the chart raises at the samples themselves.
    """
    x = require_samples(x, g.shape)
    with untouched(g), torch.no_grad():
        return Reports(_laws(g, x))


def _laws(g: Bijection, x: Tensor) -> list[Report]:
    given = x.clone()
    z = g(given).detach().clone()
    contract = _contract("g", g, x, z)
    if not contract.ok:
        return [contract]
    alone = left_alone("g", given, x)
    coordinates = z.clone()
    back = g.inverse(coordinates)
    inverse_contract = _contract("g^-1", g.inv, z, back)
    if not inverse_contract.ok:
        return [contract, inverse_contract]
    back = back.detach().clone()
    alone_back = left_alone("g^-1", coordinates, z)
    to_points, to_coordinates = _noises(g, x, z)
    there, again = Side("g", g, x, z, to_coordinates), Side("g^-1", g.inv, z, back, to_points)
    sides = (there, again)
    return [
        compare("g^-1(g(x)) = x", "Def 2.2", back - x, longest(x), again.known, x),
        attempt("g(g^-1(z)) = z", "Def 2.2", lambda law, of: compare(law, of, g(back.clone()) - z, longest(z), there.known, z)),
        attempt("far out: g(g^-1(z)) = z", "Def 2.2", lambda law, of: _far(law, of, g, z, to_points.floor), chosen=True),
        contract,
        inverse_contract,
        alone,
        alone_back,
        *(law for s in sides for law in rearrangements(s.name, s.f, s.x, s.result, s.known)),
        _finite_gradients(g, x, z),
        *(attempt(f"gradients of {s.name} are its slopes", "contract", partial(_slopes, side=s), chosen=True) for s in sides),
        *volume_laws(g, x, z, there.known),
        *([_on_lattice(g, z, back)] if g.resolution else []),
        *(same_again(s.name, g, s.f, s.x, s.result) for s in sides),
    ]


def _noises(g: Bijection, x: Tensor, z: Tensor) -> tuple[Noise, Noise]:
    """What rounding may do to points and to coordinates."""
    try:
        floor = zero_size(g, x)
        return Noise(rounding(g, x.clone()), floor), Noise(rounding(g.inv, z.clone()), floor)
    except Exception:  # the chart does not take every batch, which a law of its own reports
        return Noise(longest(x)), Noise(longest(z))


def _contract(name: str, f: Bijection, x: Tensor, result: Tensor) -> Report:
    law = f"{name} is finite, of its dtype and shape"
    expected = (*x.shape[:1], *f.coord_shape)
    if result.dtype != x.dtype or tuple(result.shape) != expected:
        came = f"{name} of {x.dtype} {tuple(x.shape)} is {result.dtype} {tuple(result.shape)}, not {x.dtype} {expected}"
        return Report(law, "contract", math.nan, 0.0, x[0], came)
    bad = (~torch.isfinite(result)).unsqueeze(-1).flatten(1).any(-1)
    report = exactly(law, "contract", bad, x[int(bad.int().argmax())].unsqueeze(0))
    if bad.any() and longest(x[bad]) > torch.finfo(x.dtype).max ** 0.5:
        return Report(law, "contract", math.inf, math.inf, report.worst, f"{name} overflows at samples as large as these")
    return report


def _far(law: str, statement: str, g: Bijection, z: Tensor, floor: float) -> Report:
    """Coordinates in random directions, as long as those of the samples, then 4, 16 and 64 times."""
    found = not_applicable(
        law, statement, "the chart cannot be judged at coordinates in other directions than those of the samples"
    )
    drawn = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unsqueeze(-1).flatten(1).to(z)
    directions = (drawn / lengths(drawn).unsqueeze(-1)).reshape(z.shape)
    size = longest(z) or 1.0
    for factor in (1, 4, 16, 64):
        w = factor * size * directions
        note = f"at coordinates of norm {factor * size:.3g}"
        try:
            x = g.inverse(w.clone())
            if factor == 1 and x.isnan().any():
                return Report(law, statement, math.nan, 0.0, w[0], f"{note} g^-1 gives nan: is g onto?")
            if not x.isfinite().all():
                break
            tried = compare(law, statement, g(x) - w, longest(w), Noise(rounding(g.inv, w), floor), w, note=note)
        except DomainError:
            break
        if tried.verdict == "unjudgeable":
            break
        found = tried
        if tried.verdict == "violated":
            break
    return found


def _finite_gradients(g: Bijection, x: Tensor, z: Tensor) -> Report:
    return attempt("gradients are finite", "contract", lambda law, of: finite_gradients(law, of, x, (g, x), (g.inverse, z)))


def _slopes(law: str, statement: str, side: Side) -> Report:
    """f(y) - f(x) is the integral of df along the segment from x a step toward another sample.

    A kink between the nodes of the quadrature is missed now and then, a wrong gradient is wrong at every step: two must agree.
    """
    if side.f.resolution:
        return not_applicable(law, statement, "a chart onto a lattice has steps, not slopes")
    held: list[Report] = []
    violated: list[Report] = []
    for others in (side.x.roll(1, 0)[:FEW], _elsewhere(side)[:FEW]):
        for step in STEPS:
            found = _integral(law, statement, side, step * (others - side.x[:FEW]))
            if found.tolerance > JUDGEABLE:
                continue
            (held if found.ok else violated).append(found)
            if held and held[-1].tolerance <= FINE:
                break
        if held or len(violated) > 1:
            return min(held or violated, key=lambda report: report.tolerance)
    return not_applicable(law, statement, "slopes cannot be told from rounding or kinks here")


def _integral(law: str, statement: str, side: Side, step: Tensor) -> Report:
    f, x = side.f, side.x[:FEW]
    n, ones = len(x), (1,) * (x.dim() - 1)
    t = ((1 + torch.tensor(NODES, dtype=torch.float64)) / 2).to(x).repeat_interleave(n).requires_grad_()
    w = torch.randn(side.result[:FEW].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(x)
    w = w / lengths(w).reshape(n, *(1,) * (w.dim() - 1))
    with torch.enable_grad():
        along = f(x.repeat(len(NODES), *ones) + t.reshape(-1, *ones) * step.repeat(len(NODES), *ones))
        projected = w.repeat(len(NODES), *(1,) * (w.dim() - 1)) * along
        (slopes,) = torch.autograd.grad(projected.sum(), t, allow_unused=True, materialize_grads=True)
    slopes = slopes.reshape(len(NODES), n)
    fine, coarse = (torch.tensor([KRONROD, GAUSS], dtype=torch.float64) / 2).to(x) @ slopes
    # of a smooth function the two rules differ by far less than it varies; a kink errs by a share of the variation
    variation = 0.25 * (slopes[1:] - slopes[:-1]).abs().sum(0)
    smooth = (fine - coarse).abs()
    quadrature = float(torch.where(smooth < 0.02 * variation, 3 * smooth, variation).max())
    moved = f(x + step) - f(x.clone())
    difference = (w * moved).unsqueeze(-1).flatten(1).sum(-1) - fine
    error = Noise(2 * side.known.roundings + quadrature / (FACTOR * torch.finfo(x.dtype).eps))
    return compare(law, statement, difference, longest(moved) or torch.finfo(x.dtype).tiny, error, x)


def _elsewhere(side: Side) -> Tensor:
    """Another point for each sample, half its coordinates and as much at random, or as the chart computes with at zero."""
    drawn = torch.randn(side.result.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(side.x)
    size = max(longest(side.result), side.known.floor) or 1.0
    moved: Tensor = side.f.inverse(0.5 * side.result + 0.5 * size / longest(drawn) * drawn)
    return moved


def _on_lattice(g: Bijection, z: Tensor, back: Tensor) -> Report:
    law = "g gives multiples of its resolution, and maps lattice points exactly"
    off = ((z / g.resolution - (z / g.resolution).round()).abs() > 0).unsqueeze(-1).flatten(1).any(-1)
    moved = different_bits(g.inverse(g(back.clone())), back).unsqueeze(-1).flatten(1).any(-1)
    return exactly(law, "contract", (off | moved).int(), z)
