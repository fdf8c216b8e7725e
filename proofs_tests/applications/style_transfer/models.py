"""What the tests of style transfer share: a tiny model in float64, far from the identity, and pictures."""

import torch
from torch import Tensor

from applications.style_transfer.config import ModelConfig
from applications.style_transfer.model import StyleTransfer, build

TINY = ModelConfig(styles=("candy", "udnie"), blocks=1, squeezes=1, width=6, window=1, kernel=3, features=3)
"""Two styles, charts of one block on 12 channels at half the sides."""


def made(config: ModelConfig = TINY, seed: int = 0) -> StyleTransfer:
    """A model in float64 whose charts and styles are far from the identity."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * p.std().nan_to_num(1.0) * torch.randn_like(p))
        model.cores.factors.mul_(3)
    return model.double().eval().requires_grad_(False)


def pictures(n: int, height: int = 16, width: int = 20, seed: int = 1) -> Tensor:
    return 1.8 * torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.9
