"""How much a chart amplifies rounding on the way there and back (MATH.md, section 7)."""

import torch
from torch import Tensor

from induced.bijections.base import Bijection


def amplification(chart: Bijection, x: Tensor, *, probes: int = 4) -> float:
    """How many units of eps the round trip g^-1(g(x)) may lose, relative to the norm of the largest point of the batch.

     Each layer g_l rounds its coordinates z_l by about eps |z_l|; the error reaches x through J_{(g_l ... g_1)^-1}. The
    sum over the layers is propagated with random signs, one jvp sweep down the layers a probe, and the worst sample of
    the worst probe is taken: an estimate of sum_l J_{(g_l ... g_1)^-1} |z_l|, layer by layer, so that cancellation
    inside a composition counts. It costs `probes` passes of forward-mode differentiation and is at least 1.

    Arguments:
        chart: the chart g = g_L ... g_1.
        x: points of shape (*batch, *shape); an empty batch gives 1.
        probes: random sign patterns.
    """
    if x.numel() == 0:
        return 1.0
    generator = torch.Generator().manual_seed(0)
    batch = x.dim() - len(chart.shape)
    layers = chart.layers()
    worst = 1.0
    with torch.no_grad():
        points = [x]
        for layer in layers:
            points.append(layer(points[-1]))
        scale = _norm(x, batch).max()
        if scale == 0:
            scale = torch.ones_like(scale)
        for _ in range(probes):
            tangent = _signs(points[-1], generator) * points[-1]
            for layer, z, below in zip(reversed(layers), reversed(points[1:]), reversed(points[:-1]), strict=True):
                tangent = torch.func.jvp(layer.inverse, (z,), (tangent,))[1] + _signs(below, generator) * below
            worst = max(worst, float(_norm(tangent, batch).max() / scale))
    return worst


def _norm(x: Tensor, batch: int) -> Tensor:
    return x.flatten(batch).norm(dim=-1) if x.dim() > batch else x.abs()


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x)
