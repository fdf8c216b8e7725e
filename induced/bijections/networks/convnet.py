"""Convolutional networks of images for couplings: deterministic, smooth, optionally modulated by a context vector."""

import math
from contextlib import nullcontext
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from induced._registry import saved_as
from induced.bijections.networks.mlp import START, Modulation


class LocalNorm(nn.Module):
    """gain (h - m) / sqrt(v + EPS) + bias on images (N, width, H, W), with m and v the mean and variance of a channel nearby:

    over `window` entries to each side, as far as the image goes. Local contrast normalization (Jarrett et al. 2009): what
    instance normalization does to an image, but the same on a tile of it. window = 0 does nothing.
    """

    EPS = 1e-3

    def __init__(self, window: int, width: int) -> None:
        super().__init__()
        self.window = window
        self.gain = nn.Parameter(torch.ones(width, 1, 1)) if window else None
        self.bias = nn.Parameter(torch.zeros(width, 1, 1)) if window else None

    def forward(self, h: Tensor) -> Tensor:
        if self.gain is None or self.bias is None:
            return h
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        # the difference of two squares needs the digits; the meta device has no autocast
        with nullcontext() if h.is_meta else torch.autocast(h.device.type, enabled=False):
            count = self._sums(h.new_ones(1, 1, *h.shape[-2:]))
            mean, square = (self._sums(torch.cat([h, h.square()], -3)) / count).chunk(2, -3)
            return (h - mean) * torch.rsqrt((square - mean.square()).clamp_min(0) + self.EPS) * self.gain + self.bias

    def _sums(self, h: Tensor) -> Tensor:
        """Sums over the squares; a column, then a row of ones, for each channel."""
        channels, side = h.shape[-3], 2 * self.window + 1
        ones = h.new_ones(channels, 1, side, 1)
        columns = F.conv2d(h, ones, padding=(self.window, 0), groups=channels)
        return F.conv2d(columns, ones.mT, padding=(0, self.window), groups=channels)


def _described(m: "ConvNet") -> dict[str, int]:
    first, last = m.first, m.last
    context = 0 if m.modulation.affine is None else m.modulation.affine.in_features
    sizes = {"inputs": first.in_channels, "outputs": last.out_channels, "width": first.out_channels}
    return sizes | {"context": context, "window": m.norm.window}


@final
@saved_as("networks.ConvNet", describe=_described)
class ConvNet(nn.Module):
    """Images (*batch, inputs, H, W) -> (*batch, outputs, H, W): three 3 x 3 convolutions, the middle one residual.

    The first one's outputs may be normalized over `window` entries to each side.
    """

    def __init__(self, inputs: int, outputs: int, width: int, context: int = 0, window: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm = LocalNorm(window, width)
        self.modulation = Modulation(context, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(START)

    @property
    def reach(self) -> int:
        """Entries to each side that an output depends on, at most: one a convolution, and the window."""
        return 3 + self.norm.window

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        images, context = flat_images(x, context)
        h = F.silu(self.modulation(self.norm(self.first(images)), context, 3))
        out: Tensor = self.last(F.silu(h + self.second(h)))
        return out.reshape(*x.shape[:-3], *out.shape[-3:])


def flat_images(x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Images (*batch, C, H, W) and their contexts with one batch dimension; a single context (k,) serves all of them."""
    batch = x.shape[:-3]
    if context is not None and context.dim() > 1:
        context = context.expand(*batch, context.shape[-1]).reshape(math.prod(batch), context.shape[-1])
    return x.reshape(math.prod(batch), *x.shape[-3:]), context
