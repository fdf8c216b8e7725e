"""Distances between images that follow the eye rather than the pixel; differentiable, as a loss and as a metric."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from applications.common.features import as_rgb, enlarged, find_weights, load_weights
from applications.common.places import Folder
from induced.errors import DataError, DomainError, DtypeError, ShapeError

NAMES: Final = ("auto", "pyramid", "st-lpips")
ST_LPIPS: Final = ("lpips", "alex_shift_tolerant.safetensors")
MIN_SIDE: Final = 21
"""Shortest side ST-LPIPS can see: its last reflection padding by 2 needs 3 pixels. Smaller images are enlarged to it."""

_TINY: Final = 1e-20
# Layers of the file are numbered through its five slices; these are the numbers at which each slice starts.
_SLICE_STARTS: Final = (0, 3, 7, 11, 13)
_LEVELS: Final = 4
_COARSEST: Final = 4


class PerceptualDistance(nn.Module, ABC):
    """A distance d(a, b) of images in [-1, 1): not negative, symmetric, 0 for equal images, one number a pair."""

    name: str
    """What reports call it: values of different distances have different scales."""

    @abstractmethod
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare each image with its partner.

        Arguments:
            a: Images in [-1, 1), floating point, `(N, C, H, W)`.
            b: Images of the same shape and dtype.

        Returns:
            `(N,)`; each pair's distance, whatever else is in the batch.

        Raises:
            ShapeError: the shapes differ, or are not those of images.
            DtypeError: the dtypes differ or are not floating-point.
        """


