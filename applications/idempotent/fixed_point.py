"""Arithmetic that does not round: integers held in float64, whose sums are exact in any order while they stay below 2^53.

A convolution in floating point depends on the order in which its products are summed, and that on the size of the batch, the
number of threads and the machine. Here weights are multiples of 2^-weight_bits and activations of 2^-activation_bits, clamped,
so that every sum is one of integers whose absolute values add up to less than 2^53: each order gives the same bits.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from induced.bijections.lattice import rounded
from induced.bijections.networks.convnet import flat_images
from induced.bijections.networks.mlp import START
from induced.errors import DomainError
from induced.serialization import register

LIMIT = 64.0
"""Activations are held to [0, LIMIT], the input of a conditioner to [-LIMIT, LIMIT], while training too."""
_EXACT = 2**53
_SIDE, _STRIDE, _PADDING = 4, 2, 1


@final
class Conditioner(nn.Module):
    """Images (*batch, inputs, H, W) -> (*batch, outputs, H, W): stride-2 convolutions down, as many transposed ones up, no skips.

    It starts near 0, with activations of one size in all layers.

    Arguments:
        inputs, outputs: channels.
        sides: (H, W), divisible by 2 once a width.
        widths: channels after each convolution.
    """

    def __init__(self, inputs: int, outputs: int, sides: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.sides, self.widths = inputs, outputs, tuple(sides), tuple(widths)
        down = [nn.Conv2d(a, b, _SIDE, _STRIDE, _PADDING) for a, b in pairwise((inputs, *widths))]
        up = [nn.ConvTranspose2d(a, b, _SIDE, _STRIDE, _PADDING) for a, b in pairwise((*widths[::-1], outputs))]
        self.layers = nn.ModuleList([*down, *up])
        seen = torch.ones(1, 1, *sides)
        with torch.no_grad():
            for layer in self._layers():
                window = torch.ones(1, 1, _SIDE, _SIDE)
                seen = _convolved(seen, window, None, up=isinstance(layer, nn.ConvTranspose2d))
                # only so many of a small image's products are not with padding
                nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * float(seen.mean()))) ** 0.5)
                nn.init.zeros_(cast(Tensor, layer.bias))
                seen = torch.ones_like(seen)
            self._layers()[-1].weight.mul_(START)

    def _layers(self) -> list[nn.Conv2d | nn.ConvTranspose2d]:
        """The layers, typed."""
        return list(self.layers)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = F.hardtanh(flat_images(x, None)[0], -LIMIT, LIMIT)
        for layer in self.layers[:-1]:
            h = F.hardtanh(layer(h), 0.0, LIMIT)
        out: Tensor = self.layers[-1](h)
        return out.reshape(*x.shape[:-3], *out.shape[-3:])


@final
class FixedPoint(nn.Module):
    """A `Conditioner` in fixed point: the result for an image is a function of its bits and of nothing else.

    Gradients with respect to the image pass through the rounding as if it were not there.

    Arguments:
        net: the trained conditioner.
        activation_bits, weight_bits: fractional bits.
        label: what messages call it.

    Raises:
        DomainError: a sum could reach 2^53, or a weight is not finite.

    Law:
        every output is the sum that Python's integers give (applications/idempotent/test_exact.py)
    """

    def __init__(self, net: Conditioner, *, activation_bits: int, weight_bits: int, label: str = "a conditioner") -> None:
        super().__init__()
        self.activation_bits, self.weight_bits = activation_bits, weight_bits
        self.inputs, self.outputs, self.sides, self.widths = net.inputs, net.outputs, net.sides, net.widths
        self.kinds = [isinstance(layer, nn.ConvTranspose2d) for layer in net.layers]
        for k, layer in enumerate(net._layers()):
            # what is (in, out, ...) in a transposed convolution is (out, in, ...) in the other
            weight, outputs = integers(layer.weight, weight_bits), 1 if self.kinds[k] else 0
            bias = integers(cast(Tensor, layer.bias), weight_bits + activation_bits)
            sums = weight.abs().transpose(0, outputs).flatten(1).sum(1) * LIMIT * 2**activation_bits + bias.abs()
            require_exact(sums, f"layer {k + 1} of {label}", f"activation_bits={activation_bits}, weight_bits={weight_bits}")
            # int64, which no `module.to(dtype)` changes
            self.register_buffer(f"weight_{k}", weight.long())
            self.register_buffer(f"bias_{k}", bias.long())

    def forward(self, x: Tensor) -> Tensor:
        a = 2.0**self.activation_bits
        h = rounded(flat_images(x, None)[0].double().clamp(-LIMIT, LIMIT) * a, 1.0)
        for k, up in enumerate(self.kinds):
            if k:
                h = rounded(h * 2.0**-self.weight_bits, 1.0).clamp(0.0, LIMIT * a)
            # torch's convolutions of float64 on a CPU are two to three times as quick on weights in this order
            weight = self.get_buffer(f"weight_{k}").to(torch.float64, memory_format=torch.channels_last)
            h = _convolved(h, weight, self.get_buffer(f"bias_{k}").double(), up=up)
        h = h * 2.0 ** -(self.weight_bits + self.activation_bits)
        return h.reshape(*x.shape[:-3], *h.shape[-3:])


def integers(x: Tensor, bits: int) -> Tensor:
    """round(2^bits x) in float64."""
    return torch.round(x.detach().double() * 2.0**bits)


def require_exact(sums: Tensor, what: str, which: str) -> None:
    """Raise DomainError unless sums of absolute values, and so all partial sums, are integers that float64 holds."""
    largest = float(sums.max()) if sums.numel() else 0.0
    if not largest < _EXACT:
        raise DomainError(
            f"{what} adds up integers of absolute values up to {largest:.3g}, and float64 is exact below 2^53 = {_EXACT:.3g}: "
            f"use fewer bits than {which}, or smaller weights"
        )


def _convolved(h: Tensor, weight: Tensor, bias: Tensor | None, *, up: bool) -> Tensor:
    convolve = F.conv_transpose2d if up else F.conv2d
    return convolve(h, weight, bias, stride=_STRIDE, padding=_PADDING)


_SHAPE = ("inputs", "outputs", "sides", "widths")
register(Conditioner, *_SHAPE, name="idempotent.Conditioner")


def _blank(activation_bits: int, weight_bits: int, **shape: Any) -> FixedPoint:
    return FixedPoint(Conditioner(**shape), activation_bits=activation_bits, weight_bits=weight_bits)


register(FixedPoint, *_SHAPE, "activation_bits", "weight_bits", build=_blank, name="idempotent.FixedPoint")
