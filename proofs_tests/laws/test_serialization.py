"""Saved and loaded, a model is the same one: bit for bit, its sharing included; and what is not whole is refused."""

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import induced.bijections
import induced.operators
from induced import EuclideanSpace, InducedSpace, Linearizer, ProductSpace, Subspace
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
from induced.serialization import load, register, save
from induced.serialization.registry import _by_class
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case for case in CHARTS if case.name not in REFUSED], ids=str)
def test_a_chart_comes_back_bit_for_bit(case: ChartCase, dtype: torch.dtype, tmp_path: Path) -> None:
    chart = case.make(dtype)
    loaded = again(chart, tmp_path)
    x = case.points(chart, (3,), dtype)
    assert type(loaded) is type(chart)
    assert (loaded.shape, loaded.coord_shape, loaded.exact) == (chart.shape, chart.coord_shape, chart.exact)
    assert loaded.resolution == chart.resolution
    z = chart(x)
    assert torch.equal(loaded(x), z) and torch.equal(loaded.inverse(z), chart.inverse(z))
    assert torch.equal(loaded.log_abs_det(x), chart.log_abs_det(x))


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
    assert final - _by_class.keys() == {induced.operators.ForeignOperator}


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
        if k == 0:
            parent.at(0.0).initialize(torch.randn(8, 2, 4, 4))
        shaken(parent)
        loaded, x = again(parent, tmp_path / str(k)), torch.randn(3, *parent.at(1.0).shape)
        assert torch.equal(loaded.at(1.0)(x), parent.at(1.0)(x))
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
        lambda: Stepwise(LowRankFamily(4, 2, width=8, floor=0.5), steps=7),
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
    family = kind(4, 2, width=8, features=3, floor=0.5)
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


def test_a_new_process_loads_a_linearizer_through_given_points(tmp_path: Path) -> None:
    x = torch.randn(4, 2)
    interpolate(x, x.flip(1)).save_pretrained(tmp_path)
    script = f"import induced; print(type(induced.Linearizer.from_pretrained({str(tmp_path)!r}).domain.chart).__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("Shear\n", "")


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
        safetensors.torch.save_file(data, folder / "model.safetensors")

    return act


def _of_class(config: Config, name: str) -> Any:
    return next(item for item in config["objects"].values() if item["class"] == name)


def _core(config: Config) -> Any:
    return config["objects"]["1"]


def _cut(name: str, keep: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda folder: (folder / "config.json").unlink(), r"config.json: cannot be read \(No such file"),
    ("no weights", lambda folder: (folder / "model.safetensors").unlink(), r"safetensors: cannot be read \(No such file"),
    ("config cut", _cut("config.json", 99), "config.json: is not JSON"),
    ("config of bytes", lambda f: (f / "config.json").write_bytes(b"\xff\x00"), "config.json: is not JSON"),
    ("config nested", lambda f: (f / "config.json").write_text("[" * 200_000), "config.json: is not JSON"),
    ("foreign JSON", lambda f: (f / "config.json").write_text("{}"), "is JSON of another origin, without"),
    ("other version", _edit(lambda c: c.update(version=2)), "has schema version 2, this release reads version 1"),
    ("no objects", _edit(lambda c: c.pop("objects")), r"is not laid out as schema version 1 is: KeyError\('objects'\)"),
    ("objects a list", _edit(lambda c: c.update(objects=[])), "is not laid out as schema version 1 is"),
    ("root a number", _edit(lambda c: c.update(root=0)), "holds an entry of another kind"),
    ("weights cut in the header", _cut("model.safetensors", 30), "cannot be read as safetensors"),
    ("weights cut in the data", _cut("model.safetensors", -4), "cannot be read as safetensors"),
    ("weights empty", _cut("model.safetensors", 0), "cannot be read as safetensors"),
    ("a pickle", _pickled, "is a pickle, whatever its name"),
    ("a torch archive", lambda f: torch.save({}, f / "model.safetensors"), "is a pickle, whatever its name"),
    (
        "a key less",
        _reweigh(lambda d: d.pop("1.A")),
        r"other keys than config.json: it lacks \['1.A'\], and has besides none",
    ),
    ("a key more", _reweigh(lambda d: d.update(x=torch.ones(1))), r"it lacks none, and has besides \['x'\]"),
    ("other shape", _reweigh(lambda d: d.update({"1.A": torch.ones(3)})), r"1.A has the shape \[3\], config.json says \[2, 2\]"),
    (
        "other dtype",
        _reweigh(lambda d: d.update({"1.A": torch.eye(2).double()})),
        "1.A is torch.float64, config.json says float32",
    ),
    ("other values", _reweigh(lambda d: d.update({"1.A": torch.ones(2, 2)})), "other bytes than config.json was saved with"),
    (
        "unknown class",
        _edit(lambda c: _core(c).update({"class": "os.system"})),
        "'os.system', which is not registered",
    ),
    ("dangling", _edit(lambda c: _of_class(c, "InducedSpace")["arguments"].update(chart={"ref": "99"})), "refers to object '99'"),
    ("dangling root", _edit(lambda c: c.update(root="99")), "refers to object '99'"),
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
        r"networks.MLP of these arguments, has tensors of other names or shapes: .*'first.weight': 'parameter \[4, 1\]'",
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
        f.core.A.add_(1)  # type: ignore[union-attr, operator]
    f.save_pretrained(second)
    (first / "model.safetensors").write_bytes((second / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="the two are of two saves"):
        load(first)


def test_the_same_model_is_saved_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        one, two = ((_saved(tmp_path / k) / name).read_bytes() for k in "ab")
        assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
