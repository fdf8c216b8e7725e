"""Picture files as uint8 squares of one size, decoded once into a cache on disk, so that memory stays bounded."""

import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from tqdm import tqdm

from applications.common.data.cache import cached
from applications.common.data.pictures import leave_out, read_picture
from applications.common.places import Folder, cache_folder
from induced.errors import DataError, DomainError

Square = tuple[np.ndarray, int]
Read = Callable[..., tuple[np.ndarray, np.ndarray]]
"""`read_squares` of a size, with what is common to all pictures; `crop` and `source` are left to say."""
"""Pixels, and how many frames the file has."""

_AT_ONCE: Final = 256
_READER: Final = "sRGB, alpha on white"
"""What `read_square` does, hashed into the name of the cache."""
_BAD, _STILL, _ANIMATED = range(3)


def read_square(
    path: Path, size: int, *, grey: bool = False, crop: int | None = None, source: tuple[int, int] | None = None
) -> Square:
    """Decode one picture: as `read_picture`, alpha on white, centre crop to a square, antialiased resize.

    Arguments:
        path: Any file that pillow reads; of an animation, the first picture.
        size: Side of the result.
        grey: One channel instead of three.
        crop: Side of the square cut from the centre; None: the largest.
        source: Width and height that the file must have.

    Returns:
        uint8, `(1 or 3, size, size)`, and how many frames the file has.

    Raises:
        DataError: the file cannot be decoded, or is of another width and height.
    """
    found = read_picture(path)
    picture = found.on_white()
    if source is not None and picture.size != source:
        raise DataError(f"{path}: is {picture.size[0]}x{picture.size[1]} pixels; expected {source[0]}x{source[1]}")
    width, height = picture.size
    side = min(width, height) if crop is None else crop
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.convert("L" if grey else "RGB").crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels.reshape(size, size, -1).transpose(2, 0, 1)), found.frames


def read_squares(
    paths: Sequence[Path],
    size: int,
    *,
    grey: bool = False,
    crop: int | None = None,
    source: tuple[int, int] | None = None,
    cache_dir: Folder | None = None,
    skip_bad: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode pictures into a file of the cache, once; a changed picture, or another size, makes another file.

    All pictures are tried before a damaged one ends the work, and what was decoded is kept: another call decodes nothing again.

    Arguments:
        paths: The pictures, in order.
        size: Side of the results.
        grey: One channel instead of three.
        crop: As in `read_square`.
        source: As in `read_square`.
        cache_dir: Folder of the cache; else as `cache_folder`.
        skip_bad: Leave damaged pictures out, and say how many.

    Returns:
        The pictures, uint8, `(n, 1 or 3, size, size)`, mapped from the file: writing to it changes memory alone. And which of the
        paths they are, `(n,)`.

    Raises:
        DomainError: size below 1.
        DataError: pictures are missing or damaged: all of them are named; or the cache cannot be written.
    """
    if size < 1:
        raise DomainError(f"pictures have a side of at least 1 pixel, got size={size}")
    digest = hashlib.sha256(repr((_READER, size, grey, crop, source)).encode())
    for path in paths:
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        digest.update(os.fsencode(path.absolute()) + f"\0{found.st_size} {found.st_mtime_ns}\0".encode())
    read = partial(read_square, size=size, grey=grey, crop=crop, source=source)
    file = cache_folder(cache_dir) / f"pictures-{size}-{digest.hexdigest()[:24]}.npy"
    item = (1 if grey else 3, size, size)
    rows = cached(file, (len(paths), math.prod(item) + 1), partial(_blocks, paths, read, math.prod(item)))
    images, kinds = rows[:, :-1].reshape(len(paths), *item), rows[:, -1]
    if several := int((kinds == _ANIMATED).sum()):
        print(f"{several} of {len(paths)} pictures are animations: the first frame of each is taken", flush=True)
    good = np.flatnonzero(kinds != _BAD)
    if len(good) == len(paths):
        return images, good
    leave_out([_reason(path, read) for path, kind in zip(paths, kinds, strict=True) if kind == _BAD], len(paths), skip_bad)
    chunks = partial(_chunks, images, good)
    return cached(file.with_stem(f"{file.stem}-good"), (len(good), *item), chunks), good


def _reason(path: Path, read: Callable[[Path], Square]) -> str:
    try:
        read(path)
    except DataError as error:
        return str(error)
    return f"{path}: could not be read when the others were; remove the cache to try it again"


def _blocks(paths: Sequence[Path], read: Callable[[Path], Square], size: int, start: int) -> Iterator[np.ndarray]:
    """Rows of the cache: the bytes of a picture, and its kind."""

    def row(path: Path) -> np.ndarray:
        try:
            pixels, frames = read(path)
        except DataError:
            return np.zeros(size + 1, np.uint8)
        return np.append(pixels, np.uint8(_ANIMATED if frames > 1 else _STILL))

    shown = sys.stderr.isatty()
    with ThreadPoolExecutor() as pool, tqdm(total=len(paths), initial=start, unit=" pictures", disable=not shown) as bar:
        for first in range(start, len(paths), _AT_ONCE):
            yield np.stack(list(pool.map(row, paths[first : first + _AT_ONCE])))
            bar.update(min(_AT_ONCE, len(paths) - first))


def _chunks(images: np.ndarray, rows: np.ndarray, start: int) -> Iterator[np.ndarray]:
    for first in range(start, len(rows), _AT_ONCE):
        yield images[rows[first : first + _AT_ONCE]]
