"""config.json, objects with their arguments, and model.safetensors, their tensors."""

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from induced._registry import recipe
from induced.errors import CheckpointError, DtypeError
from induced.serialization.disk import DEPTH, MOST_JSON, cannot, json_bytes, json_text, locked, replace_file, sha256, sync
from induced.serialization.layout import (
    CONFIG,
    FORMAT,
    VERSION,
    WEIGHTS,
    Folder,
    as_path,
    is_leftover,
    key_of,
    name_of,
    pending,
    read_config,
    slots,
)

_NARROW = (torch.float16, torch.bfloat16, torch.float32)


class _Writer:
    """Numbers objects and tensors as they are met, each once."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.objects: dict[str, Any] = {}
        self.data: dict[str, Tensor] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.ties: dict[str, dict[str, Any]] = {}
        self._ids: dict[int, str] = {}
        self._keys: dict[int, str] = {}
        self._alive: list[Mapping[str, Any]] = []  # or an id could be given twice
        self._depth = 0

    def add(self, module: nn.Module) -> str:
        if id(module) in self._ids:
            return self._ids[id(module)]
        if self._depth == DEPTH:
            raise CheckpointError(f"{DEPTH} modules within each other cannot be saved: the deepest is a {type(module).__name__}")
        self._depth += 1
        entry, number = recipe(module), str(len(self.objects))
        self._ids[id(module)] = number
        try:
            described = entry.describe(module)
        except AttributeError as error:
            raise CheckpointError(
                f"a {entry.name} cannot be saved: {error}; register its constructor's arguments under the names that the module "
                "keeps them by, or give describe="
            ) from error
        self._alive.append(described)
        mine = self.objects[number] = {"class": entry.name, "arguments": {}}
        tensors: list[tuple[dict[str, str], Tensor, str]] = []
        mine["arguments"] = {name: self._encode(value, f"{number}:{name}", tensors) for name, value in described.items()}
        for name, slot in slots(module, set(self._ids)):
            key = key_of(number, name)
            if (first := self._tensor(slot.tensor, key)) != key:
                self.ties[key] = {"same": first}
        for place, tensor, where in tensors:  # after the module's own, which most of them are
            place["tensor"] = self._tensor(tensor, where)
            if isinstance(tensor, nn.Parameter):
                self.entries[place["tensor"]]["parameter"] = True
        self._depth -= 1
        return number

    def _encode(self, value: object, where: str, tensors: list[tuple[dict[str, str], Tensor, str]]) -> object:
        if isinstance(value, list | tuple | nn.ModuleList):
            return [self._encode(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]
        if isinstance(value, nn.Module):
            return {"ref": self.add(value)}
        if isinstance(value, Tensor):
            place: dict[str, str] = {}
            tensors.append((place, value, where))
            return place
        if isinstance(value, Real) and not isinstance(value, bool):  # NumPy's too
            return int(value) if isinstance(value, Integral) else float(value)
        if isinstance(value, Mapping):
            raise CheckpointError(
                f"{where} is a {type(value).__name__}: an argument is a number, text, None, tensor, module or list"
            )
        return {"dtype": name_of(value)} if isinstance(value, torch.dtype) else value

    def _tensor(self, tensor: Tensor, key: str) -> str:
        """The key of a tensor, which is this one where it was not met before."""
        if id(tensor) in self._keys:
            return self._keys[id(tensor)]
        if tensor.is_meta:
            raise CheckpointError(f"{key} cannot be saved: it is on the meta device and has no values")
        strides: tuple[int, ...] = tensor.stride()
        # from the slowest to the fastest in memory: a product may round otherwise in another layout
        order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
        entry: dict[str, Any] = {} if order == list(range(tensor.dim())) else {"order": order}
        kept = tensor.detach().permute(order).contiguous().cpu()
        if self.dtype is not None and kept.is_floating_point() and kept.dtype.itemsize > self.dtype.itemsize:
            entry["dtype"], full = name_of(kept.dtype), kept
            kept = full.to(self.dtype)
            if bool((full.isfinite() & ~kept.isfinite()).any()):
                most, largest = torch.finfo(self.dtype).max, float(full[full.isfinite()].abs().max())
                raise CheckpointError(f"{key} holds {largest:.3g}, and {name_of(self.dtype)} ends at {most:.3g}")
        if isinstance(tensor, nn.Parameter):
            entry["trains"] = tensor.requires_grad
        self._keys[id(tensor)], self.entries[key] = key, entry
        self.data[key] = kept.clone() if kept.data_ptr() == tensor.data_ptr() else kept
        return key

    def tensors(self) -> dict[str, Any]:
        """Whether most parameters train, the dtype of most tensors that were narrowed, and what is otherwise of which tensor."""
        flags = Counter(entry["trains"] for entry in self.entries.values() if "trains" in entry)
        dtypes = Counter(entry["dtype"] for entry in self.entries.values() if "dtype" in entry)
        trains = flags[True] >= flags[False]
        narrowed = {name_of(self.dtype): dtypes.most_common(1)[0][0]} if self.dtype is not None and dtypes else {}
        for key, entry in self.entries.items():
            if self.data[key].dtype == self.dtype:
                entry.setdefault("dtype", name_of(self.dtype))
            for field, usual in (("trains", trains), ("dtype", narrowed.get(name_of(self.data[key].dtype)))):
                if entry.get(field) == usual:
                    entry.pop(field, None)
        return {
            "trains": trains,
            "narrowed": narrowed,
            "tensors": {key: entry for key, entry in (self.entries | self.ties).items() if entry},
        }


def save(
    module: nn.Module,
    folder: Folder,
    *,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a chart, space, operator, family or Linearizer to `folder`/config.json and `folder`/model.safetensors.

    A module or tensor that is used twice is stored once. A folder that holds a model is replaced as a whole: at each moment, and
    whenever the process dies, it holds the old model or the new one, and a concurrent `load` gives one of them.

    Arguments:
        module: anything of registered classes; whether the whole is in train or in eval mode is kept.
        folder: made if need be.
        overwrite: write over a config.json or model.safetensors that `save` has not written, but never over those of a run. Other
            files are never touched.
        dtype: torch.float16, torch.bfloat16 or torch.float32: wider floating point numbers are stored rounded to it; `load` gives
            their dtype back.
        notes: what config.json says besides, for `induced.serialization.notes`: strict JSON.

    Returns:
        The folder.

    Raises:
        CheckpointError: a class within is not registered, the folder holds files of another origin or cannot be written, or a
            number is too large for `dtype`; what the folder held is as it was.
        DtypeError: `dtype` is none of the three.

    Law:
        `load(save(module, folder))(x) == module(x)` bit for bit (laws/test_serialization.py), and no crash while a model is saved
        over another loses both (laws/test_atomic_save.py)
    """
    if dtype is not None and dtype not in _NARROW:
        raise DtypeError(f"weights are stored in one of {', '.join(map(name_of, _NARROW))}, got dtype={dtype}")
    writer, folder = _Writer(dtype), as_path(folder)
    writer.add(module)
    weights = safetensors.torch.save(writer.data, {"format": "pt"})
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": sha256(weights),
        "bytes": len(weights),
        "training": module.training,
        "objects": writer.objects,
        **writer.tensors(),
        "notes": dict(notes or {}),
    }
    content = _text(config)
    if len(content) > MOST_JSON:
        raise CheckpointError(f"{folder}: {CONFIG} would have {len(content)} bytes, {MOST_JSON} is the most: make lists tensors")
    require_ours(folder, overwrite)
    _write(folder, content, weights, pending(folder, config["sha256"]))
    return folder


