"""The style networks that are distilled: those of Johnson et al. (2016) with instance norm, laid out as in pytorch/examples."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from applications.common.features import load_weights
from applications.common.places import Folder, data_folder
from induced.errors import DataError, ShapeError

STYLES: Final = ("mosaic", "candy", "rain_princess", "udnie", "pointilism")
"""Styles whose weights the folder fast-style holds."""
SMALLEST: Final = 20
"""Least side of a picture: the reflections of the residual blocks need more than one entry at a quarter of it."""


class _Convolution(nn.Module):
    """Reflection padding by half the kernel, then a convolution; `upsample` repeats pixels before."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, upsample: int = 1) -> None:
        super().__init__()
        self.upsample, self.padding = upsample, kernel // 2
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample > 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="nearest")
        convolved: Tensor = self.conv2d(F.pad(x, (self.padding,) * 4, mode="reflect"))
        return convolved


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Convolution(channels, channels, 3), _Convolution(channels, channels, 3)
        self.in1, self.in2 = _norm(channels), _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.in1(self.conv1(x)))
        out: Tensor = x + self.in2(self.conv2(h))
        return out


class Teacher(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] -> stylised ones of the same size; the modules have the names of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.in1 = _Convolution(3, 32, 9), _norm(32)
        self.conv2, self.in2 = _Convolution(32, 64, 3, stride=2), _norm(64)
        self.conv3, self.in3 = _Convolution(64, 128, 3, stride=2), _norm(128)
        self.res1, self.res2, self.res3, self.res4, self.res5 = (_Residual(128) for _ in range(5))
        self.deconv1, self.in4 = _Convolution(128, 64, 3, upsample=2), _norm(64)
        self.deconv2, self.in5 = _Convolution(64, 32, 3, upsample=2), _norm(32)
        self.deconv3 = _Convolution(32, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        """The stylised pictures, clamped to the range of pixels.

        Raises:
            ShapeError: not pictures of three channels with sides of at least 20.
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < SMALLEST:
            raise ShapeError(f"a teacher takes pictures (N, 3, H, W) with sides of at least {SMALLEST}, got {tuple(x.shape)}")
        h = 128 * (x + 1) - 0.5  # the middle of a pixel's bin is the pixel's number 0..255
        for convolution, norm in ((self.conv1, self.in1), (self.conv2, self.in2), (self.conv3, self.in3)):
            h = F.relu(norm(convolution(h)))
        for block in (self.res1, self.res2, self.res3, self.res4, self.res5):
            h = block(h)
        for convolution, norm in ((self.deconv1, self.in4), (self.deconv2, self.in5)):
            h = F.relu(norm(convolution(h)))
        y: Tensor = self.deconv3(h)[..., : x.shape[-2], : x.shape[-1]]  # sides are rounded up to multiples of 4
        return (y.clamp(0, 255) + 0.5) / 128 - 1


def load_teacher(style: str, data_dir: Folder | None = None) -> Teacher:
    """The network of one style, frozen, from fast-style/STYLE.npz below the data folder.

    Arguments:
        style: One of `STYLES`, or the name of any other file of this layout.
        data_dir: Folder that holds `fast-style/`; beats the environment variable `INDUCED_DATA`.

    Raises:
        DataError: no folder was given, or the file is missing, damaged or of another layout.
    """
    folder, teacher = data_folder(data_dir, f"the style {style!r} needs the weights fast-style/{style}.npz"), Teacher()
    path = folder / "fast-style" / f"{style}.npz"
    if not path.exists():
        known = sorted(file.stem for file in path.parent.glob("*.npz"))
        raise DataError(f"{path}: is missing; styles found there: {', '.join(known) or 'none'}")
    load_weights(teacher, path)
    return teacher


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)
