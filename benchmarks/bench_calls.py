"""What checks and laziness cost: Linearizers beside their bare modules, operators beside torch.matmul and other libraries,
chains of additions of vectors beside additions of points.

The bare composition calls the same modules, chart and operator, without the space's checks of shape, dtype and finite values.
"""

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.bench_linalg import LIBRARIES, MATVEC, Parts
from benchmarks.common import judge, measure, pick, require
from induced import InducedSpace, Linearizer
from induced.bijections import Bijection, Identity, glow, real_nvp, rounding
from induced.operators import Dense, Diagonal, LinearOperator, LowRank, ScaledIdentityPlusLowRank

N, BATCH, RANK = 64, 64, 4
EPS = torch.finfo(torch.float32).eps


def small_glow() -> Bijection:
    g = glow((1, 8, 8))
    g.initialize(torch.randn(16, 1, 8, 8))
    return g


CHARTS: dict[str, Callable[[], Bijection]] = {
    "identity": lambda: Identity((N,)),
    "real_nvp(64), 6 blocks of width 64": lambda: real_nvp(N),
    "real_nvp(64), 8 blocks of width 128": lambda: real_nvp(N, blocks=8, width=128),
    "glow((1, 8, 8)), 6 blocks": small_glow,
}


def spread(g: Bijection, y: Tensor) -> float:
    """The relative error that rounding may leave in points y of a chart, by its amplification: the worst point's, for all."""
    return EPS * rounding(g, y) * math.sqrt(y.shape[0]) / float(y.norm())


@torch.no_grad()
@pytest.mark.parametrize("form", ["induced", "bare modules"])
@pytest.mark.parametrize("name", CHARTS)
def bench_linearizers(benchmark: Any, name: str, form: str) -> None:
    """`Linearizer.forward` beside g^-1(A g(x)) by the same modules."""
    torch.manual_seed(0)
    g, A = CHARTS[name](), Dense(torch.randn(N, N) / N**0.5)
    x, f = torch.randn(BATCH, *g.shape) * 0.3, Linearizer(A, InducedSpace(g))

    def bare(g: Bijection = g, x: Tensor = x, A: LinearOperator = A) -> Tensor:
        return g.inverse(A(g(x).flatten(1)).reshape(-1, *g.coord_shape))

    facts: dict[str, Any] = {"table": f"a Linearizer, n = {N}, {BATCH} points", "row": name, "form": form}
    found = measure(benchmark, bare if form != "induced" else lambda: f(x), None if form == "induced" else lambda: f(x), **facts)
    precise = copy.deepcopy(f).double()
    exact = precise(x.double())
    judge(benchmark, found, exact, 10 * (spread(g, exact.float()) + N**0.5 * EPS))


MATRIX, U, V = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((N, N), (N, RANK), (N, RANK)))
STRUCTURED = f"c I + U V^T, r = {RANK}"
OPERATORS: dict[str, LinearOperator] = {
    "Dense": Dense(MATRIX),
    "Diagonal": Diagonal(MATRIX[0]),
    f"U V^T, r = {RANK}": LowRank(U, V),
    STRUCTURED: ScaledIdentityPlusLowRank(0.5, U, V),
}
BESIDE = ("scipy, lazy", "CoLA", "linear_operator", "pylops")
CALLS = [
    (row, count, form)
    for row in OPERATORS
    for count in (BATCH, 1)
    for form in ("induced", "torch.matmul", *(BESIDE if row == STRUCTURED and count == 1 else ()))
]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("row", "count", "form"), CALLS)
def bench_operators(benchmark: Any, row: str, count: int, form: str) -> None:
    """A checked operator beside torch.matmul of a matrix, and beside the operators of other libraries."""
    A, z = OPERATORS[row], torch.randn(*((count,) if count > 1 else ()), N)
    facts: dict[str, Any] = {"table": f"A(z), n = {N}", "row": f"{row}, {count} state{'s' * (count > 1)}", "form": form}
    own = None if form == "induced" else lambda: A(z)
    if form in BESIDE:
        library = LIBRARIES[form]
        require(library.package)
        made = library.make(Parts(0.5, U, V))
        found = measure(benchmark, lambda: library.functions[MATVEC](made, z, z), own, **facts)
        found = found if isinstance(found, Tensor) else torch.from_numpy(found)
    else:
        M = A.matrix()  # matmul meets the same matrix
        found = measure(benchmark, (lambda: A(z)) if form == "induced" else (lambda: torch.matmul(z, M.mT)), own, **facts)
    matrices = (MATRIX, torch.diag(MATRIX[0]), U.double() @ V.double().mT, 0.5 * torch.eye(N) + U.double() @ V.double().mT)
    exact = z.double() @ dict(zip(OPERATORS, matrices, strict=True))[row].double().mT
    judge(benchmark, found, exact, 10 * N**0.5 * EPS)


@lru_cache(1)
def space() -> tuple[InducedSpace, Tensor]:
    torch.manual_seed(0)
    return InducedSpace(real_nvp(N)), torch.randn(BATCH, N) * 0.3


class Calls:
    """How often a chart is entered and left."""

    def __init__(self, g: Any) -> None:
        self.entered = self.left = 0
        self.forward, self.inverse = g.forward, g.inverse
        g.forward, g.inverse = self.enter, self.leave
        self.g = g

    def enter(self, x: Tensor) -> Tensor:
        self.entered += 1
        return self.forward(x)

    def leave(self, z: Tensor) -> Tensor:
        self.left += 1
        return self.inverse(z)

    def stop(self) -> None:
        del self.g.forward, self.g.inverse


@torch.no_grad()
@pytest.mark.parametrize("form", ["induced", "point by point"])
@pytest.mark.parametrize("k", pick((1, 2, 4, 8, 16, 32, 64), (1, 4)))
def bench_additions(benchmark: Any, k: int, form: str) -> None:
    """x + x + ... + x with k additions: by vectors, which enter and leave the chart once, and by g^-1(g(y) + g(x)) each time."""
    X, x = space()
    g = X.chart

    def lazy() -> Tensor:
        u = w = X(x)
        for _ in range(k):
            w = w + u
        return w.point

    def eager() -> Tensor:
        y = x
        for _ in range(k):
            y = g.inverse(g(y) + g(x))
        return y

    calls = Calls(g)
    (lazy if form == "induced" else eager)()
    calls.stop()
    assert (calls.entered, calls.left) == ((1, 1) if form == "induced" else (2 * k, k))
    facts: dict[str, Any] = {
        "table": f"k additions in the space of real_nvp({N}), {BATCH} points",
        "row": f"k = {k}",
        "form": form,
    }
    growth: dict[str, Any] = {"x": k, "axis": "additions", "theory": 0.0 if form == "induced" else 1.0}
    note = f"{calls.entered} g, {calls.left} g⁻¹"
    found = measure(benchmark, *((lazy,) if form == "induced" else (eager, lazy)), note=note, **facts, **growth)
    precise = copy.deepcopy(g).double()
    exact = precise.inverse((k + 1) * precise(x.double()))
    judge(benchmark, found, exact, 10 * (1 if form == "induced" else k) * spread(g, exact.float()))
