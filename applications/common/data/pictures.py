"""Picture files of any kind and size, in and out: upright, in sRGB, alpha apart."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from applications.common.data.pixels import to_uint8, to_unit
from induced.errors import DataError

FORMATS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Files that are taken for pictures where a folder is searched."""
_DAMAGED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_BITS_PER_SAMPLE: Final = 258
_QUALITY: Final = 95
_SHOWN: Final = 20


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, upright and in sRGB.

    Attributes:
        colours: mode RGB.
        alpha: mode L, or None for an opaque picture.
        frames: pictures in the file; the first one is this.
    """

    colours: Image.Image
    alpha: Image.Image | None = None
    frames: int = 1

    def tensor(self) -> Tensor:
        """(1, 3, H, W) in [-1, 1)."""
        return unit(torch.from_numpy(np.array(self.colours)).permute(2, 0, 1)[None])

    def with_colours(self, x: Tensor) -> "Picture":
        """The same alpha over the colours (1, 3, H, W) in [-1, 1)."""
        return replace(self, colours=Image.fromarray(to_uint8(x[0]).permute(1, 2, 0).contiguous().cpu().numpy()))

    def on_white(self) -> Image.Image:
        """The colours; where the picture is transparent, white shows through."""
        if self.alpha is None:
            return self.colours
        layered = self.colours.copy()
        layered.putalpha(self.alpha)
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def unit(pixels: Tensor) -> Tensor:
    """`to_unit` for uint8 pictures of any shape and sides: none is padded."""
    return to_unit(pixels.reshape(1, 1, 1, -1)).reshape(pixels.shape)


def read_picture(path: Path, smallest: int = 1) -> Picture:
    """Decode a picture file: EXIF orientation applied, colours brought to sRGB by the profile in the file, alpha apart.

    Grey, palettes and CMYK become RGB; 16 and 32 bits a channel are scaled to 8; floating-point values are shares of white, in
    [0, 1]. Of an animation the first picture is taken.

    Arguments:
        path: Any file that pillow reads.
        smallest: The least side.

    Raises:
        DataError: the file cannot be decoded, its values are out of range, or a side is below the least.
    """
    try:
        with Image.open(path) as opened:
            frames = getattr(opened, "n_frames", 1)
            profile, bits = opened.info.get("icc_profile"), _bits(opened)
            upright = ImageOps.exif_transpose(opened)
            alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
            plain = _eight_bits(upright, bits)
            colours = _srgb(plain, profile) if profile else plain.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except _DAMAGED as error:
        raise DataError(f"{path}: no picture that can be decoded ({error})") from error
    if min(colours.size) < smallest:
        raise DataError(f"{path}: is {colours.width}x{colours.height} pixels; sides of at least {smallest} are needed")
    return Picture(colours, alpha, frames)


def leave_out(reasons: Sequence[str], total: int, skip_bad: bool) -> None:
    """Say how many pictures are left out, where some cannot be used.

    Raises:
        DataError: they are not to be left out, or no other is there: each is named, with its reason.
    """
    if reasons and (not skip_bad or len(reasons) == total):
        listed = "\n  ".join(reasons[:_SHOWN]) + (f"\n  and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else "")
        raise DataError(
            f"{len(reasons)} of {total} pictures cannot be used; mend or remove them, or leave them out with --skip-bad "
            f"(skip_bad=True):\n  {listed}"
        )
    if reasons:
        print(f"{len(reasons)} of {total} pictures are left out: they cannot be decoded", flush=True)


def picture_file(path: Path, others: Mapping[str, str] | None = None) -> Path:
    """The file that a picture will be written to, checked before the work begins.

    Arguments:
        path: The file.
        others: Other suffixes that are allowed, and what is written so, in words.

    Raises:
        DataError: the suffix is of no format that is written, or the path is a folder or cannot be written.
    """
    path = path.expanduser()
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it, such as {path / 'picture.png'}")
    others = others or {}
    if path.suffix.lower() not in (*FORMATS, *others):
        raise DataError(f"{path}: pictures are written as {', '.join([*FORMATS, *others.values()])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: its folder cannot be made ({error.strerror}: {error.filename})") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"{path}: cannot be written; is it another user's, or read-only?")
    return path


def write_picture(path: Path, picture: Picture | Image.Image) -> Path:
    """Write PNG or JPEG, by the suffix; a `Picture` with the profile of sRGB. JPEG has no alpha: the picture is laid on white.

    Raises:
        DataError: as `picture_file`, or the file cannot be written.
    """
    path = picture_file(path)
    form = FORMATS[path.suffix.lower()]
    options: dict[str, object] = {"quality": _QUALITY} if form == "JPEG" else {}
    if isinstance(picture, Picture):
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        image = picture.on_white() if form == "JPEG" else picture.colours.copy()
        if picture.alpha is not None and form != "JPEG":
            image.putalpha(picture.alpha)
    else:
        image = picture
    content = io.BytesIO()
    try:
        image.save(content, format=form, **options)
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    return path


def _bits(picture: Image.Image) -> int:
    """Bits of a channel of integers wider than 8: what a TIFF says, else 16."""
    declared = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return max(16, *declared) if isinstance(declared, tuple) else max(16, int(declared))


def _eight_bits(picture: Image.Image, bits: int) -> Image.Image:
    """A picture of 8 bits a channel."""
    if not picture.mode.startswith(("I", "F")):
        return picture.convert("RGB") if picture.mode not in ("L", "RGB", "CMYK") else picture
    values = np.asarray(picture)
    whole = picture.mode != "F"
    # pillow holds 32 bits as signed ones
    wide = values.astype(np.int64) & (2**bits - 1) if whole else values.astype(np.float64)
    shares = wide / (2**bits - 1) if whole else wide
    if not (shares.min() >= 0 and shares.max() <= 1):
        raise ValueError(
            f"its floating-point values reach from {shares.min():g} to {shares.max():g}; expected 0 to 1, shares of white"
        )
    return Image.fromarray(np.floor(255 * shares + 0.5).astype(np.uint8))


def _srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Colours in sRGB; a profile that does not fit the picture's channels is passed over."""
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture.convert("RGB")
    return converted if converted is not None else picture.convert("RGB")
