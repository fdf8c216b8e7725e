"""Laws of maps between two spaces: linearity and the adjoint."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from induced.checks.batches import left_alone, rearrangements, same_again
from induced.checks.measure import (
    FACTOR,
    Noise,
    attempt,
    compare,
    farthest,
    finite_gradients,
    lengths,
    longest,
    noise,
    noises,
    not_applicable,
    one_line,
    raised,
    random_like,
    require_samples,
    roundings,
    shrunk,
    unit,
    unit_normal,
)
from induced.checks.report import JUDGEABLE, Report, Reports
from induced.checks.untouched import untouched
from induced.errors import DomainError, ShapeError
from induced.linearizer import LinearizerOperator
from induced.precision import full_precision
from induced.spaces import HilbertSpace, ProductSpace

PARALLEL, NEGLIGIBLE = 0.1, 1e-3
"""The sine of the angle below which two samples count as multiples of each other, and the share of what the chart computes with
at the zero vector below which one counts as zero."""

SOME = 4
"""So many samples have the derivative taken at them, and as many random ones."""


class Multiple(NamedTuple):
    """Samples x = a u, their images, how far these are from a f(u), and what the charts alone are off there and back."""

    a: float
    x: Tensor
    fx: Tensor
    difference: Tensor
    chart_x: Tensor
    chart_fx: Tensor
    size: float


@full_precision()
def check_linear(f: LinearizerOperator, points: Tensor) -> Reports:
    """f is additive and homogeneous for the operations of its spaces (Prop 2.4), and it is g_y^-1 A g_x (Def 2.1).

    - f(a u + b v) = a f(u) + b f(v), f(a u) = a f(u), f(0) = 0. Samples that are multiples of each other, or zero, would say
      nothing about sums: random companions as long take part, and a note says so.
    - f(a u) = a f(u) far out, for a = 4, 16, 64, as far as the charts can be judged.
    - A sample's image is its own: alone, in a batch of any order and shape, asked again in train and eval mode. What is given
      is left as it is. Gradients are finite.

    Arguments:
        f: the map; `forward`, `core`, `domain` and `codomain` are used. It is given back bit for bit as it was.
        points: samples (*batch, *shape) of the domain, at least one; where the charts cannot hold what the laws make of them,
            a third of them, a ninth, and so on.

    Raises:
        ShapeError: there are no samples. DomainError: the charts refuse all multiples of them that were tried.
    """
    X, Y = f.domain, f.codomain
    x = require_samples(points, X.shape)
    with untouched(f, X, Y), torch.no_grad():
        return Reports(shrunk("linearity", lambda u: _linear(f, u), X, x, reach=longest_image(x, f)))


def _linear(f: LinearizerOperator, x: Tensor) -> list[Report]:
    X, Y = f.domain, f.codomain
    given = x.clone()
    fx = f(given).detach().clone()
    u, v, note = independent(X, x)
    a, b = 0.7, -1.3
    zero = X.zero(1, dtype=u.dtype, device=u.device)
    fu = fx if u is x else torch.cat([fx, f(u[len(x) :])])
    mixed, scaled = X.combine((a, b), (u, v)), X.scale(b, u)
    sums_of_images, images_scaled = Y.combine((a, b), (fu, f(v))), Y.scale(b, fu)
    f_mixed, f_scaled, f_zero = torch.split_with_sizes(f(torch.cat([mixed, scaled, zero])), [len(u), len(u), 1])
    zu, zfx = X.coords(u), Y.coords(fx)
    gain, _ = gain_and_reach(f, x, fx)
    reach = gain * longest(zu)
    farther = lengths(zu).topk(min(SOME, len(u))).indices
    far, end = _multiples(f, u[farther], fu[farther])
    # each space is asked once for all that is visited
    at_x, at_others, *at_far = noises(X, x, torch.cat([u[len(x) :], mixed, scaled, zero]), *(m.x for m in far))
    images = torch.cat([fu[len(x) :], sums_of_images, images_scaled, f_zero])
    at_fx, at_images, *at_far_images = noises(Y, fx, images, *(m.fx for m in far))
    at_image = gain * at_x + at_fx + sums(f) * reach
    error = gain * max(at_x, at_others) + max(at_fx, at_images) + sums(f) * reach

    def linear(law: str, left: Tensor, right: Tensor | float, note: str = "") -> Report:
        return compare(law, "Prop 2.4", Y.coords(left) - right, reach, error, u, note=note)

    def through_the_core(law: str, statement: str) -> Report:
        expected = f.core(X.coords(x))
        return compare(law, statement, zfx - expected, max(reach, longest(expected)), at_image, x)

    return [
        linear("f(a u + b v) = a f(u) + b f(v)", f_mixed, Y.coords(sums_of_images), note),
        linear("f(a u) = a f(u)", f_scaled, Y.coords(images_scaled)),
        linear("f(0) = 0", f_zero, 0.0),
        attempt(
            "far out: f(a u) = a f(u)",
            "Prop 2.4",
            partial(_far, far=far, known=[*zip(at_far, at_far_images, strict=True)], end=end, gain=gain, error=error),
            chosen=True,
        ),
        attempt("f = g_y^-1 A g_x", "Def 2.1", through_the_core),
        left_alone("f", given, x),
        *rearrangements("f", lambda p: Y.coords(f(p)), x, zfx, at_image),
        attempt("gradients are finite", "contract", lambda law, of: finite_gradients(law, of, x, (f, x))),
        same_again("f", nn.ModuleList([f, X, Y]), f, x, fx),
    ]


def longest_image(x: Tensor, *maps: LinearizerOperator) -> float:
    """How much longer than their arguments some images are, at least 1; from the cores, which refuse nothing."""
    drawn = (unit_normal(x, 1, f.domain.dim) for f in maps)
    return max(1.0, *(longest(f.core(z)) for f, z in zip(maps, drawn, strict=True)))


def independent(X: HilbertSpace, x: Tensor) -> tuple[Tensor, Tensor, str]:
    """Samples u and others v of which some u_i and v_i are no multiples of each other, and a note where random ones are."""
    others, parallel = _others(X, x)
    if not parallel.any():
        return x, others, ""
    more = [random_like(X, x[-1:], seed=seed, least=X.zero_size(x)) for seed in (1, 2)]
    return torch.cat([x, more[0]]), torch.cat([others, more[1]]), "with random companions of samples that are parallel or zero"


def _others(X: HilbertSpace, x: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample the one before it, or a random point as long where these are parallel; and where they are."""
    before = x.roll(1, 0)
    coordinates = X.coords(x), X.coords(before)
    (z, w), sizes = map(unit, coordinates), tuple(map(lengths, coordinates))
    sine = torch.minimum(lengths(z - w), lengths(z + w))
    least = X.zero_size(x)
    parallel = (sine < PARALLEL) | (torch.minimum(*sizes) <= NEGLIGIBLE * least)
    if not parallel.any():
        return before, parallel
    drawn = random_like(X, x, least=least)
    return torch.where(parallel.reshape(-1, *(1,) * (x.dim() - 1)), drawn, before), parallel


