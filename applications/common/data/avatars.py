"""avatars64: 10,000 toon faces of 64x64 in colour ("ToonHead" by Johan Melin, CC BY 4.0, rendered and downscaled)."""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from applications.common.data.image_set import ImageSet, image_set
from applications.common.data.npz import read_npz
from induced.errors import DataError

FILE: Final = "toonhead64.npz"
LABEL: Final = "hairColor"


def load_avatars(split: str, folder: Path) -> ImageSet:
    """Read one split; a tenth is held out, and identical pictures are on the same side. The label is the colour of the hair."""
    candidates = [folder / "avatars64" / FILE, folder / FILE]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(f"avatars64: found none of {', '.join(map(str, candidates))} (point --data-dir or INDUCED_DATA there)")
    arrays = read_npz(path)
    if missing := {"images", "attributes", "names"} - arrays.keys():
        raise DataError(f"{path}: not the archive of images, attributes and names that avatars64 is: lacks {sorted(missing)}")
    images, attributes, names = arrays["images"], arrays["attributes"], tuple(map(str, arrays["names"]))
    known = attributes.dtype == np.uint8 and attributes.shape == (len(images), len(names)) and LABEL in names
    if images.dtype != np.uint8 or images.shape[1:] != (64, 64, 3) or not known:
        raise DataError(
            f"{path}: holds images of {images.dtype} {images.shape} and attributes of {attributes.dtype} {attributes.shape} "
            f"called {', '.join(names)}; expected uint8 (N, 64, 64, 3) and uint8 (N, k) with k names, {LABEL} among them"
        )
    held_out = _held_out(images)
    chosen = held_out if split == "test" else ~held_out
    labels = attributes[chosen, names.index(LABEL)]
    pixels = np.ascontiguousarray(images[chosen].transpose(0, 3, 1, 2))
    return image_set(f"avatars64 {split}", pixels, labels, torch.from_numpy(attributes[chosen]), names)


def _held_out(images: np.ndarray) -> np.ndarray:
    """Mark the last tenth of a permutation in which identical pictures are neighbours; none is parted from its twin."""
    seen: dict[bytes, int] = {}
    first = np.array([seen.setdefault(image.tobytes(), i) for i, image in enumerate(images)], dtype=np.int64)
    # The stream of RandomState is frozen by numpy's policy, so that the split outlives its versions.
    rank = np.random.RandomState(0).permutation(len(images))[first]
    last = np.argsort(rank, kind="stable")[len(images) - len(images) // 10 :]
    return np.isin(first, first[last])
