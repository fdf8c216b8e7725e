"""Whether tensors still hold the values that something was computed from."""

from typing import NamedTuple

import torch
from torch import Tensor

EXACT = 4096
"""Entries up to which a tensor is compared with a copy of itself."""


class Mark(NamedTuple):
    """A tensor as it was: where it lay, how often torch had written to it, and its values, or its products with a probe.

    What torch counts is seen always. It does not count what fused optimisers, `p.data` and NumPy write, so the values are read as
    well: of a large tensor each row times a fixed probe, at the cost of one product with a vector. A write that torch does not
    count is seen where it changes a row by more than a rounding of that row.
    """

    place: tuple[object, ...]
    probe: Tensor | None
    values: Tensor

    @staticmethod
    def of(t: Tensor) -> "Mark":
        if t.dim() < 2 or t.numel() <= EXACT or not t.is_floating_point():
            return Mark(_place(t), None, t.detach().clone())
        # irregular and of one size; torch.vmap draws no random numbers
        probe = torch.arange(t.shape[-1], dtype=t.dtype, device=t.device).sqrt().frac() + 0.5
        return Mark(_place(t), probe, _products(t.detach(), probe))

    def moved(self, t: Tensor) -> "Mark":
        """The mark of a copy t of the tensor, with the values that it had; a tensor of another kind fits neither."""
        return self._replace(place=_place(t)) if (t.shape, t.dtype) == (self.place[2], self.place[4]) else self

    def fits(self, t: Tensor) -> bool:
        """Whether the tensor is as it was."""
        if self.place != _place(t):
            return False
        if t.is_cuda and torch.cuda.is_current_stream_capturing():  # a CUDA graph may wait for no value, and repeats what it did
            return True
        return torch.equal(t if self.probe is None else _products(t, self.probe), self.values)


def _products(t: Tensor, probe: Tensor) -> Tensor:
    if torch.is_autocast_enabled(t.device.type):
        with torch.autocast(t.device.type, enabled=False):
            return t @ probe
    return t @ probe


def _place(t: Tensor) -> tuple[object, ...]:
    return t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.device
