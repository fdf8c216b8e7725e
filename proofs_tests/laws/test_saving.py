"""What a save keeps: dtypes, modes, notes; and the model of a run."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import induced
import induced.bijections
import induced.operators
from induced import InducedSpace, Linearizer
from induced._registry import by_name
from induced.bijections import AffineCoupling, Composition, Log, PositiveDefinite, RandomSplit, real_nvp
from induced.bijections.networks import MLP
from induced.errors import CheckpointError
from induced.serialization import load, notes, register, save
from proofs_tests.laws.saved import again
from proofs_tests.registry import DTYPES, shaken

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("given", DTYPES, ids=str)
def test_weights_stored_in_another_dtype_come_back_rounded_to_it(given: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
    f = Linearizer(torch.randn(8, 8), InducedSpace(real_nvp(8))).to(given)
    whole, half = save(f, tmp_path / "whole"), save(f, tmp_path / "half", dtype=dtype)
    loaded = load(half)
    assert all(p.dtype == given for p in loaded.parameters())
    for name, value in f.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(dtype).to(given))
    with torch.no_grad():
        for p in f.parameters():
            p.copy_(p.to(dtype))
        A = f.get_buffer("core.A")
        A.copy_(A.to(dtype))
    x = torch.randn(5, 8, dtype=given)
    assert torch.equal(loaded(x), f(x))
    one, two = ((folder / "model.safetensors").stat().st_size for folder in (whole, half))
    assert two < one * 2 / given.itemsize + 20_000


def test_what_is_no_wider_is_stored_as_it_is(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).double(), nn.Linear(2, 2))
    split = RandomSplit((1, 2, 2))
    for number, module in enumerate((net, split)):
        loaded = load(save(module, tmp_path / str(number), dtype=torch.float16))
        assert [t.dtype for t in loaded.state_dict().values()] == [t.dtype for t in module.state_dict().values()]
    assert torch.equal(loaded.get_buffer("order"), split.get_buffer("order"))
    assert torch.equal(load(tmp_path / "0").state_dict()["0.weight"], net.state_dict()["0.weight"])


def test_sizes_that_are_numpys_integers_come_back_as_integers(tmp_path: Path) -> None:
    numbers: list[Any] = [np.int64(2), np.int64(4), np.int64(3), np.float32(0.5)]
    two, four, three, half = numbers
    net, x = MLP(two, four, three), torch.randn(5, 2)
    loaded = again(net, tmp_path)
    assert torch.equal(loaded(x), net(x)) and type(loaded.inputs) is int
    assert again(AffineCoupling((4,), net, max_log_scale=half), tmp_path / "coupling").max_log_scale == 0.5


def test_the_mode_of_the_whole_is_kept(tmp_path: Path) -> None:
    for training in (True, False):
        loaded = load(save(real_nvp(2, 2, 4).train(training), tmp_path))
        assert all(module.training is training for module in loaded.modules())


def test_a_model_loads_on_the_cpu_whatever_the_default_device_is(tmp_path: Path) -> None:
    chart, x = Composition(PositiveDefinite(3), shaken(real_nvp(6, 2, 4))), torch.eye(3) + torch.ones(3, 3)
    save(chart, tmp_path)
    with torch.device("meta"):
        loaded = load(tmp_path)
    assert isinstance(loaded, Composition)
    assert torch.equal(loaded(x), chart(x)) and torch.equal(loaded.inverse(chart(x)), chart.inverse(chart(x)))


def test_most_parameters_frozen_or_few_are_told_apart(tmp_path: Path) -> None:
    for frozen in (0, 1, 5, 8):
        chart = real_nvp(2, 2, 4)
        for p in list(chart.parameters())[:frozen]:
            p.requires_grad_(False)
        again(chart, tmp_path)


def test_an_argument_that_is_named_like_a_buffer_keeps_its_own_values(tmp_path: Path) -> None:
    assert load(save(Doubled(torch.ones(2)), tmp_path)).get_buffer("a").tolist() == [2.0, 2.0]


class Doubled(nn.Module):
    a: Tensor

    def __init__(self, a: Tensor) -> None:
        super().__init__()
        self.register_buffer("a", 2 * a)


register(Doubled, describe=lambda m: {"a": m.a / 2}, name="tests.Doubled")


def test_notes_are_kept_and_change_nothing(tmp_path: Path) -> None:
    kept = {"application": "toy", "figures": {"accuracy": 0.5}, "sizes": [1, 2]}
    save(Log((2,)), tmp_path, notes=kept)
    assert notes(tmp_path) == kept and isinstance(load(tmp_path), Log)
    save(Log((2,)), tmp_path)
    assert notes(tmp_path) == {}


def run_of(folder: Path, *places: str) -> Path:
    folder.mkdir(parents=True)
    run = {"format": "induced", "version": 1, "newest_of": list(places), "notes": {"application": "toy"}}
    (folder / "config.json").write_text(json.dumps(run))
    return folder


def test_of_a_run_the_newest_model_of_the_first_place_that_has_one_is_loaded(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "second/checkpoints", "checkpoints")
    assert notes(run) == {"application": "toy"}
    with pytest.raises(CheckpointError, match="run: is a run without a checkpoint yet, in second/checkpoints, checkpoints"):
        load(run)
    for step in (9, 10, 100):
        save(Log((step,)), run / "checkpoints" / f"step-{step:08d}")
    save(Log((7,)), run / "checkpoints" / "rejected-step-00000200")
    assert load(run).shape == (100,)
    save(Log((5,)), run / "second" / "checkpoints" / "step-00000001")
    assert load(run).shape == (5,)
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="run: is the folder of a run, whose settings a model would hide"):
            save(Log((2,)), run, overwrite=overwrite)


@pytest.mark.parametrize("place", ["../other", "/tmp", 3, "a/../../b", "nu\0l"])
def test_a_run_that_points_out_of_its_folder_is_refused(place: Any, tmp_path: Path) -> None:
    save(Log((2,)), tmp_path / "other" / "step-00000001")
    with pytest.raises(CheckpointError, match="the models of a run lie in folders within it, not in"):
        load(run_of(tmp_path / "run", place))


class Application(nn.Module):
    """A model that is no Linearizer, and gives one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.chart = dim, real_nvp(dim, 2, 4)

    def operator(self) -> Linearizer:
        return Linearizer(torch.eye(self.dim), InducedSpace(self.chart))


