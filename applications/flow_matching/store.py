"""Trained models on disk: out of a run folder, or as a compact export with its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from applications.common.models import fill, model_settings, read_export, write_export
from applications.common.runs import Run
from applications.flow_matching.config import ModelConfig
from applications.flow_matching.model import FlowMatching, build
from induced.errors import CheckpointError

PRETRAINED = Path(__file__).parent / "pretrained"
LATENT = "latent"
"""Subfolder of a run that holds its second stage."""


def load_run(folder: Path, *, fallback: bool = False) -> FlowMatching:
    """The moving average of the newest checkpoint of a run folder, in evaluation mode.

    Raises:
        CheckpointError: there is no run of flow matching, or its newest checkpoint is damaged and no fallback was asked.
    """
    record = Run(folder).config()
    latent = Run(folder / LATENT)
    run = latent if latent.checkpoints() else Run(folder)
    checkpoint = run.latest(fallback)
    if checkpoint.note:
        print(checkpoint.note, flush=True)
    return _filled(record, checkpoint.average, folder)


def load_pretrained(name: str = "mnist", root: Path = PRETRAINED) -> FlowMatching:
    """A model that ships with the package, in evaluation mode.

    Raises:
        CheckpointError: there is no such model, or its files are damaged or of another kind.
    """
    folder = root / name
    known = sorted(path.name for path in root.glob("*") if (path / "config.json").exists())
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: no pretrained model {name!r}; there are: {', '.join(known) or 'none'}")
    return _filled(*read_export(folder), folder)


def export(run_folder: Path, folder: Path, *, fallback: bool = False) -> Path:
    """Write the moving average of a run as config.json and model.safetensors in half precision; returns the folder.

    Raises:
        CheckpointError: the run cannot be read, or a weight does not fit half precision.
    """
    return write_export(load_run(run_folder, fallback=fallback), Run(run_folder).config(), run_folder, folder)


def _filled(record: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> FlowMatching:
    return fill(build(model_settings(record, "flow_matching", ModelConfig, path / "config.json")), state, path)
