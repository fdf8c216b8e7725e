"""How much rounding a chart amplifies on the way there and back (docs/theory/numerical_honesty.md)."""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from induced._numerics import random_signs, scaled_norm
from induced.bijections.base import Bijection
from induced.errors import DomainError
from induced.precision import full_precision

BOUNDED = 0.3
"""What half a step of a lattice counts beside roundings, which are forgiven ten of what is estimated."""


@final
class Roundtrip(NamedTuple):
    """What a chart does to points there and back, measured and foretold; of a batch, the worst point.

    Attributes:
        error: the norm |g^-1(g(x)) - x|, measured.
        ulp: the largest entry of that, in units in the last place of the largest entry of x.
        amplification: `rounding(g, x)`: the norm of the error that rounding may make, in multiples of eps.
        predicted: the amplification times eps, in the units of `error`.
    """

    error: float
    ulp: float
    amplification: float
    predicted: float

    @property
    def ok(self) -> bool:
        """Whether rounding explains the error: it is at most ten times what the amplification predicts."""
        return self.error <= 10 * self.predicted < math.inf

    def __str__(self) -> str:
        verdict = "explained by rounding" if self.ok else "NOT explained by rounding"
        return (
            f"round trip off by {self.error:.2e} ({self.ulp:.3g} ulp), amplification {self.amplification:.3g} eps = "
            f"{self.predicted:.2e}: {verdict}"
        )


@full_precision()
def roundtrip(chart: Bijection, x: Tensor, *, probes: int | None = None) -> Roundtrip:
    """|g^-1(g(x)) - x| as measured, beside its amplification eps sum_l |J_{(g_l ... g_1)^-1}| |z_l|, taken layer by layer.

    The amplification is an estimate, not a proof: it adds one rounding to every coordinate of every layer, with random signs, and
    takes the worst of a few draws. So it may miss the worst direction, and it may exceed what roundings that cancel do. Over
    couplings of random weights up to where they break, the error was 1/40 to 5 times what it predicted; `ok` allows 10. It is of
    first order: an error of the size of the point is beyond it but foretold, so look at `predicted` before relying on a chart.

    Arguments:
        chart: the chart g = g_L ... g_1.
        x: points of shape (*batch, *shape); an empty batch gives zeros.
        probes: as in `rounding`.

    Law:
        `r.error <= 10 * r.predicted` (docs/theory/numerical_honesty.md; laws/test_amplification.py)
    """
    if x.numel() == 0:
        return Roundtrip(0.0, 0.0, 0.0, 0.0)
    with torch.no_grad():
        difference = (chart.inverse(chart(x)) - x).reshape(-1, math.prod(chart.shape))
    eps, amplification = torch.finfo(x.dtype).eps, rounding(chart, x, probes=probes)
    largest = x.detach().reshape(difference.shape).abs().amax(-1).clamp(min=torch.finfo(x.dtype).tiny)
    # 2^(e-1) <= |x| < 2^e
    ulps = difference.abs().amax(-1) / torch.ldexp(torch.full_like(largest, eps), torch.frexp(largest).exponent - 1)
    return Roundtrip(_worst(scaled_norm(difference, -1)), _worst(ulps), amplification, eps * amplification)


@full_precision()
def rounding(chart: Bijection, x: Tensor, *, against: Tensor | None = None, probes: int | None = None) -> float:
    """The norm of the error, in multiples of eps, that the round trip g^-1(g(x)) may make; the worst point of the batch.

    Each layer g_l rounds its coordinates by eps `g_l.roundoff`, by default eps |z_l| (one that only moves entries does not), and
    its points by eps `g_l.inverse_roundoff`; between two layers the larger one counts. The error reaches x through
    J_{(g_l ... g_1)^-1}. The sum over the layers is propagated with random signs, one jvp sweep
    down the layers for all probes: an estimate of sum_l J_{(g_l ... g_1)^-1} |z_l|, layer by layer, so that cancellation inside a
    composition counts. The error that coordinates may make through g(g^-1(z)) is `rounding(g.inv, z)`.

    A layer with a `lattice_step` rounds what it is given to its lattice, by half a step, and is exact from there on; it rounds
    nothing that comes from a lattice as coarse as its own. Half a step is a bound and not an estimate that needs the ten times of
    `ok`: it counts 3/10, so that a law may join three results, each off by all of it.

    Arguments:
        chart: the chart g = g_L ... g_1.
        x: points of shape (*batch, *shape); an empty batch gives 0.
        against: vectors (m, n); the largest inner product of the error with one of them is then taken, in place of its norm.
        probes: random sign patterns, the worst of which counts; each costs a forward-mode pass through the inverse. By
            default 8 for points of up to 64 entries, where signs can cancel, and 2 above.

    Returns:
        The norm; infinite where the layers overflow.
    """
    return _worst(roundings(chart, x, against=against, probes=probes))


