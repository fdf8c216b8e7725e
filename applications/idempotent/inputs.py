"""Inputs that a projector was not trained on: digits spoilt in many ways, letters, photographs, noise."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from applications.common.data import to_unit
from induced.errors import DomainError

Make = Callable[[Tensor, torch.Generator], Tensor]
PLAIN = "as they are"
LETTERS = "ABCDEFGHJKLMNPQRTUVWXYZ"
"""Capitals, without those that are digits too."""


def inputs(kind: str, images: Tensor, seed: int = 0) -> Tensor:
    """As many inputs of a kind as there are images (n, C, H, W) in [-1, 1), made of them or only of their shape.

    Raises:
        DomainError: no kind is called so.
    """
    if kind not in KINDS:
        raise DomainError(f"no kind of inputs is called {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](images.cpu(), torch.Generator().manual_seed(seed)).to(images)


def _erased(x: Tensor, generator: torch.Generator) -> Tensor:
    """The lower half is as the background."""
    y = x.clone()
    y[..., x.shape[-2] // 2 :, :] = x.min()
    return y


def _speckled(x: Tensor, generator: torch.Generator) -> Tensor:
    """One pixel in five is black or white."""
    u = torch.rand(x.shape, generator=generator)
    return torch.where(u < 0.1, -1.0, torch.where(u > 0.9, 1.0, x))


def _sketch(x: Tensor, generator: torch.Generator) -> Tensor:
    """Outlines: where a bright pixel has a dark neighbour."""
    bright = (x > 0).float()
    inner = -torch.nn.functional.max_pool2d(-bright, 3, 1, 1)
    return 2 * (bright - inner) - 1


def _constant(x: Tensor, generator: torch.Generator) -> Tensor:
    values = 4 * torch.rand(len(x), 1, 1, 1, generator=generator) - 2
    values[:5] = torch.tensor([0.0, -1.0, 1.0, -0.0, 1e-30])[: len(x), None, None, None]
    return values.expand(x.shape).clone()


def _letters(x: Tensor, generator: torch.Generator) -> Tensor:
    """White capitals on black, in a font that matplotlib brings."""
    n, C, H, W = x.shape
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), max(1, round(0.7 * H)))
    drawn = []
    for index in torch.randint(len(LETTERS), (n,), generator=generator).tolist():
        picture = Image.new("L", (W, H))
        ImageDraw.Draw(picture).text((W / 2, H / 2), LETTERS[index], fill=255, font=font, anchor="mm")
        drawn.append(torch.from_numpy(np.array(picture)))
    return 2 * torch.stack(drawn)[:, None].expand(n, C, H, W) / 255 - 1


def _photographs(x: Tensor, generator: torch.Generator) -> Tensor:
    """Squares of many sizes out of the two photographs that come with scikit-learn, scaled to the images."""
    n, C, H, W = x.shape
    pictures, folder = [], resources.files("sklearn.datasets.images")
    for name in ("china.jpg", "flower.jpg"):
        with folder.joinpath(name).open("rb") as file, Image.open(file) as opened:
            pictures.append(opened.convert("L" if C == 1 else "RGB"))
    crops = []
    for which, size, left, top in torch.rand(n, 4, generator=generator).tolist():
        picture = pictures[int(2 * which)]
        side = round(min(H, *picture.size) + size * (min(picture.size) - min(H, *picture.size)))
        corner = (round(left * (picture.width - side)), round(top * (picture.height - side)))
        crop = picture.crop((*corner, corner[0] + side, corner[1] + side)).resize((W, H), Image.Resampling.BOX)
        crops.append(torch.from_numpy(np.array(crop)).reshape(H, W, C).permute(2, 0, 1))
    return to_unit(torch.stack(crops))


KINDS: dict[str, Make] = {
    PLAIN: lambda x, g: x,
    "scaled by 0.1": lambda x, g: 0.1 * x,
    "scaled by 10": lambda x, g: 10 * x,
    "noisy": lambda x, g: x + 0.5 * torch.randn(x.shape, generator=g),
    "speckled": _speckled,
    "lower half erased": _erased,
    "sketch": _sketch,
    "rotated": lambda x, g: x.rot90(1, (-2, -1)),
    "inverted": lambda x, g: -x,
    "letters": _letters,
    "photographs": _photographs,
    "constants": _constant,
    "uniform noise": lambda x, g: 2 * torch.rand(x.shape, generator=g) - 1,
    "normal noise": lambda x, g: torch.randn(x.shape, generator=g),
}
