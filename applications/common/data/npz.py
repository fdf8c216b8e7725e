"""Arrays from npz files."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from induced.errors import DataError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, by name; nothing is unpickled.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, AttributeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is no readable npz file ({error})") from error
