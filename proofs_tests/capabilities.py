"""What PyTorch can do with every chart, core and map: the capabilities as checks, and the cells that do not hold, with reasons.

`python -m proofs_tests.capabilities > docs/guide/capabilities.md` writes the page; laws/test_capabilities.py tests every cell.
"""

import copy
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from induced import InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import real_nvp
from induced.export import materialized
from proofs_tests.registry import CHARTS, CORES, SQUARE_CORES, ChartCase, CoreCase, agree, shaken

Both = Sequence[tuple[nn.Module, Tensor]]
"""A chart with a batch of points and its inverse with their coordinates, or A and A^T, each with a batch of vectors."""


# ----------------------------------------------------------------------------------------------------------- capabilities
def vmap(both: Both) -> None:
    for f, x in both:
        agree(torch.func.vmap(f)(x).detach(), f(x).detach(), 10)


def jvp(both: Both) -> None:
    for f, x in both:
        v = torch.randn_like(x[0])
        J = torch.autograd.functional.jacobian(f, x[0]).reshape(*f(x[0]).shape, v.numel())
        agree(torch.func.jvp(f, (x[0],), (v,))[1].detach(), J @ v.reshape(-1), 100)


def jacrev(both: Both) -> None:
    for f, x in both:
        agree(torch.func.jacrev(f)(x[0]).detach(), torch.autograd.functional.jacobian(f, x[0]), 100)


def compiled(both: Both) -> None:
    for f, x in both:
        torch.compiler.reset()
        agree(torch.compile(f, fullgraph=True, backend="eager")(x).detach(), f(x).detach(), 10)


FREE = ({0: torch.export.Dim("batch", min=1, max=4096)},)
"""The first dimension of the one input as a free one."""


def exported(both: Both) -> None:
    for f, x in both:
        program = torch.export.export(f, (x,), dynamic_shapes=FREE, strict=False).module()
        for points in batches(x):
            agree(program(points).detach(), f(points).detach(), 10)


def frozen(both: Both) -> None:
    for f, x in both:
        graph = materialized(f, x)
        for points in batches(x):
            agree(graph(points), f(points).detach(), 1000)


def batches(x: Tensor) -> Iterator[Tensor]:
    """These points, one of them, and five."""
    yield from (x, x[:1], torch.cat([x.flip(0), x, x[:1]]))


def meta(both: Both) -> None:
    for f, x in both:
        result = copy.deepcopy(f).to("meta")(x.to("meta"))
        assert result.is_meta and result.shape == f(x).shape and result.dtype == x.dtype


def copied(both: Both) -> None:
    for f, x in both:
        assert torch.equal(copy.deepcopy(f)(x), f(x))


def pickled(both: Both) -> None:
    for f, x in both:
        assert torch.equal(pickle.loads(pickle.dumps(f))(x), f(x))


def onnx(both: Both) -> None:
    import onnxruntime

    for f, x in both:
        file = io.BytesIO()
        program = torch.onnx.export(materialized(f, x), (x,), dynamo=True, dynamic_shapes=FREE, verbose=False)
        assert program is not None
        program.save(file)  # type: ignore[arg-type]
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        for points in batches(x):
            result = session.run(None, {session.get_inputs()[0].name: points.numpy()})[0]
            agree(torch.as_tensor(result), f(points).detach(), 100)


CAPABILITIES: dict[str, Callable[[Both], None]] = {
    "vmap": vmap,
    "jvp": jvp,
    "jacrev": jacrev,
    "compile": compiled,
    "export": exported,
    "materialized": frozen,
    "meta": meta,
    "deepcopy": copied,
    "pickle": pickled,
    "ONNX": onnx,
}

_FOREIGN = "the product runs in numpy"
REASONS = {
    ("callables", "pickle"): "pickle takes its functions by name, and these are lambdas",
    ("PositiveDefinite", "ONNX"): "ONNX has no eigendecomposition of an input, and no exponential of a matrix",
    ("Linear of an LU", "ONNX"): "ONNX has no triangular solve, of which the inverse has two",
    ("ForeignOperator", "export"): _FOREIGN,
    ("ForeignOperator", "materialized"): _FOREIGN,
    ("ForeignOperator", "meta"): _FOREIGN,
    ("ForeignOperator", "ONNX"): _FOREIGN,
    ("BlockCirculant", "ONNX"): "ONNX takes no complex products, of which a Fourier transform consists",
}
"""The cells that do not hold, by the row and the capability; the tests assert that they fail still."""


# ------------------------------------------------------------------------------------------------------------------- rows
@dataclass(frozen=True)
class Row:
    """A case of the registry, and the first one that is built of the same classes."""

    case: ChartCase | CoreCase
    first: str

    def both(self, dtype: torch.dtype = torch.float64) -> Both:
        if isinstance(self.case, ChartCase):
            chart = self.case.make(dtype)
            x = self.case.points(chart, (2,), dtype)
            return (chart, x), (chart.inv, chart(x).detach())
        M = self.case.matrix(dtype)
        A = self.case.make(M)
        return (A, torch.randn(2, M.shape[1], dtype=dtype)), (A.H, torch.randn(2, M.shape[0], dtype=dtype))

    def reason(self, capability: str) -> str | None:
        return REASONS.get((self.first, capability))

    def __str__(self) -> str:
        return self.case.name


def _built(case: ChartCase | CoreCase) -> nn.Module:
    return case.make() if isinstance(case, ChartCase) else case.make(case.matrix())


