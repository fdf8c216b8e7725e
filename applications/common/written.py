"""Images that are written while they are drawn, in the memory of a batch: one array of all, or a folder with a file for each."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor

from applications.common.data.pictures import FORMATS, picture_file
from applications.common.figures import save_picture
from induced.errors import DataError
from induced.serialization.disk import replacing

OTHERS: Final = {".npz": "an array of images as .npz, a file for each image into a folder, a name without a suffix"}


def place_of(out: Path, n: int) -> Path:
    """Where n images will be written, checked before the work begins: a picture, a file .npz, or a folder.

    Files of these names are written over; nothing is deleted.

    Raises:
        DataError: as `picture_file`, or a folder holds others, as those of more images drawn before.
    """
    out = out.expanduser()
    if not _is_folder(out):
        return picture_file(out, OTHERS)
    ours = {_file(k) for k in range(n)} if out.is_dir() else set[str]()
    others = sorted(path.name for path in out.glob("[!.]*") if path.name not in ours)
    if others:
        more = f" and {len(others) - 1} more" * (len(others) > 1)
        raise DataError(
            f"{out}: holds {others[0]}{more}, which would lie beside the {n} images; choose another folder with --out"
        )
    return picture_file(out / _file(0)).parent


def write_images(out: Path, images: Iterable[Tensor], shape: tuple[int, ...], labels: np.ndarray | None = None) -> Path:
    """Write images as they come: 000000.png, 000001.png, ... into a folder, or one array `images` into a file .npz.

    A file .npz is there whole or not at all. Of a folder those files stay that were written until an error or Ctrl-C.

    Arguments:
        out: As `place_of` gives it, no picture.
        images: Batches (k, C, H, W) of uint8.
        shape: (N, C, H, W) of all together.
        labels: Further array `labels` of an .npz: int64, (N,).

    Raises:
        DataError, CheckpointError: a picture or file .npz cannot be written.
    """
    if _is_folder(out):
        for k, image in enumerate(image for part in images for image in part):
            save_picture(out / _file(k), image)
        return out
    head = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        replacing(out, f"{shape[0]} images were to be stored") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        with archive.open("images.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, head)
            for part in images:
                member.write(part.contiguous().numpy().data)
        if labels is not None:
            with archive.open("labels.npy", "w") as member:
                np.lib.format.write_array(member, labels)
    return out


def _file(k: int) -> str:
    return f"{k:06}.png"


def _is_folder(out: Path) -> bool:
    """Whether images are written into a folder: a name without a suffix, or a folder that is there and no name of a file."""
    return not out.suffix or (out.is_dir() and out.suffix.lower() not in (*FORMATS, *OTHERS))
