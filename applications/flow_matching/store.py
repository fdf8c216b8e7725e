"""Trained models on disk: out of a run folder, or as a compact export with its config."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from applications.common.runs import Run
from applications.common.storage import read_json, write_json
from applications.flow_matching.config import model_config
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
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: cannot be read as safetensors: {error}") from error
    return _filled(read_json(folder / "config.json"), state, folder)


def export(run_folder: Path, folder: Path, *, fallback: bool = False) -> Path:
    """Write the moving average of a run as config.json and model.safetensors in half precision; returns the folder.

    Raises:
        CheckpointError: the run cannot be read, or a weight does not fit half precision.
    """
    model = load_run(run_folder, fallback=fallback)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in model.state_dict().items()
    }
    overflowing = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if overflowing:
        raise CheckpointError(f"{run_folder}: too large for half precision: {', '.join(overflowing)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private
    write_json(folder / "config.json", Run(run_folder).config())
    return folder


def _filled(record: dict[str, Any], state: dict[str, torch.Tensor], path: Path) -> FlowMatching:
    model = build(model_config(record, path / "config.json"))
    expected = model.state_dict()
    if expected.keys() != state.keys() or any(expected[name].shape != value.shape for name, value in state.items()):
        strange = sorted(expected.keys() ^ state.keys()) or [n for n in expected if expected[n].shape != state[n].shape]
        raise CheckpointError(
            f"{path}: the weights do not fit the model that config.json describes; missing, unknown or of another shape: "
            f"{', '.join(strange[:5])}{' ...' if len(strange) > 5 else ''}"
        )
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()})
    return model.eval().requires_grad_(False)
