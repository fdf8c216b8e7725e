"""A pendulum with friction as an application in one file: near rest it is linear in the right coordinates, which are learned."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from applications.application import Application, register
from applications.cli import main
from applications.common.data import Tensors
from applications.common.data.source import Batch
from applications.common.kinds import built_from
from applications.common.options import ModelSource
from applications.common.runs import Run
from applications.common.training import Objective, TrainingConfig, TrainingResult, fit
from induced import InducedSpace, Linearizer
from induced.bijections import real_nvp
from induced.operators import Dense


@dataclass(frozen=True)
class ModelConfig:
    """The chart of the states."""

    blocks: int = 4
    """Blocks of its couplings."""
    width: int = 32
    """Hidden units of their networks."""


@dataclass(frozen=True)
class Config:
    """A pendulum with friction: angle and speed, a step of time later."""

    seconds: float = 0.5
    """The step of time."""
    friction: float = 0.5
    """Deceleration by the speed."""
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(steps=400, batch=64, learning_rate=1e-2, warmup=10))


@final
@built_from(ModelConfig, "pendulum.Pendulum")
class Pendulum(nn.Module):
    """f = g^-1 A g, the states (k, 2) a step of time later."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.chart = real_nvp(2, config.blocks, config.width)
        self.core = Dense(nn.Parameter(torch.eye(2)))

    def operator(self) -> Linearizer:
        return Linearizer(self.core, InducedSpace(self.chart))


class Step(Objective):
    """The squared error of the state after a step."""

    def __init__(self, model: Pendulum) -> None:
        super().__init__()
        self.model: Pendulum = model

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        return {}

    def forward(self, batch: Batch, draws: Batch) -> Batch:
        return {"loss": (self.model.operator()(batch["before"]) - batch["after"]).square().mean()}


def states(config: Config, rows: int = 512, substeps: int = 100) -> Tensors:
    """Random states, and what they are a step later."""
    before = 3 * torch.rand(rows, 2, generator=torch.Generator().manual_seed(0)) - 1.5
    angle, speed, h = before[:, 0], before[:, 1], config.seconds / substeps
    for _ in range(substeps):
        speed = speed - h * (angle.sin() + config.friction * speed)
        angle = angle + h * speed
    return Tensors("pendulum", {"before": before, "after": torch.stack([angle, speed], 1)})


def train(config: Config, run: Run, *, data_dir: Path | None = None, **options: Any) -> TrainingResult:
    torch.manual_seed(config.training.seed)
    settings = {"application": "pendulum", "model": asdict(config.model), "data_of": [config.seconds, config.friction]}
    return fit(Step(Pendulum(config.model)), states(config), config.training, run, settings=settings, **options)


def forecast(source: ModelSource, angle: float = 1.0, speed: float = 0.0, steps: int = 2) -> None:
    """Print where a state is after some steps of time; fewer than 0 lead back.

    Args:
        source: The model.
        angle: Of the state.
        speed: Of the state.
        steps: How many.
    """
    found: Tensor = (source.load(Pendulum).operator() ** steps)(torch.tensor([[angle, speed]]))
    print(f"after {steps} steps: angle {float(found[0, 0]):.4f}, speed {float(found[0, 1]):.4f}")


def sample(source: ModelSource, n: int = 3) -> None:
    """Print random states.

    Args:
        source: The model.
        n: How many.
    """
    for angle, speed in source.load(Pendulum).operator().domain.sample(n).tolist():
        print(f"angle {angle:.4f}, speed {speed:.4f}")


register(Application("pendulum", Config, lambda config: Pendulum(config.model), train, {"forecast": forecast, "sample": sample}))

if __name__ == "__main__":
    main()
