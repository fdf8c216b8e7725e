"""The map between pixels and the numbers a model sees."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from induced.errors import DomainError, DtypeError, ShapeError

_PADDED: Final = {28: 32}
# Largest dequantisation noise kept: in float32 both v + u and its image in [-1, 1] are exact up to here, for every v of
# 0..255; a larger u would be rounded up to the next pixel value.
_LARGEST_NOISE: Final = 1.0 - 2.0**-16


def unit_shape(images: Tensor) -> tuple[int, ...]:
    """Shape that `to_unit` gives to these images: sides of 28 become 32, others stay.

    Arguments:
        images: `(N, C, H, W)`.

    Returns:
        `(N, C, H', W')`.
    """
    *lead, height, width = images.shape
    return (*lead, _PADDED.get(height, height), _PADDED.get(width, width))


def to_unit(images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Map pixels v to 2 (v + u) / 256 - 1, in [-1, 1): pad 28 to 32, dequantise, scale.

    Sides of 28 are padded by 2 zero pixels on each end, so that they halve five times. A pixel is the bin [v, v + 1),
    and u says where in it: uniform u makes a density over images proper (a density fitted to integers diverges).
    u above 1 - 2^-16 counts as 1 - 2^-16, since float32 would round it into the next bin.

    Arguments:
        images: uint8, `(N, C, H, W)`.
        noise: u in [0, 1) of shape `unit_shape(images)`, float32 or float64; None takes the middle of the bin, 1/2.

    Returns:
        `(N, C, H', W')` in the dtype of `noise` (float32 without).

    Raises:
        DtypeError: images are not uint8, or the noise neither float32 nor float64.
        ShapeError: images have no four dimensions, or the noise has another shape than the padded images.
        DomainError: noise outside [0, 1).

    Law:
        `to_uint8(to_unit(v, u)) == v` bit for bit, for every u (applications/test_data.py)
    """
    if images.dtype != torch.uint8:
        raise DtypeError(f"to_unit maps uint8 images, got {images.dtype} (are these in [-1, 1] already?)")
    if images.ndim != 4:
        raise ShapeError(f"to_unit maps images of shape (N, C, H, W), got {tuple(images.shape)}")
    shape = unit_shape(images)
    if noise is None:
        noise = torch.full((), 0.5, device=images.device)
    else:
        if noise.dtype not in (torch.float32, torch.float64):
            raise DtypeError(f"dequantisation noise must be float32 or float64, got {noise.dtype}: fewer bits lose pixels")
        if tuple(noise.shape) != shape:
            raise ShapeError(f"dequantisation noise has shape {tuple(noise.shape)}, expected {shape} (after padding)")
        if not bool(((noise >= 0) & (noise < 1)).all()):
            raise DomainError(f"dequantisation noise must lie in [0, 1), got [{float(noise.min())}, {float(noise.max())}]")
    return scaled(images, noise)


def scaled(images: Tensor, noise: Tensor) -> Tensor:
    """What `to_unit` computes, without a look at what it is given."""
    shape = unit_shape(images)
    rows, columns = shape[-2] - images.shape[-2], shape[-1] - images.shape[-1]
    padded = F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return (padded.to(noise.dtype) + noise.clamp(max=_LARGEST_NOISE)) / 128 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Map model numbers in [-1, 1) back to pixels, floor(128 (x + 1)), clamped to 0..255; a border of padding stays.

    Arguments:
        x: Any float dtype and shape.

    Returns:
        uint8, of the same shape.

    Raises:
        DtypeError: x is not floating-point.
        DomainError: x holds a value that is not finite.
    """
    if not x.is_floating_point():
        raise DtypeError(f"to_uint8 maps floating-point images in [-1, 1), got {x.dtype} (are these pixels already?)")
    if not bool(x.isfinite().all()):
        raise DomainError(f"to_uint8 got {int((~x.isfinite()).sum())} values that are not finite, of {x.numel()}")
    wide = x if x.dtype == torch.float64 else x.float()
    return ((wide + 1) * 128).floor().clamp(0, 255).to(torch.uint8)
