"""How much rounding a chart amplifies on the way there and back (docs/mathematics.md, 4)."""

import math

import torch
from torch import Tensor

from induced.bijections.base import Bijection


def rounding(chart: Bijection, x: Tensor, *, against: Tensor | None = None, probes: int | None = None) -> float:
    """The norm of the error, in multiples of eps, that the round trip g^-1(g(x)) may make; the worst point of the batch.

    Each layer g_l that computes rounds its coordinates z_l by about eps |z_l| (one that only moves entries does not); the
    error reaches x through J_{(g_l ... g_1)^-1}. The sum over the layers is propagated with random signs, one jvp sweep
    down the layers a probe: an estimate of sum_l J_{(g_l ... g_1)^-1} |z_l|, layer by layer, so that cancellation inside a
    composition counts. The error that coordinates may make through g(g^-1(z)) is `rounding(g.inv, z)`.

    Arguments:
        chart: the chart g = g_L ... g_1.
        x: points of shape (*batch, *shape); an empty batch gives 0.
        against: vectors (m, n); the largest inner product of the error with one of them is then taken, in place of its norm.
        probes: random sign patterns, the worst of which counts; each costs one forward-mode pass through the inverse. By
            default 8 for points of up to 64 entries, where signs can cancel, and 2 above.
    """
    if x.numel() == 0:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    batch = x.dim() - len(chart.shape)
    layers = chart.layers()
    probes = probes or (8 if math.prod(chart.shape) <= 64 else 2)
    worst = 0.0
    with torch.no_grad():
        points = [x]
        for layer in layers:
            points.append(layer(points[-1]))
        for _ in range(probes):
            tangent = torch.zeros_like(points[-1])
            for layer, z in zip(reversed(layers), reversed(points[1:]), strict=True):
                if not layer.exact:
                    tangent = tangent + _signs(z, generator) * z
                tangent = torch.func.jvp(layer.inverse, (z,), (tangent,))[1]
            tangent = tangent + _signs(x, generator) * x
            error = tangent.flatten(batch) if tangent.dim() > batch else tangent.unsqueeze(-1)
            sizes = error.norm(dim=-1) if against is None else error @ against.mT
            worst = max(worst, float(sizes.abs().max()))
    return worst


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x)
