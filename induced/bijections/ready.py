"""Ready-made charts: real_nvp for vectors, glow for images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, overload

import numpy as np
from torch import nn

from induced.bijections.base import Bijection, Composition
from induced.bijections.conditional import ConditionalActNorm, ConditionalBijection, ConditionalComposition, ConditionalCoupling
from induced.bijections.coupling import AffineCoupling, Coupling
from induced.bijections.linear import Conv1x1
from induced.bijections.networks import MLP, ConvNet
from induced.bijections.normalize import ActNorm
from induced.bijections.reshape import Squeeze
from induced.errors import ShapeError

Part = Bijection | ConditionalBijection
Kind = Callable[..., Coupling]
Conditioner = Callable[[Sequence[int], int, int, int], nn.Module]
Positive = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
"""Lengths of a context that a type checker tells from 0, which is none; of any other int it knows neither."""


@overload
def real_nvp(
    dim: int, blocks: int = 6, width: int = 64, *, context: Literal[0] = 0, max_log_scale: float = 1.0
) -> Composition: ...
@overload
def real_nvp(
    dim: int, blocks: int = 6, width: int = 64, *, context: Positive, max_log_scale: float = 1.0
) -> ConditionalComposition: ...
@overload
def real_nvp(
    dim: int, blocks: int = 6, width: int = 64, *, context: int, max_log_scale: float = 1.0
) -> Composition | ConditionalComposition: ...


def real_nvp(
    dim: int, blocks: int = 6, width: int = 64, *, context: int = 0, max_log_scale: float = 1.0
) -> Composition | ConditionalComposition:
    """A chart of vectors (dim,): `blocks` affine couplings that change the halves in turn; near the identity, not at it.

    Arguments:
        dim: number of coordinates; in dimension 1 the couplings are learned affine maps.
        blocks: number of couplings.
        width: hidden units of each conditioner.
        context: length of a context vector; above 0 the result is a ConditionalBijection.
        max_log_scale: bound of each coupling's log-scale; lower it where `rounding` finds the chart ill-conditioned.

    Raises:
        ShapeError: `dim` or `blocks` is below 1.

    Example:
        >>> import torch
        >>> g = real_nvp(5)
        >>> x = torch.randn(3, 5)
        >>> torch.allclose(g.inverse(g(x)), x, atol=1e-5)
        True
    """
    if dim < 1 or blocks < 1:
        raise ShapeError(f"real_nvp needs dim >= 1 and blocks >= 1, got dim={dim}, blocks={blocks}")
    kind = partial(AffineCoupling, max_log_scale=max_log_scale)
    return _compose([_dense_coupling(dim, width, context, kind, flip=bool(k % 2) and dim > 1) for k in range(blocks)], context)


def _conv_net(shape: Sequence[int], outputs: int, width: int, context: int) -> nn.Module:
    return ConvNet(shape[0], outputs, width, context)


@overload
def glow(
    shape: Sequence[int],
    blocks: int = 6,
    width: int | Sequence[int] = 32,
    *,
    levels: int = 1,
    context: Literal[0] = 0,
    max_log_scale: float = 1.0,
    conditioner: Conditioner = _conv_net,
) -> Composition: ...
@overload
def glow(
    shape: Sequence[int],
    blocks: int = 6,
    width: int | Sequence[int] = 32,
    *,
    levels: int = 1,
    context: Positive,
    max_log_scale: float = 1.0,
    conditioner: Conditioner = _conv_net,
) -> ConditionalComposition: ...
@overload
def glow(
    shape: Sequence[int],
    blocks: int = 6,
    width: int | Sequence[int] = 32,
    *,
    levels: int = 1,
    context: int,
    max_log_scale: float = 1.0,
    conditioner: Conditioner = _conv_net,
) -> Composition | ConditionalComposition: ...


def glow(
    shape: Sequence[int],
    blocks: int = 6,
    width: int | Sequence[int] = 32,
    *,
    levels: int = 1,
    context: int = 0,
    max_log_scale: float = 1.0,
    conditioner: Conditioner = _conv_net,
) -> Composition | ConditionalComposition:
    """A chart of images (C, H, W): each block is ActNorm, a coupling of either half, and a 1x1 convolution.

    Call `initialize(batch)` once before use. The blocks are spread over `levels`; a squeeze opens every level but the
    first, and the first too where C = 1. No coordinate is dropped on the way. `chart.to(memory_format=torch.channels_last)` makes
    convolutions on a CPU quicker.

    Arguments:
        shape: (C, H, W), H and W divisible by 2 once per squeeze.
        blocks: number of blocks over all levels, at least one a level.
        width: hidden channels of the conditioners, one number or one a level.
        levels: number of resolutions.
        context: length of a context vector; above 0 the result is a ConditionalBijection.
        max_log_scale: bound of each coupling's log-scale; lower it where `rounding` finds the chart ill-conditioned.
        conditioner: makes a conditioner from ((inputs, H, W), outputs, width, context): `UNet`, `partial(UNet, norm=False)`, any
            other callable; a `ConvNet` by default. A `UNet` starts at the width of its level.

    Raises:
        ShapeError: the sides cannot be halved so often, or blocks, levels and widths do not fit each other.
    """
    widths = [width] * levels if isinstance(width, int | np.integer) else list(width)
    if len(shape) != 3 or levels < 1 or blocks < levels or len(widths) != levels:
        raise ShapeError(
            f"glow needs a shape (C, H, W), levels >= 1, blocks >= levels and one width a level, "
            f"got shape={tuple(shape)}, levels={levels}, blocks={blocks}, width={width}"
        )
    shape, parts, kind = tuple(shape), list[Part](), partial(AffineCoupling, max_log_scale=max_log_scale)
    for level in range(levels):
        if level or shape[0] == 1:
            squeeze = Squeeze(shape)
            parts.append(squeeze)
            shape = squeeze.coord_shape
        for _ in range(blocks // levels + (level < blocks % levels)):
            parts.append(ConditionalActNorm(shape, context) if context else ActNorm(shape))
            for flip in (False, True):
                kept, changed = _halves(shape[0], flip)
                net = conditioner((kept, *shape[1:]), 2 * changed, widths[level], context)
                parts.append(_coupling(shape, net, context, kind, flip=flip))
            parts.append(Conv1x1(shape))
    return _compose(parts, context)


def _compose(parts: Sequence[Part], context: int) -> Composition | ConditionalComposition:
    return ConditionalComposition(*parts) if context else Composition(*(p for p in parts if isinstance(p, Bijection)))


def _dense_coupling(dim: int, width: int, context: int, kind: Kind, *, flip: bool) -> Part:
    kept, changed = _halves(dim, flip)
    return _coupling((dim,), MLP(kept, 2 * changed, width, context), context, kind, flip=flip)


def _halves(channels: int, flip: bool) -> tuple[int, int]:
    first = channels // 2
    return (channels - first, first) if flip else (first, channels - first)


def _coupling(shape: tuple[int, ...], conditioner: nn.Module, context: int, kind: Kind, *, flip: bool) -> Part:
    return ConditionalCoupling(shape, conditioner, flip=flip, kind=kind) if context else kind(shape, conditioner, flip=flip)
