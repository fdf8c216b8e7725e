"""Photographs: those that scikit-image, scikit-learn and matplotlib ship, or a folder; split by photographs; random crops."""

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageEnhance

from applications.common.data.folder import names_below
from applications.common.data.pictures import leave_out, read_picture
from induced.errors import DataError

EMBEDDED: Final = "embedded"
SMALLEST: Final = 16
"""Least side of a photograph."""
TRAIN: Final = (
    *("skimage/data/astronaut.png", "skimage/data/ihc.png", "skimage/data/motorcycle_left.png"),
    *("skimage/data/motorcycle_right.png", "skimage/data/rocket.jpg", "sklearn/datasets/images/flower.jpg"),
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    *("skimage/data/brick.png", "skimage/data/camera.png", "skimage/data/coins.png", "skimage/data/grass.png"),
    "skimage/data/gravel.png",
)
"""Embedded photographs to train on; the last five are grey, and the two motorcycles are one stereo pair.

`hubble_deep_field` and `retina` are left out: in their even dark a teacher's instance norm draws patterns out of noise.
"""
TEST: Final = ("skimage/data/chelsea.png", "skimage/data/coffee.png", "sklearn/datasets/images/china.jpg")
"""Embedded photographs that are held out whole: a cat, a cup, a palace."""


def photographs(source: str, split: str) -> dict[str, Path]:
    """The photographs of one split, by name.

    Arguments:
        source: "embedded", or a folder, of which one picture in ten is held out.
        split: "train" or "test".

    Raises:
        DataError: the folder holds none.
    """
    if source == EMBEDDED:
        return {Path(name).stem: _installed(name) for name in (TRAIN if split == "train" else TEST)}
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder of photographs; {EMBEDDED!r} names those that come with scikit-image")
    return {name: folder / name for name in names_below(split, folder)}


def opened(paths: Sequence[Path], *, skip_bad: bool = False) -> list[Image.Image]:
    """Photographs, whole.

    Raises:
        DataError: some cannot be decoded, and are not to be skipped, or none can: all of them are named.
    """
    found, bad = list[Image.Image](), list[str]()
    for path in paths:
        try:
            found.append(read_picture(path, SMALLEST).colours)
        except DataError as error:
            bad.append(str(error))
    leave_out(bad, len(paths), skip_bad)
    return found


def random_crop(picture: Image.Image, side: int, generator: torch.Generator) -> np.ndarray:
    """A square of a photograph, uint8 (3, side, side): any place, 0.6 to 2 times the scale, flipped or not, colours jittered."""
    u = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    smallest = min(picture.size)
    square = min(smallest, max(1, round(side / math.exp(math.log(0.6) + u[0] * math.log(2 / 0.6)))))
    left, top = (round(v * (n - square)) for v, n in zip(u[1:3], picture.size, strict=True))
    box = (left, top, left + square, top + square)
    crop = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    if u[3] < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance, v in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), u[4:7], strict=True):
        crop = enhance(crop).enhance(0.7 + 0.6 * v)
    pixels = np.asarray(crop).transpose(2, 0, 1)
    if u[7] < 0.3:  # other hues: the photographs are few
        pixels = pixels[torch.randperm(3, generator=generator).numpy()]
    return np.ascontiguousarray(pixels)


def _installed(name: str) -> Path:
    package, _, rest = name.partition("/")
    return Path(str(resources.files(package))) / rest
