"""An operator that holds nan or inf has no functions: each raises DomainError in eager mode, and none where values are unseen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators import (
    LU,
    BlockCirculant,
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    Orthogonal,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    SkewExponential,
    cond,
    det,
    eigenvalues,
    exp,
    function,
    identity,
    image,
    inverse,
    kernel,
    log,
    norm,
    pinv,
    polar,
    power,
    rank,
    resolvent,
    singular_values,
    slogdet,
    solve,
    sqrt,
    svd,
    trace,
)
from induced.operators.base import Adjoint, Product, Scaled
from induced.operators.linalg import Inverse
from induced.operators.spectral import invariant_subspaces

NAN, INF = float("nan"), float("inf")
n = 4


def near_identity() -> LinearOperator:
    return ScaledIdentityPlusLowRank(2.0, 0.3 * torch.randn(n, 1), torch.randn(n, 1))


def circular() -> Convolution:
    return Convolution(torch.tensor([[[0.2, 1.0, 0.1]]]), (1, n), mode="circular")


def stable() -> LinearOperator:
    return RotationScaling(torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0]))


STRUCTURES: dict[str, Callable[[], LinearOperator]] = {
    "Dense": lambda: Dense(torch.eye(n) + 0.1 * torch.randn(n, n)),
    "Diagonal": lambda: Diagonal(torch.tensor([1.0, 2.0, 3.0, 4.0])),
    "Projection": lambda: Projection(torch.tensor([1.0, 0.0, 1.0, 1.0])),
    "BlockDiagonal": lambda: BlockDiagonal(torch.eye(2), near_identity().matrix()[:2, :2]),
    "BlockDiagonal of a batch": lambda: BlockDiagonal(torch.eye(2).expand(2, 2, 2).clone()),
    "RotationScaling": stable,
    "LowRank": lambda: LowRank(torch.randn(n, 2), torch.randn(n, 2)),
    "c I + U V^T": near_identity,
    "c I": lambda: identity(n, torch.zeros(())),
    "Householder": lambda: Householder(torch.randn(2, n)),
    "Orthogonal": lambda: Orthogonal(torch.linalg.qr(torch.randn(n, n))[0]),
    "SkewExponential": lambda: SkewExponential(torch.randn(n, n)),
    "LU": lambda: LU(n),
    "Convolution": circular,
    "Convolution zero-padded": lambda: Convolution(torch.randn(1, 1, 3), (1, n)),
    "BlockCirculant": lambda: BlockCirculant.of(torch.tensor([[[1.0, 0.2, 0.0, 0.1]]]), 1),
    "Scaled(Householder)": lambda: Scaled(2.0, Householder(torch.randn(1, n))),
    "Scaled by a tensor": lambda: Scaled(torch.tensor(2.0), Householder(torch.randn(1, n))),
    "Adjoint(LU)": lambda: Adjoint(LU(n)),
    "Inverse(c I + U V^T)": lambda: Inverse(near_identity()),
    "Inverse(Dense)": lambda: Inverse(Dense(torch.eye(n))),
    "Householder @ (c I + U V^T)": lambda: Product(Householder(torch.randn(1, n)), near_identity()),
    "c I + Householder": lambda: Householder(torch.randn(1, n)) + 2.0 * identity(n, torch.zeros(())),
}
FUNCTIONS: dict[str, Callable[[LinearOperator], Any]] = {
    "svd": svd,
    "svd of rank 1": lambda A: svd(A, 1),
    "pinv": pinv,
    "pinv with rtol": lambda A: pinv(A, 1e-3),
    "inverse": inverse,
    "polar": polar,
    "solve": lambda A: solve(A, torch.ones(n)),
    "rank": rank,
    "kernel": kernel,
    "image": image,
    "cond": cond,
    "det": det,
    "slogdet": slogdet,
    "norm": norm,
    "frobenius": lambda A: norm(A, "frobenius"),
    "nuclear": lambda A: norm(A, "nuclear"),
    "singular_values": singular_values,
    "trace": trace,
    "exp": exp,
    "exp of time 0": lambda A: exp(A, 0.0),
    "log": log,
    "sqrt": sqrt,
    "power 0": lambda A: power(A, 0),
    "power 3": lambda A: power(A, 3),
    "power -1": lambda A: power(A, -1),
    "function": lambda A: function(A, torch.sin),
    "resolvent": lambda A: resolvent(A, 9.0),
    "eigenvalues": eigenvalues,
    "the largest eigenvalue": lambda A: eigenvalues(A, 1),
    "invariant_subspaces": invariant_subspaces,
}


def held(A: LinearOperator) -> list[Tensor]:
    return [x for x in (*A.parameters(), *A.buffers()) if x.is_floating_point() and x.numel()]


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_function_of_what_is_not_finite_raises(name: str) -> None:
    wrong = []
    for which in range(len(held(STRUCTURES[name]()))):
        for value in (NAN, INF, -INF):
            A = STRUCTURES[name]()
            with torch.no_grad():
                entries = held(A)[which]
                entries[(*[-1] * (entries.dim() - 2), 0, -1)[-entries.dim() :] if entries.dim() else ...] = value
            for what, f in FUNCTIONS.items():
                try:
                    f(A)
                    wrong.append((what, which, value, "no error"))
                except DomainError as error:
                    if "non-finite" not in str(error):
                        wrong.append((what, which, value, str(error)))
                except Exception as error:
                    wrong.append((what, which, value, f"{type(error).__name__}: {error}"))
    assert not wrong, wrong[:5]


@pytest.mark.parametrize("what", FUNCTIONS)
def test_a_multiple_by_what_is_not_finite_has_no_functions(what: str) -> None:
    for value in (NAN, INF):
        with pytest.raises(DomainError):
            FUNCTIONS[what](Scaled(value, LU(n)))


@pytest.mark.parametrize("value", (NAN, INF))
def test_times_and_shifts_that_are_not_finite_raise(value: float) -> None:
    for name in ("Dense", "Diagonal", "c I + U V^T", "RotationScaling", "Convolution"):
        A = STRUCTURES[name]()
        with pytest.raises(DomainError):
            exp(A, value)
        with pytest.raises(DomainError):
            resolvent(A, value)


def test_the_eigenvalues_of_nan_do_not_end_the_process() -> None:
    for held_nan in (
        Dense(torch.full((3, 3), NAN)),
        Dense(torch.eye(3).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(NAN))),
        Dense(torch.full((3, 3), INF, dtype=torch.float64)),
        LowRank(torch.full((9, 2), NAN), torch.ones(9, 2)),
        ScaledIdentityPlusLowRank(1.0, torch.full((9, 2), INF), torch.ones(9, 2)),
    ):
        for f in (eigenvalues, invariant_subspaces, log, sqrt, lambda A: function(A, torch.sin)):
            with pytest.raises(DomainError):
                f(held_nan)


# ------------------------------------------------------------------------------------------------- where values are unseen
UNSEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "pinv": lambda d: pinv(Diagonal(d)).matrix(),
    "inverse": lambda d: inverse(Diagonal(d)).matrix(),
    "norm": lambda d: norm(Diagonal(d)),
    "frobenius": lambda d: norm(Diagonal(d), "frobenius"),
    "cond": lambda d: cond(Diagonal(d)),
    "trace": lambda d: trace(Diagonal(d)),
    "det": lambda d: det(Diagonal(d)),
    "slogdet": lambda d: slogdet(Diagonal(d)).logabs,
    "exp": lambda d: exp(Diagonal(d)).matrix(),
    "log": lambda d: log(Diagonal(d)).matrix(),
    "sqrt": lambda d: sqrt(Diagonal(d)).matrix(),
    "power": lambda d: power(Diagonal(d), 3).matrix(),
    "polar": lambda d: polar(Diagonal(d)).P.matrix(),
    "solve": lambda d: solve(Diagonal(d), torch.ones_like(d)),
    "singular_values": lambda d: singular_values(Diagonal(d)).values,
    "svd": lambda d: svd(Diagonal(d), 1).values,
    "inverse of Dense": lambda d: inverse(Dense(d + torch.eye(2))).matrix(),
    "exp of c I + U V^T": lambda d: exp(ScaledIdentityPlusLowRank(d[0], d[:, None], d[:, None])).matrix(),
    "det of c I + U V^T": lambda d: det(ScaledIdentityPlusLowRank(d[0], d[:, None], d[:, None])),
    "trace of LowRank": lambda d: trace(LowRank(d[:, None], d[:, None])),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_under_vmap_nothing_is_raised_and_the_other_samples_are_right(what: str) -> None:
    samples = torch.tensor([[1.0, 2.0], [NAN, 1.0], [INF, NAN]])
    found = torch.func.vmap(UNSEEN[what])(samples)
    assert torch.allclose(found[0], UNSEEN[what](samples[0]))
    assert not found[1].isfinite().all()


def test_in_a_compiled_graph_nothing_is_raised() -> None:
    names = ("inverse", "norm", "trace", "exp", "power", "frobenius", "det")

    def several(d: Tensor) -> list[Tensor]:
        return [UNSEEN[what](d) for what in names]

    torch.compiler.reset()
    compiled = torch.compile(several, backend="eager", fullgraph=True)
    for found, expected in zip(compiled(torch.tensor([1.0, 2.0])), several(torch.tensor([1.0, 2.0])), strict=True):
        assert torch.allclose(found, expected)
    for what, found in zip(names, compiled(torch.tensor([NAN, 2.0])), strict=True):
        assert not found.isfinite().all(), what
