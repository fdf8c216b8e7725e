"""One-step flow matching as an application."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from applications.application import Application, Commands, register
from applications.common.data import to_unit
from applications.common.data.sets import DIGITS, images_of_shape
from applications.common.data.table import load_table
from applications.common.options import ModelFolder
from applications.flow_matching import evaluate
from applications.flow_matching.commands import edit, interpolate_command, invert, judge, sample, tour_command
from applications.flow_matching.config import OF_VECTORS, Config
from applications.flow_matching.model import FlowMatching, build
from applications.flow_matching.train import train
from induced import Linearizer
from induced.checks.report import Reports


def laws(model: FlowMatching, n: int, data: str | None, data_dir: Path | None, skip_bad: bool = False) -> Reports:
    """The laws at data points and noise, where `induced.check` draws coordinates, and what the model promises besides.

    Data points are held-out images of a data set, digits unless one is named; for vectors rows of a table, samples unless one is
    named.
    """
    if model.config.vectors:
        where = "samples" if data is None else f"rows of {data}"
        points = model.sample(n, torch.Generator().manual_seed(0)) if data is None else load_table(data).rows[:n]
    elif data is None and model.config.shape != DIGITS:
        return Reports()
    else:
        where = "held-out images"
        images = images_of_shape(data or "mnist5k", "test", model.config.shape, data_dir, skip_bad=skip_bad)
        points = to_unit(images.spread(n).images)
    found = evaluate.axioms(model, points)
    return Reports(replace(row, part=f"{dtype}: at {where}: {row.part}") for dtype, rows in found.items() for row in rows)


def part(settings: Mapping[str, Any]) -> tuple[Collection[str], Collection[str]] | None:
    """What of the application is meant for vectors: rows are drawn, and that is all."""
    return (("sample",), OF_VECTORS) if len(settings.get("shape", ())) == 1 else None


COMMANDS: Commands = {
    "sample": sample,
    "invert": invert,
    "interpolate": interpolate_command,
    "edit": edit,
    "judge": judge,
    "tour": tour_command,
}
SHIPPED = Path(__file__).parent / "pretrained"

APPLICATION = register(
    Application("flow-matching", Config, lambda config: build(config.model), train, COMMANDS, SHIPPED, laws=laws, part=part)
)


@torch.no_grad()
def load_pretrained(name: str = "mnist") -> Linearizer:
    """The one-step sampler of a model that ships: of "mnist", noise N(0, I) (k, 1, 32, 32) -> digits in about [-1, 1].

    `Linearizer.from_pretrained(folder)` is that of any other folder, `induced.load(folder)` the model.

    Raises:
        CheckpointError: no model of this name ships, or its files are damaged.

    Law:
        the same bits as `model.operator()` of 100 Runge-Kutta steps (applications/flow_matching/test_one_step.py)
    """
    return ModelFolder(pretrained=name).load(FlowMatching).operator()
