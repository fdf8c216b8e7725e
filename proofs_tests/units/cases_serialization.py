"""Errors of saving and loading; laws/test_damaged_models.py holds every way a file can be damaged."""

import hashlib
import json
import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, Linearizer
from induced._registry import named
from induced.bijections import AffineCoupling, Bijection, Log, from_callables
from induced.bijections.base import Inverse
from induced.bijections.conditional import ConditionalCoupling
from induced.bijections.coupling import Coupling
from induced.bijections.networks import MLP
from induced.errors import CheckpointError, DtypeError
from induced.operators import Dense
from induced.serialization import load, register, save
from induced.serialization.disk import cannot
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


def _unsaved(module: Any) -> Callable[[], object]:
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
                content = weights(safetensors.torch.load_file(path))
                path.write_bytes(content)
                config.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
                (folder / "config.json").write_text(json.dumps(config))
            return load(folder)

    return act


def _without_a_hash(content: bytes) -> Callable[[], object]:
    def act() -> object:
        with tempfile.TemporaryDirectory() as folder:
            (save(Log((2,)), folder) / "model.safetensors").write_bytes(content)
            return load(folder)

    return act


def _a_run(*places: object) -> Callable[[], object]:
    def act() -> object:
        with tempfile.TemporaryDirectory() as folder:
            config = {"format": "induced", "version": 1, "newest_of": places, "notes": {}}
            (Path(folder) / "config.json").write_text(json.dumps(config))
            return load(folder) if places else save(Log((2,)), folder)

    return act


def _half() -> object:
    with tempfile.TemporaryDirectory() as folder:
        return save(Dense(torch.tensor([[7e4]])), folder, dtype=torch.float16)


def _deep() -> object:
    chart: Bijection = Log((2,))
    for _ in range(100):
        chart = Inverse(chart)
    return _unsaved(chart)()


def _long() -> object:
    with patch("induced.serialization.writing.MOST_JSON", 100):
        return _unsaved(Log((2,)))()


def _busy() -> object:
    with patch("induced.serialization.reading._ATTEMPTS", 1):
        return _without_a_hash(b"short")()


def _a_folder(act: Callable[[str], object] = load) -> Callable[[], object]:
    def acted() -> object:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").mkdir()
            return act(folder)

    return acted


def _vast() -> None:
    with cannot("be read", Path("file"), "a file was expected"):
        raise MemoryError


def _chain(length: int) -> dict[str, Any]:
    objects = {str(i): {"class": "operators.Adjoint", "arguments": {"operator": {"ref": str(i + 1)}}} for i in range(length)}
    return objects | {str(length): _linear(1)}


def _no_coupling() -> dict[str, Any]:
    arguments = {"shape": [4], "conditioner": {"ref": "1"}, "flip": False, "kind": "Linearizer", "names": []}
    return {
        "0": {"class": "bijections.ConditionalCoupling", "arguments": arguments},
        "1": {"class": "torch.Tanh", "arguments": {}},
    }


def _no_package() -> object:
    missing = EntryPoint(name="lacking", value="lacking.models", group="induced.models")
    with patch("induced._registry.entry_points", lambda **_: [missing]):
        return named("lacking.Model", "object 0")


def _tensors(A: Tensor, **more: Tensor) -> Callable[[dict[str, Tensor]], bytes]:
    return lambda data: safetensors.torch.save({"1.A": A, **more})


def _linear(inputs: int) -> dict[str, Any]:
    return {"class": "torch.Linear", "arguments": {"in_features": inputs, "out_features": 1, "bias": False}}


class _OfDict(nn.Module):
    pass


register(_OfDict, describe=lambda m: {"options": {"a": 1}}, name="tests.OfDict")


class _Forgetful(nn.Module):
    pass


register(_Forgetful, "size", name="tests.Forgetful")


def _local() -> None:
    def make() -> type[nn.Module]:
        class Model(nn.Module):
            pass

        return Model

    register(make())


