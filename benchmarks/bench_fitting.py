"""The least-squares fit of a core beside numpy, torch and scikit-learn: at once, under a penalty, and in batches.

The oracle is numpy's SVD of the same data in float64. Data are float32 and have the condition number 100; a form that works in
float32, or on normal equations, loses the digits that this takes.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.common import judge, measure, pick, require
from induced import EuclideanSpace
from induced.fitting import LeastSquares, least_squares

CONDITION, RIDGE, BATCH = 100.0, 1.0, 256
SIZES = pick([(1_000, 8, 8), (100_000, 32, 32), (1_000_000, 4, 1), (20_000, 256, 64)], [(500, 4, 4), (2_000, 8, 2)])
EPS = torch.finfo(torch.float32).eps
Fit = Callable[[Tensor, Tensor], Any]


@lru_cache(maxsize=1)
def data(count: int, n: int, m: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    scales = torch.logspace(0, -np.log10(CONDITION), n)
    turn = torch.linalg.qr(torch.randn(n, n))[0]
    x = torch.randn(count, n) * scales @ turn
    return x, x @ torch.randn(n, m) + 0.1 * torch.randn(count, m)


def ours(ridge: float) -> Fit:
    return lambda x, y: least_squares(EuclideanSpace(x.shape[1]), EuclideanSpace(y.shape[1]), x, y, ridge=ridge).core.matrix()


def sklearn(model: str, **arguments: Any) -> Fit:
    def fit(x: Tensor, y: Tensor) -> Any:
        found = getattr(import_module("sklearn.linear_model"), model)(fit_intercept=False, **arguments)
        return torch.from_numpy(np.atleast_2d(found.fit(x.numpy().astype(float), y.numpy().astype(float)).coef_))

    return fit


def in_batches(x: Tensor, y: Tensor) -> Tensor:
    problem = LeastSquares(EuclideanSpace(x.shape[1]), EuclideanSpace(y.shape[1]))
    for batch, images in zip(x.split(BATCH), y.split(BATCH), strict=True):
        problem.update(batch, images)
    return problem.solve().core.matrix()


def normal_equations(x: Tensor, y: Tensor) -> Tensor:
    """The sums Z^T Z and Z^T W over batches, in float64."""
    gram, cross = (torch.zeros(x.shape[1], k, dtype=torch.float64) for k in (x.shape[1], y.shape[1]))
    for batch, images in zip(x.split(BATCH), y.split(BATCH), strict=True):
        z = batch.double()
        gram, cross = gram + z.mT @ z, cross + z.mT @ images.double()
    return torch.linalg.solve(gram, cross).mT


FORMS: dict[str, dict[str, tuple[str, Fit]]] = {
    "at once": {
        "induced": ("induced", ours(0.0)),
        "numpy lstsq": ("numpy", lambda x, y: torch.from_numpy(np.linalg.lstsq(x.double().numpy(), y.double().numpy())[0]).mT),
        "torch lstsq, gelsd": ("torch", lambda x, y: torch.linalg.lstsq(x.double(), y.double(), driver="gelsd").solution.mT),
        "scikit-learn": ("sklearn", sklearn("LinearRegression")),
    },
    "ridge": {
        "induced": ("induced", ours(RIDGE)),
        "scikit-learn, svd": ("sklearn", sklearn("Ridge", alpha=RIDGE, solver="svd")),
        "scikit-learn, normal equations": ("sklearn", sklearn("Ridge", alpha=RIDGE, solver="cholesky")),
    },
    f"in batches of {BATCH}": {"induced": ("induced", in_batches), "normal equations": ("torch", normal_equations)},
}


@pytest.mark.parametrize("form", [(row, form) for row, forms in FORMS.items() for form in forms], ids=" ".join)
@pytest.mark.parametrize("size", SIZES, ids=str)
def bench_fit(benchmark: Any, size: tuple[int, int, int], form: tuple[str, str]) -> None:
    """The core of N pairs."""
    row, name = form
    package, fit = FORMS[row][name]
    require(package)
    x, y = data(*size)
    count, n, m = size
    facts: dict[str, Any] = {"table": "least squares", "row": f"{row}, N = {count}, n = {n}, m = {m}", "form": name}
    own = FORMS[row]["induced"][1]
    found = measure(benchmark, lambda: fit(x, y), None if name == "induced" else lambda: own(x, y), **facts)
    z, w = x.double().numpy(), y.double().numpy()
    if row == "ridge":
        z, w = np.vstack([z, RIDGE**0.5 * np.eye(n)]), np.vstack([w, np.zeros((n, m))])
    judge(benchmark, found, torch.from_numpy(np.linalg.lstsq(z, w)[0]).mT, 10 * EPS)
