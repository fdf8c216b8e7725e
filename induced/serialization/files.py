"""config.json, objects with their arguments, and model.safetensors, their tensors; both are checked before anything is built."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from induced._module import Module
from induced.bijections.normalize import DataDependent
from induced.errors import CheckpointError, InducedError
from induced.serialization.registry import named, recipe

FORMAT, VERSION = "induced", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
Folder = str | os.PathLike[str]


class Slot(NamedTuple):
    """Where a module keeps a tensor."""

    owner: nn.Module
    leaf: str
    tensor: Tensor


def _slots(module: nn.Module, objects: set[int], prefix: str = "") -> Iterator[tuple[str, Slot]]:
    """The parameters and persistent buffers of a module that belong to no other object, by name."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, Slot(module, name, tensor)
    for name, child in module.named_children():
        if id(child) not in objects:
            yield from _slots(child, objects, f"{prefix}{name}.")


def _layout(tensor: Tensor) -> list[int]:
    """The axes from the slowest to the fastest in memory: a product may round otherwise in another layout."""
    strides: tuple[int, ...] = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda axis: -strides[axis])


def _kind(tensor: Tensor) -> str:
    return f"{'parameter' if isinstance(tensor, nn.Parameter) else 'buffer'} {list(tensor.shape)}"


class _Writer:
    """Numbers objects and tensors as they are met, each once."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.tensors: dict[str, Any] = {}
        self.data: dict[str, Tensor] = {}
        self._ids: dict[int, str] = {}
        self._keys: dict[int, str] = {}
        self._alive: list[Mapping[str, Any]] = []  # or an id could be given twice

    def add(self, module: nn.Module) -> str:
        if id(module) in self._ids:
            return self._ids[id(module)]
        entry, number = recipe(module), str(len(self.objects))
        self._ids[id(module)] = number
        described = entry.describe(module)
        self._alive.append(described)
        mine = self.objects[number] = {"class": entry.name, "arguments": {}, "state": {}}
        mine["arguments"] = {name: self._encode(value, f"{number}.{name}") for name, value in described.items()}
        slots = _slots(module, set(self._ids))
        mine["state"] = {name: self._tensor(slot.tensor, f"{number}.{name}") for name, slot in slots}
        return number

    def _encode(self, value: object, where: str) -> object:
        if isinstance(value, nn.Module):
            return {"ref": self.add(value)}
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value, where)}
        if isinstance(value, list | tuple):
            return [self._encode(item, f"{where}.{i}") for i, item in enumerate(value)]
        return value

    def _tensor(self, tensor: Tensor, key: str) -> str:
        if id(tensor) not in self._keys:
            order, kept = _layout(tensor), tensor.detach()
            self._keys[id(tensor)] = key
            self.data[key] = kept.permute(order).contiguous().clone()
            self.tensors[key] = {
                "shape": list(self.data[key].shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "order": order,
                "trains": tensor.requires_grad if isinstance(tensor, nn.Parameter) else None,
            }
        return self._keys[id(tensor)]


def save(module: nn.Module, folder: Folder, *, overwrite: bool = False) -> Path:
    """Write a chart, space, operator, family or Linearizer to `folder`/config.json and `folder`/model.safetensors.

    A module or tensor that is used twice is stored once. The files are written beside their places, synced and renamed; each
    config.json holds the hash of its weights, so that a save that was interrupted between the two is refused by `load`.

    Arguments:
        module: anything of registered classes; its train or eval mode is not kept.
        folder: made if need be.
        overwrite: write over a config.json or model.safetensors that `save` has not written. Other files are never touched.

    Returns:
        The folder.

    Raises:
        CheckpointError: a class within is not registered, or the folder holds files of another origin.

    Law:
        `load(save(module, folder))(x) == module(x)` bit for bit (laws/test_serialization.py)
    """
    writer, folder = _Writer(), Path(folder)
    root = writer.add(module)
    weights = safetensors.torch.save(writer.data, {"format": "pt"})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "root": root,
        "objects": writer.objects,
        "tensors": writer.tensors,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    if not overwrite:
        require_ours(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, weights)
    _replace(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    return folder


def require_ours(folder: Path) -> None:
    """Refuse to write over what `save` has not written.

    Raises:
        CheckpointError: the folder is a file, or not empty and without a config.json of `save`.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; a model is saved to a folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        _read_config(folder / CONFIG)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: is not empty, and holds no model that induced saved ({error}); choose another folder, or give "
            f"overwrite=True to replace {CONFIG} and {WEIGHTS} in it"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


