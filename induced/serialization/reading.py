"""Models read from disk: both files are checked before anything is built, and only registered classes are."""

import time
from pathlib import Path
from typing import Any, Final, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from induced._registry import Recipe, named
from induced.bijections.normalize import DataDependent
from induced.errors import CheckpointError, InducedError
from induced.serialization.allocation import Allowance
from induced.serialization.disk import DEPTH, cannot, read, sha256
from induced.serialization.layout import (
    CONFIG,
    DTYPES,
    HINT,
    WEIGHTS,
    Folder,
    Slot,
    as_path,
    key_of,
    name_of,
    pending,
    read_config,
    slots,
)

_ATTEMPTS: Final = 100
_WAIT: Final = 0.01
"""Seconds between two attempts: a writer that is at work takes less from naming new weights to putting them in their place."""


def load(folder: Folder) -> nn.Module:
    """The module that `save` wrote, on the CPU. Only registered classes are built, and no file can run code.

    Of a run's folder it is the moving average of the newest checkpoint. Beside a process that saves to the folder, it is the
    model before or after. Memory is bounded by what the files hold (`MOST_JSON`, and `FREE` and `TIMES` of `allocation`).

    Arguments:
        folder: where `save` or a training wrote to.

    Returns:
        The object as saved: a Linearizer, chart, space, operator, ..., or the model of an application, whose `operator()` is its
        Linearizer. `Linearizer.from_pretrained(folder)` is that Linearizer in each case.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind; the message names the file and what is wrong.

    Law:
        a folder that anyone may have written gives a CheckpointError before it takes memory (laws/test_hostile_folders.py)
    """
    folder, config, content = _read_pair(as_path(folder))
    path = folder / CONFIG
    reader = _Reader(path, config, _unpacked(folder / WEIGHTS, content))
    for number, item in config["objects"].items():
        named(item["class"], f"{path}: object {number}")
    # constructors draw weights that are then replaced, and compute constants
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), reader.allowance:
        module = reader.build("0")
    if extra := sorted(config["objects"].keys() - reader.built.keys()):
        raise CheckpointError(f"{path}: object(s) {', '.join(extra)} belong to nothing that object 0 uses")
    if unused := sorted((reader.data.keys() | config["tensors"].keys()) - reader.used):
        raise CheckpointError(f"{folder / WEIGHTS}: {', '.join(unused[:5])} belong(s) to no object of {CONFIG}")
    return module.train(config["training"])


def notes(folder: Folder) -> dict[str, Any]:
    """The notes that `save` was given, or the settings of a run.

    Raises:
        CheckpointError: as `load`, of config.json alone.
    """
    found: dict[str, Any] = read_config(as_path(folder) / CONFIG)["notes"]
    return found


def _read_pair(folder: Path) -> tuple[Path, dict[str, Any], bytes]:
    """config.json and the weights whose hash it names, however often another process saves meanwhile; and where they lie."""
    before: tuple[object, ...] = ()
    for _ in range(_ATTEMPTS):
        config = read_config(folder / CONFIG)
        if "newest_of" in config:
            return _read_pair(_newest(folder, config["newest_of"]))
        path = pending(folder, config["sha256"])
        path = path if path.exists() else folder / WEIGHTS
        seen: tuple[object, ...] = (config["sha256"], path)
        try:
            found = read(path, HINT, config["bytes"] + 1)
        except CheckpointError:
            if seen == before:
                raise
        else:
            if sha256(found) == config["sha256"]:
                return folder, config, found
            seen = (*seen, len(found), found[:64])
            if seen == before:
                _refuse(path, found)
        before = seen
        time.sleep(_WAIT)
    raise CheckpointError(f"{folder}: is written to so often that no state of it could be read in {_ATTEMPTS * _WAIT:.0f} s")


def _newest(folder: Path, places: list[str]) -> Path:
    """The newest model of a run: the last `step-*` of the first of these places that holds one."""
    for place in places:
        with cannot("be read", folder / CONFIG, "its newest_of names the folders of checkpoints"):
            found = sorted(path.parent for path in (folder / place).glob(f"step-*/{CONFIG}"))
        if found and "newest_of" not in read_config(found[-1] / CONFIG):
            return found[-1]
    raise CheckpointError(f"{folder}: is a run without a checkpoint yet, in {', '.join(places[:5])}")


def _refuse(path: Path, found: bytes) -> NoReturn:
    if found[:4] == b"PK\x03\x04" or found[:1] == b"\x80":
        raise CheckpointError(f"{path}: is a pickle, whatever its name: it could run code and is not opened")
    raise CheckpointError(f"{path}: other bytes than {CONFIG} was saved with: cut short, changed, or the two are of two saves")


