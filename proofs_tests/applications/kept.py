"""What the tests of runs that are kept share: a tiny model of flow matching, its data, and what a folder holds."""

from pathlib import Path
from typing import Any

import torch

from applications.common.data import ImageSet
from applications.common.runs import Run
from applications.common.training import TrainingConfig
from applications.flow_matching import train as train_module
from applications.flow_matching.config import Config, ModelConfig, ObjectiveConfig

SMALL = ModelConfig(
    shape=(1, 4, 4), blocks=1, widths=(4,), dense_blocks=1, dense_width=8, density_blocks=1, density_width=8, components=0, rank=4
)
CONFIG = Config(
    model=SMALL,
    objective=ObjectiveConfig(perceptual=0),
    training=TrainingConfig(steps=4, batch=8, warmup=1, log_every=2, checkpoint_every=4),
    latent_steps=3,
    latent_batch=8,
)


def pixels(seed: int = 0) -> ImageSet:
    drawn = torch.randint(0, 256, (24, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ImageSet("pixels", drawn, torch.zeros(24, dtype=torch.int64))


def train(folder: Path, config: Config = CONFIG, **options: Any) -> Any:
    return train_module.train(config, Run(folder), device="cpu", **options)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def strangers(folder: Path) -> dict[str, bytes]:
    for name in ("samples/a.txt", "checkpoints/step-00000001/b", "latent/thesis.tex", "tensorboard/c", "one_step.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "config.json").write_text('{"my": 1}')
    return listing(folder)
