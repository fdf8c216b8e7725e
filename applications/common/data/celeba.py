"""celeba: the aligned faces with 40 attributes, as their authors lay them out (Liu, Luo, Wang and Tang, ICCV 2015)."""

import os
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
import torch

from applications.common.data.image_set import ImageSet, image_set
from applications.common.data.squares import Read
from induced.errors import DataError

SOURCE: Final = (178, 218)
ATTRIBUTES: Final = 40
LABEL: Final = "Smiling"

_IMAGES: Final = "img_align_celeba"
_LIST: Final = "list_attr_celeba.txt"
_PARTITION: Final = "list_eval_partition.txt"
_PARTS: Final = {"train": "0", "valid": "1", "test": "2"}


def load_celeba(split: str, folder: Path, crop: int, read: Read) -> ImageSet:
    """Read one split of the authors' partition: the central square of side `crop`, resized; the label is `Smiling`."""
    if not 1 <= crop <= min(SOURCE):
        raise DataError(f"celeba is {SOURCE[0]}x{SOURCE[1]} pixels: crop lies in 1..{min(SOURCE)}, got {crop}")
    pictures, attribute_list, partition = (_find(folder, name) for name in (_IMAGES, _LIST, _PARTITION))
    names, files, values = _read_attributes(attribute_list)
    chosen = _read_partition(partition, files, split)
    present = {entry.name for entry in os.scandir(pictures) if entry.name.endswith(".jpg")}
    if missing := [file for file in files if file not in present]:
        line = files.index(missing[0]) + 3
        raise DataError(f"{attribute_list}, line {line}: {pictures / missing[0]} is missing, with {len(missing) - 1} others")
    if len(present) != len(files):
        raise DataError(f"{pictures}: holds {len(present)} pictures; {attribute_list} lists {len(files)}")
    paths = [pictures / files[i] for i in chosen]
    images, good = read(paths, crop=crop, source=SOURCE)
    kept = torch.from_numpy(values[chosen][good])
    return image_set(f"celeba {split} (crop {crop})", images, kept[:, names.index(LABEL)].numpy(), kept, names)


def _find(folder: Path, name: str) -> Path:
    """Find a part of the data set, together with the others or where the authors' archive has it."""
    inner = {_IMAGES: "Img", _LIST: "Anno", _PARTITION: "Eval"}[name]
    candidates = [place / name for root in (folder / "celeba", folder) for place in (root, root / inner)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DataError(
        f"celeba: found none of {', '.join(map(str, candidates))}. Its agreement forbids redistribution, so nobody but you can "
        f"put it there: from the page of its authors (mmlab.ie.cuhk.edu.hk/projects/CelebA.html) take {_IMAGES}.zip (unpack "
        f"it), {_LIST} and {_PARTITION}, and lay all three into {folder / 'celeba'}"
    )


def _read_attributes(path: Path) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Read names, files and values in {0, 1}; the first line counts the rest."""
    lines = _lines(path)
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    if len(set(names)) != ATTRIBUTES or LABEL not in names:
        raise DataError(f"{path}, line 2: holds {len(set(names))} names; expected {ATTRIBUTES} attributes, {LABEL} among them")
    if lines[0].strip() != str(len(lines) - 2):
        raise DataError(f"{path}, line 1: declares {lines[0].strip()!r} pictures and {len(lines) - 2} lines follow the names")
    files, values = [], np.zeros((len(lines) - 2, ATTRIBUTES), dtype=np.uint8)
    for i, line in enumerate(lines[2:]):
        file, *signs = line.split() or [""]
        if len(signs) != ATTRIBUTES or not set(signs) <= {"-1", "1"}:
            raise DataError(f"{path}, line {i + 3}: {line[:60]!r}; expected a file and {ATTRIBUTES} values, each 1 or -1")
        files.append(file)
        values[i] = [sign == "1" for sign in signs]
    return names, files, values


def _read_partition(path: Path, files: list[str], split: str) -> list[int]:
    """Read which files a split holds; the list must name the files of the other one, in their order."""
    lines = _lines(path)
    for i, (line, file) in enumerate(zip_longest(lines, files)):
        if line is None or line.split() not in [[file, part] for part in _PARTS.values()]:
            raise DataError(f"{path}, line {i + 1}: {line!r}; expected {file!r}, as {_LIST} has it, and 0, 1 or 2")
    return [i for i, line in enumerate(lines) if line.split()[1] == _PARTS[split]]


def _lines(path: Path) -> list[str]:
    """Read the lines of a list."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list ({error})") from error
