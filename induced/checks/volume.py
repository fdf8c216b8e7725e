"""The laws of log|det J|: its value, its two sources, its gradient, and that each sample has its own."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from induced.bijections import Bijection
from induced.bijections.amplification import log_det_roundings
from induced.checks.batches import left_alone, rearrangements
from induced.checks.measure import (
    FACTOR,
    WIDE,
    Noise,
    attempt,
    compare,
    exactly,
    lengths,
    longest,
    not_applicable,
    raised,
    shrunk,
    unjudgeable,
)
from induced.checks.report import JUDGEABLE, Report
from induced.checks.sides import Side, both_sides, slopes
from induced.checks.untouched import same_bits
from induced.errors import MissingDeterminant
from induced.spaces import InducedSpace

ALL_SAMPLES = 64
"""So many coordinates have their Jacobian taken at all samples."""
ONE_SAMPLE = 1024
"""So many have it taken at one; above, its volume is estimated."""
ROWS, ENTRIES = 64, 2**17
"""Rows of a Jacobian in one backward pass, and entries of the points that these take."""
PROBES, ROUNDS = 8, 4
"""Random vectors at once, and how often more of them are drawn."""
ORDER, ACCURACY = 16, 1e-5
"""Products of a Jacobian with each of them, and the width, a coordinate, at which there are enough."""
SPREADS = 8.0
"""How many times the spread of its probes an estimate may be off: 1 in 10,000 with the eight probes of a single layer."""

Product = Callable[[Tensor], Tensor]


class Estimate(NamedTuple):
    """log|det J| as estimated, its standard error, and what its quadrature may be off by."""

    value: float
    spread: float
    quadrature: float

    @property
    def allowed(self) -> float:
        """What the value may be off by."""
        return SPREADS * self.spread + self.quadrature


def volume_laws(there: Side, again: Side) -> list[Report]:
    """log|det J| of a chart, where it has one, in both directions.

    - It is that of the Jacobian: by autograd at all samples up to 64 coordinates, at the first sample up to 1,024, and up to
      65,536 estimated there, if well enough for 1e-2 a coordinate to show.
    - It comes with the chart's own coordinates, of their dtype, one number a sample, whatever the samples beside it.
    - Its gradient is its slope.

    Arguments:
        there: the chart at its points.
        again: its inverse at their coordinates.
    """
    g, x, law = there.f, there.x, "log|det J|"
    try:
        g.forward_and_log_abs_det(x.clone())
    except MissingDeterminant as reason:
        return [not_applicable(law, "Jacobian", str(reason))]
    except Exception:  # which its laws report
        pass

    def laws(points: Tensor) -> list[Report]:
        if points is x:
            return _laws(there, again)
        z = g(points.clone())
        return _laws(*both_sides(g, points, z, g.inverse(z.clone())))

    return shrunk(law, laws, InducedSpace(g), x)


def _laws(there: Side, again: Side) -> list[Report]:
    errors = [_error(side) for side in (there, again)]
    return [
        attempt("log|det J|", "Jacobian", partial(_volume, there=there, again=again, error=errors[0] + errors[1].roundings)),
        *(report for side, error in zip((there, again), errors, strict=True) for report in _of_one_side(side, error)),
    ]


def _error(side: Side) -> Noise:
    """What rounding may do to log|det J|: a share of each of the n coordinates where the chart cannot be asked."""
    n = math.prod(side.f.coord_shape)
    try:
        return Noise(float(log_det_roundings(side.f, side.x).max()), n)
    except Exception:
        return Noise(n, n)


def _of_one_side(side: Side, error: Noise) -> list[Report]:
    name, f, x = side.name, side.f, side.x
    law, given = f"{name} has one finite log|det J| a sample, of its dtype", x.clone()
    try:
        result, log_det = (tensor.detach() for tensor in f.forward_and_log_abs_det(given))
    except Exception as problem:
        return [raised(law, "contract", problem)]
    if not _is_one_a_sample(log_det, x) or result.dtype != x.dtype:
        came = f"of {x.dtype} {tuple(x.shape)} it is {log_det.dtype} {tuple(log_det.shape)}, beside {result.dtype}"
        return [Report(law, "contract", math.nan, 0.0, x[0], came)]
    if not log_det.isfinite().all() and _lost(side):
        return [unjudgeable(law, "contract", "rounding leaves nothing of it here")]
    finite = exactly(law, "contract", ~log_det.isfinite(), x)

    def same(law: str, statement: str) -> Report:
        if same_bits(result, side.result):
            return exactly(law, statement, 0, x)
        return compare(law, statement, result - side.result, longest(side.result), side.known, x)

    def gradients(law: str, statement: str) -> Report:
        return slopes(law, statement, f.log_abs_det, side, error)

    return [
        finite,
        attempt(f"{name} is the same with and without log|det J|", "contract", same),
        left_alone(f"{name}'s log|det J|", given, x),
        attempt(f"gradients of {name}'s log|det J| are its slopes", "contract", gradients, chosen=True),
        *rearrangements(f"{name}'s log|det J|", f.log_abs_det, x, log_det, error),
    ]


def _is_one_a_sample(log_det: Tensor, x: Tensor) -> bool:
    return log_det.shape == x.shape[:1] and log_det.dtype == x.dtype


def _lost(side: Side) -> bool:
    """Whether rounding may change the coordinates by more than can be judged."""
    return FACTOR * torch.finfo(side.x.dtype).eps * side.known.roundings > JUDGEABLE * longest(side.result)


def _volume(law: str, statement: str, there: Side, again: Side, error: Noise) -> Report:
    g, n = there.f, there.result[0].numel()
    samples = len(there.x) if n <= ALL_SAMPLES else 1
    x, z = there.x[:samples], again.x[:samples]
    # A chart of a constrained set has its derivative along the tangent space alone, which that of its inverse spans.
    tangent = x[0].numel() != n
    if n <= ONE_SAMPLE:
        volume, roundings = _log_volumes(again.f, z) if tangent else _log_volumes(g, x)
        volume, error = -volume if tangent else volume, error + roundings
        note = f"the Jacobian at {'all samples' if n <= ALL_SAMPLES else 'the first sample'}"
    elif tangent:
        return not_applicable(law, statement, f"not checked above {ONE_SAMPLE} coordinates of a constrained set")
    elif n > WIDE:
        return not_applicable(law, statement, f"not estimated above {WIDE} coordinates; there are {n}")
    else:
        try:
            estimate = _estimate(g, x)
        except RuntimeError:  # a backward pass of a user's class that has no derivative itself
            return not_applicable(law, statement, f"above {ONE_SAMPLE} coordinates it takes second derivatives, which g lacks")
        volume = z.new_full((1,), estimate.value, dtype=torch.float64)
        if not estimate.allowed <= _wide(x, estimate.value):
            why = f"an estimate of it may be off by {estimate.allowed:.2g} or more, too wide for {n} coordinates"
            return not_applicable(law, statement, why)
        note = f"estimated at the first sample: {estimate.value:.6g} within {estimate.allowed:.2g}"
        error = error + estimate.allowed / (FACTOR * torch.finfo(x.dtype).eps)
    forward, backward = g.log_abs_det(x).detach().double(), again.f.log_abs_det(z).detach().double()
    lost = not (forward - backward).isfinite().all() and any(_lost(side) for side in (there, again))
    if lost or not volume.isfinite().all():
        return unjudgeable(law, statement, "rounding leaves nothing of it, or of the Jacobian, here")
    difference = torch.stack([forward - volume, backward + volume]).abs().amax(0)
    return compare(law, statement, difference, float(volume.abs().max()), error, x, note=note)


def _log_volumes(f: Bijection, x: Tensor) -> tuple[Tensor, float]:
    """log sqrt(det J^T J) of samples (k, *shape), in float64, and what the rounding of J may do to it, in multiples of eps.

    Each cotangent has a copy of the samples. A row of J that is off by its own size moves the logarithm by J^+ times that.
    """
    k, n, m = len(x), x[0].numel(), math.prod(f.coord_shape)
    rows = max(1, min(m, ROWS, ENTRIES // x.numel()))
    with torch.enable_grad():
        copies = x.repeat(rows, *(1,) * (x.dim() - 1)).requires_grad_()
        image = f(copies)
        blocks = []
        for start in range(0, m, rows):
            cotangents = torch.zeros(rows, 1, m, dtype=x.dtype, device=x.device)
            cotangents[:, 0].diagonal(start).fill_(1.0)
            along = cotangents.expand(rows, k, m).reshape(image.shape)
            (block,) = torch.autograd.grad(image, copies, along, retain_graph=True)
            blocks.append(block.reshape(rows, k, n)[: m - start])
    J = torch.cat(blocks).transpose(0, 1).double()
    Q, R = torch.linalg.qr(J)
    sizes = J.norm(dim=-1)
    if m != n:  # entries cancel: each is known to the size of all, and of the points
        sizes = torch.maximum(J.norm(dim=(-2, -1)), lengths(image.detach()[:k])).unsqueeze(-1)
    sensitive = torch.linalg.solve_triangular(R, Q.mT, upper=True).norm(dim=-2) * sizes
    return R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1), longest(sensitive)


def _estimate(g: Bijection, x: Tensor) -> Estimate:
    """log|det J| = tr log |J| of a chart at one sample (1, *shape), by stochastic Lanczos quadrature, layer by layer.

    The layers are better conditioned than their composition, so that short recurrences do, and their errors are independent.
    Probes are added as long as more of them could make the law judgeable.
    """
    points = [x]
    for layer in g.layers():
        points.append(layer(points[-1]).detach())
    value = variance = quadrature = 0.0
    found = Estimate(0.0, 0.0, 0.0)
    for round in range(1, ROUNDS + 1):
        for k, layer in enumerate(g.layers()):
            if layer.moves_entries:
                continue
            above, below = _log_traces(layer, points[k], points[k + 1], seed=k * ROUNDS + round)
            middle = (above + below) / 2
            value, variance = value + float(middle.mean()), variance + float(middle.var())
            quadrature += float((above - below).mean().abs()) / 2
            found = Estimate(value / round, math.sqrt(variance / PROBES) / round, quadrature / round)
            if found.quadrature > _wide(x, found.value):
                return found
        if found.allowed <= _wide(x, found.value):
            break
    return found


def _wide(x: Tensor, value: float) -> float:
    """Where an estimate of log|det J| is off by more than this, nothing can be judged by it."""
    return JUDGEABLE * max(x.numel(), abs(value))


def _log_traces(f: Bijection, x: Tensor, z: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """n v^T log|J| v for random unit vectors v of signs, from above and from below, (PROBES,).

    Gauss quadrature of a logarithm errs upward. That of J^T J is from above, and so is that of its inverse, which is from below.
    """
    n = x.numel()
    J, JT = _products(f, x)
    K, KT = _products(f.inverse, z)
    signs = torch.randint(0, 2, (PROBES, n), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    v = (signs / math.sqrt(n)).to(x.device)
    for upper, lower in zip(_gauss(J, JT, v), _gauss(KT, K, v), strict=True):
        above, below = n * upper, -n * lower
        if float((above - below).mean()) <= ACCURACY * n:
            break
    return above, below


def _gauss(J: Product, JT: Product, v: Tensor) -> Iterator[Tensor]:
    """Gauss quadrature of v^T log (J^T J)^(1/2) v, of rising order, by Golub-Kahan bidiagonalisation from unit vectors v."""
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    u: Tensor | float = 0.0
    beta = v.new_zeros(len(v), 1)
    for order in range(1, ORDER + 1):
        u, alpha = _normalised(J(v) - beta * u)
        alphas.append(alpha)
        if order % 2 == 0:
            B = torch.diag_embed(torch.cat(alphas, -1)) + torch.diag_embed(torch.cat(betas, -1), offset=1)
            _, s, Q = torch.linalg.svd(B)
            yield (Q[..., 0].square() * s.clamp(min=torch.finfo(s.dtype).tiny).log()).sum(-1)
        v, beta = _normalised(JT(u) - alpha * v)
        betas.append(beta)


def _normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    size = v.norm(dim=-1, keepdim=True)
    return v / torch.where(size > 0, size, 1.0), size


def _products(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Product, Product]:
    """J v and J^T u at one sample for PROBES vectors at once, from one forward pass: J^T u is linear in u, with derivative J."""
    with torch.enable_grad():
        copies = x.repeat(PROBES, *(1,) * (x.dim() - 1)).requires_grad_()
        image = f(copies)
        dual = torch.zeros_like(image, requires_grad=True)
        (pulled,) = torch.autograd.grad(image, copies, dual, create_graph=True)

    def along(value: Tensor, given: Tensor, v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(value, given, v.to(x).reshape(value.shape), retain_graph=True)
        return product.reshape(PROBES, -1).double()

    return lambda v: along(pulled, dual, v), lambda u: along(image, copies, u)
