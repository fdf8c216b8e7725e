"""The idempotent generator as an application."""

from dataclasses import replace
from pathlib import Path

from applications.application import Application, Commands, register
from applications.common.data import to_unit
from applications.common.data.sets import DIGITS, images_of_shape
from applications.idempotent.commands import anomaly_command, generate, project_command
from applications.idempotent.config import Config
from applications.idempotent.model import Idempotent, build
from applications.idempotent.train import train
from induced.checks import check_idempotent
from induced.checks.report import Reports


def laws(model: Idempotent, n: int, data: str | None, data_dir: Path | None, skip_bad: bool = False) -> Reports:
    """That it is a projector bit for bit, at held-out images, where it is used on a lattice."""
    if not model.config.exact or (data is None and model.config.shape != DIGITS):
        return Reports()
    images = images_of_shape(data or "mnist5k", "test", model.config.shape, data_dir, skip_bad=skip_bad)
    found = check_idempotent(model.operator(), to_unit(images.spread(n).images), exact=True)
    return Reports(replace(row, part="on the lattice: at held-out images") for row in found)


COMMANDS: Commands = {"project": project_command, "generate": generate, "anomaly": anomaly_command}

APPLICATION = register(Application("idempotent", Config, lambda config: build(config.model), train, COMMANDS, laws=laws))