def _multiples(f: LinearizerOperator, u: Tensor, fu: Tensor) -> tuple[list[Multiple], Exception | None]:
    """f at 4, 16, 64 times samples u with images f(u), up to where a chart refuses, and what else was raised."""
    X, Y, found = f.domain, f.codomain, list[Multiple]()
    zu, zfu = X.coords(u), Y.coords(fu)
    try:
        for a in (4.0, 16.0, 64.0):
            x, expected = X.scale(a, u), Y.coords(Y.scale(a, fu))
            fx = f(x.clone())
            found.append(Multiple(a, x, fx, Y.coords(fx) - expected, X.coords(x) - a * zu, expected - a * zfu, a * longest(zu)))
    except DomainError:
        pass
    except Exception as error:
        return found, error
    return found, None


def _far(
    law: str,
    statement: str,
    far: Sequence[Multiple],
    known: Sequence[tuple[Noise, Noise]],
    end: Exception | None,
    gain: float,
    error: Noise,
) -> Report:
    """f(a u) = a f(u) for a = 4, 16, 64, up to where a chart refuses, or cannot be judged."""

    def tries() -> Iterator[Report]:
        for m, (at_x, at_fx) in zip(far, known, strict=True):
            if not (_explained(m.chart_x, at_x) and _explained(m.chart_fx, at_fx)):
                return
            noise, note = gain * at_x + at_fx + m.a * error, f"up to {m.a:.0f} times the samples"
            yield compare(law, statement, m.difference, gain * m.size, noise, m.x, note=note)
        if end is not None:
            yield raised(law, statement, end)

    return farthest(tries(), not_applicable(law, statement, "the charts cannot be judged at 4 times the samples"))


