"""Trained projectors on disk: out of a run folder, or out of a compact export with its config."""

from pathlib import Path

from applications.common.models import fill, model_settings, read_model, write_export
from applications.common.runs import Run
from applications.idempotent.config import ModelConfig
from applications.idempotent.model import Idempotent, build


def load(folder: Path, *, fallback: bool = False) -> Idempotent:
    """A model in evaluation mode: an exported one, or the moving average of the newest checkpoint of a run.

    Raises:
        CheckpointError: the folder holds neither, or a damaged one and no fallback was asked.
    """
    record, state = read_model(folder, fallback=fallback)
    return fill(build(model_settings(record, "idempotent", ModelConfig, folder / "config.json")), state, folder)


def export(run_folder: Path, folder: Path, *, fallback: bool = False) -> Path:
    """Write the moving average of a run as config.json and model.safetensors in half precision; returns the folder.

    Raises:
        CheckpointError: the run cannot be read, or a weight does not fit half precision.
    """
    return write_export(load(run_folder, fallback=fallback), Run(run_folder).config(), run_folder, folder)
