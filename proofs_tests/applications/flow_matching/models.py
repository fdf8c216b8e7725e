"""What the tests of flow matching share: tiny models, and the draws of a step."""

import pytest
import torch
from torch import Tensor

from applications.common.randomness import drawn
from applications.common.training import Objective, TrainingConfig
from applications.flow_matching.config import ModelConfig
from applications.flow_matching.model import DATA, NOISE, FlowMatching, build

TINY = ModelConfig(
    blocks=3, widths=(4, 4, 4), dense_blocks=2, dense_width=8, density_blocks=2, density_width=8, components=0, rank=4
)
SMALL = ModelConfig(
    shape=(1, 4, 4), blocks=1, widths=(4,), dense_blocks=2, dense_width=8, density_blocks=2, density_width=8, components=0, rank=4
)
BRIEF = TrainingConfig(steps=3, batch=16, warmup=2, log_every=1)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def ready(config: ModelConfig, dtype: torch.dtype = torch.float64, *, stir: float = 0.02) -> FlowMatching:
    """An initialised model whose every parameter is moved away from its start, so that no part is trivial."""
    model = build(config).to(dtype)
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(8, *config.shape, generator=generator, dtype=dtype) * 2 - 1
    with torch.no_grad():
        model.chart_at(NOISE).initialize(torch.randn(8, *config.shape, generator=generator, dtype=dtype))
        model.chart_at(DATA).initialize(images)
        for parameter in model.parameters():
            parameter.add_(stir * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def batch_of(config: ModelConfig, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, *config.shape, generator=torch.Generator().manual_seed(17), dtype=dtype) * 2 - 1


def draws_of(objective: Objective, n: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The randomness of a step, but with a time of its own for each pair: a small batch would share one."""
    (draws,) = drawn([objective.draw(n, torch.Generator().manual_seed(7))], n, seed=7, step=0)
    draws = {name: value.to(dtype) for name, value in draws.items()}
    return draws | {"time": torch.linspace(0.02, 0.98, len(draws["noise"]), dtype=dtype)}
