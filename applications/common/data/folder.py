"""folder: every picture below a folder; the first subfolder of its path is its class."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from applications.common.data.image_set import ImageSet, image_set
from applications.common.data.pictures import SUFFIXES
from applications.common.data.squares import Read, read_squares
from induced.errors import DataError, ShapeError

_HEAD: Final = 2**16
"""Bytes of a file that, with its size, tell which split it is in."""


def load_folder(split: str, folder: Path, read: Read) -> ImageSet:
    """Read one split, sorted by path; a picture is in the test split where the hash of its content says so (one in ten)."""
    found, chosen = _names(folder), names_below(split, folder)
    classes = sorted({name.split("/")[0] for name in found if "/" in name})
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[name.split("/")[0]] if "/" in name else len(classes) for name in chosen])
    images, kept = read([folder / name for name in chosen])
    return image_set(f"folder {folder.name} {split}", images, labels[kept], class_names=(*classes, "no subfolder"))


def own_pictures(paths: Sequence[Path], shape: tuple[int, ...], *, skip_bad: bool = False) -> ImageSet:
    """Picture files, and all pictures of folders, at the size of points (C, H, W) of a model.

    Raises:
        DataError: there is no picture, or one cannot be decoded. ShapeError: the model takes no square images of 1 or 3 channels.
    """
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise ShapeError(f"pictures become square images of 1 or 3 channels, the model takes points of shape {shape}")
    files = [file for path in paths for file in ([path / name for name in _names(path)] if path.is_dir() else [path])]
    if not files:
        raise DataError(f"no picture is in or below {', '.join(map(str, paths))}; expected files ending in {', '.join(SUFFIXES)}")
    images, _ = read_squares(files, shape[1], grey=shape[0] == 1, skip_bad=skip_bad)
    return image_set(f"{len(images)} pictures", images, np.zeros(len(images)))


def names_below(split: str, folder: Path) -> list[str]:
    """The paths, relative to a folder, of the pictures of one split that are in or below it, sorted.

    Linked folders are followed, hidden files and folders are left out.

    Raises:
        DataError: there is none, or the folder is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {'is no folder' if folder.exists() else 'does not exist'}; expected a folder of pictures")
    found = _names(folder)
    if not found:
        raise DataError(f"{folder}: no picture is in or below it; expected files ending in {', '.join(SUFFIXES)}")
    with ThreadPoolExecutor() as pool:
        held_out = list(pool.map(_held_out, (folder / name for name in found)))
    chosen = [name for name, out in zip(found, held_out, strict=True) if out == (split == "test")]
    if not chosen:
        raise DataError(f"{folder}: none of its {len(found)} pictures falls into the {split} split (one in ten is held out)")
    return chosen


def _names(folder: Path) -> list[str]:
    names, seen = list[str](), set[str]()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = () if real in seen else (name for name in inner if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        below = Path(place).relative_to(folder)
        chosen = (name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        names += ((below / name).as_posix() for name in chosen)
    return sorted(names)


def _held_out(path: Path) -> bool:
    """Decide by the content alone: copies are in one split, and adding pictures moves none."""
    try:
        with path.open("rb") as file:
            content = file.read(_HEAD)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return int.from_bytes(hashlib.sha256(content + str(size).encode()).digest()[:8], "big") % 10 == 0
