"""Crops of photographs and what the teachers make of them, computed once into a cache on disk of a known size."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from applications.common.data import to_uint8
from applications.common.data.cache import cached
from applications.common.data.pictures import unit
from applications.common.data.source import Batch, Source, fits
from applications.common.places import Folder, cache_folder
from applications.common.progress import Progress
from applications.common.randomness import Draws
from applications.style_transfer.config import Config
from applications.style_transfer.photographs import opened, photographs, random_crop
from applications.style_transfer.teacher import load_teacher
from induced.errors import DomainError

AT_ONCE = 8


@final
@dataclass(frozen=True, eq=False)
class Crops(Source):
    """Random squares of crops, and what a random teacher made of them; the first style is the identity.

    Arguments:
        name: What reports call the data.
        crops: uint8, (N, 1 + styles, 3, side, side).
        patch: Side of a square.
    """

    name: str
    crops: Tensor
    patch: int

    def __len__(self) -> int:
        return len(self.crops)

    def batch(self, indices: Tensor) -> Batch:
        """The upper left squares of the chosen photographs, as the identity leaves them."""
        zeros = torch.zeros(len(indices), device=self.crops.device)
        return self.randomised(indices, {"style": zeros, "top": zeros, "left": zeros})

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        """Which style a square takes, and where it lies, as numbers in [0, 1)."""
        return {name: torch.rand(n, generator=generator) for name in ("style", "top", "left")}

    def randomised(self, indices: Tensor, draws: Mapping[str, Tensor]) -> Batch:
        """Squares "x" and what was made of them, "target", uint8 (n, 3, patch, patch), and the number of the "style" (n,)."""
        style = (draws["style"] * self.crops.shape[1]).long()
        square = torch.arange(self.patch, device=self.crops.device)
        top, left = ((draws[s] * (self.crops.shape[-1] - self.patch + 1)).long()[:, None] + square for s in ("top", "left"))
        colour = torch.arange(3, device=self.crops.device)[:, None, None]

        def of(style: Tensor) -> Tensor:
            crop, kind = (i[:, None, None, None] for i in (indices, style))
            return self.crops[crop, kind, colour, top[:, None, :, None], left[:, None, None, :]]

        return {"x": of(torch.zeros_like(style)), "target": of(style), "style": style}

    def stored(self) -> Mapping[str, Tensor]:
        return {"crops": self.crops}

    def on(self, device: torch.device) -> Self:
        return replace(self, crops=self.crops.to(device)) if fits(self.stored(), device) else self


def pairs(
    config: Config, data_dir: Folder | None = None, *, cache_dir: Folder | None = None, device: torch.device | str = "cpu"
) -> Crops:
    """Random crops of training photographs and their stylised pictures.

    They are mapped from a file of the cache. It is made anew where a photograph, the weights of a teacher or a setting changed; a
    computation that was killed goes on where it stopped.

    Arguments:
        config: The settings: photographs, crops, side, styles, seed, and the most that the file may take.
        data_dir: Folder of the teachers' weights.
        cache_dir: Folder of the cache; else as `cache_folder`.
        device: Where the teachers run.

    Raises:
        DomainError: the file would be larger than `cache_gb`.
        DataError: photographs or weights are missing or damaged, or the cache cannot be written.
    """
    styles, side = config.model.styles, config.side
    shape = (config.crops, 1 + len(styles), 3, side, side)
    if (needed := int(np.prod(shape))) > config.cache_gb * 1e9:
        raise DomainError(
            f"{config.crops} crops of side {side} in {len(styles)} styles take {needed / 1e9:.2f} GB on disk, cache_gb allows "
            f"{config.cache_gb}: fewer --crops, or a larger --cache-gb"
        )
    paths = photographs(config.photographs, "train")
    teachers = {style: load_teacher(style, data_dir).to(device) for style in styles}
    digest = hashlib.sha256(repr((shape, config.training.seed)).encode())
    for name, path in paths.items():
        digest.update(f"{name}\0{path.stat().st_size} {path.stat().st_mtime_ns}\0".encode())
    for style, teacher in teachers.items():
        digest.update(style.encode() + b"".join(p.cpu().numpy().tobytes() for p in teacher.parameters()))
    file = cache_folder(cache_dir) / f"styles-{side}-{digest.hexdigest()[:24]}.npy"
    pixels = cached(file, shape, partial(_blocks, shape, [*paths.values()], teachers, config.training.seed, config.skip_bad))
    name = f"{config.crops} crops of {config.photographs} photographs, {', '.join(styles)}"
    return Crops(name, torch.from_numpy(pixels), config.objective.patch)


def _blocks(
    shape: tuple[int, ...], paths: list[Path], teachers: Mapping[str, nn.Module], seed: int, skip_bad: bool, start: int
) -> Iterator[np.ndarray]:
    pictures = opened(paths, skip_bad=skip_bad)
    progress = Progress(start, shape[0], 1, shown=True, label="teachers' crop")
    for first in range(start, shape[0], AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, shape[0]))
        crops = [_crop(pictures, shape[-1], seed, i) for i in numbers]
        yield stylised(torch.from_numpy(np.stack(crops)), teachers).numpy()
        for _ in numbers:
            progress.step(0.0)
        progress.line(numbers.stop, {})
    progress.close()


def _crop(pictures: list[Image.Image], side: int, seed: int, index: int) -> np.ndarray:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**31)
    which = int(torch.randint(len(pictures), (), generator=generator))
    return random_crop(pictures[which], side, generator)


@torch.no_grad()
def stylised(pixels: Tensor, teachers: Mapping[str, nn.Module]) -> Tensor:
    """Pictures (n, 3, H, W) and what each teacher makes of them, uint8 (n, 1 + teachers, 3, H, W)."""
    out = [pixels]
    for teacher in teachers.values():
        out.append(to_uint8(teacher(unit(pixels).to(next(teacher.parameters())))).cpu())
    return torch.stack(out, 1)