# --------------------------------------------------------------------------------------------------------------- reading
def load(folder: Folder) -> nn.Module:
    """The module that `save` wrote, on the CPU. Only registered classes are built, and no file can run code.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind; the message names the file and what is wrong.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    data = _read_weights(folder / WEIGHTS, config)
    reader = _Reader(folder / CONFIG, config, data)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that are then replaced
        module = reader.build(config["root"])
    if extra := sorted(config["objects"].keys() - reader.built.keys()):
        raise CheckpointError(
            f"{folder / CONFIG}: object(s) {', '.join(extra)} belong to nothing that object {config['root']} uses"
        )
    return module


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); a saved model has {CONFIG} and {WEIGHTS}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f'{path}: is JSON of another origin, without "format": "{FORMAT}"')
    if config.get("version") != VERSION:
        raise CheckpointError(f"{path}: has schema version {config.get('version')!r}, this release reads version {VERSION}")
    try:
        good = all(
            isinstance(item["class"], str)
            and all(isinstance(item[part], dict) for part in ("arguments", "state"))
            and all(config["tensors"][key] for key in item["state"].values())
            for item in config["objects"].values()
        ) and all(
            isinstance(getattr(torch, entry["dtype"]), torch.dtype)
            and sorted(entry["order"]) == list(range(len(entry["shape"])))
            and entry["trains"] in (None, True, False)
            for entry in config["tensors"].values()
        )
        good = good and isinstance(config["root"], str) and isinstance(config["sha256"], str)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is not laid out as schema version {VERSION} is: {error!r}") from error
    if not good:
        raise CheckpointError(f"{path}: holds an entry of another kind than schema version {VERSION} has")
    return config


def _read_weights(path: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    content = _read(path)
    try:
        data = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        # only now: a safetensors file starts with the length of its header, whose first byte may be that of a pickle
        if content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
            raise CheckpointError(f"{path}: is a pickle, whatever its name: it could run code and is not opened") from error
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error
    expected = config["tensors"]
    if data.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - data.keys()), sorted(data.keys() - expected.keys())
        raise CheckpointError(
            f"{path}: has other keys than {CONFIG}: it lacks {missing or 'none'}, and has besides {extra or 'none'}"
        )
    for key, tensor in data.items():
        if list(tensor.shape) != expected[key]["shape"]:
            raise CheckpointError(f"{path}: {key} has the shape {list(tensor.shape)}, {CONFIG} says {expected[key]['shape']}")
        if tensor.dtype != getattr(torch, expected[key]["dtype"]):
            raise CheckpointError(f"{path}: {key} is {tensor.dtype}, {CONFIG} says {expected[key]['dtype']}")
    if hashlib.sha256(content).hexdigest() != config["sha256"]:
        raise CheckpointError(
            f"{path}: other bytes than {CONFIG} was saved with: values were changed, or the two are of two saves"
        )
    return data


class _Reader:
    """Builds objects, each once, what they refer to first."""

    def __init__(self, path: Path, config: dict[str, Any], data: dict[str, Tensor]) -> None:
        self.path, self.objects = path, config["objects"]
        self.built: dict[str, nn.Module] = {}
        self._begun: list[str] = []
        self._tensors: dict[str, Tensor] = {}
        for key, entry in config["tensors"].items():
            tensor = data[key].permute([entry["order"].index(axis) for axis in range(len(entry["order"]))])
            self._tensors[key] = tensor if entry["trains"] is None else nn.Parameter(tensor, requires_grad=entry["trains"])

    def build(self, number: str) -> nn.Module:
        if number in self.built:
            return self.built[number]
        if number not in self.objects:
            raise CheckpointError(f"{self.path}: refers to object {number!r}, which it does not hold")
        if number in self._begun:
            raise CheckpointError(f"{self.path}: object {number} is a part of itself: {' -> '.join([*self._begun, number])}")
        self._begun.append(number)
        item, where = self.objects[number], f"{self.path}: object {number}"
        entry = named(item["class"], where)
        arguments = {name: self._decode(value) for name, value in item["arguments"].items()}
        try:
            module = entry.build(**arguments)
        except (InducedError, TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
            raise CheckpointError(f"{where}, a {item['class']}, cannot be built of its arguments: {error}") from error
        slots = dict(_slots(module, set(map(id, self.built.values()))))
        made = {name: _kind(slot.tensor) for name, slot in slots.items()}
        if made != {name: _kind(self._tensors[key]) for name, key in item["state"].items()}:
            raise CheckpointError(f"{where}, a {item['class']} of these arguments, has tensors of other names or shapes: {made}")
        for name, key in item["state"].items():
            self._set(slots[name], self._tensors[key])
        self.built[number] = module
        self._begun.pop()
        return module

    def _set(self, slot: Slot, tensor: Tensor) -> None:
        if isinstance(tensor, nn.Parameter):
            slot.owner._parameters[slot.leaf] = tensor
        else:
            slot.owner._buffers[slot.leaf] = tensor
        if isinstance(slot.owner, DataDependent):
            slot.owner._ready = bool(slot.owner.initialized)

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"ref"} and isinstance(value["ref"], str):
            return self.build(value["ref"])
        if value.keys() == {"tensor"} and (key := str(value["tensor"])) in self._tensors:
            return self._tensors[key]
        raise CheckpointError(f"{self.path}: {value} is neither a reference to an object nor to a tensor it holds")


class Pretrained(Module):
    """`save` and `load` as methods."""

    def save_pretrained(self, folder: Folder, *, overwrite: bool = False) -> Path:
        """`induced.serialization.save`: config.json and model.safetensors, what is shared once."""
        return save(self, folder, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: Folder) -> Self:
        """`induced.serialization.load`, where a module of this class was saved.

        Raises:
            CheckpointError: the folder holds another class; or as `load`.
        """
        module = load(folder)
        if not isinstance(module, cls):
            raise CheckpointError(
                f"{folder}: holds a {type(module).__name__}, not a {cls.__name__}; induced.serialization.load reads it"
            )
        return module
