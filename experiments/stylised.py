"""What trained style transfer is measured by: nearness to its teachers, smooth interpolation, removal of styles."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from applications.common.data.pictures import read_picture
from applications.common.metrics import psnr
from applications.common.perceptual import PerceptualDistance
from applications.style_transfer.algebra import interpolate, remove
from applications.style_transfer.model import StyleTransfer
from applications.style_transfer.photographs import SMALLEST, photographs
from induced.errors import DataError, DomainError

Map = Callable[[Tensor], Tensor]


def plain_crops(source: str, side: int, n: int, seed: int = 0) -> Tensor:
    """n squares of held-out photographs at their own scale, in turn, uint8 (n, 3, side, side).

    Raises:
        DataError: a photograph has a smaller side.
    """
    pictures = [read_picture(path, SMALLEST).colours for path in photographs(source, "test").values()]
    if (least := min(min(picture.size) for picture in pictures)) < side:
        raise DataError(f"a held-out photograph has a side of {least} pixels, crops have {side}")
    generator, crops = torch.Generator().manual_seed(seed), []
    for i in range(n):
        picture = pictures[i % len(pictures)]
        left, top = (int(torch.randint(length - side + 1, (), generator=generator)) for length in picture.size)
        crops.append(np.array(picture.crop((left, top, left + side, top + side))).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(crops))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (N,) of pictures (N, C, H, W) in [-1, 1], as Wang et al. (2004) and Johnson et al. have it: weighted
    by a Gaussian of standard deviation 1.5, where its window lies inside."""
    options = {"data_range": 2.0, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
    pairs = zip(a.cpu().double().numpy(), b.cpu().double().numpy(), strict=True)
    return torch.tensor([float(structural_similarity(x, y, **options)) for x, y in pairs], dtype=torch.float64)


@dataclass(frozen=True)
class Fidelity:
    """How near a student is to a teacher, each a mean over pictures.

    Attributes:
        psnr: of the student's pictures against the teacher's, in dB.
        ssim: of the same.
        perceptual: distance between them.
        content: distance between the photographs and the teacher's pictures.
        content_psnr: of the photographs against the teacher's pictures.
    """

    psnr: float
    ssim: float
    perceptual: float
    content: float
    content_psnr: float

    @property
    def ratio(self) -> float:
        """The student's distance to the teacher over that of the photograph."""
        return self.perceptual / self.content


@torch.no_grad()
def fidelity(student: Map, teacher: Map, x: Tensor, distance: PerceptualDistance) -> Fidelity:
    """Compare a student with a teacher on photographs (N, 3, H, W), one at a time."""
    rows = []
    for one in torch.split(x, 1):
        y, target = student(one).clamp(-1, 1), teacher(one)
        rows.append([psnr(y, target), ssim(y, target), distance(y, target), distance(one, target), psnr(one, target)])
    return Fidelity(*torch.tensor(rows, dtype=torch.float64).mean(0).tolist())


@dataclass(frozen=True)
class Path:
    """A walk between two styles.

    Attributes:
        to_first: distance of each picture to the first one.
        to_second: distance of each to the last one.
        steps: distance of each to the one before.
    """

    to_first: tuple[float, ...]
    to_second: tuple[float, ...]
    steps: tuple[float, ...]

    @property
    def monotone(self) -> bool:
        """Whether the walk leaves the first picture and nears the last one at every step."""
        return list(self.to_first) == sorted(self.to_first) and list(self.to_second) == sorted(self.to_second, reverse=True)

    @property
    def largest_jump(self) -> float:
        """The longest step over the mean one."""
        return max(self.steps) * len(self.steps) / sum(self.steps)


@torch.no_grad()
def walk(
    model: StyleTransfer, x: Tensor, first: str, second: str, distance: PerceptualDistance, count: int = 9
) -> tuple[Tensor, Path]:
    """The pictures of one photograph (1, 3, H, W) on the way between two styles, and the distances along it.

    Raises:
        DomainError: fewer than two pictures.
    """
    if count < 2:
        raise DomainError(f"a walk has at least two pictures, got {count}")
    styles, amounts = model.at(*x.shape[-2:]), torch.linspace(0, 1, count).tolist()
    pictures = torch.cat([interpolate(styles, first, second, a)(x).clamp(-1, 1) for a in amounts])
    ends = (pictures[:1].expand_as(pictures), pictures[-1:].expand_as(pictures))
    to_first, to_second, steps = (
        tuple(distance(a, b).tolist()) for a, b in ((pictures, ends[0]), (pictures, ends[1]), (pictures[1:], pictures[:-1]))
    )
    return pictures, Path(to_first, to_second, steps)


@dataclass(frozen=True)
class Removal:
    """A style put on and removed again.

    Attributes:
        exact: PSNR of the photographs, from the model's own pictures.
        rounded: the same from pictures clamped to the range of pixels and rounded to 8 bits.
        cond: condition number of the core.
    """

    exact: float
    rounded: float
    cond: float


@torch.no_grad()
def removal(model: StyleTransfer, style: str, x: Tensor, rtol: float | None = None) -> Removal:
    """Photograph -> style -> pseudoinverse, on photographs (N, 3, H, W)."""
    f = model.operator(style, *x.shape[-2:])
    back, y = remove(f, rtol), f(x)
    eight_bits = ((128 * (y + 1)).floor().clamp(0, 255) + 0.5) / 128 - 1
    exact, rounded = (float(psnr(back(t).clamp(-1, 1), x).mean()) for t in (y, eight_bits))
    return Removal(exact, rounded, float(f.cond()))
