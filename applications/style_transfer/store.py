"""Trained style transfer on disk: out of a run folder, or out of a compact export with its config."""

from dataclasses import asdict
from pathlib import Path

from applications.common.models import fill, model_settings, read_model, write_export
from applications.common.runs import Run
from applications.style_transfer.config import ModelConfig
from applications.style_transfer.model import StyleTransfer, build


def load(folder: Path, *, fallback: bool = False) -> StyleTransfer:
    """A model in evaluation mode: an exported one, or the moving average of the newest checkpoint of a run.

    Raises:
        CheckpointError: the folder holds neither, or a damaged one and no fallback was asked.
    """
    record, state = read_model(folder, fallback=fallback)
    return fill(build(model_settings(record, "style_transfer", ModelConfig, folder / "config.json")), state, folder)


def save(model: StyleTransfer, source: Path, folder: Path) -> Path:
    """Write a model as config.json and model.safetensors in half precision; `source` says where its run's settings are.

    Raises:
        CheckpointError: the settings cannot be read, or a weight does not fit half precision.
    """
    record = Run(source).config() | {"model": asdict(model.config)}
    return write_export(model, record, source, folder)


def export(run_folder: Path, folder: Path, *, fallback: bool = False) -> Path:
    """Write the moving average of a run as config.json and model.safetensors in half precision; returns the folder.

    Raises:
        CheckpointError: the run cannot be read, or a weight does not fit half precision.
    """
    return save(load(run_folder, fallback=fallback), run_folder, folder)
