"""Training of the idempotent generator into a run folder."""

import os
from dataclasses import asdict
from typing import Literal

import torch
from torch import Tensor

from applications.common.data import ImageSet, to_uint8, to_unit, training_images
from applications.common.figures import grid
from applications.common.parallel import accelerator_for
from applications.common.runs import Run
from applications.common.training import TrainingResult, fit
from applications.idempotent.config import Config, settings
from applications.idempotent.model import Idempotent, build
from applications.idempotent.objective import IdempotentObjective

ALIGNED = 2000
"""Images whose principal components a rotated basis starts from."""


def start(config: Config, data: ImageSet) -> IdempotentObjective:
    """The objective of a fresh training: a model from the seed, its basis aligned with the data."""
    torch.manual_seed(config.training.seed)
    objective = IdempotentObjective(build(config.model), config.objective)
    objective.model.align(to_unit(data.images[:: max(1, len(data) // ALIGNED)][:ALIGNED]))
    return objective


def train(
    config: Config,
    run: Run,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fallback: bool = False,
    device: Literal["auto", "cpu"] = "auto",
) -> TrainingResult:
    """Train a model from its seed into `run`; arguments and errors as `fit`."""
    if accelerator_for(device).is_main_process:
        run.check({"training": asdict(config.training)} | settings(config), resume=resume, overwrite=overwrite)
    data = training_images(config.data, config.model.shape, data_dir, leave_out=config.leave_out)
    shown = to_unit(data.images[:: max(1, len(data) // 32)][:32])
    return fit(
        start(config, data),
        data,
        config.training,
        run,
        settings=settings(config),
        resume=resume,
        overwrite=overwrite,
        fallback=fallback,
        device=device,
        on_sample=lambda model, step: _picture(model, shown) if isinstance(model, Idempotent) else None,
    )


def _picture(model: Idempotent, images: Tensor) -> Tensor:
    """Images, and their projections below them."""
    images = images.to(next(model.parameters()))
    rows = zip(torch.split(images, 8), torch.split(model.operator(exact=False)(images), 8), strict=True)
    return grid(to_uint8(torch.cat([part for row in rows for part in row])), columns=8)
