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

SCHEMA: Final = 3
"""Version of the layout; another one is refused."""

STATE: Final = "state.json"
"""The file that makes a folder a checkpoint."""
_KIND: Final = "induced-training"
_TENSOR_FILES: Final = ("training.safetensors", "optimizer.safetensors")
_FILES: Final = ("config.json", *_TENSOR_FILES)


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
        _check_tensors(self.path / "training.safetensors", model.state_dict(), self.model)
        _check_tensors(self.path / "model.safetensors", average.state_dict(), self.average)
        parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
        for number, entries in self.optimizer["state"].items():
            for name, value in entries.items():
                if number not in parameters or (value.ndim and value.shape != parameters[number].shape):
                    raise CheckpointError(
                        f"{self.path / 'optimizer.safetensors'}: '{number}.{name}' of shape {tuple(value.shape)} does not fit "
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
    packed = {name: _pack_tensors(name, state) for name, state in zip(_TENSOR_FILES, (model, moments), strict=True)}
    contents = {name: content for name, (content, _) in packed.items()}
    save(average, folder, notes=notes)
    hashes = {name: sha256(content) for name, content in contents.items()}
    hashes["config.json"] = sha256(read(folder / "config.json", "it was just written"))
    aliases = {name: names for name, (_, names) in packed.items()}
    record = {"kind": _KIND, "schema": SCHEMA, "step": step, "aliases": aliases, "sha256": hashes}
    for name, content in (contents | {STATE: json_bytes(record)}).items():
        write_synced(folder / name, content)


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
    hashes, aliases = state.get("sha256"), state.get("aliases")
    if not isinstance(hashes, dict) or not isinstance(aliases, dict) or set(hashes) != set(_FILES):
        raise CheckpointError(f"{path / 'state.json'}: lacks the hashes of {', '.join(_FILES)}")
    contents = {name: _read_verified(path / name, hashes[name]) for name in _FILES}
    model, moments = (_unpack_tensors(path / name, contents[name], aliases.get(name, {})) for name in _TENSOR_FILES)
    numbered: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        number, _, name = key.partition(".")
        numbered.setdefault(int(number), {})[name] = value
    return Checkpoint(path, state["step"], model, load(path).state_dict(), {"state": numbered})


def _read_verified(path: Path, expected: str) -> bytes:
    """Read a file whose hash is known."""
    content = read(path, "a checkpoint has it")
    found = sha256(content)
    if found != expected:
        raise CheckpointError(
            f"{path}: SHA-256 {found[:12]}... of its {len(content)} bytes is not {expected[:12]}..., which state.json "
            "records (truncated or changed)"
        )
    return content


def _pack_tensors(name: str, state: Mapping[str, Tensor]) -> tuple[bytes, dict[str, str]]:
    """Serialise tensors; one that several names share is written once, the other names are returned as aliases."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name}: {key!r} is a {type(value).__name__}; only tensors can be saved unpickled")
        identity = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and identity in seen:
            aliases[key] = seen[identity]
            continue
        seen[identity] = key
        kept[key] = value.detach().to("cpu", copy=True).contiguous()
    return pack(kept), aliases


def _unpack_tensors(path: Path, content: bytes, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """Undo `_pack_tensors`."""
    try:
        tensors = unpack(content)
        return tensors | {key: tensors[kept] for key, kept in aliases.items()}
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path}: is no whole safetensors file ({error})") from error


def _check_tensors(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse a state whose keys, shapes or dtypes are not the module's."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path}: is of another model: missing keys {missing[:5]} ({len(missing)} in all), unknown keys "
            f"{unknown[:5]} ({len(unknown)} in all)"
        )
    for key, value in expected.items():
        if value.shape != found[key].shape or value.dtype != found[key].dtype:
            raise CheckpointError(
                f"{path}: {key!r} is {tuple(found[key].shape)} {found[key].dtype}, the model's is "
                f"{tuple(value.shape)} {value.dtype}"
            )