def save_run(folder: Folder, newest_of: Sequence[str], notes: Mapping[str, Any]) -> Path:
    """Make a folder one of a run: `load` gives the newest model in it, `notes` its settings.

    Arguments:
        folder: made if need be; its config.json is replaced.
        newest_of: subfolders whose folders `step-*` hold models; the last one of the first subfolder that has any is the newest.
        notes: the settings: strict JSON.

    Returns:
        The config.json.
    """
    head = {"format": FORMAT, "version": VERSION, "newest_of": list(newest_of), "notes": dict(notes)}
    return replace_file(as_path(folder) / CONFIG, json_bytes(head))


def require_registered(module: nn.Module) -> None:
    """Refuse a module whose class has no recipe, before work goes into it that could not be saved.

    Raises:
        CheckpointError: it has none.
    """
    recipe(module)


def _text(config: Mapping[str, Any]) -> bytes:
    """JSON with one object, or one tensor, a line."""
    lines = []
    for name, value in config.items():
        text = json_text(value)
        if name in ("objects", "tensors") and value:
            text = "{\n  " + ",\n  ".join(f"{json_text(key)}: {json_text(entry)}" for key, entry in value.items()) + "\n }"
        lines.append(f" {json_text(name)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def require_ours(
    folder: Path,
    overwrite: bool = False,
    advice: str = f"choose another folder, or give overwrite=True to replace {CONFIG} and {WEIGHTS} in it",
) -> None:
    """Refuse to write over a run, or over what `save` has not written unless that is meant.

    Raises:
        CheckpointError: the folder holds such things; or it is a file.
    """
    with cannot("be written", folder, "choose another folder"):
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder}: is a file; a model is saved to a folder")
        if not folder.exists() or all(is_leftover(path.name) for path in folder.iterdir()):
            return
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise CheckpointError(f"{folder / name}: is a folder, where a model has a file: remove it, or choose another folder")
    try:
        config = read_config(folder / CONFIG)
    except CheckpointError as error:
        if overwrite:
            return
        raise CheckpointError(f"{folder}: is not empty, and holds no model that induced saved ({error}); {advice}") from error
    if "newest_of" in config:
        raise CheckpointError(f"{folder}: is the folder of a run, whose settings a model would hide: choose another folder")


def _write(folder: Path, config: bytes, weights: bytes, beside: Path) -> None:
    """Replace the model of a folder; renaming config.json is the moment when the new one takes the place of the old one."""
    hint = f"{len(config) + len(weights)} bytes were to be stored, and the folder holds what it held"
    with cannot("be written", folder, hint):
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _finish(folder)
            try:
                replace_file(beside, weights)
                sync(folder)
                replace_file(folder / CONFIG, config)
            except BaseException:
                _finish(folder)
                if created:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                raise
            with cannot("be put in order", folder, f"it holds the new model, with its weights in {beside.name}: save it again"):
                _finish(folder)
                sync(folder)


def _finish(folder: Path) -> None:
    """Put weights in their place that config.json names already, and remove what else a save has left."""
    with contextlib.suppress(CheckpointError):
        digest = read_config(folder / CONFIG).get("sha256", "")
        if (beside := pending(folder, digest)).exists():
            os.replace(beside, folder / WEIGHTS)
    for path in folder.iterdir():
        if is_leftover(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
