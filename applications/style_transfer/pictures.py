"""Picture files of any size, in and out: orientation, colour profile and alpha are kept or applied."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from applications.common.data.pixels import to_uint8, to_unit
from induced.errors import DataError, MissingExtra

try:
    from PIL import Image, ImageCms, ImageOps
except ImportError as error:
    raise MissingExtra(f"reading pictures needs pillow ({error}): install induced[apps]") from error

SMALLEST: Final = 16
"""Least side of a picture."""
FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_DAMAGED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, upright and in sRGB.

    Attributes:
        colours: mode RGB.
        alpha: mode L, or None for an opaque picture.
    """

    colours: Image.Image
    alpha: Image.Image | None = None

    def tensor(self) -> Tensor:
        """(1, 3, H, W) in [-1, 1)."""
        return unit(torch.from_numpy(np.array(self.colours)).permute(2, 0, 1)[None])

    def with_colours(self, x: Tensor) -> "Picture":
        """The same alpha over the colours (1, 3, H, W) in [-1, 1)."""
        return replace(self, colours=Image.fromarray(to_uint8(x[0]).permute(1, 2, 0).contiguous().cpu().numpy()))


def unit(pixels: Tensor) -> Tensor:
    """`to_unit` for uint8 pictures of any shape and sides: none is padded."""
    return to_unit(pixels.reshape(1, 1, 1, -1)).reshape(pixels.shape)


def read_picture(path: Path) -> Picture:
    """Decode a picture file: EXIF orientation applied, colours brought to sRGB by the profile in the file, alpha apart.

    Raises:
        DataError: the file cannot be decoded, or has a side below 16 pixels.
    """
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            profile = opened.info.get("icc_profile")
            alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
            colours = _srgb(upright, profile) if profile else _rgb(upright)
    except _DAMAGED as error:
        raise DataError(f"{path}: no picture that can be decoded ({error})") from error
    if min(colours.size) < SMALLEST:
        raise DataError(f"{path}: is {colours.width}x{colours.height} pixels; sides of at least {SMALLEST} are needed")
    return Picture(colours, alpha)


def write_picture(path: Path, picture: Picture) -> Path:
    """Write PNG or JPEG, by the suffix, with the profile of sRGB; JPEG has no alpha and lays the picture on white.

    Raises:
        DataError: another suffix, or the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    image = picture.colours.copy()
    if picture.alpha is not None:
        image.putalpha(picture.alpha)
        if FORMATS[path.suffix.lower()] == "JPEG":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format=FORMATS[path.suffix.lower()], quality=95, icc_profile=profile)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    return path


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64).clip(0, 65535)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return picture.convert("RGB")


def _srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colours in sRGB; a profile that does not fit the picture's channels is passed over."""
    plain = picture if picture.mode in ("RGB", "L", "CMYK") else _rgb(picture)
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return plain.convert("RGB")
    return converted if converted is not None else plain.convert("RGB")
