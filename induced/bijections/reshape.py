"""Charts that only move entries."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from induced._registry import saved_as
from induced.bijections.base import Bijection
from induced.errors import ShapeError


class Rearrangement(Bijection):
    """A chart that moves the entries of a point: exact, an isometry, with log|det J| = 0."""

    moves_entries = True

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = self.inverse(z)
        return x, self._batch_zeros(x)


@final
@saved_as("bijections.Squeeze", "shape", "factor")
class Squeeze(Rearrangement):
    """(C, H, W) -> (f^2 C, H/f, W/f), f = `factor`: each f x f patch becomes f^2 channels, a channel's own ones together.

    Law:
        `Squeeze(shape, f)(x) == torch.nn.functional.pixel_unshuffle(x, f)` (laws/test_bijections.py)
    """

    def __init__(self, shape: Sequence[int], factor: int = 2) -> None:
        if len(shape) != 3 or factor < 1 or shape[1] % factor or shape[2] % factor:
            even = "even" if factor == 2 else f"factor {factor} dividing"
            raise ShapeError(f"Squeeze takes points of shape (C, H, W) with {even} H and W, got {tuple(shape)}")
        super().__init__(shape, (factor**2 * shape[0], shape[1] // factor, shape[2] // factor))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return _gather(x, self.factor)

    def inverse(self, z: Tensor) -> Tensor:
        return _scatter(z, self.factor)


@final
@saved_as("bijections.PixelShuffle", "shape", "factor")
class PixelShuffle(Rearrangement):
    """(f^2 C, H, W) -> (C, f H, f W), f = `factor`: the inverse of `Squeeze`.

    Law:
        `PixelShuffle(shape, f)(x) == torch.nn.functional.pixel_shuffle(x, f)` (laws/test_bijections.py)
    """

    def __init__(self, shape: Sequence[int], factor: int = 2) -> None:
        if len(shape) != 3 or factor < 1 or shape[0] % factor**2:
            raise ShapeError(f"PixelShuffle takes points of shape (C, H, W), C a multiple of {factor**2}, got {tuple(shape)}")
        super().__init__(shape, (shape[0] // factor**2, factor * shape[1], factor * shape[2]))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return _scatter(x, self.factor)

    def inverse(self, z: Tensor) -> Tensor:
        return _gather(z, self.factor)


@final
@saved_as("bijections.RandomSplit", "shape")
class RandomSplit(Rearrangement):
    """(C, H, W) -> (4 C, H/2, W/2): each 2 x 2 patch is dealt into two streams by one random pattern, fixed by the seed.

    The first 2 C channels are the one stream, two pixels of every patch, and the last 2 C the other: the halves that a coupling
    keeps and changes. The pattern is a buffer and is saved with the chart.
    """

    order: Tensor

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise ShapeError(f"RandomSplit takes points of shape (C, H, W) with even H and W, got {tuple(shape)}")
        super().__init__(shape, (4 * shape[0], shape[1] // 2, shape[2] // 2))
        self.register_buffer("order", torch.randperm(4, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:
        z = _gather(x, 2)
        pixels = z.reshape(*z.shape[:-3], self.shape[0], 4, *z.shape[-2:]).transpose(-4, -3)
        return pixels.index_select(-4, self.order).reshape(z.shape)

    def inverse(self, z: Tensor) -> Tensor:
        pixels = z.reshape(*z.shape[:-3], 4, self.shape[0], *z.shape[-2:]).index_select(-4, self.order.argsort())
        return _scatter(pixels.transpose(-4, -3).reshape(z.shape), 2)


@final
@saved_as("bijections.Flatten", "shape")
class Flatten(Rearrangement):
    """Points of any shape -> vectors of their entries."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape, (math.prod(shape),))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.dim() - len(self.shape)], *self.coord_shape)

    def inverse(self, z: Tensor) -> Tensor:
        return z.reshape((*z.shape[:-1], *self.shape))


@final
@saved_as("bijections.Blocks", "blocks", "axis", "stacked")
class Blocks(Rearrangement):
    """The blocks of one axis of a point, each as a vector, one after the other: what a `DirectSum` of charts of blocks acts on.

    Arguments:
        blocks: the shapes of the blocks, which differ along `axis` alone; of a stack they lack it, and are slices of length 1.
        axis: the axis of a point that is cut, counted from the front.
        stacked: whether the blocks lack the axis.
    """

    def __init__(self, blocks: Sequence[Sequence[int]], axis: int, stacked: bool = False) -> None:
        self.blocks, self.axis, self.stacked = [tuple(block) for block in blocks], axis, stacked
        first = self.blocks[0]
        self._lengths = [1 if stacked else block[axis] for block in self.blocks]
        self._at = axis - len(first) - stacked
        shape = (*first[:axis], sum(self._lengths), *first[axis if stacked else axis + 1 :])
        super().__init__(shape, (sum(map(math.prod, self.blocks)),))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split_with_sizes(x, self._lengths, self._at)
        return torch.cat([part.flatten(x.dim() - len(self.shape)) for part in parts], -1)

    def inverse(self, z: Tensor) -> Tensor:
        parts = torch.split_with_sizes(z, [math.prod(block) for block in self.blocks], -1)
        points = [part.reshape((*z.shape[:-1], *block)) for part, block in zip(parts, self.blocks, strict=True)]
        return torch.stack(points, self._at) if self.stacked else torch.cat(points, self._at)


def _gather(x: Tensor, f: int) -> Tensor:
    """(*batch, C, f H, f W) -> (*batch, f^2 C, H, W): the pixels of each patch, row by row, as channels."""
    C, H, W = x.shape[-3], x.shape[-2] // f, x.shape[-1] // f
    patches = x.reshape(*x.shape[:-3], C, H, f, W, f)
    return patches.movedim((-3, -1), (-4, -3)).reshape(*x.shape[:-3], C * f**2, H, W)


def _scatter(z: Tensor, f: int) -> Tensor:
    """The inverse of `_gather`."""
    C, H, W = z.shape[-3] // f**2, z.shape[-2], z.shape[-1]
    patches = z.reshape(*z.shape[:-3], C, f, f, H, W)
    return patches.movedim((-4, -3), (-3, -1)).reshape(*z.shape[:-3], C, H * f, W * f)