def _unpacked(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from error


class _Reader:
    """Builds objects, each once, what they refer to first."""

    def __init__(self, path: Path, config: dict[str, Any], data: dict[str, Tensor]) -> None:
        self.path, self.data = path, data
        self.objects, self.entries = config["objects"], config["tensors"]
        self.trains, self.narrowed = config["trains"], config["narrowed"]
        self.allowance = Allowance(sum(tensor.numel() * tensor.dtype.itemsize for tensor in data.values()))
        self.built: dict[str, nn.Module] = {}
        self.used: set[str] = set()
        self._begun: list[str] = []
        self._tensors: dict[str, Tensor] = {}

    def build(self, number: str) -> nn.Module:
        if number in self.built:
            return self.built[number]
        if number not in self.objects:
            raise CheckpointError(f"{self.path}: refers to object {number!r}, which it does not hold")
        if number in self._begun:
            raise CheckpointError(f"{self.path}: object {number} is a part of itself: {' -> '.join([*self._begun, number])}")
        if len(self._begun) == DEPTH:
            raise CheckpointError(f"{self.path}: object {number} lies within {DEPTH} others, which is the most")
        self._begun.append(number)
        item, where = self.objects[number], f"{self.path}: object {number}"
        module = self._made(named(item["class"], where), item["arguments"], f"{where}, a {item['class']},")
        mine = dict(slots(module, set(map(id, self.built.values()))))
        for name, slot in mine.items():
            tensor = self._tensor(key_of(number, name), slot.is_parameter)
            if tensor is None or tensor.shape != slot.tensor.shape or isinstance(tensor, nn.Parameter) != slot.is_parameter:
                raise CheckpointError(
                    f"{where}, a {item['class']} of these arguments, has {name} as {_shown(slot.tensor)}, {WEIGHTS} has "
                    f"{'nothing' if tensor is None else _shown(tensor)} for {key_of(number, name)}"
                )
            _set(slot, tensor)
        self.built[number] = module
        self._begun.pop()
        return module

    def _made(self, entry: Recipe, given: dict[str, Any], where: str) -> nn.Module:
        arguments = {name: self._decode(value) for name, value in given.items()}
        try:
            module = entry.build(**arguments)
            described = dict(entry.describe(module))
        except (InducedError, TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError) as error:
            raise CheckpointError(f"{where} cannot be built of its arguments: {error}") from error
        if wrong := [name for name in arguments | described if not _same(arguments.get(name), described.get(name))]:
            read_as = ", ".join(f"{name} as {described.get(name)!r}" for name in wrong)
            raise CheckpointError(f"{where} reads its arguments otherwise than they stand there: {read_as}"[:500])
        return module

    def _tensor(self, key: str, parameter: bool = False) -> Tensor | None:
        """A tensor by its key, one object for all keys that are tied to it; None where there is none."""
        self.used.add(key)
        key = self.entries.get(key, {}).get("same", key)
        self.used.add(key)
        if key in self._tensors or key not in self.data:
            return self._tensors.get(key)
        entry, tensor = self.entries.get(key, {}), self.data[key]
        order, trains = entry.get("order", list(range(tensor.dim()))), entry.get("trains", self.trains)
        name = entry.get("dtype", self.narrowed.get(stored := name_of(tensor.dtype), stored))
        dtype = DTYPES.get(name, torch.bool) if isinstance(name, str) else torch.bool
        axes = all(type(axis) is int for axis in order) and sorted(order) == list(range(tensor.dim()))
        if not axes or not (dtype == tensor.dtype or (dtype.is_floating_point and tensor.is_floating_point())):
            raise CheckpointError(f"{self.path}: tensor {key} is {list(tensor.shape)} {tensor.dtype}, which {entry} does not fit")
        tensor = tensor.to(dtype).permute([order.index(axis) for axis in range(len(order))])
        if parameter or entry.get("parameter", False):
            tensor = nn.Parameter(tensor, requires_grad=trains and (tensor.is_floating_point() or tensor.is_complex()))
        self._tensors[key] = tensor
        return tensor

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"ref": str(number)} if len(value) == 1:
                return self.build(number)
            case {"dtype": str(name)} if len(value) == 1 and name in DTYPES:
                return DTYPES[name]
            case {"tensor": str(key)} if len(value) == 1 and (tensor := self._tensor(key)) is not None:
                return tensor
        raise CheckpointError(f"{self.path}: {value} is neither a reference to an object nor to a tensor it holds")


def _same(given: Any, described: Any) -> bool:
    """Whether a module that was built of an argument describes it as it was given: 2.7, true or "2" may be read as a number."""
    if isinstance(described, list | tuple | nn.ModuleList):
        return isinstance(given, list) and len(given) == len(described) and all(map(_same, given, described))
    if isinstance(described, nn.Module | Tensor):
        return isinstance(given, nn.Module | Tensor | float | int)
    return type(given) is type(described) and bool(given == described)


def _shown(tensor: Tensor) -> str:
    return f"a {'parameter' if isinstance(tensor, nn.Parameter) else 'buffer'} {list(tensor.shape)}"


def _set(slot: Slot, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        slot.owner._parameters[slot.leaf] = tensor
    else:
        slot.owner._buffers[slot.leaf] = tensor
    if isinstance(slot.owner, DataDependent):
        slot.owner._ready = bool(slot.owner.initialized)
