"""Models that are damaged, foreign or half written are refused with their reason."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.bijections import AdditiveCoupling, Composition, Log
from induced.bijections.networks import MLP
from induced.errors import CheckpointError
from induced.serialization import load, save


# ---------------------------------------------------------------------------------------------------- damaged or foreign
def _saved(folder: Path) -> Path:
    torch.manual_seed(0)
    X = InducedSpace(Composition(Log((2,)), AdditiveCoupling((2,), MLP(1, 1, 3))))
    Linearizer(nn.Parameter(torch.eye(2)), X, EuclideanSpace(2)).save_pretrained(folder)
    return folder


Config = dict[str, Any]


def _edit(change: Callable[[Config], object]) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return act


def _reweigh(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        data = safetensors.torch.load_file(folder / "model.safetensors")
        change(data)
        content = safetensors.torch.save(data)
        (folder / "model.safetensors").write_bytes(content)
        _edit(lambda c: c.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)))(folder)

    return act


def _folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def _swapped(folder: Path) -> None:
    """Weights of another save."""
    data = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(data | {"1.A": torch.ones(2, 2)}, folder / "model.safetensors")


def _of_class(config: Config, name: str) -> Any:
    return next(item for item in config["objects"].values() if item["class"] == name)


def _core(config: Config) -> Any:
    return config["objects"]["1"]


def _cut(name: str, keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def _noise(folder: Path) -> None:
    content = bytes(range(99, 199))
    (folder / "model.safetensors").write_bytes(content)
    _edit(lambda c: c.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)))(folder)


def _twice(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"format": "induced",', 1))


def _fifo(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else 0


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda folder: (folder / "config.json").unlink(), r"config.json: cannot be read \(No such file"),
    ("no weights", lambda folder: (folder / "model.safetensors").unlink(), r"safetensors: cannot be read \(No such file"),
    ("config cut", _cut("config.json", 99), "config.json: is not JSON"),
    ("config of bytes", lambda f: (f / "config.json").write_bytes(b"\xff\x00"), "config.json: is not JSON"),
    ("config nested", lambda f: (f / "config.json").write_text("[" * 200_000), "config.json: is not JSON"),
    ("foreign JSON", lambda f: (f / "config.json").write_text("{}"), "is JSON of another origin, without"),
    ("other version", _edit(lambda c: c.update(version=2)), "has schema version 2, this release reads version 1"),
    ("no objects", _edit(lambda c: c.pop("objects")), "is not laid out as schema version 1 is: look at objects"),
    ("objects a list", _edit(lambda c: c.update(objects=[])), "is not laid out as schema version 1 is: look at objects"),
    ("a number for a flag", _edit(lambda c: c.update(training=1)), "is not laid out as schema version 1 is: look at training"),
    ("a flag for the version", _edit(lambda c: c.update(version=True)), "has schema version True, this release reads version 1"),
    ("no hash", _edit(lambda c: c.update(sha256="../../etc/passwd")), "names no SHA-256 of its weights"),
    ("an object more than that", _edit(lambda c: _core(c).update(code="1")), "object 1 is not laid out as schema version 1"),
    ("a tensor of words", _edit(lambda c: c["tensors"].update({"1.A": {"order": "01"}})), "tensor 1.A is not laid out"),
    ("a key twice", _twice, "is not JSON.*: the key 'format' is there twice"),
    ("NaN", lambda f: (f / "config.json").write_text('{"a": NaN}'), "is not JSON.*: the number NaN is not finite"),
    ("infinity", lambda f: (f / "config.json").write_text('{"a": 1e999}'), "is not JSON.*: the number 1e999 is not finite"),
    ("nested lists", _edit(lambda c: c["notes"].update(a=_nested(100))), "has more than 100 lists or objects in each other"),
    ("a fifo", _fifo, "config.json: is a folder, fifo, socket or device, not a file"),
    ("a folder", _folder, "is a folder, fifo, socket"),
    ("weights cut in the header", _cut("model.safetensors", 30), "other bytes than config.json was saved with: cut short"),
    ("weights cut in the data", _cut("model.safetensors", -4), "other bytes than config.json was saved with: cut short"),
    ("weights empty", _cut("model.safetensors", 0), "other bytes than config.json was saved with: cut short"),
    ("weights of noise", _noise, "cannot be read as safetensors"),
    ("a pickle", _pickled, "is a pickle, whatever its name"),
    ("a torch archive", lambda f: torch.save({}, f / "model.safetensors"), "is a pickle, whatever its name"),
    ("an argument less", _reweigh(lambda d: d.pop("1.A")), "'1.A'} is neither a reference to an object nor to a tensor it holds"),
    (
        "a key less",
        _reweigh(lambda d: d.pop("6.first.weight")),
        r"networks.MLP of these arguments, has first.weight as a parameter \[3, 1\], model.safetensors has nothing for 6.first",
    ),
    ("a key more", _reweigh(lambda d: d.update(x=torch.ones(1))), "safetensors: x belong.s. to no object of config.json"),
    (
        "other shape",
        _reweigh(lambda d: d.update({"1.A": torch.ones(3)})),
        "Dense, cannot be built of its arguments: the matrix of a Dense operator must be",
    ),
    ("other order", _edit(lambda c: c["tensors"].update({"1.A": {"order": [0, 0]}})), "tensor 1.A is .* does not fit"),
    ("an integer's dtype", _edit(lambda c: c["tensors"].update({"1.A": {"dtype": "int8"}})), "tensor 1.A is .* does not fit"),
    ("other values", _swapped, "other bytes than config.json was saved with"),
    (
        "unknown class",
        _edit(lambda c: _core(c).update({"class": "os.system"})),
        "'os.system', which is not registered",
    ),
    ("dangling", _edit(lambda c: _of_class(c, "InducedSpace")["arguments"].update(chart={"ref": "99"})), "refers to object '99'"),
    ("no root", _edit(lambda c: c["objects"].pop("0")), "refers to object '0'"),
    (
        "cyclic",
        _edit(lambda c: _core(c)["arguments"].update(A={"ref": "0"})),
        "a part of itself: 0 -> 1 -> 0",
    ),
    (
        "extra object",
        _edit(lambda c: c["objects"].update(x=_core(c))),
        r"object\(s\) x belong to nothing",
    ),
    (
        "no such tensor",
        _edit(lambda c: _core(c)["arguments"].update(A={"tensor": "?"})),
        "neither a reference to",
    ),
    ("other argument", _edit(lambda c: _core(c)["arguments"].update(B=1)), "Dense, cannot be built of its arguments"),
    (
        "bad argument",
        _edit(lambda c: _of_class(c, "bijections.Log")["arguments"].update(shape=[0])),
        "sides of a chart are",
    ),
    ("ref no name", _edit(lambda c: _core(c)["arguments"].update(A={"ref": [1]})), "neither a reference to"),
    (
        "other width",
        _edit(lambda c: _of_class(c, "networks.MLP")["arguments"].update(width=4)),
        r"networks.MLP of these arguments, has first.weight as a parameter \[4, 1\], model.safetensors has a parameter \[3, 1\]",
    ),
]


@pytest.mark.parametrize(("damage", "message"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_what_is_damaged_or_foreign_is_refused_with_its_reason(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    damage(_saved(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_any_flipped_byte_of_the_weights_is_seen(tmp_path: Path) -> None:
    path = _saved(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError):
            load(tmp_path)


def test_no_pickle_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something unpickles")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    load(_saved(tmp_path))


def test_weights_whose_first_byte_is_that_of_a_pickle_are_read(tmp_path: Path) -> None:
    """The first byte belongs to the length of the header, which grows with the number of tensors."""
    for parts in range(1, 100):
        g = Composition(*(AdditiveCoupling((2,), MLP(1, 1, 2)) for _ in range(parts)))
        save(g, tmp_path, overwrite=True)
        if (tmp_path / "model.safetensors").read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no number of parts gives such a header")
    assert torch.equal(load(tmp_path)(torch.ones(2)), g(torch.ones(2)))


# --------------------------------------------------------------------------------------------------------------- writing
def test_a_folder_of_another_origin_is_left_alone_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="is not empty, and holds no model that induced saved"):
        _saved(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "bert"}
    save(Log((2,)), tmp_path, overwrite=True)
    save(Log((3,)), tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, Log) and loaded.shape == (3,)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]


def test_a_save_interrupted_between_its_files_is_refused(tmp_path: Path) -> None:
    first, second = _saved(tmp_path / "a"), tmp_path / "b"
    f = Linearizer.from_pretrained(first)
    with torch.no_grad():
        f.get_parameter("core.A").add_(1)
    f.save_pretrained(second)
    (first / "model.safetensors").write_bytes((second / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="the two are of two saves"):
        load(first)


def test_the_same_model_is_saved_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        one, two = ((_saved(tmp_path / k) / name).read_bytes() for k in "ab")
        assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
