"""Errors of saving and loading; laws/test_serialization.py holds every way a file can be damaged."""

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, Linearizer
from induced.bijections import AffineCoupling, ConditionalCoupling, Log, from_callables
from induced.bijections.coupling import Coupling
from induced.bijections.networks import MLP
from induced.errors import CheckpointError
from induced.serialization import load, register, save
from proofs_tests.units.case import Case


def _kind(*arguments: Any, **keywords: Any) -> Coupling:
    return AffineCoupling(*arguments, **keywords)


def _into_a_file() -> None:
    with tempfile.NamedTemporaryFile() as file:
        save(Log((2,)), file.name)


def _into_foreign() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "notes.txt").write_text("mine")
        save(Log((2,)), folder)


def _other_class() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Linearizer.from_pretrained(save(Log((2,)), folder))


def _unsaved(module: nn.Module) -> Callable[[], object]:
    def act() -> object:
        with tempfile.TemporaryDirectory() as folder:
            return save(module, folder)

    return act


def _loaded(
    change: Callable[[dict[str, Any]], object] = lambda config: None,
    *,
    text: str | None = None,
    weights: Callable[[dict[str, Tensor]], bytes] | None = None,
) -> Callable[[], object]:
    """Load a saved Linearizer after a change of its config.json, or of its weights."""

    def act() -> object:
        with tempfile.TemporaryDirectory() as name:
            folder = save(Linearizer(torch.eye(2), EuclideanSpace(2)), name)
            config = json.loads((folder / "config.json").read_text())
            change(config)
            (folder / "config.json").write_text(json.dumps(config) if text is None else text)
            path = folder / "model.safetensors"
            if weights is not None:
                path.write_bytes(weights(safetensors.torch.load_file(path)))
            return load(folder)

    return act


def _tensors(A: Tensor, **more: Tensor) -> Callable[[dict[str, Tensor]], bytes]:
    return lambda data: safetensors.torch.save({"1.A": A, **more})


CASES = [
    Case(
        CheckpointError,
        r"a _Callables cannot be saved: it runs foreign",
        _unsaved(from_callables(torch.exp, torch.log, (2,))),
    ),
    Case(
        CheckpointError,
        r"OptimizedModule, of torch.compile, cannot be saved: save its `_orig_mod`, the module that it compiles",
        _unsaved(torch.compile(AffineCoupling((2,), nn.Linear(1, 2)), backend="eager")),
    ),
    Case(
        CheckpointError,
        r"ParametrizedLinear cannot be saved: .*weight_norm, .*remove_parametrizations",
        _unsaved(AffineCoupling((2,), nn.utils.parametrizations.weight_norm(nn.Linear(1, 2)))),
    ),
    Case(
        CheckpointError,
        r"a Bilinear cannot be saved: its class is not registered; call induced.serialization.register\(Bilinear",
        _unsaved(AffineCoupling((2,), nn.Bilinear(1, 1, 2))),
    ),
    Case(
        CheckpointError,
        r"a ConditionalCoupling with kind=<function _kind .* cannot be saved: its kind is a class",
        _unsaved(ConditionalCoupling((2,), MLP(1, 2, 4, context=1), kind=_kind)),
    ),
    Case(
        CheckpointError,
        r"torch.nn.*Bilinear cannot be registered as 'operators.Dense': that is the name of induced.operators.base.Dense",
        lambda: register(nn.Bilinear, name="operators.Dense"),
    ),
    Case(CheckpointError, r"is a file; a model is saved to a folder", _into_a_file),
    Case(CheckpointError, r"is not empty, and holds no model .*overwrite=True", _into_foreign),
    Case(CheckpointError, r"holds a Log, not a Linearizer", _other_class),
    Case(CheckpointError, r"config.json: cannot be read \(No such file", lambda: load("/nowhere/at/all")),
    Case(CheckpointError, r"is not JSON", _loaded(text="{")),
    Case(CheckpointError, r"is JSON of another origin", _loaded(text="[]")),
    Case(CheckpointError, r"has schema version 0, this release reads version 1", _loaded(lambda c: c.update(version=0))),
    Case(CheckpointError, r"is not laid out as schema version 1 is: KeyError", _loaded(lambda c: c.pop("tensors"))),
    Case(CheckpointError, r"holds an entry of another kind", _loaded(lambda c: c.update(root=3))),
    Case(CheckpointError, r"is a pickle, whatever its name", _loaded(weights=lambda data: pickle.dumps(1))),
    Case(CheckpointError, r"cannot be read as safetensors", _loaded(weights=lambda data: b"short")),
    Case(CheckpointError, r"has other keys than config.json", _loaded(weights=_tensors(torch.eye(2), B=torch.eye(2)))),
    Case(CheckpointError, r"1.A has the shape \[3, 3\], config.json says \[2, 2\]", _loaded(weights=_tensors(torch.eye(3)))),
    Case(CheckpointError, r"1.A is torch.float64, config.json says float32", _loaded(weights=_tensors(torch.eye(2).double()))),
    Case(CheckpointError, r"other bytes than config.json was saved with", _loaded(weights=_tensors(torch.ones(2, 2)))),
    Case(
        CheckpointError,
        r"object 1 is of the class 'eval', which is not registered",
        _loaded(lambda c: c["objects"]["1"].update({"class": "eval"})),
    ),
    Case(CheckpointError, r"refers to object '7', which it does not hold", _loaded(lambda c: c.update(root="7"))),
    Case(
        CheckpointError,
        r"object 0 is a part of itself: 0 -> 0",
        _loaded(lambda c: c["objects"]["0"]["arguments"].update(core={"ref": "0"})),
    ),
    Case(
        CheckpointError,
        r"object\(s\) 9 belong to nothing that object 0 uses",
        _loaded(lambda c: c["objects"].update({"9": c["objects"]["2"]})),
    ),
    Case(
        CheckpointError,
        r"neither a reference to an object nor to a tensor",
        _loaded(lambda c: c["objects"]["1"]["arguments"].update(A={"code": "1"})),
    ),
    Case(
        CheckpointError,
        r"object 1, a operators.Dense, cannot be built of its arguments",
        _loaded(lambda c: c["objects"]["1"]["arguments"].update(A=1)),
    ),
    Case(
        CheckpointError,
        r"has tensors of other names or shapes: \{'A': 'buffer \[2, 2\]'\}",
        _loaded(lambda c: c["objects"]["1"].update(state={})),
    ),
]