def _explained(difference: Tensor, known: Noise) -> bool:
    """Whether rounding explains what a chart does there and back; numbers below the normal ones lose more."""
    return longest(difference) <= FACTOR * torch.finfo(difference.dtype).eps * known.roundings


@full_precision()
def check_adjoint(f: LinearizerOperator, x: Tensor, y: Tensor) -> Reports:
    """<f(x), y>_Y = <x, f*(y)>_X (Prop 2.8), f** = f, and f* is the transpose of df, coordinate by coordinate.

    The inner products see what is wrong on average; the derivative sees what is wrong in one coordinate of many. A sample's
    image under f* is its own, as in `check_linear`.

    Arguments:
        f: the map; `forward`, `H`, `domain` and `codomain` are used. It is given back bit for bit as it was.
        x, y: samples (*batch, *shape) of the domain, and as many of the codomain; shrunk as in `check_linear`.

    Raises:
        ShapeError, DomainError: as `check_linear`.
    """
    with untouched(f, f.domain, f.codomain), torch.no_grad():
        H = f.H
        with untouched(H):
            return Reports(at_pairs("the adjoint", lambda x, y: _adjoint(f, H, x, y), f, x, y, longest_image(x, f, H)))


def at_pairs(
    what: str,
    laws: Callable[[Tensor, Tensor], list[Report]],
    f: LinearizerOperator,
    x: Tensor,
    y: Tensor,
    reach: float,
) -> list[Report]:
    """The laws at samples of both spaces, shrunk together."""
    X, Y = f.domain, f.codomain
    x, y = require_samples(x, X.shape), require_samples(y, Y.shape)
    if len(x) != len(y):
        raise ShapeError(f"{what} is tried at as many samples of the domain as of the codomain, got {len(x)} and {len(y)}")
    both = ProductSpace(X, Y)
    return shrunk(what, lambda pairs: laws(*both.split(pairs)), both, both.join(x, y), reach=reach)