CASES = [
    Case(CheckpointError, r"0:options is a dict: an argument is a number, text, None, tensor, module", _unsaved(_OfDict())),
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
    Case(CheckpointError, r"make.<locals>.Model lies in a function, .*: give register a name= for it", _local),
    Case(
        CheckpointError,
        r"tests.Forgetful cannot be saved: .* no attribute 'size'; register .* under the names that the module keeps them by",
        _unsaved(_Forgetful()),
    ),
    Case(CheckpointError, r"is a file; a model is saved to a folder", _into_a_file),
    Case(CheckpointError, r"is not empty, and holds no model .*overwrite=True", _into_foreign),
    Case(CheckpointError, r"holds a Log, not a Linearizer", _other_class),
    Case(CheckpointError, r"config.json: cannot be read \(No such file", lambda: load("/nowhere/at/all")),
    Case(CheckpointError, r"is not JSON", _loaded(text="{")),
    Case(CheckpointError, r"the key 'a' is there twice", _loaded(text='{"a": 1, "a": 2}')),
    Case(CheckpointError, r"the number -Infinity is not finite", _loaded(text='{"a": -Infinity}')),
    Case(CheckpointError, r"more than 100 lists or objects in each other", _loaded(text='{"a": ' + "[" * 100 + "]" * 100 + "}")),
    Case(CheckpointError, r"has more than 16777216 bytes", _loaded(text="[" + " " * 2**24 + "]")),
    Case(CheckpointError, r"holds a JSON list, expected an object", _loaded(text="[]")),
    Case(CheckpointError, r"is JSON of another origin", _loaded(text="{}")),
    Case(CheckpointError, r"has schema version 0, this release reads version 1", _loaded(lambda c: c.update(version=0))),
    Case(CheckpointError, r"is not laid out as schema version 1 is: look at tensors", _loaded(lambda c: c.pop("tensors"))),
    Case(CheckpointError, r"is not laid out as schema version 1 is: look at root", _loaded(lambda c: c.update(root="0"))),
    Case(CheckpointError, r"object 1 is not laid out as", _loaded(lambda c: c["objects"]["1"].update(code="1"))),
    Case(CheckpointError, r"names no SHA-256 of its weights, but 'abc'", _loaded(lambda c: c.update(sha256="abc"))),
    Case(CheckpointError, r"says that its weights have -9 bytes", _loaded(lambda c: c.update(bytes=-9))),
    Case(CheckpointError, r"is a pickle, whatever its name", _without_a_hash(pickle.dumps(1))),
    Case(CheckpointError, r"other bytes than config.json was saved with", _without_a_hash(b"short")),
    Case(CheckpointError, r"cannot be read as safetensors", _loaded(weights=lambda data: b"short")),
    Case(CheckpointError, r"B belong.s. to no object of config.json", _loaded(weights=_tensors(torch.eye(2), B=torch.eye(2)))),
    Case(
        CheckpointError,
        r"tensor 1.A is \[2, 2\] torch.float32, which \{'order': \[1\]\} does not fit",
        _loaded(lambda c: c["tensors"].update({"1.A": {"order": [1]}})),
    ),
    Case(
        CheckpointError,
        r"object 1 is of the class 'eval', which is not registered.*install induced\[apps\].*import the module",
        _loaded(lambda c: c["objects"]["1"].update({"class": "eval"})),
    ),
    Case(
        CheckpointError,
        r"object 0 is a lacking.Model of lacking.models, which cannot be imported \(No module.*\): install induced\[apps\]",
        _no_package,
    ),
    Case(CheckpointError, r"refers to object '0', which it does not hold", _loaded(lambda c: c["objects"].pop("0"))),
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
        r"object 2, a EuclideanSpace, reads its arguments otherwise than they stand there: shape as \(1,\)",
        _loaded(lambda c: c["objects"]["2"]["arguments"].update(shape=[True])),
    ),
    Case(
        CheckpointError,
        r"a torch.Linear of these arguments, has weight as a parameter \[1, 2\], model.safetensors has nothing for weight",
        _loaded(lambda c: c.update(objects={"0": _linear(2)})),
    ),
    Case(
        CheckpointError,
        r"ask for more than \d+ bytes, which the weights .* do not hold",
        _loaded(lambda c: c.update(objects={"0": _linear(10**12)})),
    ),
    Case(CheckpointError, r"100 modules within each other cannot be saved: the deepest is a Log", _deep),
    Case(CheckpointError, r"config.json would have \d+ bytes, 100 is the most: make lists tensors", _long),
    Case(CheckpointError, r"is written to so often that no state of it could be read", _busy),
    Case(CheckpointError, r"config.json: is a folder, fifo, socket or device, not a file", _a_folder()),
    Case(
        CheckpointError,
        r"config.json: is a folder, where a model has a file: remove it, or choose",
        _a_folder(partial(save, Log((2,)))),
    ),
    Case(CheckpointError, r"file: cannot be read .it is larger than memory.; a file", _vast),
    Case(CheckpointError, r"no folder has a null character in its name, got 'a.x00b'", lambda: load("a\0b")),
    Case(
        CheckpointError,
        r"object 100 lies within 100 others, which is the most",
        _loaded(lambda c: c.update(objects=_chain(100))),
    ),
    Case(
        CheckpointError,
        r"the kind of a ConditionalCoupling is a class of couplings, not 'Linearizer'",
        _loaded(lambda c: c.update(objects=_no_coupling())),
    ),
    Case(CheckpointError, r"is a run without a checkpoint yet, in checkpoints", _a_run("checkpoints")),
    Case(CheckpointError, r"lie in folders within it, not in '../elsewhere'", _a_run("../elsewhere")),
    Case(CheckpointError, r"cannot be read \(File name too long\); its newest_of names the folders", _a_run("n" * 300)),
    Case(CheckpointError, r"is the folder of a run, whose settings a model would hide", _a_run()),
    Case(CheckpointError, r"A holds 7e.04, and float16 ends at 6.55e.04", _half),
    Case(
        DtypeError,
        r"stored in one of float16, bfloat16, float32, got dtype=torch.int8",
        lambda: save(Log((2,)), "x", dtype=torch.int8),
    ),
    Case(
        CheckpointError, r"cannot be saved as JSON: Out of range float", lambda: save(Log((2,)), "x", notes={"a": float("nan")})
    ),
    Case(CheckpointError, r"it is on the meta device and has no values", _unsaved(nn.Linear(2, 2, device="meta"))),
    Case(CheckpointError, r"a folder is a str or an os.PathLike of one, got b'x'", lambda: load(b"x")),  # type: ignore[arg-type]
]
