"""Trained models on disk, whatever the application: their settings, and their weights as a compact export."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from applications.common.runs import Run
from applications.common.storage import read_json, write_json
from induced.errors import CheckpointError

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


def model_settings(record: Mapping[str, Any], application: str, kind: type[C], path: Path) -> C:
    """The model's settings out of a config.json.

    Arguments:
        record: What the file holds.
        application: The application that must have written it.
        kind: Dataclass of the settings.
        path: The file, for the message.

    Raises:
        CheckpointError: the record is of another application, or its fields are not those of `kind`.
    """
    found, known = record.get("model"), {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if record.get("application") != application or not isinstance(found, dict) or set(found) != known:
        raise CheckpointError(
            f"{path}: not the settings of a {application.replace('_', '-')} model; expected application {application!r} and "
            f"model settings {', '.join(sorted(known))}, found application {record.get('application')!r} with "
            f"{sorted(found) if isinstance(found, dict) else found!r}"
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


def fill(model: M, state: Mapping[str, Tensor], path: Path) -> M:
    """A model with these weights, frozen and in evaluation mode.

    Raises:
        CheckpointError: weights are missing, unknown or of another shape.
    """
    expected = model.state_dict()
    if expected.keys() != state.keys() or any(expected[name].shape != value.shape for name, value in state.items()):
        strange = sorted(expected.keys() ^ state.keys()) or [n for n in expected if expected[n].shape != state[n].shape]
        raise CheckpointError(
            f"{path}: the weights do not fit the model that config.json describes; missing, unknown or of another shape: "
            f"{', '.join(strange[:5])}{' ...' if len(strange) > 5 else ''}"
        )
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()})
    return model.eval().requires_grad_(False)


def read_export(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights of an exported model.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: cannot be read as safetensors: {error}") from error
    return read_json(folder / "config.json"), state


def read_model(folder: Path, *, fallback: bool = False) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The config and the weights of an exported model, or of the moving average of a run's newest checkpoint.

    Raises:
        CheckpointError: the folder holds neither, or a damaged one and no fallback was asked.
    """
    if (folder / "model.safetensors").exists():
        return read_export(folder)
    record, checkpoint = Run(folder).config(), Run(folder).latest(fallback)
    if checkpoint.note:
        print(checkpoint.note, flush=True)
    return record, checkpoint.average


def write_export(model: nn.Module, record: Mapping[str, Any], source: Path, folder: Path) -> Path:
    """Write a model as config.json and model.safetensors in half precision; returns the folder.

    Arguments:
        model: The model.
        record: What config.json is to say.
        source: Where the model comes from, for the message.
        folder: Where to.

    Raises:
        CheckpointError: a weight does not fit half precision.
    """
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in model.state_dict().items()
    }
    overflowing = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if overflowing:
        raise CheckpointError(f"{source}: too large for half precision: {', '.join(overflowing)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it private
    write_json(folder / "config.json", record)
    return folder
