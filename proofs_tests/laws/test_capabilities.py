"""Every cell of docs/guide/capabilities.md: charts, cores and maps under torch.func, compile, export, copies and ONNX."""

import copy
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import induced
from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.bijections import AdditiveCoupling, Conv1x1, Flatten, Sinh, glow, real_nvp
from induced.bijections.conditional import ConditionalCoupling
from induced.export import materialized
from induced.operators import Dense
from induced.operators.interop import ForeignOperator
from induced.operators.linalg import Inverse
from induced.subspaces import principal_components
from proofs_tests.capabilities import (
    CAPABILITIES,
    CHART_ROWS,
    CORE_ROWS,
    DERIVED,
    MAP_CAPABILITIES,
    MAP_ROWS,
    REASONS,
    Row,
    derived,
    firsts,
    map_reason,
    page,
)
from proofs_tests.registry import CoreCase, agree, initialized, shaken

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]  # torch's own

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
FEW = {"real_nvp(1)", "Conv1x1", "glow of 1 channel", "Dense", "Convolution"}
"""The rows of which ONNX is tested in `make test`, a second or two for each; all of them in `make thorough`."""
FOLDED = FEW | {
    *(
        "ActNorm",
        "PositiveDefinite",
        "RationalQuadraticCoupling",
        "LatticeCoupling",
        "Linear of a matrix",
        "Linear of reflections",
    ),
    *("Linear of a rotation of signals", "Linear of an LU", "Linear of c I + U V^T", "Inverse of a chart", "conditional glow"),
    *("U-Net coupling", "callables", "c I + U V^T", "Product", "Inverse", "Inverse of c I + U V^T", "Householder", "LU"),
    *("SkewExponential", "Projection", "BlockDiagonal", "BlockCirculant"),
}
"""The rows of which a materialized graph is tested in `make test`: those with weights to compute beforehand, and a few others.

Of the rest it is the exported graph, which is tested of every row.
"""

MAPPED = {"Dense", "LowRank of rank 0", "c I + U V^T", "ForeignOperator", "Convolution", "BlockCirculant"}
"""The cores of the maps of `make test`; all of them in `make thorough`."""


@contextmanager
def holds_or_fails(reason: str | None) -> Iterator[None]:
    """A cell with a reason must fail still, else the page is out of date."""
    if reason is None:
        yield
        return
    with pytest.raises(Exception):  # noqa: B017 - what torch raises differs by version
        yield


def cells() -> list[object]:
    chosen = [*CHART_ROWS, *CORE_ROWS] if THOROUGH else [*firsts(CHART_ROWS), *firsts(CORE_ROWS)]
    found = [
        (row, name)
        for name in CAPABILITIES
        for row in chosen
        if THOROUGH or str(row) in {"ONNX": FEW, "materialized": FOLDED}.get(name, {str(row)})
    ]
    return [pytest.param(row, name, id=f"{name}-{row}") for row, name in found]


