"""What is saved comes back bit for bit: charts, cores, maps, families, and what they share."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, InducedSpace, Linearizer, ProductSpace, Subspace
from induced._registry import by_class
from induced.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Bijection,
    Composition,
    ConditionalBijection,
    Identity,
    Log,
    Reversible,
    glow,
    real_nvp,
)
from induced.bijections.conditional import ConditionalCoupling
from induced.bijections.networks import MLP
from induced.errors import CheckpointError, InducedError
from induced.fitting import interpolate
from induced.operators import Convolution, Dense, Diagonal, Householder, Permutation, inverse
from induced.operators.base import Adjoint, Scaled, Sum
from induced.operators.interop import ForeignOperator
from induced.operators.triangular import LU
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily
from induced.propagators.magnus import Exponent
from induced.propagators.propagate import Stepwise
from induced.serialization import register, save
from proofs_tests.laws.saved import again
from proofs_tests.registry import CHARTS, CORES, DTYPES, ChartCase, CoreCase, Frozen, initialized, shaken

REFUSED = {"torch transform", "inverse of a torch transform", "callables", "ForeignOperator"}
"""Charts and cores of the registry that run foreign code."""


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


def descended(cls: type[nn.Module]) -> set[type[nn.Module]]:
    return {cls}.union(*map(descended, cls.__subclasses__()))


def test_every_final_class_has_a_recipe_or_a_reason() -> None:
    public = {cls for cls in descended(nn.Module) if cls.__module__.startswith("induced.") and cls.__name__[0] != "_"}
    final = {cls for cls in public if "__final__" in vars(cls)}
    runs_foreign_code, of_a_check = {"ForeignOperator", "ConditionalFlow"}, {"Coordinates"}
    assert len(final) > 50 and {cls.__name__ for cls in final - by_class.keys()} == runs_foreign_code | of_a_check


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
