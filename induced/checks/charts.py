"""Laws of charts."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from induced.bijections import Bijection, rounding
from induced.checks.batches import left_alone, rearrangements, same_again
from induced.checks.measure import (
    Noise,
    attempt,
    compare,
    exactly,
    farthest,
    finite_gradients,
    longest,
    not_applicable,
    per_sample,
    require_samples,
    unit_normal,
)
from induced.checks.report import Report, Reports
from induced.checks.sides import Side, both_sides, slopes
from induced.checks.untouched import different_bits, untouched
from induced.checks.volume import volume_laws
from induced.precision import full_precision

FAR, NEAR = (1.0, 4.0, 16.0, 64.0), (1e-4,)
"""How long coordinates in random directions are, over those of the samples."""


@full_precision()
def check_bijection(g: Bijection, x: Tensor) -> Reports:
    """g^-1 g = id, g g^-1 = id, and what a chart promises besides, in both directions.

    - The round trips (Def 2.2), also at coordinates up to 64 times as long as those of the samples, as far as the chart can be
      judged there, and at short ones.
    - A sample's result is its own: the same in a batch, alone, without a batch, permuted, with more batch dimensions, in another
      layout in memory, and where gradients are asked for.
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
    sides = there, again = both_sides(g, x, z, back)
    floor = again.known.floor
    return [
        compare("g^-1(g(x)) = x", "Def 2.2", back - x, longest(x), again.known, x),
        attempt("g(g^-1(z)) = z", "Def 2.2", lambda law, of: compare(law, of, g(back.clone()) - z, longest(z), there.known, z)),
        attempt("far out: g(g^-1(z)) = z", "Def 2.2", partial(_elsewhere, g=g, z=z, floor=floor, factors=FAR), chosen=True),
        attempt("near zero: g(g^-1(z)) = z", "Def 2.2", partial(_elsewhere, g=g, z=z, floor=floor, factors=NEAR), chosen=True),
        contract,
        inverse_contract,
        alone,
        alone_back,
        *(law for s in sides for law in rearrangements(s.name, s.f, s.x, s.result, s.known)),
        _finite_gradients(g, x, z),
        *(_gradients(s) for s in sides),
        *volume_laws(there, again),
        *([_on_lattice(g, z, back)] if g.lattice_step else []),
        *(same_again(s.name, g, s.f, s.x, s.result) for s in sides),
    ]


def _contract(name: str, f: Bijection, x: Tensor, result: Tensor) -> Report:
    law = f"{name} is finite, of its dtype and shape"
    expected = (*x.shape[:1], *f.coord_shape)
    if result.dtype != x.dtype or tuple(result.shape) != expected:
        came = f"{name} of {x.dtype} {tuple(x.shape)} is {result.dtype} {tuple(result.shape)}, not {x.dtype} {expected}"
        return Report(law, "contract", math.nan, 0.0, x[0], came)
    bad = per_sample(~torch.isfinite(result)) > 0
    report = exactly(law, "contract", bad, x)
    if bad.any() and longest(x[bad]) > torch.finfo(x.dtype).max ** 0.5:
        return Report(law, "contract", math.inf, math.inf, report.worst, f"{name} overflows at samples as large as these")
    return report


def _elsewhere(law: str, statement: str, g: Bijection, z: Tensor, floor: float, factors: tuple[float, ...]) -> Report:
    """Coordinates in random directions, so many times as long as those of the samples, as far as the chart can be judged."""
    size, directions = longest(z) or 1.0, unit_normal(z, *z.shape, seed=1)

    def tries() -> Iterator[Report]:
        for factor in factors:
            w = factor * size * directions
            note = f"at coordinates of norm {factor * size:.3g}"
            x = g.inverse(w.clone())
            if factor <= 1.0 and x.isnan().any():
                yield Report(law, statement, math.nan, 0.0, w[0], f"{note} g^-1 gives nan: is g onto?")
            if not x.isfinite().all():
                return
            try:
                known = Noise(rounding(g.inv, w), floor)
            except RuntimeError:  # a chart without derivatives: nobody knows its rounding
                return
            yield compare(law, statement, g(x) - w, longest(w), known, w, note=note)

    why = "the chart cannot be judged at coordinates in other directions than those of the samples"
    return farthest(tries(), not_applicable(law, statement, why))


def _finite_gradients(g: Bijection, x: Tensor, z: Tensor) -> Report:
    return attempt("gradients are finite", "contract", lambda law, of: finite_gradients(law, of, x, (g, x), (g.inverse, z)))


def _gradients(s: Side) -> Report:
    judge = partial(slopes, f=s.f, side=s, known=Noise(s.known.roundings))
    return attempt(f"gradients of {s.name} are its slopes", "contract", judge, chosen=True)


def _on_lattice(g: Bijection, z: Tensor, back: Tensor) -> Report:
    law = "g gives multiples of its lattice step, and maps lattice points exactly"
    if not all(layer.moves_entries or layer.lattice_step == g.lattice_step for layer in g.layers()):
        return not_applicable(law, "contract", "a layer leaves the lattice")
    off = per_sample(z / g.lattice_step != (z / g.lattice_step).round())
    moved = per_sample(different_bits(g.inverse(g(back.clone())), back))
    return exactly(law, "contract", off + moved, z)
