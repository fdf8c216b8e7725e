"""A small data folder for the tests of style transfer: teachers of random weights, and photographs of random blots."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from applications.style_transfer.teacher import Teacher


def fill(folder: Path) -> Path:
    """Write three teachers and twelve photographs below a folder; returns it."""
    (folder / "fast-style").mkdir()
    for seed, style in enumerate(("candy", "udnie", "late")):
        torch.manual_seed(seed)
        np.savez(folder / "fast-style" / f"{style}.npz", **{n: p.numpy() for n, p in Teacher().state_dict().items()})
    (folder / "photographs").mkdir()
    generator = np.random.default_rng(0)
    for i in range(12):
        pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 36), Image.Resampling.BICUBIC).save(folder / "photographs" / f"{i}.png")
    return folder
