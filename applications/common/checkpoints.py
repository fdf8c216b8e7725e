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
from induced.serialization.disk import json_bytes, parse_json, read, read_json, sha256, write_synced

SCHEMA: Final = 2
"""Version of the layout; another one is refused."""

STATE: Final = "state.json"
"""The file that makes a folder a checkpoint."""
_KIND: Final = "induced-training"
_TENSOR_FILES: Final = ("training.safetensors", "optimizer.safetensors")
_FILES: Final = ("config.json", *_TENSOR_FILES, "optimizer.json")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and verified.

    Arguments:
        path: Its folder.
        step: Steps of training done.
        model: State of the model that trains.
        average: State of the moving average.
        optimizer: State of the optimiser, as its `state_dict` gives it.
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
            optimizer: The optimiser over the parameters of `model`.

        Raises:
            CheckpointError: a key is missing or unknown, or a shape or dtype differs.
        """
        _check_tensors(self.path / "training.safetensors", model.state_dict(), self.model)
        _check_tensors(self.path / "model.safetensors", average.state_dict(), self.average)
        _check_optimizer(self.path / "optimizer.safetensors", optimizer, self.optimizer)
        model.load_state_dict(self.model)
        average.load_state_dict(self.average)
        optimizer.load_state_dict(self.optimizer)


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
        CheckpointError: the class of the average is not registered, a state holds something other than tensors (or, in the
            optimiser's, JSON values), or the disk is full.
    """
    tensors, rest = _split_optimizer(optimizer)
    packed = {name: _pack_tensors(name, state) for name, state in zip(_TENSOR_FILES, (model, tensors), strict=True)}
    contents = {name: content for name, (content, _) in packed.items()} | {"optimizer.json": json_bytes(rest)}
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
    model, tensors = (_unpack_tensors(path / name, contents[name], aliases.get(name, {})) for name in _TENSOR_FILES)
    rest = parse_json(path / "optimizer.json", contents["optimizer.json"])
    moments = _join_optimizer(path / "optimizer.json", tensors, rest)
    return Checkpoint(path, state["step"], model, load(path).state_dict(), moments)


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


def _split_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part an optimiser's state into tensors, named `<parameter index>.<name>`, and JSON values."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        values[str(index)] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                values[str(index)][name] = value
    return tensors, {"param_groups": state["param_groups"], "state": values}


def _join_optimizer(path: Path, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `_split_optimizer`."""
    try:
        state = {int(index): dict(entries) for index, entries in rest["state"].items()}
        for name, value in tensors.items():
            index, _, entry = name.partition(".")
            state[int(index)][entry] = value
        return {"state": state, "param_groups": rest["param_groups"]}
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: does not fit optimizer.safetensors beside it ({error!r})") from error


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


def _check_optimizer(path: Path, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse an optimiser's state that does not match its parameters."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    found = [len(group["params"]) for group in state["param_groups"]]
    if found != sizes:
        raise CheckpointError(f"{path}: is for parameter groups of sizes {found}, the optimiser has {sizes}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameters[index].shape:
                raise CheckpointError(
                    f"{path}: '{index}.{name}' has shape {tuple(value.shape)}, its parameter {tuple(parameters[index].shape)}"
                )
