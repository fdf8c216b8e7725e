"""A U-Net for couplings of images: deterministic, smooth, modulated by a context vector in every residual block."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from induced._registry import saved_as
from induced._validate import eager
from induced.bijections.networks.convnet import flat_images
from induced.bijections.networks.mlp import START, Modulation
from induced.errors import ShapeError

GROUP = 8  # channels of a group at least: one that is constant over a picture still varies within its group


class _Residual(nn.Module):
    """h + conv(silu(modulated(conv(silu(h)), c))), each convolution after a group norm of one picture if `norm`."""

    def __init__(self, width: int, context: int, norm: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(_norm(width) if norm else nn.Identity() for _ in range(2))
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = Modulation(context, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        inner = self.first(F.silu(self.norms[0](h)))
        inner = self.modulation(self.norms[1](inner), context, 3)
        out: Tensor = h + self.second(F.silu(inner))
        return out


@final
@saved_as("networks.UNet", "shape", "outputs", "width", "context", "depth", "norm")
class UNet(nn.Module):
    """Images (*batch, inputs, H, W) -> (*batch, outputs, H, W): residual blocks on the way down to H / 2^d and up again.

    A level has twice the channels of the one above and half its sides; what it returns is added to what that one sent down. The
    depth d is the largest of at most `depth` for which no side that is halved is odd or below 4. The result starts small, so
    that a coupling starts near the identity. There is neither dropout nor a statistic of a batch.

    Arguments:
        shape: (inputs, H, W) of the images it is made for; it takes all images whose sides 2^d divides.
        outputs: channels of the result.
        width: channels of the first level.
        context: length of a context vector, fed to every residual block; 0 for none.
        depth: how often the sides are halved at most.
        norm: group norm over one picture. Without it a pixel depends on its surroundings alone.

    Raises:
        ShapeError: `shape` is not that of images, `outputs` or `width` is below 1, `depth` below 0; or images come with sides
            that 2^d does not divide.

    Example:
        >>> import torch
        >>> net = UNet((2, 16, 16), outputs=4, width=8, context=1)
        >>> net(torch.randn(3, 2, 16, 16), torch.tensor([0.5])).shape
        torch.Size([3, 4, 16, 16])

    Law:
        images do not see each other, and contexts only their own image (laws/test_images.py)
    """

    def __init__(
        self, shape: Sequence[int], outputs: int, width: int, context: int = 0, *, depth: int = 2, norm: bool = True
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1 or outputs < 1 or width < 1 or depth < 0:
            raise ShapeError(
                f"a UNet needs a shape (inputs, H, W) of sides >= 1, outputs >= 1, width >= 1 and depth >= 0, "
                f"got shape={tuple(shape)}, outputs={outputs}, width={width}, depth={depth}"
            )
        self.shape, self.outputs, self.width, self.context, self.norm = tuple(shape), outputs, width, context, norm
        self.depth = _halvings(shape[1:], depth)
        widths = [width * 2**level for level in range(self.depth + 1)]
        self.first = nn.Conv2d(shape[0], width, 3, padding=1)
        self.down = nn.ModuleList(_Residual(w, context, norm) for w in widths[:-1])
        self.narrow = nn.ModuleList(nn.Conv2d(w, wide, 2, stride=2) for w, wide in pairwise(widths))
        self.bottom = _Residual(widths[-1], context, norm)
        self.widen = nn.ModuleList(nn.ConvTranspose2d(wide, w, 2, stride=2) for w, wide in pairwise(widths))
        self.up = nn.ModuleList(_Residual(w, context, norm) for w in widths[:-1])
        self.last_norm = _norm(width) if norm else nn.Identity()
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(START)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        cell = 2**self.depth
        if x.shape[-2] % cell or x.shape[-1] % cell:
            raise ShapeError(f"a UNet of depth {self.depth} takes images with sides divisible by {cell}, got {tuple(x.shape)}")
        images, context = flat_images(x, context)
        h = self.first(images)
        sent = []
        for block, narrow in zip(self.down, self.narrow, strict=True):
            h = block(h, context)
            sent.append(h)
            h = narrow(h)
        h = self.bottom(h, context)
        for level in reversed(range(self.depth)):
            h = self.up[level](self.widen[level](h) + sent[level], context)
        out: Tensor = self.last(F.silu(self.last_norm(h)))
        return out.reshape(*x.shape[:-3], *out.shape[-3:])


class _GroupNorm(nn.GroupNorm):
    """The group norm of one picture; unlike torch's module it takes a batch of one picture of one pixel."""

    def forward(self, h: Tensor) -> Tensor:
        # torch has no forward derivative of it in channels-last memory
        return torch.group_norm(h if eager(h) else h.contiguous(), self.num_groups, self.weight, self.bias, self.eps)


def _norm(width: int) -> nn.Module:
    return _GroupNorm(math.gcd(width, max(1, width // GROUP)), width)


def _halvings(sides: Sequence[int], most: int) -> int:
    """How often all sides can be halved, none of them odd or below 4 before."""
    found = 0
    while found < most and all(side % 2 ** (found + 1) == 0 and side >= 4 * 2**found for side in sides):
        found += 1
    return found
