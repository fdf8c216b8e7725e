"""Training of flow matching into a run folder."""

import os
from typing import Literal

import torch

from applications.common.data import SIZED, ImageSet, load, unit_shape
from applications.common.perceptual import perceptual
from applications.common.runs import Run
from applications.common.training import TrainingResult, fit
from applications.flow_matching.config import Config, settings
from applications.flow_matching.model import FlowMatching, build
from applications.flow_matching.objective import FlowMatchingObjective
from applications.flow_matching.sampling import sample_grid
from induced.errors import ShapeError


def training_set(config: Config, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
    """The images to train on; those that mnist5k holds out are left out wherever they occur."""
    channels, side, _ = config.model.shape
    sized = config.data in SIZED
    data = load(config.data, "train", data_dir, size=side if sized else None, grey=sized and channels == 1)
    if not config.leave_out or config.data not in ("mnist", "mnist5k"):
        return data
    held_out = {image.numpy().tobytes() for image in load("mnist5k", "test").images}
    kept = torch.tensor([image.numpy().tobytes() not in held_out for image in data.images])
    return (
        data if bool(kept.all()) else ImageSet(f"{data.name} without the digits held out", data.images[kept], data.labels[kept])
    )


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
    """Train a model from its seed; the result holds the moving average of its weights."""
    data = training_set(config, data_dir)
    if config.model.shape != unit_shape(data.images)[1:]:
        found = unit_shape(data.images)[1:]
        raise ShapeError(f"the model takes images of shape {config.model.shape}, got {found} from {data.name}")
    torch.manual_seed(config.training.seed)
    distance = perceptual(data_dir, config.objective.distance)
    objective = FlowMatchingObjective(build(config.model), config.objective, distance)
    return fit(
        objective,
        data,
        config.training,
        run,
        settings=settings(config),
        resume=resume,
        overwrite=overwrite,
        fallback=fallback,
        device=device,
        on_sample=lambda model, step: sample_grid(model, step) if isinstance(model, FlowMatching) else None,
    )
