"""Linear charts."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from induced.bijections.base import Bijection
from induced.errors import ShapeError


@final
class Conv1x1(Bijection):
    """z = W x at every position of a (C, H, W) point, W an invertible (C, C) matrix that starts orthogonal.

    The inverse matrix is computed in float64 and rounded once.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        if len(self.shape) != 3:
            raise ShapeError(f"a 1x1 convolution acts on points of shape (C, H, W), got {self.shape}")
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(self.shape[0], self.shape[0]))[0])

    def forward(self, x: Tensor) -> Tensor:
        return self._mix(self.weight, x)

    def inverse(self, z: Tensor) -> Tensor:
        return self._mix(torch.linalg.inv(self.weight.double()).to(self.weight.dtype), z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight.double())[1].to(x.dtype) * (self.shape[1] * self.shape[2])
        return self(x), self._batch_zeros(x) + log_det

    def _mix(self, W: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return (W @ x.to(W.dtype).flatten(-2)).reshape(x.shape)
