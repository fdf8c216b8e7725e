"""Charts that only move entries."""

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor

from induced.bijections.base import Bijection
from induced.errors import ShapeError


@final
class Squeeze(Bijection):
    """(C, H, W) -> (4 C, H/2, W/2): each 2 x 2 patch becomes four channels."""

    exact = True

    def __init__(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise ShapeError(f"Squeeze takes points of shape (C, H, W) with even H and W, got {tuple(shape)}")
        super().__init__(shape, (4 * shape[0], shape[1] // 2, shape[2] // 2))

    def forward(self, x: Tensor) -> Tensor:
        C, H, W = self.shape
        x = x.reshape(*x.shape[:-3], C, H // 2, 2, W // 2, 2)
        return x.movedim((-3, -1), (-4, -3)).reshape(*x.shape[:-5], *self.coord_shape)

    def inverse(self, z: Tensor) -> Tensor:
        C, H, W = self.shape
        z = z.reshape(*z.shape[:-3], C, 2, 2, H // 2, W // 2)
        return z.movedim((-4, -3), (-3, -1)).reshape(*z.shape[:-5], *self.shape)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x)


@final
class Flatten(Bijection):
    """Points of any shape -> vectors of their entries."""

    exact = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape, (math.prod(shape),))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.dim() - len(self.shape)], *self.coord_shape)

    def inverse(self, z: Tensor) -> Tensor:
        return z.reshape((*z.shape[:-1], *self.shape))

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x)