@pytest.mark.parametrize(("row", "capability"), cells())
def test_charts_and_cores_do_what_the_page_says(row: Row, capability: str) -> None:
    both = row.both()
    if capability == "ONNX":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        both = row.both(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of torch's own exporters
        with holds_or_fails(row.reason(capability)):
            CAPABILITIES[capability](both)


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("row", [row for row in MAP_ROWS if THOROUGH or str(row) in MAPPED], ids=str)
def test_maps_do_what_the_page_says(row: Row, name: str) -> None:
    for capability in MAP_CAPABILITIES:
        with holds_or_fails(map_reason(row, name, capability)):
            CAPABILITIES[capability](derived(row, name))


def test_the_page_is_the_table_that_is_tested() -> None:
    assert (Path(induced.__file__).parents[1] / "docs" / "guide" / "capabilities.md").read_text() == page()
    names = {str(row) for row in (*firsts(CHART_ROWS), *firsts(CORE_ROWS))}
    assert {name for name, _ in REASONS} <= names


def test_inductor_compiles_a_chart() -> None:
    g = shaken(real_nvp(2, 1, 4))
    x = torch.randn(5, 2)
    torch.compiler.reset()
    agree(torch.compile(g, fullgraph=True)(x).detach(), g(x).detach(), 10)


def test_the_adjoint_of_an_inverse_compiles() -> None:
    A = Inverse(Dense(torch.randn(4, 4).double()))
    w = torch.randn(2, 4).double()
    torch.compiler.reset()
    agree(torch.compile(lambda w: A.H(w), fullgraph=True, backend="eager")(w), A.H(w), 10)


@pytest.mark.parametrize("strict", [True, False])
def test_a_map_of_one_space_without_parameters_exports(strict: bool) -> None:
    f, x = Linearizer(torch.randn(4, 4), InducedSpace(Sinh((4,)))), torch.randn(2, 4)
    agree(torch.export.export(f, (x,), strict=strict).module()(2 * x), f(2 * x), 10)


def test_a_materialized_pseudoinverse_holds_the_inverse_weights_as_constants() -> None:
    chart = shaken(initialized(glow((2, 4, 4), 2, 4)), 0.05).double()
    f = Linearizer(torch.randn(5, 32).double(), InducedSpace(chart), EuclideanSpace(5)).pinv()
    y = torch.randn(3, 5).double()
    graph = materialized(f, y)
    assert any("linalg" in str(node.target) for node in torch.export.export(f, (y,), strict=False).graph.nodes)
    assert not any("linalg" in str(node.target) for node in graph.graph.nodes)
    agree(graph(y), f(y).detach(), 100)
    program = torch.export.export(graph, (y,))
    agree(program.module()(2 * y), f(2 * y).detach(), 100)


def test_a_materialized_chart_holds_its_inverse_only() -> None:
    g = shaken(Conv1x1((3, 2, 2)) @ Flatten((3, 2, 2)).inv)
    graph = materialized(g.inv, g(torch.randn(2, 12)).detach())
    assert [tuple(t.shape) for t in (*graph.parameters(), *graph.buffers())] == [(3, 3)]


def test_a_copy_of_an_inverse_does_not_share_its_factors() -> None:
    A = Inverse(Dense(torch.eye(3)))
    A(torch.ones(3))
    CAPABILITIES["pickle"](((A, torch.ones(3)),))
    assert A.__getstate__()["_kept"] is None and vars(A)["_kept"] is not None


COMPUTED: dict[str, Callable[[Linearizer], nn.Module]] = {
    "H": lambda f: f.H,
    "pinv": lambda f: f.pinv(),
    "multiple": lambda f: 2 * f,
    "square": lambda f: f @ f,
    "sum": lambda f: f + f,
    "exp": lambda f: f.exp(),
    "inv": lambda f: f.inv,
}


@pytest.mark.parametrize("row", firsts(CORE_ROWS), ids=str)
def test_a_deep_copy_keeps_what_was_computed_by_value(row: Row) -> None:
    assert isinstance(row.case, CoreCase)
    A = row.case.make(row.case.matrix())
    leaves = [t.requires_grad_() for t in (*A.parameters(), *A.buffers()) if t.is_floating_point() and t.numel()]
    x = torch.randn(2, A.shape[0]).double()
    for name, compute in COMPUTED.items():
        if A.shape[0] != A.shape[1] or (name == "inv" and not row.case.invertible):
            continue
        f = compute(Linearizer(A, EuclideanSpace(A.shape[0])))
        for made in (copy.deepcopy(f), torch.optim.swa_utils.AveragedModel(f).module, copy.deepcopy(nn.Sequential(f))[0]):
            assert torch.equal(made(x), f(x))
            assert all(t.is_leaf for t in (*made.parameters(), *made.buffers()))
        if leaves and not isinstance(A, ForeignOperator):  # the original still trains
            found = torch.autograd.grad(f(x).sum(), leaves, allow_unused=True, retain_graph=True)
            assert any(g is not None for g in found)


RECORDS: dict[str, tuple[Callable[[Linearizer, torch.Tensor], object], Callable[..., torch.Tensor]]] = {
    "Vector": (lambda f, x: f(2 * f.domain(x)), lambda v: v.point),
    "SVD": (lambda f, x: f.svd(), lambda s: s.truncate(2)(torch.ones(3, 4))),
    "Spectrum": (lambda f, x: f.spectrum(), lambda s: s.values),
    "PrincipalComponents": (lambda f, x: principal_components(f.domain, f(x), 2), lambda p: p.coords(torch.ones(3, 4))),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(
    "how", [copy.deepcopy, copy.copy, lambda a: pickle.loads(pickle.dumps(a))], ids=["deep", "flat", "pickle"]
)
def test_records_are_copied(name: str, how: Callable[[object], object]) -> None:
    make, value = RECORDS[name]
    f = Linearizer(nn.Parameter(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))), InducedSpace(shaken(real_nvp(4, 1, 4))))
    a = make(f, torch.randn(5, 4))
    assert torch.equal(value(how(a)), value(a))
    assert copy.deepcopy(a) is not a and value(a).requires_grad


def test_a_copy_of_an_adjoint_is_not_the_adjoint_of_what_it_came_from() -> None:
    P = nn.Parameter(torch.randn(3, 3).double())
    made = copy.deepcopy(Dense(P).H)
    assert isinstance(made, Dense)
    with torch.no_grad():
        made.A.mul_(2)
    agree(made.H.matrix(), made.matrix().mT)
    agree(made.matrix(), 2 * P.detach().mT)
    assert made.H.H is made


def test_a_chart_of_a_computed_context_is_copied_with_its_space() -> None:
    parent = ConditionalCoupling((4,), Bent(), kind=AdditiveCoupling)
    context = torch.randn(1, requires_grad=True) * 2
    f = Linearizer(torch.eye(4), InducedSpace(parent.at(context)), InducedSpace(parent.at(context)))
    assert f.domain == f.codomain
    made, x = copy.deepcopy(f), torch.randn(3, 4)
    assert torch.equal(made(x), f(x)) and torch.equal((made @ made)(x), (f @ f)(x))
    assert made.domain == made.codomain != f.domain


class Bent(nn.Module):
    """A conditioner of two entries and a context."""

    def forward(self, a: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return torch.sin(a) * context


def test_onnx_runs_a_pseudoinverse() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    f = Linearizer(Dense(torch.randn(4, 4)), InducedSpace(shaken(real_nvp(4, 2, 8))))
    x = torch.randn(2, 4) / 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CAPABILITIES["ONNX"](((f, x), (f.pinv(), x), (f.svd().truncate(1), x)))
