"""Saved and loaded, a model is the same one: bit for bit, its sharing included; and what is not whole is refused."""

import hashlib
import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import induced
import induced.bijections
import induced.operators
from induced import EuclideanSpace, InducedSpace, Linearizer, ProductSpace, Subspace
from induced._registry import by_class, by_name
from induced.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Bijection,
    Composition,
    ConditionalBijection,
    ConditionalCoupling,
    Identity,
    Log,
    PositiveDefinite,
    RandomSplit,
    Reversible,
    glow,
    real_nvp,
)
from induced.bijections.networks import MLP
from induced.errors import CheckpointError, InducedError
from induced.fitting import interpolate
from induced.operators import (
    Convolution,
    Dense,
    Diagonal,
    ForeignOperator,
    Householder,
    Permutation,
    inverse,
)
from induced.operators.base import Adjoint, Scaled, Sum
from induced.operators.triangular import LU
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, Stepwise
from induced.propagators.magnus import Exponent
from induced.serialization import load, notes, register, save
from proofs_tests.registry import CHARTS, CORES, DTYPES, ChartCase, CoreCase, Frozen, initialized, shaken

REFUSED = {"torch transform", "inverse of a torch transform", "callables", "ForeignOperator"}
"""Charts and cores of the registry that run foreign code."""


def again(module: Any, folder: Path) -> Any:
    """The module, saved and loaded; torch's generator is left alone by it."""
    state = torch.get_rng_state()
    loaded = load(save(module, folder))
    assert torch.equal(torch.get_rng_state(), state)
    assert {n: (type(p), p.requires_grad, p.dtype) for n, p in module.named_parameters()} == {
        n: (type(p), p.requires_grad, p.dtype) for n, p in loaded.named_parameters()
    }
    mine, theirs = module.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(mine[key].dtype == theirs[key].dtype and torch.equal(mine[key], theirs[key]) for key in mine)
    return loaded


@pytest.mark.fast
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in CHARTS if case.name not in REFUSED], ids=str)
def test_a_chart_comes_back_bit_for_bit(case: ChartCase, dtype: torch.dtype, tmp_path: Path) -> None:
    chart = case.make(dtype)
    loaded = again(chart, tmp_path)
    x = case.points(chart, (3,), dtype)
    assert type(loaded) is type(chart)
    assert (loaded.shape, loaded.coord_shape, loaded.moves_entries) == (chart.shape, chart.coord_shape, chart.moves_entries)
    assert loaded.lattice_step == chart.lattice_step
    z = chart(x)
    assert torch.equal(loaded(x), z) and torch.equal(loaded.inverse(z), chart.inverse(z))
    assert torch.equal(loaded.log_abs_det(x), chart.log_abs_det(x))


@pytest.mark.fast
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in CORES if case.name not in REFUSED], ids=str)
def test_a_core_comes_back_bit_for_bit(case: CoreCase, dtype: torch.dtype, tmp_path: Path) -> None:
    A = case.make(case.matrix(dtype))
    for k, B in enumerate((A, A.H)):
        loaded = again(B, tmp_path / str(k))
        z = torch.randn(3, B.shape[1], dtype=dtype)
        assert type(loaded) is type(B) and loaded.shape == B.shape
        assert torch.equal(loaded(z), B(z)) and torch.equal(loaded.apply_adjoint(B(z)), B.apply_adjoint(B(z)))


def test_the_charts_that_run_foreign_code_are_refused_by_name(tmp_path: Path) -> None:
    made = [case.make() for case in CHARTS if case.name in REFUSED]
    for module in (*made, ForeignOperator(torch.eye(2).numpy())):
        with pytest.raises(CheckpointError, match="cannot be saved: it runs foreign code"):
            save(module, tmp_path)
    assert not any(tmp_path.iterdir())


def test_every_final_class_has_a_recipe_or_a_reason() -> None:
    packages = (induced.bijections, induced.operators, induced)
    classes = {vars(package)[name] for package in packages for name in package.__all__}
    final = {cls for cls in classes if isinstance(cls, type) and issubclass(cls, nn.Module) and "__final__" in vars(cls)}
    assert final - by_class.keys() == {induced.operators.ForeignOperator}