register(Application, "dim", name="tests.Application")


def test_from_pretrained_gives_the_linearizer_of_an_applications_model(tmp_path: Path) -> None:
    model, x = Application(3), torch.randn(4, 3)
    save(model, tmp_path)
    assert isinstance(induced.load(tmp_path), Application)
    assert torch.equal(Linearizer.from_pretrained(tmp_path)(x), model.operator()(x))
    save(nn.Linear(2, 2), tmp_path / "layer")
    with pytest.raises(CheckpointError, match="holds a Linear, not a Linearizer; induced.load"):
        Linearizer.from_pretrained(tmp_path / "layer")


PACKAGE = """
from torch import nn
from induced.serialization import register
class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size, self.weight = size, nn.Parameter(nn.init.zeros_(nn.Linear(size, size).weight))
register(Model, "size", name="family.Model")
"""


def test_a_kind_of_another_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "family_models.py").write_text(PACKAGE)
    info = tmp_path / "family-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[induced.models]\nfamily = family_models\nother = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = save(importlib.import_module("family_models").Model(3), tmp_path / "model")
    # as in a process that has not imported it
    monkeypatch.delitem(sys.modules, "family_models")
    monkeypatch.delitem(by_name, "family.Model")
    assert induced.load(folder).size == 3
    assert "family_models" in sys.modules
