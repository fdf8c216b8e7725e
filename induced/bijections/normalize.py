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
    """Log-scale and shift, per channel, that give the batch mean 0 and variance 1; a constant channel keeps its scale."""
    size, std, mean, varies = _moments(batch, shape)
    log_scale = torch.where(varies, -(std.log() + size.log()), 0.0)
    return log_scale.to(batch), (-mean * torch.where(varies, 1 / std, size)).to(batch)


def channels_varied(batch: Tensor, shape: Sequence[int]) -> Tensor:
    """The batch, with variance 1 about the mean in each constant channel, so that an ActNorm of any library keeps its scale."""
    size, _, mean, varies = _moments(batch, shape)
    spread = torch.linspace(-1, 1, batch.numel() // shape[0], dtype=size.dtype, device=size.device)
    spread = (spread / spread.std()).reshape(*batch.shape[: batch.dim() - len(shape)], 1, *shape[1:])
    return torch.where(channelwise(varies, shape), batch, (channelwise(mean * size, shape) + spread).to(batch))


def _moments(batch: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each channel its largest value, the deviation and the mean in units of it, and whether it varies.

    It does not where its samples differ by less than 100 eps of its largest value, position by position: what is left are
    roundings, and what a chart does near the edges of any picture, not data. The only sample must vary over its positions.
    """
    require_shape(batch, shape, "the batch that initialises an ActNorm")
    require_finite(batch, "the batch that initialises an ActNorm")
    samples = batch.reshape(-1, *shape).transpose(0, 1)
    rows = samples.flatten(1) if batch.numel() else batch.new_zeros(shape[0], 0)
    if rows.shape[1] < 2:
        raise ShapeError(f"an ActNorm is initialised by at least two values a channel, got a batch of shape {tuple(batch.shape)}")
    floats = torch.finfo(batch.dtype)
    # relative to the largest value, whose square may be out of range
    size = rows.double().abs().amax(1).clamp(min=floats.tiny)
    units = rows / size.unsqueeze(1)
    std, mean = torch.std_mean(units, dim=1)
    apart = std
    if samples.shape[1] > 1:
        positions = units.reshape(*samples.shape[:2], -1)
        apart = torch.minimum(std, (positions.amax(1) - positions.amin(1)).amax(1))
    return size, std, mean, (apart > 100 * floats.eps) & (std * size > floats.tiny)


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
    samples differ by less than 100 eps times its largest value is constant but for rounding: it gets mean 0 and keeps its scale.

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
