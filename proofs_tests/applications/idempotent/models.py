"""What the tests of idempotent generators share: tiny models, and images of a few strokes."""

from dataclasses import replace

import torch
from torch import Tensor

from applications.common.training import TrainingConfig
from applications.idempotent.config import Config, ModelConfig
from applications.idempotent.model import Idempotent, build
from induced import Linearizer
from induced.operators import Projection

TINY = ModelConfig(shape=(1, 8, 8), blocks=2, widths=(4, 6), rank=5)
BRIEF = TrainingConfig(steps=6, batch=8, learning_rate=1e-2, warmup=2, log_every=1, checkpoint_every=3, sample_every=3)


def mask_of(f: Linearizer) -> Tensor:
    """Which coordinates its projection keeps."""
    assert isinstance(f.core, Projection)
    return f.core.mask()


def made(config: ModelConfig = TINY, seed: int = 0) -> Idempotent:
    torch.manual_seed(seed)
    return build(config)


def images(n: int, shape: tuple[int, int, int] = TINY.shape, seed: int = 4) -> Tensor:
    """Images of a few strokes, as uint8."""
    u = torch.rand(n, 1, shape[1] // 2, shape[2] // 2, generator=torch.Generator().manual_seed(seed))
    return (255 * (u > 0.6)).to(torch.uint8).repeat_interleave(2, -1).repeat_interleave(2, -2).expand(n, *shape)


def config_of_a_run() -> Config:
    return Config(model=replace(TINY, shape=(1, 32, 32), rank=30), training=BRIEF)
