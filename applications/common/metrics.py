"""Numbers that compare images."""

import math

import torch
from torch import Tensor

from induced.errors import DomainError, DtypeError, ShapeError


def psnr(a: Tensor, b: Tensor, peak: float) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images, 10 log10(peak^2 / mean((a - b)^2)), in decibels.

    Each image has its own mean, taken in float64: the value does not depend on what else is in the batch. The average
    over a set is the mean of these values, not the PSNR of the pooled error.

    Arguments:
        a: Images `(N, ...)`, of any dtype.
        b: Images of the same shape and dtype.
        peak: Width of the images' range: 255 for uint8, 2 for [-1, 1].

    Returns:
        float64, `(N,)`; infinity where the two images are equal.

    Raises:
        ShapeError: the shapes differ, or there is no dimension beside the batch.
        DtypeError: the dtypes differ (two different ranges, as a rule).
        DomainError: `peak` is not a positive number.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ShapeError(f"psnr compares images (N, ...) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != b.dtype:
        raise DtypeError(f"psnr got {a.dtype} and {b.dtype}: bring both to the same range and dtype first")
    if not (math.isfinite(peak) and peak > 0):
        raise DomainError(f"peak is the width of the images' range, a positive number; got {peak}")
    error = (a.to(torch.float64) - b.to(torch.float64)).flatten(1).square().mean(1)
    return 10 * torch.log10(peak**2 / error)
