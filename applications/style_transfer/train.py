"""Training of style transfer into a run folder."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from applications.common.data import to_uint8
from applications.common.data.pictures import unit
from applications.common.figures import grid
from applications.common.perceptual import perceptual
from applications.common.places import Folder
from applications.common.runs import Run
from applications.common.start import Start, ready
from applications.common.training import TrainingResult, fit
from applications.style_transfer.config import IDENTITY, Config, settings
from applications.style_transfer.model import build
from applications.style_transfer.objective import StyleObjective
from applications.style_transfer.pairs import pairs


def objective_for(config: Config, model: nn.Module, data_dir: Folder | None = None) -> StyleObjective:
    """The objective of a model, with the perceptual distance that it asks for.

    Raises:
        DataError: the weights of ST-LPIPS are asked for and missing.
    """
    distance = perceptual(data_dir, "st-lpips") if config.objective.perceptual else None
    return StyleObjective(model, config.objective, distance)


def train(
    config: Config,
    run: Run,
    *,
    model: nn.Module | None = None,
    data_dir: Folder | None = None,
    cache_dir: Folder | None = None,
    **begin: Unpack[Start],
) -> TrainingResult:
    """Train a model from its seed into `run`, or another network in its place; the rest as `fit` and `pairs`."""
    accelerator = ready(run, config.training, settings(config), **begin)
    data = pairs(config, data_dir, cache_dir=cache_dir, device=accelerator.device)
    if model is None:
        torch.manual_seed(config.training.seed)
        model = build(config.model)
    shown = data.crops[:4]
    return fit(
        objective_for(config, model, data_dir),
        data,
        config.training,
        run,
        settings=settings(config),
        on_sample=lambda average, step: _picture(average, shown, step, (IDENTITY, *config.model.styles)),
        **begin,
    )


def _picture(model: nn.Module, shown: Tensor, step: int, names: Sequence[str]) -> Tensor:
    """For each crop a row of the teachers' pictures above one of the student's; the photograph comes first."""
    like = next(model.parameters())
    x, styles = unit(shown[:, 0]).to(like), range(shown.shape[1])
    ours = [to_uint8(model(x, torch.full((len(x),), s, device=like.device))).cpu() for s in styles]
    rows = [row for i in range(len(shown)) for row in (shown[i], torch.stack([y[i] for y in ours]))]
    caption = f"step {step}: for each crop the teachers' pictures, and below them the student's"
    return grid(torch.cat(rows), columns=len(styles), caption=caption, heads=names)
