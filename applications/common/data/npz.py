"""Arrays from npz files."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from induced.errors import DataError

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**34
"""Bytes of this machine's memory, or a guess: an archive of a megabyte may unpack to more."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; nothing is unpickled.

    Raises:
        DataError: the file is missing or damaged, or unpacks to more than the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MEMORY:
            raise MemoryError(
                f"it unpacks to {size / 1e9:.3g} GB, more than the {MEMORY / 1e9:.3g} GB of memory: save fewer rows"
            )
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, AttributeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is no readable npz file ({error})") from error
