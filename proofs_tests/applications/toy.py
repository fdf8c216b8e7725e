"""A linear autoencoder on random images: the smallest training that uses all the training loop offers.

Run as a program it trains in a process of its own, which can be told to die: `python -m proofs_tests.applications.toy`.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from applications.common import checkpoints
from applications.common.data import ImageSet
from applications.common.data.source import Batch
from applications.common.runs import Run
from applications.common.training import Objective, TrainingConfig, TrainingResult, fit
from induced.serialization import register
from induced.serialization.disk import write_synced

CONFIG = TrainingConfig(steps=20, batch=8, learning_rate=1e-2, warmup=4, seed=3, log_every=3, checkpoint_every=5, sample_every=1)


def images(n: int = 37) -> ImageSet:
    """Random images whose number no batch divides."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet("toy", pixels, torch.zeros(n, dtype=torch.int64))


class Autoencoder(nn.Module):
    """Two linear maps; one of them under two names, as a chart that two spaces share is; buffers of two dtypes."""

    initialized: Tensor
    last_mean: Tensor

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.encoder = nn.Linear(64, width)
        self.decoder = nn.Linear(width, 64)
        self.twin = self.encoder
        self.scale = nn.Parameter(torch.ones(64))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_mean", torch.zeros(()))
        with torch.no_grad():
            for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct."""
        return self.decoder(self.twin(x.flatten(1) * self.scale)).view_as(x)


register(Autoencoder, describe=lambda m: {"width": m.encoder.out_features}, name="tests.Autoencoder")


class Denoise(Objective):
    """Reconstruction from noisy images."""

    model: Autoencoder

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.model = Autoencoder(width)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One noise image for each image."""
        return {"noise": torch.randn(n, 1, 8, 8, generator=generator)}

    def initialize(self, batch: Batch, draws: dict[str, Tensor]) -> None:
        """Scale each pixel to unit variance on the first batch, and count the calls."""
        self.model.scale.copy_(1 / (batch["images"] + 0.1 * draws["noise"]).flatten(1).std(0))
        self.model.initialized += 1

    def forward(self, batch: Batch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error, and its half for the log."""
        images = batch["images"]
        error = (self.model(images + 0.1 * draws["noise"]) - images).square().mean()
        with torch.no_grad():
            self.model.last_mean.fill_(error.item())
        return {"loss": error, "half": error / 2}


def train(folder: Path, *, objective: Objective | None = None, config: TrainingConfig = CONFIG, **options: Any) -> TrainingResult:
    """Train the toy in a folder."""
    return fit(objective or Denoise(), images(), config, Run(folder), device="cpu", **options)


def die(*_: object) -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, death: str) -> None:
    """Train and die at step 17, or be asked to end there, or die while a file of step 10 is written, or as one of several."""
    if death == "step":
        train(folder, on_sample=lambda model, step: die() if step == 17 else None)
    elif death == "asked":
        train(folder, on_sample=lambda model, step: os.kill(os.getpid(), signal.SIGTERM) if step == 16 else None)
    elif death == "write":

        def write_half(path: Path, content: bytes) -> None:
            if "00000010" in str(path) and path.name == "training.safetensors":
                path.write_bytes(content[: len(content) // 2])
                die()
            write_synced(path, content)

        with patch.object(checkpoints, "write_synced", write_half):
            train(folder)
    else:
        result = train(folder, config=replace(CONFIG, steps=6))
        processes = torch.distributed.get_world_size()
        if torch.distributed.get_rank() == 0:
            (folder / "result.json").write_text(json.dumps({"processes": processes, "losses": result.losses}))
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
