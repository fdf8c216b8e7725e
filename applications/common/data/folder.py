"""folder: every picture below a folder; the first subfolder of its path is its class."""

import hashlib
import os
from pathlib import Path
from typing import Final

import numpy as np

from applications.common.data.image_set import ImageSet, image_set
from applications.common.data.pictures import read_pictures
from induced.errors import DataError

SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def load_folder(
    split: str, folder: Path, size: int, *, grey: bool = False, cache_dir: str | os.PathLike[str] | None = None
) -> ImageSet:
    """Read one split, sorted by path; a picture is in the test split where the hash of its relative path says so (one in ten)."""
    found, chosen = _names(folder), names_below(split, folder)
    classes = sorted({name.split("/")[0] for name in found if "/" in name})
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[name.split("/")[0]] if "/" in name else len(classes) for name in chosen])
    images = read_pictures([folder / name for name in chosen], size, grey=grey, cache_dir=cache_dir)
    return image_set(f"folder {folder.name} {split}", images, labels)


def names_below(split: str, folder: Path) -> list[str]:
    """The paths, relative to a folder, of the pictures of one split that are in or below it, sorted.

    Raises:
        DataError: there is none.
    """
    found = _names(folder)
    if not found:
        raise DataError(f"{folder}: no picture is in or below it; expected files ending in {', '.join(SUFFIXES)}")
    chosen = [name for name in found if _held_out(name) == (split == "test")]
    if not chosen:
        raise DataError(f"{folder}: none of its {len(found)} pictures falls into the {split} split (one in ten is held out)")
    return chosen


def _names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _held_out(name: str) -> bool:
    """Decide by the path alone, so that adding pictures moves none."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") % 10 == 0