@full_precision()
def roundings(chart: Bijection, x: Tensor, *, against: Tensor | None = None, probes: int | None = None) -> Tensor:
    """`rounding` of each point of x, of shape (*batch,): the same number for a point whatever the others are."""
    batch, eps = x.dim() - len(chart.shape), torch.finfo(x.dtype).eps
    if x.numel() == 0:
        return x.new_zeros(x.shape[:batch])
    layers = chart.layers()
    probes = probes or (8 if math.prod(chart.shape) <= 64 else 2)
    with torch.no_grad():
        points = [x]
        for layer in layers:
            points.append(layer(points[-1]))
        sizes = _sizes(layers, points)
        # all probes in one sweep, along a batch dimension of their own
        tangent = x.new_zeros((probes, *points[-1].shape))
        steps = _lattice_steps(layers)
        for k in reversed(range(len(layers))):
            z = points[k + 1].expand(tangent.shape).clone()
            tangent = tangent + _signs(tangent, batch, k + 1) * sizes[k + 1]
            tangent = torch.func.jvp(layers[k].inverse, (z,), (tangent,))[1]
            if steps[k]:
                tangent = tangent + _signs(tangent, batch, -k - 1) * (BOUNDED * steps[k] / (2 * eps))
        tangent = tangent + _signs(tangent, batch, 0) * sizes[0]
        error = tangent.reshape(*tangent.shape[: batch + 1], -1)
        lengths = scaled_norm(error, -1) if against is None else (error @ against.mT).abs().amax(-1)
        return torch.nan_to_num(lengths, nan=math.inf, posinf=math.inf).amax(0)


@full_precision()
def log_det_roundings(chart: Bijection, x: Tensor) -> Tensor:
    """What rounding may do to log|det J_g(x)|, in multiples of eps, for each point of x; of shape (*batch,).

    A layer takes its logarithms of slopes at a point that it and the layers before have rounded: by sizes as in `rounding`, which
    count times the gradient of log|det J| there. Near the edge of a domain, where slopes change fast, that is most of it. It then
    adds up n logarithms, n the number of coordinates, which rounds by n and by the size of the sum. These are taken for
    independent, and their squares added. That of a Jacobian by autograd is less well known, by its condition.

    Raises:
        MissingDeterminant: the chart has no determinant.
    """
    batch, n = x.dim() - len(chart.shape), math.prod(chart.coord_shape)
    if x.numel() == 0:
        return x.new_zeros(x.shape[:batch])
    layers, log_dets = chart.layers(), []
    with torch.enable_grad():
        points = [x.detach().clone().requires_grad_()]
        for layer in layers:
            z, log_det = layer.forward_and_log_abs_det(points[-1])
            points.append(z)
            log_dets.append(log_det)
        total = torch.stack(log_dets).sum()
        slopes = torch.autograd.grad(total, points[:-1], allow_unused=True) if total.requires_grad else [None] * len(layers)
    with torch.no_grad():
        pairs = zip(slopes, _sizes(layers, points), strict=False)
        carried = [(slope * size).reshape(*x.shape[:batch], -1) for slope, size in pairs if slope is not None]
        added = [n + log_det for layer, log_det in zip(layers, map(torch.abs, log_dets), strict=True) if not layer.moves_entries]
        each = torch.cat([x.new_zeros((*x.shape[:batch], 1)), *carried, *(size.unsqueeze(-1) for size in added)], -1)
        return torch.nan_to_num(scaled_norm(each, -1), nan=math.inf, posinf=math.inf)


@full_precision()
def zero_size(chart: Bijection, like: Tensor) -> float:
    """The largest norm of what the layers compute at the zero vector g^-1(0), the point included, in the dtype of `like`.

    That is the size of the numbers whose rounding shows near the zero vector; 0 where the chart refuses g^-1(0) or overflows.
    """
    with torch.no_grad():
        z, largest = like.new_zeros(chart.coord_shape), 0.0
        for layer in reversed(chart.layers()):
            try:
                z = layer.inverse(z)
            except DomainError:
                return 0.0
            largest = max(largest, float(scaled_norm(z.flatten())))
            if not math.isfinite(largest):
                return 0.0
    return largest


def _sizes(layers: Sequence[Bijection], points: Sequence[Tensor]) -> list[Tensor]:
    """What is rounded before, between and after the layers: by the layer before or by that after it, whichever rounds more."""
    sizes = [points[0].abs()]
    for layer, x, z in zip(layers, points[:-1], points[1:], strict=True):
        sizes[-1] = torch.maximum(sizes[-1], layer.inverse_roundoff(z))
        sizes.append(layer.roundoff(x))
    return sizes


def _lattice_steps(layers: tuple[Bijection, ...]) -> list[float]:
    """The step of the lattice to which each layer rounds its points; 0 where they lie on it already, or there is none."""
    steps, lattice = [], 0.0
    for layer in layers:
        steps.append(0.0 if lattice >= layer.lattice_step else layer.lattice_step)
        lattice = lattice if layer.moves_entries else layer.lattice_step
    return steps


def _worst(sizes: Tensor) -> float:
    """The largest, where nan counts as infinity; 0 of none."""
    return float(torch.nan_to_num(sizes, nan=math.inf, posinf=math.inf).max()) if sizes.numel() else 0.0


def _signs(x: Tensor, batch: int, seed: int) -> Tensor:
    """Random signs for the entries of a point and each probe of x (probes, *batch, ...), the same ones for the same seed.

    The points of a batch share them, and the first probes are those of fewer probes.
    """
    shape = (x.shape[0], *x.shape[batch + 1 :])
    signs: Tensor = random_signs(seed, *shape)
    return signs.reshape(shape[0], *(1,) * batch, *shape[1:]).to(x)