@final
class ShiftTolerantLPIPS(PerceptualDistance):
    """ST-LPIPS (alex): the shift-tolerant perceptual similarity metric of Ghildyal and Liu (ECCV 2022),

    d(a, b) = sum over 5 stages of mean over pixels of w_k . (f_k(a) / |f_k(a)| - f_k(b) / |f_k(b)|)^2,

    with w_k >= 0 and f_k the stages of an AlexNet whose every reduction is anti-aliased: a blur by the binomial filter
    1 2 1 after reflection padding by 2, then every other pixel. The first convolution has stride 1. A grey image is repeated to
    three channels; an image with a side below `MIN_SIDE` is enlarged bilinearly. The paper reports LPIPS with another
    backbone: close in meaning, not the same scale. d is no metric: squares break the triangle inequality.

    Arguments:
        weights: Path of the safetensors file.

    Raises:
        DataError: the file cannot be read or holds other weights.

    Law:
        `d(a, a) == 0 and d(a, b) == d(b, a)` (applications/test_perceptual.py)
    """

    name = "ST-LPIPS (alex)"
    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Path) -> None:
        """Build the layers and fill them."""
        super().__init__()
        widths = (64, 192, 384, 256, 256)
        self.stages = nn.ModuleList(
            (
                nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), _blur(64), nn.ReLU()),
                nn.Sequential(nn.MaxPool2d(3, 1), _blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
                nn.Sequential(nn.MaxPool2d(3, 1), _blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
            )
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.register_buffer("scale", torch.empty(1, 3, 1, 1))
        load_weights(self, weights, _renamed)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third quicker on a CPU

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare each image with its partner."""
        _check_pair(a, b)
        total = a.new_zeros(len(a))
        for head, x, y in zip(self.heads, self.maps(a), self.maps(b), strict=True):
            total = total + head((directions(x) - directions(y)).square()).mean((1, 2, 3))
        return total

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the five stages, of 64, 192, 384, 256 and 256 channels."""
        x = (enlarged(as_rgb(images, self.shift), MIN_SIDE) - self.shift) / self.scale
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


@final
class PyramidDistance(PerceptualDistance):
    """Multi-scale distance of images, without any weights,

    d(a, b) = mean |G_l| + sum_{k < l} mean |G_k - up(G_{k+1})| + sum_{k <= l} (mean |D_x G_k| + mean |D_y G_k|),

    with G_0 = a - b, G_{k+1} every other pixel of G_k blurred by the binomial filter 1 4 6 4 1 (the border repeated), up
    bilinear, and D the differences of neighbouring pixels. The first two terms are the L1 norm of a Laplacian pyramid with
    its bands weighted equally by their means (as in Bojanowski et al. 2018), the last compares edges. There are four levels, or
    fewer: the coarsest has no side below 4, or is the image itself. It is a norm of a - b, so a metric; a shift by one pixel
    costs it more than a learned distance. Images that differ by a constant c are |c| apart.

    Law:
        `d(a, c) <= d(a, b) + d(b, c)` (applications/test_perceptual.py)
    """

    name = "pyramid distance"
    binomial: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("binomial", torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16, persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare each image with its partner."""
        _check_pair(a, b)
        level = a - b
        total = _edges(level)
        for _ in range(_LEVELS - 1):
            if min(level.shape[-2:]) < 2 * _COARSEST:
                break
            coarser = self._reduced(level)
            band = level - F.interpolate(coarser, level.shape[-2:], mode="bilinear", align_corners=False)
            total = total + _mean_size(band) + _edges(coarser)
            level = coarser
        return total + _mean_size(level)

    def _reduced(self, images: Tensor) -> Tensor:
        """Blur by the binomial filter, then keep every other pixel."""
        channels = images.shape[1]
        weights = self.binomial.to(images).expand(channels, 1, 1, -1)
        padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
        rows = F.conv2d(padded, weights.mT, stride=(2, 1), groups=channels)
        return F.conv2d(rows, weights, stride=(1, 2), groups=channels)


def perceptual(data_dir: Folder | None = None, name: str = "auto") -> PerceptualDistance:
    """Choose a perceptual distance.

    Arguments:
        data_dir: Folder that holds `lpips/`; beats the environment variable `INDUCED_DATA`.
        name: `"st-lpips"`, `"pyramid"`, or `"auto"`: the first where its weights are found, else the second.

    Returns:
        The distance; its `name` belongs in every report.

    Raises:
        DomainError: unknown name.
        DataError: the weights of ST-LPIPS are damaged, or asked for by name and missing.
    """
    if name not in NAMES:
        raise DomainError(f"no perceptual distance is called {name!r}; there are {', '.join(NAMES)}")
    if name == "pyramid":
        return PyramidDistance()
    try:
        weights = find_weights(ST_LPIPS, data_dir)
    except DataError:
        if name == "auto":
            return PyramidDistance()
        raise
    return ShiftTolerantLPIPS(weights)


def _blur(channels: int) -> nn.Conv2d:
    """Anti-aliased reduction by 2: a filter for each channel after reflection padding by the filter's width less 1."""
    return nn.Conv2d(channels, channels, 3, stride=2, padding=2, padding_mode="reflect", groups=channels, bias=False)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the file's names into this module's: slices to stages, lin to heads."""
    names = {}
    for name, value in tensors.items():
        if match := re.fullmatch(r"net\.slice([1-5])\.(\d+)\.(filt|weight|bias)", name):
            stage = int(match[1]) - 1
            part = "weight" if match[3] == "filt" else match[3]
            name = f"stages.{stage}.{int(match[2]) - _SLICE_STARTS[stage]}.{part}"
        elif match := re.fullmatch(r"lin(\d)\.model\.1\.weight", name):
            name = f"heads.{match[1]}.weight"
        names[name.removeprefix("scaling_layer.")] = value
    return names


def directions(maps: Tensor) -> Tensor:
    """Scale each pixel's channels to unit length, in float32 at least; all zeros stay so, with gradient 0."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return maps * maps.square().sum(1, keepdim=True).clamp(min=_TINY).rsqrt()


def _check_pair(a: Tensor, b: Tensor) -> None:
    """Refuse images that cannot be compared."""
    if a.shape != b.shape or a.ndim != 4 or 0 in a.shape[1:]:
        raise ShapeError(f"expected two batches of images (N, C, H, W) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != b.dtype or not a.is_floating_point():
        raise DtypeError(f"expected images in [-1, 1) of one floating dtype, got {a.dtype} and {b.dtype}")


def _mean_size(images: Tensor) -> Tensor:
    """Mean absolute value of each image; 0 where it has no pixel."""
    return images.abs().sum((1, 2, 3)) / max(math.prod(images.shape[1:]), 1)


def _edges(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, down and across."""
    return _mean_size(images.diff(dim=-2)) + _mean_size(images.diff(dim=-1))
