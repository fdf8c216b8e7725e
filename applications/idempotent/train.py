"""Training of the idempotent generator into a run folder."""

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from applications.common.data import ImageSet, to_uint8, to_unit
from applications.common.data.sets import training_images
from applications.common.figures import grid
from applications.common.places import Folder
from applications.common.runs import Run
from applications.common.start import Start, ready
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


def train(config: Config, run: Run, *, data_dir: Folder | None = None, **begin: Unpack[Start]) -> TrainingResult:
    """Train a model from its seed into `run`; arguments and errors as `fit`."""
    ready(run, config.training, settings(config), **begin)
    options = {"leave_out": config.leave_out, "skip_bad": config.skip_bad}
    data = training_images(config.data, config.model.shape, data_dir, **options)
    shown = to_unit(data.images[:: max(1, len(data) // 32)][:32])
    return fit(
        start(config, data),
        replace(data, noise=False),
        config.training,
        run,
        settings=settings(config),
        on_sample=lambda model, step: _picture(model, shown, step) if isinstance(model, Idempotent) else None,
        **begin,
    )


def _picture(model: Idempotent, images: Tensor, step: int) -> Tensor:
    """Images, and their projections below them."""
    images = images.to(next(model.parameters()))
    rows = zip(torch.split(images, 8), torch.split(model.operator(exact=False)(images), 8), strict=True)
    shown = to_uint8(torch.cat([part for row in rows for part in row]))
    return grid(shown, columns=8, caption=f"step {step}: training images, and below each row its projections")
