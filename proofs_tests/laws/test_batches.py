"""Functions of batches of operators are those of each operator."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product as product_of
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor

from induced.errors import ShapeError
from induced.operators import (
    Convolution,
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    cond,
    det,
    eigenvalues,
    exp,
    function,
    inverse,
    norm,
    pinv,
    power,
    resolvent,
    singular_values,
    slogdet,
    solve,
    trace,
)
from induced.operators.base import Scaled
from induced.operators.linalg import Inverse
from induced.operators.rules import per_sample
from proofs_tests.laws.function_checks import check_singular_values, close, condition, count_of, pinv_of, scale, values_of
from proofs_tests.laws.structure_cases import DTYPES, Array, N, diagonal, drawn, low_rank, reflections, total, turning
from proofs_tests.registry import convolution_matrix

F32, F64 = torch.float32, torch.float64


def batches(dtype: torch.dtype) -> dict[str, tuple[LinearOperator, Array]]:
    D, A, W, X = (
        drawn(dtype, 3, 4),
        drawn(dtype, 3, 4, 4, size=0.5),
        drawn(dtype, 3, 2, 5, size=0.5),
        drawn(dtype, 3, 5, 2, size=0.5),
    )
    U, V, c = (
        drawn(dtype, 3, 8, 2, size=0.4),
        drawn(dtype, 3, 8, 2, seed=1, size=0.4),
        torch.tensor([1.5, -1.0, 2.0], dtype=dtype),
    )
    a, b = drawn(dtype, 3, 2).abs(), drawn(dtype, 3, 2, seed=1)
    K = drawn(dtype, 3, 2, 2, 3, size=0.4)
    return {
        "Diagonal": (Diagonal(D.abs() + 0.2), np.stack([np.diag(abs(d) + float(torch.tensor(0.2, dtype=dtype))) for d in N(D)])),
        "Dense": (Dense(A), N(A)),
        "Dense wide": (Dense(W), N(W)),
        "Dense tall": (Dense(X), N(X)),
        "RotationScaling": (RotationScaling(a, b), np.stack([turning(x, y) for x, y in zip(a, b, strict=True)])),
        "LowRank": (LowRank(U, V), N(U) @ N(V).swapaxes(-1, -2)),
        "c I + U V^T": (
            ScaledIdentityPlusLowRank(c, U, V),
            N(c)[:, None, None] * np.eye(8) + N(U) @ N(V).swapaxes(-1, -2),
        ),
        "Convolution": (
            Convolution(K, (2, 4), mode="circular"),
            np.stack([N(convolution_matrix(k.double(), (2, 4), ((1, 1),), "circular")) for k in K]),
        ),
        "Scaled": (
            Scaled(c, Householder(drawn(dtype, 2, 5))),
            N(c)[:, None, None] * reflections(drawn(dtype, 2, 5)),
        ),
        "Inverse": (Inverse(Dense(A)), np.linalg.inv(N(A))),
    }


def test_a_sum_without_structure_is_formed_at_a_moderate_size() -> None:
    made = total(diagonal(F64, *range(1, 129)), low_rank(F64, 128, 128, 2))
    assert made[0].reduced() is not None
    check_singular_values(*made, torch.finfo(F64).eps)


def test_scalars_fit_a_batch_in_as_many_dimensions_or_where_one_shape_is_that_of_the_result() -> None:
    shapes = [shape for k in range(3) for shape in product_of(range(4), repeat=k)]
    for mine, batch in product_of(shapes, repeat=2):
        try:
            both = np.broadcast_shapes(mine, batch)
            fits = not mine or len(mine) == len(batch) or both in (mine, batch)
        except ValueError:
            fits = False
        with nullcontext() if fits else pytest.raises(ShapeError, match="one scalar per sample"):
            per_sample(torch.ones(mine), torch.ones(*batch, 2))


def each(f: Callable[[Array], Any], M: Array) -> Array:
    return np.stack([np.asarray(f(X)) for X in M])


BATCHED: dict[str, tuple[Callable[[LinearOperator], Tensor], Callable[[Array], Any]]] = {
    "singular_values": (
        lambda A: singular_values(A).values.repeat_interleave(singular_values(A).times, -1).sort(descending=True).values,
        values_of,
    ),
    "norm": (norm, scale),
    "frobenius": (lambda A: norm(A, "frobenius"), np.linalg.norm),
    "nuclear": (lambda A: norm(A, "nuclear"), lambda M: values_of(M).sum()),
    "pinv": (lambda A: pinv(A).matrix(), pinv_of),
    "solve": (lambda A: solve(A, torch.ones(3, A.shape[0], dtype=A.dtype)), lambda M: pinv_of(M).sum(1)),
    "trace": (trace, np.trace),
    "det": (det, np.linalg.det),
    "inverse": (lambda A: inverse(A).matrix(), np.linalg.inv),
    "cond": (cond, np.linalg.cond),
    "slogdet": (lambda A: slogdet(A).logabs, lambda M: np.linalg.slogdet(M)[1]),
    "eigenvalues": (lambda A: eigenvalues(A).abs(), lambda M: np.sort(abs(np.linalg.eigvals(M)))[::-1]),
    "exp": (lambda A: exp(A, torch.tensor([0.5, 1.0, -1.0])).matrix(), lambda M: M),
    "power": (lambda A: power(A, 3).matrix(), lambda M: M @ M @ M),
    "power 0": (lambda A: power(A, 0).matrix(), lambda M: np.eye(len(M))),
    "function": (lambda A: function(A, torch.sin).matrix(), scipy.linalg.sinm),
    "resolvent": (lambda A: resolvent(A, 9.0).matrix(), lambda M: np.linalg.inv(9 * np.eye(len(M)) - M)),
}


@pytest.mark.parametrize("what", BATCHED)
@pytest.mark.parametrize("name", batches(F64))
def test_a_function_of_a_batch_is_that_of_each(name: str, what: str) -> None:
    for dtype in DTYPES:
        A, M = batches(dtype)[name]
        square = M.shape[1] == M.shape[2]
        if what in list(BATCHED)[6:] and not square:
            return
        full = square and min(count_of(X) for X in M) == len(M[0])
        if what in ("inverse", "cond", "slogdet") and not full:
            return
        f, expected = BATCHED[what]
        if what == "exp":
            f = lambda A: exp(A, torch.tensor([0.5, 1.0, -1.0], dtype=dtype)).matrix()  # noqa: B023, E731
            M = np.array([0.5, 1.0, -1.0])[:, None, None] * M
            expected = scipy.linalg.expm
        worst = max(condition(X) for X in M)
        close(f(A), each(expected, M), torch.finfo(dtype).eps, max(worst, max(map(scale, M)) ** 2))
