"""Folders that anyone may have written: each is refused with its reason, before it costs memory or time."""

import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from induced.bijections import Log, PositiveDefinite, real_nvp
from induced.bijections.base import Inverse
from induced.errors import CheckpointError
from induced.operators import LU
from induced.serialization import load, save
from induced.serialization.allocation import FREE

Objects = dict[str, Any]
LINEAR = {"in_features": 10**5, "out_features": 10**5, "bias": False}
NOTHING = safetensors.torch.save({}, {"format": "pt"})


def written(folder: Path, objects: Objects, weights: bytes = NOTHING, **fields: Any) -> Path:
    """A folder that is laid out as a saved model is."""
    folder.mkdir(exist_ok=True)
    head = {"format": "induced", "version": 1, "sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    config = head | {"training": True, "trains": True, "narrowed": {}, "objects": objects, "tensors": {}, "notes": {}} | fields
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def of(kind: str, /, **arguments: Any) -> Objects:
    return {"0": {"class": kind, "arguments": arguments}}


def chain(length: int) -> Objects:
    inner = [{"class": "bijections.Inverse", "arguments": {"bijection": {"ref": str(i + 1)}}} for i in range(length)]
    last = {"class": "bijections.Identity", "arguments": {"shape": [2]}}
    return {str(i): item for i, item in enumerate([*inner, last])}


def many(count: int) -> Objects:
    """Indices of 16 MB each, every one of which is allowed."""
    made = {str(i): {"class": "bijections.PositiveDefinite", "arguments": {"n": 2000}} for i in range(1, count)}
    return of("torch.Sequential", layers=[{"ref": number} for number in made]) | made


UNET = {"outputs": 1, "width": 400, "context": 0, "norm": True}
MORE = f"its arguments ask for more than {FREE}"
FAMILY = {"dim": 10**8, "rank": 8, "width": 64, "features": 8, "rest_std": None}
LARGE: list[tuple[str, Objects, str]] = [
    ("a layer of 40 GB", of("torch.Linear", **LINEAR), MORE),
    ("a layer of 10^36 bytes", of("torch.Linear", **LINEAR | {"in_features": 10**18, "out_features": 10**18}), MORE),
    ("many indices", many(10), MORE),
    ("an index of 40 GB", of("bijections.PositiveDefinite", n=10**5), MORE),
    ("triangles of 3.2 GB", of("operators.LU", n=2 * 10**4), MORE),
    ("a U-Net of wide layers", of("networks.UNet", shape=[1, 64, 64], depth=6, **UNET), MORE),
    ("a family of a large space", of("propagators.LowRankFamily", **FAMILY), MORE),
]
"""Configs of some hundred bytes; the first asks for 40 GB, and the U-Net took 3.6 GB."""
TANH = {"1": {"class": "torch.Tanh", "arguments": {}}}
COUPLING = {"shape": [4], "conditioner": {"ref": "1"}, "flip": False, "names": [], "kind": "Linearizer"}
ADDITIVE = {"shape": [4], "conditioner": {"ref": "1"}, "flip": {"ref": "1"}}
OTHERWISE = "reads its arguments otherwise than they stand there"
UNBUILT = "cannot be built of its arguments"
ODD: list[tuple[str, Objects, str]] = [
    ("a long chain", chain(1000), "object 100 lies within 100 others, which is the most"),
    ("text for a shape", of("bijections.Identity", shape="22"), "Identity, .* the sides of a chart must be integers, got '22'"),
    (
        "a fraction for a side",
        of("bijections.Identity", shape=[2.7]),
        r"Identity, .* the sides of a chart must be integers, got \[2.7\]",
    ),
    ("true for a side", of("bijections.Identity", shape=[True]), rf"Identity, {OTHERWISE}: shape as \(1,\)"),
    ("a default left out", of("bijections.Affine", shape=[2]), f"Affine, {OTHERWISE}: scale as"),
    (
        "a module for a flag",
        of("bijections.AdditiveCoupling", **ADDITIVE) | TANH,
        rf"AdditiveCoupling, {OTHERWISE}: flip as True",
    ),
    ("a negative side", of("bijections.Identity", shape=[-2]), f"Identity, {UNBUILT}: the sides of a chart are at least 1"),
    ("a negative size", of("torch.Linear", **LINEAR | {"in_features": -1}), f"Linear, {UNBUILT}: Trying to create"),
    ("text for a size", of("torch.Linear", **LINEAR | {"in_features": "a"}), f"Linear, {UNBUILT}: empty"),
    ("a function of torch", of("operators.Permutation", order=[1, 0], dtype={"dtype": "load"}), "is neither a reference"),
    ("a module path", of("torch.nn.modules.linear.Linear"), "'torch.nn.modules.linear.Linear', which is not registered"),
    ("a kind that is no coupling", of("bijections.ConditionalCoupling", **COUPLING) | TANH, "is a class of couplings, not 'Lin"),
]


@pytest.mark.parametrize(("objects", "message"), [row[1:] for row in LARGE + ODD], ids=[row[0] for row in LARGE + ODD])
def test_a_hostile_config_is_refused_with_its_reason(objects: Objects, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(written(tmp_path, objects))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_peak_memory_of_refusing_is_bounded(tmp_path: Path) -> None:
    """What is allocated for a config without weights is at most FREE, 256 MiB, whatever it asks for."""
    load(save(LU(3), tmp_path / "first"))  # what torch imports on the way is no part of it

    def peak(act: Callable[[], object]) -> int:
        if not (pid := os.fork()):
            try:
                act()
            finally:
                os._exit(0)
        return os.wait4(pid, 0)[2].ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)

    def refused(objects: Objects) -> Callable[[], object]:
        folder = written(tmp_path / "hostile", objects)

        def act() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            with pytest.raises(CheckpointError):
                load(folder)

        return act

    nothing = peak(lambda: None)
    used = {name: peak(refused(objects)) - nothing for name, objects, _ in LARGE}
    assert max(used.values()) < FREE + 2**25, used
    # half of the bound is met, so that it is one
    allowed = save(PositiveDefinite(2000), tmp_path / "allowed")
    assert peak(lambda: load(allowed)) - nothing < FREE


def test_a_file_larger_than_config_json_says_is_not_read(tmp_path: Path) -> None:
    folder = save(Log((2,)), tmp_path)
    with (folder / "model.safetensors").open("ab") as file:
        file.truncate(2**40)  # a terabyte of holes
    with pytest.raises(CheckpointError, match="other bytes than config.json was saved with"):
        load(folder)
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="config.json: has more than 16777216 bytes"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)], ids=["fifo", "folder", "device"]
)
def test_what_is_no_file_is_refused_before_it_is_opened(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    save(Log((2,)), tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name}: is a folder, fifo, socket or device, not a file"):
        load(tmp_path)


def test_a_link_out_of_the_folder_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = save(Log((2,)), tmp_path / "model")
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
        with pytest.raises(CheckpointError):
            load(folder)
    save(Log((3,)), folder, overwrite=True)
    assert secret.read_text() == "secret" and load(folder).shape == (3,)


def test_modules_within_each_other_beyond_a_hundred_are_not_saved(tmp_path: Path) -> None:
    chart: Any = real_nvp(2, 1, 4)
    for _ in range(100):
        chart = Inverse(chart)
    with pytest.raises(CheckpointError, match="100 modules within each other cannot be saved: the deepest is a"):
        save(chart, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_a_large_model_computes_on_the_way_to_its_weights_is_granted(tmp_path: Path) -> None:
    A, z = LU(1500), torch.randn(1500)
    assert torch.equal(load(save(A, tmp_path))(z), A(z))
