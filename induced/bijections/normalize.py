"""Data-dependent normalisation with its state in buffers."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from induced._registry import saved_as
from induced._validate import require_finite, require_shape
from induced.bijections.base import Bijection
from induced.errors import InducedError, ShapeError


def channelwise(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(*batch, C) values, ready to meet points (*batch, C, ...)."""
    return values[(..., *(None,) * (len(shape) - 1))]


def channel_affine(batch: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-scale and shift, per channel, that give the batch mean 0 and variance 1; a constant channel keeps its scale.

    A channel is constant where its deviation is below 100 eps times its largest value: what is left are roundings, not data.
    """
    require_shape(batch, shape, "the batch that initialises an ActNorm")
    require_finite(batch, "the batch that initialises an ActNorm")
    rows = batch.reshape(-1, *shape).transpose(0, 1).flatten(1) if batch.numel() else batch.new_zeros(shape[0], 0)
    if rows.shape[1] < 2:
        raise ShapeError(f"an ActNorm is initialised by at least two values a channel, got a batch of shape {tuple(batch.shape)}")
    floats = torch.finfo(batch.dtype)
    # relative to the largest value, whose square may be out of range
    size = rows.double().abs().amax(1).clamp(min=floats.tiny)
    std, mean = torch.std_mean(rows / size.unsqueeze(1), dim=1)
    varies = (std > 100 * floats.eps) & (std * size > floats.tiny)
    log_scale = torch.where(varies, -(std.log() + size.log()), 0.0)
    return log_scale.to(batch), (-mean * torch.where(varies, 1 / std, size)).to(batch)


class DataDependent(nn.Module):
    """A module with an `initialized` buffer, mirrored in Python so that a check of it costs no device synchronisation."""

    initialized: Tensor

    def _register_state(self) -> None:
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self._ready = False
        self.register_load_state_dict_post_hook(_mirror)  # type: ignore[no-untyped-call]

    def _mark_ready(self) -> None:
        self.initialized.fill_(True)
        self._ready = True

    def _require_ready(self) -> None:
        if not self._ready:
            raise InducedError(
                f"this {type(self).__name__} has not been initialised: call chart.initialize(batch) once with a batch of data, "
                f"or load a trained state"
            )


def _mirror(module: nn.Module, _: object) -> None:
    if isinstance(module, DataDependent) and not module.initialized.is_meta:
        module._ready = bool(module.initialized)


@final
@saved_as("bijections.ActNorm", "shape")
class ActNorm(DataDependent, Bijection):
    """z = exp(s) x + b per channel (the first axis of a point); s and b train, and start so that data get mean 0 and variance 1.

    `initialize(batch)` is called once, by training; a loaded state needs no call. Use before either raises. A channel whose
    deviation is below 100 eps times its largest value is constant but for rounding: it gets mean 0 and keeps its scale.

    Raises:
        InducedError: used before `initialize`.
        ShapeError: `initialize` was given fewer than two values a channel.
        DomainError: `initialize` was given values that are not finite.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        Bijection.__init__(self, shape)
        self.log_scale = nn.Parameter(torch.zeros(self.shape[0]))
        self.shift = nn.Parameter(torch.zeros(self.shape[0]))
        self._register_state()

    def initialize(self, batch: Tensor) -> None:
        log_scale, shift = channel_affine(batch, self.shape)
        with torch.no_grad():
            self.log_scale.copy_(log_scale)
            self.shift.copy_(shift)
        self._mark_ready()

    def forward(self, x: Tensor) -> Tensor:
        self._require_ready()
        return x * channelwise(self.log_scale.exp(), self.shape) + channelwise(self.shift, self.shape)

    def inverse(self, z: Tensor) -> Tensor:
        self._require_ready()
        return (z - channelwise(self.shift, self.shape)) * channelwise((-self.log_scale).exp(), self.shape)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x) + math.prod(self.shape[1:]) * self.log_scale.sum()

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(z), self._batch_zeros(z) - math.prod(self.shape[1:]) * self.log_scale.sum()
