"""Picture files as uint8 arrays of one size, decoded once into a cache on disk, so that memory stays bounded."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from applications.common.data.cache import cache_folder, cached
from induced.errors import DataError, DomainError, MissingExtra

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise MissingExtra(f"reading pictures needs pillow ({error}): install induced[apps]") from error

_AT_ONCE = 256


def read_picture(
    path: Path, size: int, *, grey: bool = False, crop: int | None = None, source: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode one picture: EXIF orientation, alpha on white, centre crop to a square, antialiased resize.

    Arguments:
        path: Any file that pillow reads; of an animation, the first picture.
        size: Side of the result.
        grey: One channel instead of three.
        crop: Side of the square cut from the centre; None: the largest.
        source: Width and height that the file must have.

    Returns:
        uint8, `(1 or 3, size, size)`.

    Raises:
        DataError: the file cannot be decoded, or is of another width and height.
    """
    try:
        with Image.open(path) as opened:
            picture = _eight_bits(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no picture that can be decoded ({error})") from error
    if source is not None and picture.size != source:
        raise DataError(f"{path}: is {picture.size[0]}x{picture.size[1]} pixels; expected {source[0]}x{source[1]}")
    width, height = picture.size
    side = min(width, height) if crop is None else crop
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.convert("L" if grey else "RGB").crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels.reshape(size, size, -1).transpose(2, 0, 1))


def read_pictures(
    paths: Sequence[Path],
    size: int,
    *,
    grey: bool = False,
    crop: int | None = None,
    source: tuple[int, int] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Decode pictures into a file of the cache, once; a changed picture, or another size, makes another file.

    Arguments:
        paths: The pictures, in order.
        size: Side of the results.
        grey: One channel instead of three.
        crop: As in `read_picture`.
        source: As in `read_picture`.
        cache_dir: Folder of the cache; else as `cache_folder`.

    Returns:
        uint8, `(N, 1 or 3, size, size)`, mapped from the file: writing to it changes memory alone.

    Raises:
        DomainError: size below 1.
        DataError: a picture is missing or damaged, or the cache cannot be written; nothing is left of it then.
    """
    if size < 1:
        raise DomainError(f"pictures have a side of at least 1 pixel, got size={size}")
    digest = hashlib.sha256(repr((size, grey, crop, source)).encode())
    for path in paths:
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        digest.update(os.fsencode(path.absolute()) + f"\0{found.st_size} {found.st_mtime_ns}\0".encode())
    read = partial(read_picture, size=size, grey=grey, crop=crop, source=source)
    file = cache_folder(cache_dir) / f"pictures-{size}-{digest.hexdigest()[:24]}.npy"
    return cached(file, (len(paths), 1 if grey else 3, size, size), partial(_blocks, paths, read))


def _blocks(paths: Sequence[Path], read: Callable[[Path], np.ndarray], start: int) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor() as pool:
        for first in range(start, len(paths), _AT_ONCE):
            yield np.stack(list(pool.map(read, paths[first : first + _AT_ONCE])))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Bring any picture to L or RGB: 16 bits are scaled to 8, transparent pixels are laid on white."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its values reach from {values.min()} to {values.max()}; expected 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("it holds floating-point values, whose scale is unknown")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")
