"""Drawing, encoding and interpolating with a trained model."""

import torch
from torch import Tensor

from applications.common.data import to_uint8
from applications.common.figures import grid
from applications.flow_matching.model import FlowMatching
from induced import Linearizer


def noise(model: FlowMatching, n: int, seed: int = 0) -> Tensor:
    """n noise images, drawn on the CPU so that a seed means the same pictures everywhere."""
    like = model.family.offset
    drawn = torch.randn(n, *model.config.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(like)


def encode(f: Linearizer, x: Tensor) -> Tensor:
    """The noise images x_0 = f+(x) that f maps to x, or to the nearest point of its range where B has no inverse."""
    return f.pinv()(x)


def interpolate(f: Linearizer, first: Tensor, second: Tensor, count: int) -> Tensor:
    """f along the induced segment between the encodings of two images, of shape (count, *shape)."""
    a, b = encode(f, torch.stack([first, second]))
    t = torch.linspace(0, 1, count, dtype=first.dtype, device=first.device)
    ends = [end.expand(count, *end.shape) for end in (a, b)]
    return f(f.domain.segment(ends[0], ends[1], t))


def sample_grid(model: FlowMatching, step: int) -> Tensor:
    """64 one-step samples as one picture; what training shows on the way."""
    return grid(to_uint8(model.operator()(noise(model, 64))), columns=8)
