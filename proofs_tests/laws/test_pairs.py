"""Every chart meets a core and every core a chart in `make test`; in `make thorough` every chart meets every core.

The other files of laws/ hold charts to one core and cores to one chart. A core keeps the size of its registry entry: where
a chart has another number of coordinates, the core A stands between an isometry J and its adjoint, J^T A J.
"""

import itertools
import os
import random

import pytest
import torch
from torch import Tensor

from induced import InducedSpace, Linearizer
from induced.bijections.adapters.base import Adapted
from induced.checks import check_adjoint, check_linear, check_penrose, check_powers, check_svd, require
from induced.operators import Dense
from proofs_tests.registry import CHARTS, CONDITION, DTYPES, SQUARE_CORES, ChartCase, CoreCase, agree

BATCHES = ((), (1,), (0,), (3, 2))


def pairs(thorough: bool) -> list[tuple[ChartCase, CoreCase]]:
    """All pairs; or as few as name each chart and each core, the same ones on every run."""
    if thorough:
        return list(itertools.product(CHARTS, SQUARE_CORES))
    cores = random.Random(0).sample(SQUARE_CORES, len(SQUARE_CORES))
    size = max(len(CHARTS), len(cores))
    return [(chart, core) for chart, core, _ in zip(itertools.cycle(CHARTS), itertools.cycle(cores), range(size), strict=False)]


every_pair = pytest.mark.parametrize(
    ("chart", "core"),
    [
        pytest.param(chart, core, id=f"{chart} - {core}")
        for chart, core in pairs(os.environ.get("HYPOTHESIS_PROFILE") == "thorough")
    ],
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def join(chart: ChartCase, core: CoreCase, dtype: torch.dtype) -> tuple[Linearizer, InducedSpace, Tensor]:
    """A map of the chart's space with this core, of norm at most 1, the space, and the matrix.

    Redrawn until the singular values that are not zero lie within CONDITION of the norm of A: J^T A J may be worse than A.
    """
    X = InducedSpace(chart.make(dtype))
    while True:
        M = core.matrix(dtype)
        J = None if len(M) == X.dim else isometry(len(M), X.dim, dtype)
        joined = M if J is None else J.mT @ M @ J
        norm, s = float(torch.linalg.matrix_norm(M, 2)), torch.linalg.svdvals(joined.double())
        s = s[s > 1e-5 * norm]
        if core.zero or (len(s) and s.min() * CONDITION >= norm * (1 - 1e-3)):
            break
    A = core.make(M) if J is None else Dense(J.mT.clone()) @ core.make(M) @ Dense(J)
    size = max(1.0, norm)
    return Linearizer(A / size, X), X, joined / size


def isometry(m: int, n: int, dtype: torch.dtype) -> Tensor:
    """J (m, n) with orthonormal columns, or rows where n > m."""
    Q = torch.linalg.qr(torch.randn(max(m, n), min(m, n), dtype=torch.float64))[0].to(dtype)
    return Q if m >= n else Q.mT.clone()


@every_dtype
@every_pair
def test_a_chart_and_a_core_obey_the_laws_together(chart: ChartCase, core: CoreCase, dtype: torch.dtype) -> None:
    f, X, M = join(chart, core, dtype)
    x, y = chart.points(X.chart, (3,), dtype), chart.points(X.chart, (3,), dtype)
    reports = [check_adjoint(f, x, y), check_linear(f, x), check_svd(f)]
    if len(M) == core.matrix().shape[0]:  # J may shrink A to where the rounding of A hides the rank of J^T A J
        with torch.no_grad():
            s = torch.linalg.svdvals(M)
            near = [X.scale(float(min([1.0, *s[s > 1e-5]])), p) for p in (x, y)]  # f+ takes them no farther than x and y
        reports.append(check_penrose(f, *near))
        reports.append(check_powers(f, x))
    require(*reports)


@every_dtype
@every_pair
def test_a_chart_and_a_core_are_their_formula_for_every_batch(chart: ChartCase, core: CoreCase, dtype: torch.dtype) -> None:
    f, X, M = join(chart, core, dtype)
    for batch in BATCHES:
        x = chart.points(X.chart, batch, dtype)
        with torch.no_grad():
            fx = f(x)
            assert (fx.shape, fx.dtype) == (x.shape, dtype)
            agree(f.core(X.coords(x)), X.coords(x) @ M.mT, CONDITION)
            agree(fx, X.point(f.core(X.coords(x))))


@every_dtype
@every_pair
def test_gradients_of_a_chart_and_a_core_are_finite(chart: ChartCase, core: CoreCase, dtype: torch.dtype) -> None:
    f, X, _ = join(chart, core, dtype)
    adapted = any(isinstance(module, Adapted) for module in f.modules())
    for batch in BATCHES:
        if 0 in batch and adapted:  # foreign code is not called on an empty batch, so there is no graph
            continue
        x = chart.points(X.chart, batch, dtype).requires_grad_()
        leaves = [x, *(p for p in f.parameters() if p.requires_grad)]
        gradients = torch.autograd.grad(f(x).square().sum(), leaves, allow_unused=True)
        assert gradients[0] is not None and gradients[0].shape == x.shape
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_the_sample_names_every_chart_and_every_core() -> None:
    sample = pairs(thorough=False)
    assert {chart.name for chart, _ in sample} == {chart.name for chart in CHARTS}
    assert {core.name for _, core in sample} == {core.name for core in SQUARE_CORES}
    assert len(pairs(thorough=True)) == len(CHARTS) * len(SQUARE_CORES)
