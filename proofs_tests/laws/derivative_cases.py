"""Operators as functions of their tensors, functions of operators, and derivatives by differences in many digits."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from induced.operators import (
    BlockDiagonal,
    Householder,
    LinearOperator,
    LowRank,
    ScaledIdentityPlusLowRank,
    cond,
    det,
    eigenvalues,
    exp,
    function,
    identity,
    inverse,
    log,
    norm,
    pinv,
    polar,
    resolvent,
    singular_values,
    slogdet,
    solve,
    sqrt,
    svd,
    trace,
)
from induced.operators.base import Adjoint, Product, Scaled

Leaves = tuple[Tensor, ...]
Array = Any
N, R = 7, 2


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.as_tensor(0.3 * np.random.default_rng(100 * sum(shape) + seed).standard_normal(shape))


NUMBER, U, V, W, SHORT = torch.tensor(2.2).double(), drawn(N, R), drawn(N, R, seed=1), drawn(R, N), drawn(5, R)


# ------------------------------------------------------------------------------------------------------------ structures
class Structure(NamedTuple):
    """An operator and its matrix of the same parameters.

    Attributes:
        regular: whether it has an inverse.
        roots: whether it has a real logarithm and root.
        leading: whether its largest singular value is simple.
        number: whether it is c I at these parameters: its largest singular value has no derivative.
    """

    make: Callable[..., LinearOperator]
    matrix: Callable[..., Tensor]
    leaves: Leaves
    regular: bool = True
    roots: bool = True
    leading: bool = True
    number: bool = False


def eye(n: int = N) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def reflections(X: Tensor) -> Tensor:
    Q = eye(X.shape[1])
    for x in X:
        Q = Q @ (eye(X.shape[1]) - 2 * torch.outer(x, x) / (x @ x))
    return Q


def twice(X: Tensor) -> Tensor:
    """The columns X, and a dependent one."""
    return torch.cat([X, (X[:, :1] - X[:, 1:2]) / 2], 1)


def shifted(c: Tensor, X: Tensor, Y: Tensor) -> ScaledIdentityPlusLowRank:
    return ScaledIdentityPlusLowRank(c, X, Y)


def several(c: Tensor, X: Tensor, Y: Tensor, Z: Tensor) -> LinearOperator:
    return BlockDiagonal(shifted(c, X, Y), exp(Householder(Z), 0.3))


def several_matrix(c: Tensor, X: Tensor, Y: Tensor, Z: Tensor) -> Tensor:
    return torch.block_diag(c * eye() + X @ Y.mT, torch.linalg.matrix_exp(0.3 * reflections(Z)))


def mixed(c: Tensor, X: Tensor, Y: Tensor, Z: Tensor) -> LinearOperator:
    return BlockDiagonal(LowRank(X, Y), Householder(Z), shifted(c, Y, X))


def mixed_matrix(c: Tensor, X: Tensor, Y: Tensor, Z: Tensor) -> Tensor:
    return torch.block_diag(X @ Y.mT, reflections(Z), c * eye() + Y @ X.mT)


ALL = (NUMBER, U, V, W)
STRUCTURES = {
    "U V^T": Structure(LowRank, lambda X, Y: X @ Y.mT, (U, V), False, False),
    "U V^T, U trains": Structure(lambda X: LowRank(X, V), lambda X: X @ V.mT, (U,), False, False),
    "U U^T": Structure(lambda X: LowRank(X, X), lambda X: X @ X.mT, (U,), False, False),
    "U V^T, wide": Structure(LowRank, lambda X, Y: X @ Y.mT, (SHORT, V), False, False),
    "U V^T, dependent": Structure(
        lambda X, Y: LowRank(twice(X), twice(Y)), lambda X, Y: twice(X) @ twice(Y).mT, (U, V), False, False
    ),
    "c I + U V^T": Structure(shifted, lambda c, X, Y: c * eye() + X @ Y.mT, ALL[:3]),
    "c I + U V^T, V trains": Structure(lambda Y: shifted(NUMBER, U, Y), lambda Y: NUMBER * eye() + U @ Y.mT, (V,)),
    "c I + U U^T": Structure(lambda c, X: shifted(c, X, X), lambda c, X: c * eye() + X @ X.mT, ALL[:2]),
    "c I + U V^T, dependent": Structure(
        lambda c, X, Y: shifted(c, twice(X), twice(Y)), lambda c, X, Y: c * eye() + twice(X) @ twice(Y).mT, ALL[:3]
    ),
    "c I + U V^T at V = U": Structure(shifted, lambda c, X, Y: c * eye() + X @ Y.mT, (NUMBER, U, U.clone())),
    "c I + U V^T at V = 0": Structure(
        shifted, lambda c, X, Y: c * eye() + X @ Y.mT, (NUMBER, U, 0 * U), leading=False, number=True
    ),
    "Householder": Structure(Householder, reflections, (W,), roots=False, leading=False),
    "exp(Householder)": Structure(
        lambda Z: exp(Householder(Z), 0.3), lambda Z: torch.linalg.matrix_exp(0.3 * reflections(Z)), (W,), leading=False
    ),
    "direct sum": Structure(several, several_matrix, ALL),
    "direct sum, singular": Structure(mixed, mixed_matrix, ALL, False, False),
    "Scaled": Structure(
        lambda a, *parts: Scaled(a, several(*parts)), lambda a, *parts: a * several_matrix(*parts), (NUMBER / 2, *ALL)
    ),
    "Adjoint": Structure(lambda *parts: Adjoint(several(*parts)), lambda *parts: several_matrix(*parts).mT, ALL),
    "Q A": Structure(
        lambda c, X, Y, Z: Product(Householder(Z), shifted(c, X, Y)),
        lambda c, X, Y, Z: reflections(Z) @ (c * eye() + X @ Y.mT),
        ALL,
        roots=False,
    ),
    "A Q": Structure(
        lambda c, X, Y, Z: Product(shifted(c, X, Y), Householder(Z)),
        lambda c, X, Y, Z: (c * eye() + X @ Y.mT) @ reflections(Z),
        ALL,
        roots=False,
    ),
    "Q U V^T": Structure(
        lambda X, Y, Z: Product(Householder(Z), LowRank(X, Y)), lambda X, Y, Z: reflections(Z) @ X @ Y.mT, ALL[1:], False, False
    ),
    "c I + direct sum": Structure(
        lambda a, *parts: identity(2 * N, a) * a + several(*parts),
        lambda a, *parts: a * eye(2 * N) + several_matrix(*parts),
        (NUMBER / 4, *ALL),
    ),
}


# ------------------------------------------------------------------------------------------------------------- functions
class Function(NamedTuple):
    """A number made of an operator, and of its matrix in numpy."""

    of: Callable[[LinearOperator], Tensor]
    oracle: Callable[[Array], float]
    applies: Callable[[Structure], bool] = lambda structure: True


def weights(*shape: int) -> Tensor:
    return drawn(*shape, seed=7)


def weighed(X: Array) -> float:
    return float((X * weights(*X.shape).numpy()).sum())


def entries(f: Callable[[LinearOperator], LinearOperator]) -> Callable[[LinearOperator], Tensor]:
    """A weighed sum of the entries of an operator."""

    def total(A: LinearOperator) -> Tensor:
        X = f(A).matrix()
        return (X * weights(*X.shape)).sum()

    return total


def of_values(A: LinearOperator) -> Tensor:
    values, times, _ = singular_values(A)
    return (times * values**3).sum()


def of_triplets(A: LinearOperator) -> Tensor:
    """The best approximation of rank 1: its vectors have every sign, and leave span[U V] as U and V move."""
    u, s, v = svd(A, 1)
    X = u * s.sqrt() @ v.mT
    return (X * weights(*X.shape)).sum()


def triplets(M: Array) -> float:
    u, s, vh = np.linalg.svd(M)
    return weighed(s[0] ** 0.5 * np.outer(u[:, 0], vh[0]))


def factors(M: Array) -> tuple[Array, Array]:
    u, s, vh = np.linalg.svd(M, full_matrices=False)
    kept = s > 1e-9 * s[0]
    return u[:, kept] @ vh[kept], (vh.T * s) @ vh


def square(structure: Structure) -> bool:
    return structure.matrix(*structure.leaves).shape[0] == structure.matrix(*structure.leaves).shape[1]


def regular(structure: Structure) -> bool:
    return structure.regular


def extreme(structure: Structure) -> bool:
    return not structure.number


def roots(structure: Structure) -> bool:
    return structure.roots


def right(A: LinearOperator) -> Tensor:
    return weights(A.shape[0])


FUNCTIONS = {
    "spectral norm": Function(lambda A: norm(A), lambda M: float(np.linalg.norm(M, 2)), extreme),
    "Frobenius norm": Function(lambda A: norm(A, "frobenius"), lambda M: float(np.linalg.norm(M))),
    "nuclear norm": Function(lambda A: norm(A, "nuclear"), lambda M: float(np.linalg.norm(M, "nuc"))),
    "condition": Function(cond, lambda M: float(np.linalg.cond(M)), lambda A: A.regular and not A.number),
    "singular values": Function(of_values, lambda M: float((np.linalg.svd(M)[1] ** 3).sum())),
    "svd values": Function(lambda A: svd(A, 1).values[0] ** 2, lambda M: float(np.linalg.norm(M, 2) ** 2), extreme),
    "svd vectors": Function(of_triplets, triplets, lambda structure: structure.leading),
    "trace": Function(lambda A: trace(A), np.trace, square),
    "determinant": Function(det, np.linalg.det, square),
    "log |det|": Function(lambda A: slogdet(A).logabs, lambda M: float(np.linalg.slogdet(M)[1]), regular),
    "eigenvalues": Function(lambda A: eigenvalues(A).exp().sum().real, lambda M: np.trace(scipy.linalg.expm(M)), square),
    "pinv": Function(entries(pinv), lambda M: weighed(np.linalg.pinv(M, rcond=1e-9))),
    "inverse": Function(entries(inverse), lambda M: weighed(np.linalg.inv(M)), regular),
    "polar Q": Function(entries(lambda A: polar(A).Q), lambda M: weighed(factors(M)[0])),
    "polar P": Function(entries(lambda A: polar(A).P), lambda M: weighed(factors(M)[1])),
    "exp": Function(entries(exp), lambda M: weighed(scipy.linalg.expm(M)), square),
    "log": Function(entries(log), lambda M: weighed(scipy.linalg.logm(M)), roots),
    "sqrt": Function(entries(sqrt), lambda M: weighed(scipy.linalg.sqrtm(M)), roots),
    "A^3": Function(entries(lambda A: A**3), lambda M: weighed(M @ M @ M), square),
    "resolvent": Function(entries(lambda A: resolvent(A, 9.0)), lambda M: weighed(np.linalg.inv(9 * np.eye(len(M)) - M)), square),
    "sin": Function(entries(lambda A: function(A, torch.sin)), lambda M: weighed(scipy.linalg.sinm(M)), square),
    "solve": Function(
        lambda A: (solve(A, right(A)) * weights(A.shape[1], 1)[:, 0]).sum(),
        lambda M: float((np.linalg.pinv(M, rcond=1e-9) @ weights(M.shape[0]).numpy()) @ weights(M.shape[1], 1)[:, 0].numpy()),
    ),
}
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
FEW = (
    "U V^T",
    "c I + U V^T",
    "c I + U V^T, V trains",
    "c I + U V^T at V = U",
    "c I + U V^T at V = 0",
    "Householder",
    "direct sum",
    "Adjoint",
)
"""The structures of the slower tests in `make test`; all of them in `make thorough`."""
VALUES = {"spectral norm", "nuclear norm", "condition", "singular values", "svd values"}
DEPENDENT = {"U V^T, dependent", "c I + U V^T, dependent", "c I + U V^T at V = U", "c I + U V^T at V = 0"}
REPEATED = {"exp(Householder)", "direct sum", "Scaled", "Adjoint", "c I + direct sum"}
"""Structures of which a block has singular values that repeat, or columns that depend on one another."""


def refused(which: str, name: str) -> str | None:
    """How an error starts that may stand for a second derivative."""
    if name == "eigenvalues" and which in {"c I + U V^T at V = 0", "direct sum, singular", "A Q", *REPEATED}:
        return "eigenvalues have no derivative"
    if which in DEPENDENT and name in {"Frobenius norm", "svd vectors", *VALUES}:
        return "second derivatives of singular values"
    return "singular vectors have no derivative" if which in REPEATED and name in {"svd vectors", *VALUES} else None


def pairs(names: Iterable[str] = STRUCTURES) -> list[tuple[str, str]]:
    return [(which, name) for which in names for name, f in FUNCTIONS.items() if f.applies(STRUCTURES[which])]


def named(*cells: tuple[str, ...]) -> list[Any]:
    return [pytest.param(*cell, id=" of ".join(cell[::-1])) for cell in cells]


# --------------------------------------------------------------------------------------------------------------- oracles
def moved(leaves: Leaves, t: float) -> Leaves:
    return tuple(leaf + t * step for leaf, step in zip(leaves, steps(leaves), strict=True))


def steps(leaves: Leaves) -> Leaves:
    return tuple(drawn(*leaf.shape, seed=20 + i) for i, leaf in enumerate(leaves))


def along(gradients: Sequence[Tensor | None], leaves: Leaves) -> Tensor:
    parts = [(g * step).sum() for g, step in zip(gradients, steps(leaves), strict=True) if g is not None]
    return sum(parts, torch.zeros((), dtype=torch.float64))


def values_of(structure: Structure, f: Function, h: float) -> list[float]:
    """f at -2h, -h, 0, h, 2h along the direction."""
    return [float(f.oracle(structure.matrix(*moved(structure.leaves, k * h)).numpy())) for k in (-2, -1, 0, 1, 2)]


def first(structure: Structure, f: Function, h: float = 1e-3) -> float:
    a, b, _, d, e = values_of(structure, f, h)
    return (a - 8 * b + 8 * d - e) / (12 * h)


def second(structure: Structure, f: Function, h: float = 5e-3) -> float:
    a, b, c, d, e = values_of(structure, f, h)
    return (-a + 16 * b - 30 * c + 16 * d - e) / (12 * h * h)


def near(found: Tensor | float, expected: float, rtol: float) -> bool:
    return abs(float(found) - expected) <= rtol * (1 + abs(expected))


def tracking(leaves: Leaves) -> Leaves:
    return tuple(leaf.clone().requires_grad_() for leaf in leaves)