def _adjoint(f: LinearizerOperator, H: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    X, Y = f.domain, f.codomain
    given = y.clone()
    fx, Hy = f(x.clone()).detach().clone(), H(given).detach().clone()
    gain, reach = gain_and_reach(f, x, fx)
    zx, zy, zfx, zHy = X.coords(x), Y.coords(y), Y.coords(fx), X.coords(Hy)
    size_x, size_y = longest(zx), longest(zy)
    try:  # images of other directions than those of the samples
        drawn = random_like(Y, y[:SOME])
        w, Hw = torch.cat([y[:SOME], drawn]), torch.cat([Hy[:SOME], H(drawn.clone()).detach()])
    except DomainError:
        w, Hw = y[:SOME], Hy[:SOME]
    # each space is asked once for all that is visited
    (in_x, *in_X), (in_fx, *in_Y) = roundings(X, x, Hy, Hw), roundings(Y, fx, y, w)
    (at_x, at_Hy, at_Hw), (at_fx, at_y, at_w) = noise(X, x, in_x, *in_X), noise(Y, y, in_fx, *in_Y)
    along_x, along_y = gain * at_x + at_fx, gain * at_y + at_Hy

    def transpose(law: str, statement: str) -> Report:
        error = at_Hw + gain * at_w
        return _transpose(law, statement, f, x[:SOME], fx[:SOME], w, X.coords(Hw), gain, (in_x[:SOME], in_fx[:SOME]), error)

    return [
        compare(
            "<f(x), y> = <x, f*(y)>",
            "Prop 2.8",
            inner(zfx, zy) - inner(zx, zHy),
            reach * size_y,
            along_x * size_y + along_y * size_x,
            x,
        ),
        compare("f** = f", "Prop 2.8", Y.coords(H.H(x.clone())) - zfx, reach, along_x, x),
        attempt("f* is the transpose of df", "Prop 2.8", transpose, chosen=True),
        left_alone("f*", given, y),
        *rearrangements("f*", lambda p: X.coords(H(p)), y, zHy, along_y + sums(f) * gain * size_y),
        same_again("f*", nn.ModuleList([H, X, Y]), H, y, Hy),
    ]


def _transpose(
    law: str,
    statement: str,
    f: LinearizerOperator,
    x: Tensor,
    fx: Tensor,
    y: Tensor,
    u: Tensor,
    gain: float,
    known: tuple[Tensor, Tensor],
    error: Noise,
) -> Report:
    """The vjp of z -> Y.coords(f(X.point(z))) is A^T w at every z: the coordinates u of f*(y), entry by entry.

    Arguments:
        known: the roundings of X at the samples x and of Y at their images, in multiples of eps.
        error: what rounding may do to u and to gain times the coordinates of y.
    """
    X, Y = f.domain, f.codomain
    times = -(-len(y) // len(x))
    x, fx, in_x, in_fx = (t.repeat(times, *(1,) * (t.dim() - 1))[: len(y)] for t in (x, fx, *known))
    w = Y.coords(y)
    try:
        pulled = vjp(lambda z: Y.coords(f(X.point(z))), X.coords(x), w)
        off = _slopes(X, x, u, in_x) + gain * _slopes(Y, fx, w, in_fx)
    except RuntimeError as refusal:
        return not_applicable(law, statement, f"there is no derivative: {one_line(refusal)}")
    reach = gain * longest(w)
    error = error + off / torch.finfo(x.dtype).eps + reach
    report = compare(law, statement, (pulled - u).abs().amax(-1, keepdim=True), reach, error, y)
    if FACTOR * off > JUDGEABLE / 2 * reach:
        return not_applicable(law, statement, "the derivatives of the charts there and back are not the identity")
    return report


def _slopes(X: HilbertSpace, x: Tensor, w: Tensor, known: Tensor) -> float:
    """How far the derivatives of X there and back, transposed, are from the identity at w, at coordinates a rounding apart."""
    z = X.coords(x)
    apart = unit_normal(z, *z.shape) * (torch.finfo(z.dtype).eps * known).unsqueeze(-1)
    cotangents = vjp(X.coords, X.point(z), w)
    return max(longest(vjp(X.point, z + step, cotangents) - w) for step in (apart, -apart))


def sums(f: LinearizerOperator) -> float:
    """Roundings of a product with A, in multiples of eps ||A|| ||z||: the sums of n terms make n roundings of random signs."""
    return math.sqrt(max(1, f.domain.dim, f.codomain.dim))


def gain_and_reach(f: LinearizerOperator, x: Tensor, fx: Tensor) -> tuple[float, float]:
    """||A|| from below, by the samples and by random vectors at least as long, and that times the longest sample.

    Vectors shorter than the numbers that the charts compute with at zero say little of ||A||: they count only where longer ones
    are refused.
    """
    X, Y = f.domain, f.codomain
    least = max(X.zero_size(x), Y.zero_size(fx))
    sizes, images = lengths(X.coords(x).detach()), lengths(Y.coords(fx).detach())
    clear = sizes > least
    try:
        drawn = random_like(X, x, least=least)
        gains = [lengths(Y.coords(f(drawn)).detach()) / lengths(X.coords(drawn).detach())]
    except DomainError:
        gains, clear = [], sizes > 0
    gains.append(images[clear] / sizes[clear])
    gain = max((float(g.max()) for g in gains if g.numel()), default=0.0)
    return gain, gain * float(sizes.max())


def along(X: HilbertSpace, *pairs: tuple[Tensor, Tensor]) -> list[Noise]:
    """What X may do to inner products of points with vectors of some coordinates, for each such pair: in one sweep.

    An error along the directions of one pair counts in all of them.
    """
    sizes = [longest(directions) for _, directions in pairs]
    units = torch.cat([w / (size or 1.0) for (_, w), size in zip(pairs, sizes, strict=True)])
    points = [given for given, _ in pairs]
    known = torch.split_with_sizes(X.roundings(torch.cat(points), units), [len(given) for given in points])
    return [size * at for size, at in zip(sizes, noise(X, points[0], *known), strict=True)]


def inner(z: Tensor, w: Tensor) -> Tensor:
    """Inner products of coordinates, which cannot overflow where they do not."""
    return (z.double() * w.double()).sum(-1)


def vjp(function: Callable[[Tensor], Tensor], z: Tensor, w: Tensor) -> Tensor:
    """The derivative of the function at z, transposed, at w; a RuntimeError where there is none."""
    with torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        (pulled,) = torch.autograd.grad((function(leaf) * w).sum(), leaf)
    return pulled.detach()
