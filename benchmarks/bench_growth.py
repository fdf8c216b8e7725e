"""How time and memory grow with n, r, T, depth and batch, in float32.

The report fits an exponent to the upper half of each range; `theory` is that of the term that outweighs the others at large
sizes. Memory is the peak of a fresh process (collapse), what an operator holds (B), or what autograd saves (training).
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.bench_charts import Held, allowed
from benchmarks.bench_collapse import Secretive, judged, peak, probes, shaken
from benchmarks.bench_linalg import COLUMNS, EXP, INDUCED, LIBRARIES, MATMAT, PINV, POWER, PRODUCT, SVD, bound, check, operator
from benchmarks.common import QUICK, judge, measure, pick, size
from induced.bijections import real_nvp
from induced.propagators import propagator

WIDTH = 128


class Series(NamedTuple):
    """A form along an axis, and the exponents that theory gives its time and memory; None where there is nothing to measure."""

    title: str
    form: str
    axis: str
    sizes: tuple[int, ...]
    theory: float
    memory: float | None = None


def doubled(first: int, count: int) -> tuple[int, ...]:
    return tuple(first * 2**k for k in range(pick(count, 3)))


BASE = pick(1024, 64)
N = "functions of c I + U V^T of rank 8, against n"
R = f"functions of c I + U V^T at n = {8 * BASE}, against r"
LINALG = [
    *(Series(N, row, "n", doubled(BASE, 8), 1.0) for row in (MATMAT, PRODUCT, POWER, EXP, SVD, PINV)),
    Series(N, f"torch, dense: {MATMAT}", "n", doubled(BASE // 4, 6), 2.0),
    Series(N, f"torch, dense: {PRODUCT}", "n", doubled(BASE // 4, 4), 3.0),
    Series(R, MATMAT, "r", doubled(8, 6), 1.0),
    *(Series(R, row, "r", doubled(8, 6), 2.0) for row in (PRODUCT, POWER, EXP, PINV)),
]
COLLAPSE = [
    Series(f"collapse of rk4 steps at n = {BASE}, rank 8, against T", "one basis", "T", doubled(pick(25, 8), 7), 1.0),
    Series(f"collapse of rk4 steps at n = {BASE}, rank 8, against T", "factors alone", "T", doubled(pick(25, 8), 5), 1.0),
    Series("collapse of 20 rk4 steps of rank 8, against n", "one basis", "n", doubled(4 * BASE, 5), 1.0, 1.0),
    Series("collapse of 20 rk4 steps of rank 8, against n", "factors alone", "n", doubled(BASE, 6), 1.0),
    Series(f"collapse of 10 rk4 steps at n = {8 * BASE}, against r", "factors alone", "r", doubled(2, 5), 2.0),
]
HELD = [
    Series("what B of 20 rk4 steps of rank 8 holds, and 64 states through it", "induced", "n", doubled(4 * BASE, 5), 1.0, 1.0)
]
CHARTS = [
    *(
        Series(f"real_nvp, width {WIDTH}, against {axis}", way, axis, sizes, 1.0, 1.0 if way == "training" else None)
        for axis, sizes in (("depth", doubled(4, 5)), ("batch", doubled(pick(256, 16), 6)), ("n", doubled(pick(64, 8), 7)))
        for way in ("forward", "inverse", "training")
    )
]


def points(*series: Series) -> pytest.MarkDecorator:
    cells = [(s, x) for s in series for x in s.sizes]
    return pytest.mark.parametrize(("series", "x"), cells, ids=[f"{s.title}, {s.form}, {x}" for s, x in cells])


def along(benchmark: Any, series: Series, x: int, form: Callable[[], Any], memory: float | None = None) -> Any:
    """Measure one point of a series."""
    facts: dict[str, Any] = {
        "table": series.title,
        "row": f"{series.axis} = {x}",
        "form": series.form,
        "peer": False,
        "bytes": memory,
    }
    growth: dict[str, Any] = {"x": x, "axis": series.axis, "theory": series.theory, "memory_theory": series.memory}
    return measure(benchmark, form, budget=pick(1.0, 0.02), **facts, **growth)


@torch.no_grad()
@points(*LINALG)
def bench_linalg(benchmark: Any, series: Series, x: int) -> None:
    name, row = ("torch, dense" if series.form.startswith("torch") else INDUCED), series.form.removeprefix("torch, dense: ")
    n, rank = (x, 8) if series.axis == "n" else (8 * BASE, x)
    parts = operator(n, rank)
    X = torch.randn(COLUMNS, n)
    A = LIBRARIES[name].make(parts)
    found = along(benchmark, series, x, lambda: LIBRARIES[name].functions[row](A, X[0], X))
    check(benchmark, found, row, parts, X, bound(row, name, n))


@torch.no_grad()
@points(*COLLAPSE)
def bench_collapse(benchmark: Any, series: Series, x: int) -> None:
    n, rank, steps = {"T": (BASE, 8, x), "n": (x, 8, 20), "r": (8 * BASE, x, 10)}[series.axis]
    torch.manual_seed(0)
    family = shaken(n, rank) if series.form == "one basis" else Secretive(shaken(n, rank))
    z = probes(n)
    memory = None if QUICK or not series.memory else peak("one basis", n, steps)  # each takes a process
    B = along(benchmark, series, x, lambda: propagator(family, steps=steps), memory)
    judged(benchmark, B(z.float()), family, z, steps)


@torch.no_grad()
@points(*HELD)
def bench_held(benchmark: Any, series: Series, x: int) -> None:
    torch.manual_seed(0)
    family, z = shaken(x, 8), probes(x)
    B = propagator(family, steps=20)
    found = along(benchmark, series, x, lambda: B(z.float()), size(*B.state_dict().values()))
    judged(benchmark, found, family, z, 20)


@points(*CHARTS)
def bench_charts(benchmark: Any, series: Series, x: int) -> None:
    """A chart both ways and in a training step; its results, or those of the inverse, beside the same chart in float64."""
    sizes = {"depth": 8, "batch": pick(1024, 32), "n": 64} | {series.axis: x}
    torch.manual_seed(0)
    g, points = real_nvp(sizes["n"], sizes["depth"], WIDTH), torch.randn(sizes["batch"], sizes["n"])
    precise = copy.deepcopy(g).double()

    def training() -> None:
        g.zero_grad()
        g(points).square().sum().backward()

    way: Callable[[Tensor], Tensor] = g.inverse if series.form == "inverse" else g
    exact = precise.inverse if series.form == "inverse" else precise
    if series.form == "training":
        held = Held(g)
        with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
            training()
        along(benchmark, series, x, training, held.peak)
    with torch.no_grad():
        if series.form != "training":
            along(benchmark, series, x, lambda: way(points))
        judge(benchmark, way(points), exact(points.double()), allowed(exact, points.double(), sizes["depth"]))
