"""What a saved model looks like, to what writes it and to what reads it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from induced._registry import ENTRY_POINTS as ENTRY_POINTS
from induced.errors import CheckpointError
from induced.serialization.disk import MOST_JSON, PARTIAL, parse_json, read

FORMAT, VERSION = "induced", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
Folder = str | os.PathLike[str]
HINT: Final = f"a saved model has {CONFIG} and {WEIGHTS}"
DTYPES: Final = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_SHA256: Final = re.compile("[0-9a-f]{64}")
_LEFTOVER: Final = re.compile(rf"({re.escape(PARTIAL)}{CONFIG}-|({re.escape(PARTIAL)})?\.model-[0-9a-f]{{16}}\.safetensors)")
_OF_RUN: Final[dict[str, type]] = {"newest_of": list, "notes": dict}
_OF_MODEL: Final[dict[str, type]] = {
    **{"sha256": str, "bytes": int, "training": bool, "trains": bool},
    **{"narrowed": dict, "objects": dict, "tensors": dict, "notes": dict},
}
_OF_OBJECT: Final[dict[str, type]] = {"class": str, "arguments": dict}
_OF_TENSOR: Final[dict[str, type]] = {"same": str, "dtype": str, "order": list, "trains": bool, "parameter": bool}


class Slot(NamedTuple):
    """Where a module keeps a tensor."""

    owner: nn.Module
    leaf: str
    tensor: Tensor

    @property
    def is_parameter(self) -> bool:
        return isinstance(self.tensor, nn.Parameter)


def slots(module: nn.Module, objects: set[int], prefix: str = "") -> Iterator[tuple[str, Slot]]:
    """The parameters and persistent buffers of a module that belong to no other object, by name."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, Slot(module, name, tensor)
    for name, child in module.named_children():
        if id(child) not in objects:
            yield from slots(child, objects, f"{prefix}{name}.")


def as_path(folder: Folder) -> Path:
    """A folder as a path.

    Raises:
        CheckpointError: it is none.
    """
    try:
        path = Path(folder)
    except TypeError as error:
        raise CheckpointError(f"a folder is a str or an os.PathLike of one, got {folder!r}") from error
    if "\0" in str(path):
        raise CheckpointError(f"no folder has a null character in its name, got {folder!r}")
    return path


def key_of(number: str, name: str) -> str:
    """What model.safetensors calls a tensor of an object; those of the root have their names in its state dict."""
    return name if number == "0" and not name[0].isdigit() else f"{number}.{name}"


def name_of(dtype: torch.dtype) -> str:
    """What config.json calls a dtype."""
    return str(dtype).removeprefix("torch.")


def pending(folder: Path, digest: str) -> Path:
    """Where weights of this hash are before they are model.safetensors: a config.json that names them makes them the model."""
    return folder / f".model-{digest[:16]}.safetensors"


def is_leftover(name: str) -> bool:
    """Whether a file of this name in a model's folder is one that `save` has not finished."""
    return _LEFTOVER.match(name) is not None


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a model or of a run, its layout checked.

    Raises:
        CheckpointError: it cannot be read, or is not laid out so.
    """
    config = parse_json(path, read(path, HINT, MOST_JSON + 1))
    if config.get("format") != FORMAT:
        raise CheckpointError(f'{path}: is JSON of another origin, without "format": "{FORMAT}"')
    if type(version := config.get("version")) is not int or version != VERSION:
        raise CheckpointError(f"{path}: has schema version {version!r}, this release reads version {VERSION}")
    expected = _OF_RUN if "newest_of" in config else _OF_MODEL
    wrong = [name for name, kind in expected.items() if type(config.get(name)) is not kind]
    if wrong := wrong + sorted(config.keys() - expected.keys() - {"format", "version"}):
        raise CheckpointError(f"{path}: is not laid out as schema version {VERSION} is: look at {', '.join(wrong)}")
    if "newest_of" not in config and not _SHA256.fullmatch(config["sha256"]):
        raise CheckpointError(f"{path}: names no SHA-256 of its weights, but {config['sha256']!r}"[:300])
    if config.get("bytes", 0) < 0:
        raise CheckpointError(f"{path}: says that its weights have {config['bytes']} bytes"[:300])
    for place in config.get("newest_of", []):
        inside = PurePosixPath(place) if isinstance(place, str) else None
        if inside is None or inside.is_absolute() or ".." in inside.parts or "\0" in place:
            raise CheckpointError(f"{path}: the models of a run lie in folders within it, not in {place!r}"[:300])
    items = [(f"object {number}", item, _OF_OBJECT) for number, item in config.get("objects", {}).items()]
    tensors = [(f"tensor {key}", entry, _OF_TENSOR) for key, entry in config.get("tensors", {}).items()]
    for what, item, kinds in (*items, *tensors):
        if (
            not isinstance(item, dict)
            or not (set() if kinds is _OF_TENSOR else kinds.keys()) <= item.keys() <= kinds.keys()
            or any(type(value) is not kinds[name] for name, value in item.items())
        ):
            raise CheckpointError(f"{path}: {what} is not laid out as schema version {VERSION} is: {item!r}"[:300])
    return config
