"""Training of flow matching into a run folder."""

import os
import shutil
from dataclasses import replace
from typing import Any, Literal, cast

import torch

from applications.common.data import ImageSet, Tensors, training_images
from applications.common.perceptual import perceptual
from applications.common.runs import Run
from applications.common.training import TrainingResult, fit
from applications.flow_matching.config import Config, settings
from applications.flow_matching.model import FlowMatching, build
from applications.flow_matching.objective import FlowMatchingObjective, LatentObjective
from applications.flow_matching.sampling import sample_grid

LATENT = "latent"
"""Subfolder of a run that holds its second stage."""


def training_set(config: Config, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
    """The images to train on; those that mnist5k holds out are left out wherever they occur."""
    return training_images(config.data, config.model.shape, data_dir, leave_out=config.leave_out)


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
    """Train a model from its seed in two stages, the whole and then the latent part, into `run` and its subfolder `latent`.

    The result is that of the last stage, with the time of both and the rows a second of the first.
    """
    run, latent = Run(run.folder, later=[LATENT]), Run(run.folder / LATENT)
    if overwrite and latent.folder.exists():
        shutil.rmtree(latent.folder, ignore_errors=True)
    data = training_set(config, data_dir)
    torch.manual_seed(config.training.seed)
    distance = perceptual(data_dir, config.objective.distance)
    options: dict[str, Any] = {
        "settings": settings(config),
        "fallback": fallback,
        "device": device,
        "on_sample": lambda model, step: sample_grid(model, step) if isinstance(model, FlowMatching) else None,
    }
    objective = FlowMatchingObjective(build(config.model), config.objective, distance)
    result = fit(objective, data, config.training, run, resume=resume, overwrite=overwrite, **options)
    # where both ends share h, it would forget the noise end while it learns the other
    if not config.latent_steps or not objective.model.density or config.model.noise_space != "euclidean":
        return result
    model = cast(FlowMatching, result.average)
    name = f"leading coordinates of {data.name}"
    coordinates = Tensors(name, {"coordinates": model.encode_leading(data.images)}, made_from=f"{name} {data.fingerprint()}")
    second = replace(config.training, steps=config.latent_steps, batch=config.latent_batch)
    begun = resume and bool(latent.checkpoints())
    stage = LatentObjective(model, config.objective)
    last = fit(stage, coordinates, second, latent, resume=begun, overwrite=not begun, **options)
    both = result.seconds + last.seconds
    return replace(
        last, seconds=both, rows_per_second=result.rows_per_second or last.rows_per_second, notes=result.notes + last.notes
    )