class Squared(nn.Module):
    """A user's conditioner."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, a: Tensor) -> Tensor:
        return self.weight * a**2


register(Squared, "size")
register(Frozen, describe=lambda F: {"A": F.A.A}, name="tests.Frozen")


def test_a_class_of_the_user_is_saved_once_it_is_registered(tmp_path: Path) -> None:
    register(Squared, "size")  # a notebook's cell may run twice
    chart = AdditiveCoupling((4,), Squared(2))
    x = torch.randn(3, 4)
    assert torch.equal(again(chart, tmp_path)(x), chart(x))


def test_a_conditioner_of_ordinary_layers_is_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 5), nn.SiLU(), nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Tanh(), nn.Linear(5, 4))
    chart, x = AffineCoupling((4,), net), torch.randn(3, 4)
    assert torch.equal(again(chart, tmp_path)(x), chart(x))


# -------------------------------------------------------------------------------------------------------------- sharing
def test_a_chart_used_twice_is_stored_once_and_is_one_object_again(tmp_path: Path) -> None:
    chart, other = real_nvp(8, blocks=4), real_nvp(8, blocks=4)
    A = torch.randn(8, 8)
    shared = Linearizer(A, InducedSpace(chart), InducedSpace(chart))
    shared.save_pretrained(tmp_path / "shared")
    Linearizer(A, InducedSpace(chart), InducedSpace(other)).save_pretrained(tmp_path / "two")
    loaded = Linearizer.from_pretrained(tmp_path / "shared")
    assert loaded.domain == loaded.codomain and loaded.domain.chart is loaded.codomain.chart
    x = torch.randn(5, 8)
    assert torch.equal(loaded(x), shared(x)) and torch.equal((loaded**2)(x), (shared**2)(x))
    one, two = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("shared", "two"))
    bytes_of_chart = 4 * sum(p.numel() for p in chart.parameters())
    assert bytes_of_chart < one < 1.2 * bytes_of_chart
    assert two - one >= bytes_of_chart


def test_tied_tensors_are_tied_again(tmp_path: Path) -> None:
    W = nn.Parameter(torch.randn(3, 3))
    f = Linearizer(Sum(Dense(W), Adjoint(Dense(W))), EuclideanSpace(3))
    loaded = again(f, tmp_path)
    assert loaded.core.operators[0].A is loaded.core.operators[1].operator.A
    assert len(safetensors.torch.load_file(tmp_path / "model.safetensors")) == 1


@pytest.mark.parametrize("context", [0.5, torch.tensor([0.5])], ids=["number", "tensor"])
def test_charts_of_one_parent_at_one_context_make_equal_spaces_again(context: float | Tensor, tmp_path: Path) -> None:
    parent = shaken(real_nvp(3, 2, 8, context=1))
    assert isinstance(parent, ConditionalBijection)
    f = Linearizer(torch.eye(3), InducedSpace(parent.at(context)), InducedSpace(Reversible(parent.at(context))))
    loaded = again(f, tmp_path)
    assert f.domain == f.codomain and loaded.domain == loaded.codomain
    again_parent = loaded.domain.chart.identity()[0]
    assert isinstance(context, Tensor) or InducedSpace(again_parent.at(0.5)) == loaded.domain
    x = torch.randn(4, 3)
    assert torch.equal(loaded(x), f(x))


def test_a_conditional_chart_comes_back_as_one(tmp_path: Path) -> None:
    kind = partial(AffineCoupling, max_log_scale=0.25)
    for k, parent in enumerate((glow((2, 4, 4), 1, 4, context=1), ConditionalCoupling((4,), MLP(2, 4, 8, context=1), kind=kind))):
        assert isinstance(parent, ConditionalBijection)
        if k == 0:
            parent.at(0.0).initialize(torch.randn(8, 2, 4, 4))
        shaken(parent)
        loaded, x = again(parent, tmp_path / str(k)), torch.randn(3, *parent.at(1.0).shape)
        assert torch.equal(loaded.at(1.0)(x), parent.at(1.0)(x))
    assert isinstance(parent, ConditionalBijection)
    composed = Composition(parent.at(0.5), Identity((4,)))  # taken apart, the charts of a context are nobody's `at`
    assert torch.equal(again(composed, tmp_path / "composed")(x), composed(x))
    normed = Composition(glow_at := initialized_glow(), Identity(glow_at.coord_shape))
    x = torch.randn(2, *normed.shape)
    assert torch.equal(again(normed, tmp_path / "normed")(x), normed(x))


def initialized_glow() -> Bijection:
    parent = glow((2, 4, 4), 1, 4, context=1)
    assert isinstance(parent, ConditionalBijection)
    return initialized(parent.at(0.5))


def test_whether_an_actnorm_was_initialised_is_kept(tmp_path: Path) -> None:
    x = torch.randn(3, 3)
    with pytest.raises(InducedError, match="has not been initialised"):
        again(ActNorm((3,)), tmp_path / "new")(x)
    again(initialized(ActNorm((3,))), tmp_path / "old")(x)


def test_what_is_frozen_stays_frozen_and_a_loaded_model_trains(tmp_path: Path) -> None:
    chart = real_nvp(2, 2, 4)
    next(chart.parameters()).requires_grad_(False)
    loaded = again(chart, tmp_path)
    loaded(torch.randn(3, 2)).sum().backward()
    assert next(loaded.parameters()).grad is None and list(loaded.parameters())[-1].grad is not None


@pytest.mark.parametrize(
    "build",
    [
        lambda: Stepwise(LowRankFamily(4, 2, width=8, rest_std=0.5), steps=7),
        lambda: Stepwise(LowRankFamily(4, 2, width=8, features=3), 0.0, 1.0, steps=[0.0, 0.1, 1.0], method="euler"),
        lambda: Scaled(torch.tensor(0.3), Dense(torch.randn(4, 4))),
        lambda: Exponent(Dense(torch.randn(4, 4)), Diagonal(torch.randn(4)), 0.1),
        lambda: Householder(nn.Parameter(torch.randn(2, 4))).H,
        lambda: Convolution(torch.randn(2, 2, 3), (2, 2)).H,
        lambda: inverse(LU(4)),
        lambda: Permutation([2, 0, 1, 3], torch.float32),
    ],
)
def test_derived_operators_come_back(build: Callable[[], Any], tmp_path: Path) -> None:
    A, z = build(), torch.randn(3, 4)
    assert torch.equal(again(A, tmp_path)(z), A(z))


@pytest.mark.parametrize("kind", [LowRankFamily, SharedBasisFamily])
def test_families_come_back(kind: Callable[..., OperatorFamily], tmp_path: Path) -> None:
    family = kind(4, 2, width=8, features=3, rest_std=0.5)
    z = torch.randn(3, 4)
    assert torch.equal(again(family, tmp_path).at(0.3)(z), family.at(0.3)(z))


def test_products_of_spaces_come_back(tmp_path: Path) -> None:
    log = InducedSpace(Log((2,)))
    X = ProductSpace(log, EuclideanSpace((1, 2)), log)
    loaded = again(X, tmp_path / "space")
    x = X.sample(2)
    assert torch.equal(loaded.coords(x), X.coords(x)) and loaded.factors[0] is loaded.factors[2]


@pytest.mark.parametrize("outside", [False, True])
def test_a_map_of_a_subspace_comes_back(outside: bool, tmp_path: Path) -> None:
    X = InducedSpace(shaken(real_nvp(5, 2, 8)))
    W = Subspace.span(X, X.sample(2).detach(), rtol=1e-3)
    V = W.complement() if outside else W
    i = Linearizer.inclusion(V)
    for number, f in enumerate((Linearizer(nn.Parameter(torch.randn(V.dim, V.dim)), V), i, i.H)):
        loaded = again(f, tmp_path / str(number))
        x = f.domain.sample(3)
        assert torch.equal(loaded(x), f(x))
        assert (loaded.domain == loaded.codomain) == (f.domain == f.codomain)
    assert loaded.codomain.space is loaded.domain and loaded.codomain.accuracy == V.accuracy > 1e-4
    assert loaded.codomain.frame.H.shape == loaded.core.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3), (2, 1), (3, 3), (4, 2)])
def test_a_linearizer_through_given_points_comes_back(n: int, m: int, dtype: torch.dtype, tmp_path: Path) -> None:
    x, y = torch.randn(6, n, dtype=dtype).sort(0).values, torch.randn(6, m, dtype=dtype).sort(0).values
    f = interpolate(x, y)
    loaded = again(f, tmp_path)
    assert {type(chart) for chart in loaded.modules()} == {type(chart) for chart in f.modules()}
    points = torch.cat([x, torch.randn(20, n, dtype=dtype)])
    assert torch.equal(loaded(points), f(points)) and torch.equal(loaded.pinv()(f(points)), f.pinv()(f(points)))


# ---------------------------------------------------------------------------------------------- dtypes, modes, notes, runs
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
