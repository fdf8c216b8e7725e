"""Inception v3 as the standard Frechet distance (FID) takes it, for weights that a user supplies."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from applications.common.features import as_rgb, load_weights

SIDE: Final = 299
"""Images are resized to this side."""

Stage = tuple[int, ...]
"""A convolution: channels, height and width of its kernel, and its stride where that is not 1."""
Branch = Sequence[Stage | tuple[Stage, Stage]]
"""One after the other; a pair stands side by side."""

_average: Final = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum: Final = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halved: Final = partial(F.max_pool2d, kernel_size=3, stride=2)


class _Convolution(nn.Module):
    """A convolution without bias, batch norm and ReLU; the modules have the names of the weights."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x)).relu()
        return out


class _Mixed(nn.Module):
    """Branches side by side, their channels joined. What has no `branch_pool` joins the pooled input itself."""

    def __init__(self, inputs: int, branches: Mapping[str, Branch], pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool, self.plan = pool, dict[str, list[list[str]]]()
        self.outputs = 0 if "branch_pool" in branches else inputs
        for branch, stages in branches.items():
            channels, self.plan[branch] = inputs, []
            for number, stage in enumerate(stages, 1):
                name = branch if len(stages) == 1 else f"{branch}_{number}"
                group = {f"{name}a": stage[0], f"{name}b": stage[1]} if isinstance(stage[0], tuple) else {name: stage}
                for key, (out, *kernel) in group.items():
                    self._add(key, channels, out, *kernel)
                self.plan[branch].append(list(group))
                channels = sum(out for out, *_ in group.values())
            self.outputs += channels

    def _add(self, name: str, inputs: int, outputs: int, height: int, width: int, stride: int = 1) -> None:
        padding = (height // 2, width // 2) if stride == 1 else (0, 0)
        self.add_module(name, _Convolution(inputs, outputs, (height, width), stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for branch, groups in self.plan.items():
            y = self.pool(x) if branch == "branch_pool" else x
            for group in groups:
                y = torch.cat([self.get_submodule(name)(y) for name in group], 1)
            parts.append(y)
        return torch.cat(parts if "branch_pool" in self.plan else [*parts, self.pool(x)], 1)


def _a(pooled: int) -> dict[str, Branch]:
    return {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 5)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
        "branch_pool": [(pooled, 1, 1)],
    }


def _c(n: int) -> dict[str, Branch]:
    return {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [(n, 1, 1), (n, 1, 7), (192, 7, 1)],
        "branch7x7dbl": [(n, 1, 1), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7)],
        "branch_pool": [(192, 1, 1)],
    }


_B: Final[dict[str, Branch]] = {"branch3x3": [(384, 3, 3, 2)], "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3, 2)]}
_D: Final[dict[str, Branch]] = {
    "branch3x3": [(192, 1, 1), (320, 3, 3, 2)],
    "branch7x7x3": [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)],
}
_E: Final[dict[str, Branch]] = {
    "branch1x1": [(320, 1, 1)],
    "branch3x3": [(384, 1, 1), ((384, 1, 3), (384, 3, 1))],
    "branch3x3dbl": [(448, 1, 1), (384, 3, 3), ((384, 1, 3), (384, 3, 1))],
    "branch_pool": [(192, 1, 1)],
}


class InceptionV3(nn.Module):
    """Inception v3 (Szegedy et al. 2016) of the original FID (Heusel et al. 2017): its average pooling leaves padding out, and
    its last block pools by the maximum. The 2,048 means of its last maps are the features.

    Law:
        it has the 21,785,568 weights of the published network before the class scores (applications/test_inception.py)
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, (3, 3), 2, (0, 0))
        self.Conv2d_2a_3x3 = _Convolution(32, 32, (3, 3), 1, (0, 0))
        self.Conv2d_2b_3x3 = _Convolution(32, 64, (3, 3), 1, (1, 1))
        self.Conv2d_3b_1x1 = _Convolution(64, 80, (1, 1), 1, (0, 0))
        self.Conv2d_4a_3x3 = _Convolution(80, 192, (3, 3), 1, (0, 0))
        channels = 192
        for name, branches, pool in (
            *(("5b", _a(32), _average), ("5c", _a(64), _average), ("5d", _a(64), _average), ("6a", _B, _halved)),
            *(("6b", _c(128), _average), ("6c", _c(160), _average), ("6d", _c(160), _average), ("6e", _c(192), _average)),
            *(("7a", _D, _halved), ("7b", _E, _average), ("7c", _E, _maximum)),
        ):
            block = _Mixed(channels, branches, pool)
            self.add_module(f"Mixed_{name}", block)
            channels = block.outputs
        self.fc = nn.Linear(channels, 1008)  # class scores: in the files, not used

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of images in [-1, 1), grey (N, 1, H, W) or RGB (N, 3, H, W)."""
        pixels = 128 * (as_rgb(images, self.fc.weight) + 1) - 0.5  # the middle of a pixel's bin is the pixel's number 0..255
        x = F.interpolate(2 * pixels / 255 - 1, (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = _halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


def inception(path: Path) -> InceptionV3:
    """The frozen network with the weights of a file, whose names are torchvision's and whose class scores are 1,008.

    `pt_inception-2015-12-05-6726825d.pth`, which pytorch-fid offers, is such a file; a .safetensors file may hold the same.

    Raises:
        DataError: the file is missing, cannot be read, or holds other weights.
    """
    net = InceptionV3()
    load_weights(net, path)
    return net
