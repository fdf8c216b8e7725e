"""The format of one checkpoint: the averaged model as `induced.load` opens it, and beside it what training goes on from.

Nothing is pickled. state.json holds the SHA-256 of every file but model.safetensors, whose own config.json holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor, nn

from induced.errors import CheckpointError
from induced.serialization import load, save
from induced.serialization.disk import json_bytes, read, read_json, sha256, write_synced
from induced.serialization.layout import CONFIG

SCHEMA: Final = 4
"""Version of the layout; another one is refused."""

STATE: Final = "state.json"
"""The file that makes a folder a checkpoint."""
_KIND: Final = "induced-training"
TENSORS: Final = "training.safetensors"
"""The model that trains, and the optimiser's moments."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and verified.

    Arguments:
        path: Its folder.
        step: Steps of training done.
        model: State of the model that trains.
        average: State of the moving average.
        optimizer: "state" of the optimiser's `state_dict`; its settings are those of the training.
        note: Empty, or what was passed over to get here (a fallback is never silent).
    """

    path: Path
    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    note: str = ""

    def restore(self, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put the states into the objects they were taken from; nothing is changed if one does not fit.

        Arguments:
            model: The module to train.
            average: The module that holds its moving average.
            optimizer: The optimiser over the parameters of `model`; its settings stay.

        Raises:
            CheckpointError: a key is missing or unknown, or a shape or dtype differs.
        """
        _require_same(self.path / TENSORS, model.state_dict(), self.model)
        _require_same(self.path / "model.safetensors", average.state_dict(), self.average)
        parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
        for number, entries in self.optimizer["state"].items():
            for name, value in entries.items():
                if number not in parameters or (value.ndim and value.shape != parameters[number].shape):
                    raise CheckpointError(
                        f"{self.path / TENSORS}: 'optimizer.{number}.{name}' of shape {tuple(value.shape)} does not fit "
                        f"parameters of shapes {[tuple(parameter.shape) for parameter in parameters.values()]}"
                    )
        model.load_state_dict(self.model)
        average.load_state_dict(self.average)
        optimizer.load_state_dict({**optimizer.state_dict(), **self.optimizer})


def write(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    average: nn.Module,
    optimizer: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> None:
    """Write the files of a checkpoint, synced, into a new folder.

    Arguments:
        folder: Where to.
        step: Steps done.
        model: State of the model that trains.
        average: The module that holds its moving average.
        optimizer: State of the optimiser.
        notes: What config.json says besides.

    Raises:
        CheckpointError: the class of the average is not registered, a state holds something other than tensors, or the disk is
            full.
    """
    moments = {f"{number}.{name}": value for number, entries in optimizer["state"].items() for name, value in entries.items()}
    state = {f"{part}.{name}": value for part, held in (("model", model), ("optimizer", moments)) for name, value in held.items()}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{TENSORS}: {name!r} is a {type(value).__name__}; only tensors can be saved unpickled")
    content = pack({name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()})
    save(average, folder, notes=notes)
    hashes = {TENSORS: sha256(content), CONFIG: sha256(read(folder / CONFIG, "it was just written"))}
    write_synced(folder / TENSORS, content)
    write_synced(folder / STATE, json_bytes({"kind": _KIND, "schema": SCHEMA, "step": step, "sha256": hashes}))


def step_of(path: Path) -> int:
    """Read the step off a checkpoint's folder name, `step-00000500`."""
    return int(path.name.removeprefix("step-"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and verify kind, schema, step, presence and hashes."""
    state = read_json(path / STATE)
    if state.get("kind") != _KIND or state.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path}: is of kind {state.get('kind')!r}, schema {state.get('schema')!r}; this version reads "
            f"{_KIND!r}, schema {SCHEMA} (written by another version or program?)"
        )
    if state.get("step") != step_of(path):
        raise CheckpointError(f"{path}: state.json says step {state.get('step')!r} (a renamed folder?)")
    hashes = state.get("sha256")
    if not isinstance(hashes, dict) or set(hashes) != {CONFIG, TENSORS}:
        raise CheckpointError(f"{path / STATE}: lacks the hashes of {CONFIG} and {TENSORS}")
    contents = {name: _read_verified(path / name, expected) for name, expected in hashes.items()}
    try:
        tensors = unpack(contents[TENSORS])
    except SafetensorError as error:
        raise CheckpointError(f"{path / TENSORS}: is no whole safetensors file ({error})") from error
    model, moments = dict[str, Tensor](), dict[int, dict[str, Tensor]]()
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        if part == "model":
            model[name] = value
        else:
            number, _, name = name.partition(".")
            moments.setdefault(int(number), {})[name] = value
    return Checkpoint(path, state["step"], model, load(path).state_dict(), {"state": moments})


def _read_verified(path: Path, expected: str) -> bytes:
    """Read a file whose hash is known."""
    content = read(path, "a checkpoint has it")
    if (found := sha256(content)) != expected:
        raise CheckpointError(
            f"{path}: SHA-256 {found[:12]}... of its {len(content)} bytes is not {expected[:12]}..., which state.json "
            "records (truncated or changed)"
        )
    return content


def _require_same(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse a state whose keys, shapes or dtypes are not the module's."""
    theirs, ours = ({name: f"{tuple(value.shape)} {value.dtype}" for name, value in held.items()} for held in (found, expected))
    differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if differing:
        shown = "; ".join(f"{n!r} is {theirs.get(n, 'missing')}, the model's is {ours.get(n, 'missing')}" for n in differing[:5])
        raise CheckpointError(f"{path}: is of another model: {shown} ({len(differing)} tensors differ)")