def rows(cases: Sequence[ChartCase | CoreCase]) -> Iterator[Row]:
    seen: dict[frozenset[type], str] = {}
    with torch.random.fork_rng():
        for case in cases:
            yield Row(case, seen.setdefault(frozenset(map(type, _built(case).modules())), case.name))


CHART_ROWS, CORE_ROWS = tuple(rows(CHARTS)), tuple(rows(CORES))


def firsts(all_rows: Sequence[Row]) -> list[Row]:
    return [row for row in all_rows if row.first == str(row)]


# ------------------------------------------------------------------------------------------------------------------- maps
DERIVED: dict[str, Callable[[LinearizerOperator], LinearizerOperator]] = {
    "f": lambda f: f,
    "f.H": lambda f: f.H,
    "f.pinv()": lambda f: f.pinv(),
    "f.svd().truncate(1)": lambda f: f.svd().truncate(1),
    "f.exp()": lambda f: f.exp(),
}
MAP_CAPABILITIES = ("vmap", "jvp", "compile", "export")
_RECORDED = f"{_FOREIGN}: not exported, and compiled only where no gradient is recorded"
MAP_REASONS = {(name, capability): _RECORDED for name in ("f", "f.H") for capability in ("compile", "export")}


MAP_ROWS = [row for row in firsts(CORE_ROWS) if row.case in SQUARE_CORES]
"""The cores of maps of one space, which have an exponential."""


def derived(row: Row, name: str) -> Both:
    """A map with the core of this row over a real_nvp, or what is derived from it."""
    assert isinstance(row.case, CoreCase)
    M = row.case.matrix()
    chart = shaken(real_nvp(len(M), 1, 4)).double()
    f = DERIVED[name](Linearizer(row.case.make(M), InducedSpace(chart)))
    return ((f, torch.randn(2, len(M), dtype=M.dtype) / 10),)


def map_reason(row: Row, name: str, capability: str) -> str | None:
    return MAP_REASONS.get((name, capability)) if row.first == "ForeignOperator" else None


# ------------------------------------------------------------------------------------------------------------------- page
PAGE = """# What PyTorch can do with charts, cores and maps

Every tick below is a test (`proofs_tests/laws/test_capabilities.py`), and so is every number: there the cell still fails.
A row stands for all that is built of the same classes; `make thorough` tests each of them. This page is
written by `python -m proofs_tests.capabilities`.

| capability | what is tested |
|---|---|
| vmap, jvp, jacrev | `torch.func` gives what a batch, and ordinary autograd, give |
| compile | `torch.compile(fullgraph=True)`: one graph, the values of eager mode; inductor is tested on `real_nvp` |
| export | `torch.export.export(strict=False)` with a free number of points: the values of eager mode |
| materialized | `induced.export.materialized`: the graph with all that depends on the weights alone computed beforehand |
| meta | a forward pass on the meta device: no constant is made on the CPU |
| deepcopy, pickle | the copy gives the same bits |
| ONNX | `torch.onnx.export` of the materialized graph, in float32, against onnxruntime (`pip install induced[onnx]`) |

A graph is tested on 1, 2 and 5 points.
Each is tested in both directions: a chart and its inverse, an operator and its adjoint. What is compiled or exported is made
beforehand; `torch.compile` also traces `f.pinv()`, `f.svd(k)`, `f.inv`, `f.exp()`, `f ** k` and `f.solve` inside
the compiled function (`proofs_tests/laws/test_compiled.py`).
What is shared has one name (`proofs_tests/laws/test_state.py`): a map of one space, `A @ D @ A` or two
contexts of one chart under `torch.func.functional_call`, `torch.export`, `state_dict`, copies and `apply`.

```python
import torch
from induced import InducedSpace, Linearizer
from induced.bijections import Conv1x1, Flatten
from induced.export import materialized

X = InducedSpace(Flatten((3, 2, 2)) @ Conv1x1((3, 2, 2)))
f = Linearizer(torch.eye(12) + torch.randn(12, 12) / 20, X)
image = torch.randn(1, 3, 2, 2)
graph = materialized(f.pinv(), image)  # A+ and the inverses of the 1x1 convolutions are constants of the graph
assert not any("linalg" in str(node.target) for node in graph.graph.nodes)
assert torch.allclose(graph(image), f.pinv()(image), rtol=1e-2, atol=1e-2)
```
"""


def _table(head: str, columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str | None]]], notes: list[str]) -> str:
    text = [f"| {head} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, reasons in lines:
        for reason in reasons:
            if reason is not None and reason not in notes:
                notes.append(reason)
        cells = ("✓" if reason is None else f"({notes.index(reason) + 1})" for reason in reasons)
        text.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(text)


def page() -> str:
    notes: list[str] = []
    parts = [PAGE]
    for title, chosen in (("Charts", CHART_ROWS), ("Cores", CORE_ROWS)):
        lines = [(str(row), [row.reason(capability) for capability in CAPABILITIES]) for row in firsts(chosen)]
        parts.append(f"## {title}\n\n{_table(title.lower()[:-1], list(CAPABILITIES), lines, notes)}\n")
    lines = []
    for row in MAP_ROWS:
        failing = [[map_reason(row, name, c) for c in MAP_CAPABILITIES] for name in DERIVED]
        lines.append((str(row), [next((reason for reason in cell if reason), None) for cell in failing]))
    parts.append(
        f"## Maps\n\nEach cell is {', '.join(MAP_CAPABILITIES)} of a map with this core.\n\n"
        f"{_table('core', [f'`{name}`' for name in DERIVED], lines, notes)}\n"
    )
    parts.append("## Reasons\n\n" + "\n".join(f"{k}. {note}." for k, note in enumerate(notes, 1)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
