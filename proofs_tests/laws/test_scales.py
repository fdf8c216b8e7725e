"""Functions of operators at every scale that the dtype holds: the matrix is s times one of size 1, whose functions are known.

Squares of the entries leave the range long before the entries do. What is not representable raises DomainError and says that it
overflows; everything else is right. Oracles: numpy and scipy in float64 at scale 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from induced.errors import DomainError, InducedError
from induced.operators import (
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    LinearOperator,
    LowRank,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    cond,
    det,
    eigenvalues,
    exp,
    function,
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
from induced.operators.base import Scaled
from induced.operators.spectral import invariant_subspaces

Array = np.ndarray[Any, np.dtype[Any]]
F32, F64 = torch.float32, torch.float64
SCALES = [(F64, s) for s in (1e-200, 1e-160, 1e-30, 1e30, 1e160, 1e200)] + [
    (F32, s) for s in (1e-30, 1e-22, 1e-15, 1e15, 1e22, 1e30)
]
n, r = 6, 2


def N(x: Tensor) -> Array:
    found: Array = x.detach().to(torch.complex128 if x.is_complex() else F64).numpy()
    return found


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


D0, U0, V0 = drawn(n, n), drawn(n, r, seed=1), drawn(n, r, seed=2)
P0 = D0 @ D0.mT / n + torch.eye(n, dtype=F64)  # positive definite
Q0 = P0 + 0.3 * torch.eye(n, dtype=F64)[[1, *range(1, n)]] @ torch.diag(torch.eye(n, dtype=F64)[1])  # not symmetric


def both(X: Tensor, s: float, dtype: torch.dtype) -> Tensor:
    """s X in the dtype."""
    return (X * s).to(dtype)


Made = tuple[LinearOperator, Array]


def dense(s: float, t: torch.dtype) -> Made:
    return Dense(both(D0, s, t)), N(D0)


def positive(s: float, t: torch.dtype) -> Made:
    return Dense(both(P0, s, t)), N(P0)


def skewed(s: float, t: torch.dtype) -> Made:
    return Dense(both(Q0, s, t)), N(Q0)


def low_rank(s: float, t: torch.dtype, u: float = 0.5) -> Made:
    return LowRank(both(U0, s**u, t), both(V0, s ** (1 - u), t)), N(U0 @ V0.mT)


def near_identity(s: float, t: torch.dtype, u: float = 0.5) -> Made:
    A = ScaledIdentityPlusLowRank(torch.tensor(0.7 * s, dtype=t), both(U0, s**u, t), both(V0, s ** (1 - u), t))
    return A, 0.7 * np.eye(n) + N(U0 @ V0.mT)


def positive_identity(s: float, t: torch.dtype, u: float = 0.5) -> Made:
    A = ScaledIdentityPlusLowRank(torch.tensor(0.7 * s, dtype=t), both(U0, s**u, t), both(U0, s ** (1 - u), t))
    return A, 0.7 * np.eye(n) + N(U0 @ U0.mT)


def diagonal(s: float, t: torch.dtype) -> Made:
    d = torch.linspace(0.5, 2, n, dtype=F64)
    return Diagonal(both(d, s, t)), np.diag(N(d))


def turning(s: float, t: torch.dtype) -> Made:
    a, b = torch.tensor([1.0, 0.5], dtype=F64), torch.tensor([0.3, -2.0], dtype=F64)
    return RotationScaling(both(a, s, t), both(b, s, t)), scipy.linalg.block_diag([[1, -0.3], [0.3, 1]], [[0.5, 2], [-2, 0.5]])


def blocks(s: float, t: torch.dtype) -> Made:
    return BlockDiagonal(both(P0, s, t), both(Q0, s, t)), scipy.linalg.block_diag(N(P0), N(Q0))


def blur(s: float, t: torch.dtype) -> Made:
    K = torch.tensor([[[0.2, 1.0, 0.1]]], dtype=F64)
    M = np.eye(n) + 0.2 * np.eye(n)[[n - 1, *range(n - 1)]] + 0.1 * np.eye(n)[[*range(1, n), 0]]
    return Convolution(both(K, s, t), (1, n), mode="circular"), M


STRUCTURES: dict[str, Callable[[float, torch.dtype], Made]] = {
    "Dense": dense,
    "Dense positive": positive,
    "Dense skewed": skewed,
    "LowRank": low_rank,
    "LowRank, scaled U": lambda s, t: low_rank(s, t, 1.0),
    "c I + U V^T": near_identity,
    "c I + U V^T, scaled U": lambda s, t: near_identity(s, t, 1.0),
    "c I + U U^T": positive_identity,
    "c I + U U^T, scaled U": lambda s, t: positive_identity(s, t, 1.0),
    "Diagonal": diagonal,
    "RotationScaling": turning,
    "BlockDiagonal": blocks,
    "Convolution": blur,
    "Scaled": lambda s, t: (Scaled(torch.tensor(s, dtype=t), dense(1.0, t)[0]), N(D0)),
}


# ------------------------------------------------------------------------------------------------------------ functions
def sigma(M: Array) -> Array:
    return np.linalg.svd(M, compute_uv=False)


def full(M: Array) -> bool:
    return bool(sigma(M)[-1] > 1e-9)


def off_the_cut(M: Array) -> bool:
    w = np.linalg.eigvals(M)
    return full(M) and bool(((abs(w.imag) > 1e-9) | (w.real > 0)).all())


def moduli(w: Array) -> Array:
    return np.sort(abs(w))


def real(f: Callable[[Array], Any]) -> Callable[[Array], Array]:
    return lambda M: np.real(f(M))


# the function, divided by its power of s; the same of the matrix at scale 1; where it is asked
Row = tuple[Callable[[LinearOperator, float], Any], Callable[[Array], Any], Callable[[Array], bool]]
anywhere: Callable[[Array], bool] = lambda M: True  # noqa: E731
ROWS: dict[str, Row] = {
    "svd": (lambda A, s: N(svd(A).values) / s, sigma, anywhere),
    "svd vectors": (lambda A, s: N(svd(A).U * (svd(A).values / s)) @ N(svd(A).V).T, lambda M: M, anywhere),
    "singular_values": (
        lambda A, s: np.sort(N(singular_values(A).values.repeat_interleave(singular_values(A).times)))[::-1] / s,
        sigma,
        anywhere,
    ),
    "rank": (lambda A, s: rank(A), lambda M: (sigma(M) > 1e-9).sum(), anywhere),
    "kernel": (lambda A, s: kernel(A).shape[1], lambda M: (sigma(M) < 1e-9).sum(), anywhere),
    "image": (lambda A, s: image(A).shape[1], lambda M: (sigma(M) > 1e-9).sum(), anywhere),
    "norm": (lambda A, s: N(norm(A)) / s, lambda M: sigma(M)[0], anywhere),
    "frobenius": (lambda A, s: N(norm(A, "frobenius")) / s, np.linalg.norm, anywhere),
    "nuclear": (lambda A, s: N(norm(A, "nuclear")) / s, lambda M: sigma(M).sum(), anywhere),
    "cond": (lambda A, s: N(cond(A)), np.linalg.cond, full),
    "pinv": (lambda A, s: N(pinv(A).matrix()) * s, lambda M: np.linalg.pinv(M, rcond=1e-9), anywhere),
    "inverse": (lambda A, s: N(inverse(A).matrix()) * s, np.linalg.inv, full),
    "power -1": (lambda A, s: N(power(A, -1).matrix()) * s, np.linalg.inv, full),
    "solve": (
        lambda A, s: N(solve(A, A(torch.ones(A.shape[1], dtype=A.dtype)))),
        lambda M: (np.linalg.pinv(M, rcond=1e-9) @ M).sum(1),
        anywhere,
    ),
    "trace": (lambda A, s: N(trace(A)) / s, np.trace, anywhere),
    "slogdet": (lambda A, s: N(slogdet(A).logabs) - A.shape[0] * np.log(s), lambda M: np.linalg.slogdet(M)[1], full),
    "eigenvalues": (lambda A, s: moduli(N(eigenvalues(A))) / s, lambda M: moduli(np.linalg.eigvals(M)), anywhere),
    "invariant_subspaces": (lambda A, s: sum(p.basis.shape[1] for p in invariant_subspaces(A)), len, anywhere),
    "polar Q": (lambda A, s: N(polar(A).Q.matrix()), lambda M: scipy.linalg.polar(M)[0], full),
    "polar P": (lambda A, s: N(polar(A).P.matrix()) / s, lambda M: scipy.linalg.polar(M)[1], anywhere),
    "sqrt": (lambda A, s: N(sqrt(A).matrix()) / s**0.5, real(scipy.linalg.sqrtm), off_the_cut),
    "log": (lambda A, s: N(log(A).matrix()) - np.log(s) * np.eye(A.shape[0]), real(scipy.linalg.logm), off_the_cut),
    "power 1/3": (
        lambda A, s: N(power(A, 1 / 3).matrix()) / s ** (1 / 3),
        real(lambda M: scipy.linalg.fractional_matrix_power(M, 1 / 3)),
        off_the_cut,
    ),
    "power -1/2": (
        lambda A, s: N(power(A, -0.5).matrix()) * s**0.5,
        real(lambda M: np.linalg.inv(scipy.linalg.sqrtm(M))),
        off_the_cut,
    ),
    "function": (
        lambda A, s: N(function(A, lambda z: z ** (1 / 3)).matrix()) / s ** (1 / 3),
        real(lambda M: scipy.linalg.fractional_matrix_power(M, 1 / 3)),
        off_the_cut,
    ),
    "resolvent": (
        lambda A, s: N(resolvent(A, 50 * s).matrix()) * s,
        lambda M: np.linalg.inv(50 * np.eye(len(M)) - M),
        anywhere,
    ),
}


def cases() -> list[Any]:
    return [
        pytest.param(
            name,
            what,
            id=f"{what} of {name}",
        )
        for name, make in STRUCTURES.items()
        for what, row in ROWS.items()
        if row[2](make(1.0, F64)[1])
    ]


@pytest.mark.parametrize(("name", "what"), cases())
def test_a_function_is_right_at_every_scale(name: str, what: str) -> None:
    found_of, expected_of, _ = ROWS[what]
    wrong: list[tuple[str, float, str]] = []
    for dtype, s in SCALES:
        A, M = STRUCTURES[name](s, dtype)
        expected = np.asarray(expected_of(M), dtype=float)
        try:
            error = float(abs(found_of(A, s) - expected).max() / (abs(expected).max() or 1.0))
        except (InducedError, RuntimeError, RuntimeWarning) as raised:
            wrong.append((str(dtype)[6:], s, f"{type(raised).__name__}: {str(raised)[:60]}"))
            continue
        if not error <= (1e-9 if dtype == F64 else 1e-3):
            wrong.append((str(dtype)[6:], s, f"{error:.2g}"))
    assert not wrong, wrong


# ------------------------------------------------------------------------------------------------- what is not representable
@pytest.mark.parametrize(("dtype", "s"), ((F64, 1e160), (F64, 1e200), (F32, 1e22), (F32, 1e30)))
@pytest.mark.parametrize("name", [name for name in STRUCTURES if "LowRank" not in name])
def test_a_determinant_that_overflows_raises_and_names_slogdet(name: str, dtype: torch.dtype, s: float) -> None:
    with pytest.raises(DomainError, match=r"overflows.*slogdet"):
        det(STRUCTURES[name](s, dtype)[0])


@pytest.mark.parametrize("name", ("Dense", "c I + U V^T", "Diagonal", "RotationScaling", "BlockDiagonal", "Convolution"))
def test_an_exponential_that_overflows_raises(name: str) -> None:
    for dtype, s in ((F64, 1e30), (F64, 1e4), (F32, 1e15), (F32, 1e3)):
        A, _ = STRUCTURES[name](s, dtype)
        with pytest.raises(DomainError, match=r"overflows"):
            exp(A)


@pytest.mark.parametrize(("dtype", "s"), ((F64, 1.2e308), (F32, 3e38)))
def test_a_norm_that_overflows_raises(dtype: torch.dtype, s: float) -> None:
    for A in (Diagonal(torch.full((4,), s, dtype=dtype)), Dense(torch.diag(torch.full((4,), s, dtype=dtype)))):
        for kind in ("frobenius", "nuclear"):
            with pytest.raises(DomainError, match=r"overflows"):
                norm(A, kind)
        with pytest.raises(DomainError, match=r"overflows"):
            trace(A)
