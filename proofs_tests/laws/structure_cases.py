"""Structures and their matrices, made of the same numbers by the library and by numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor

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
    Permutation,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    Selection,
    SkewExponential,
    identity,
)
from induced.operators.base import Adjoint, Product, Scaled, Sum
from induced.operators.linalg import Inverse
from proofs_tests.registry import convolution_matrix

F32, F64 = torch.float32, torch.float64


Array = np.ndarray[Any, np.dtype[Any]]
Made = tuple[LinearOperator, Array]
Make = Callable[[torch.dtype], Made]
F32, F64 = torch.float32, torch.float64
DTYPES = (F64, F32)


# ------------------------------------------------------------------------------------------------------------ numbers
def N(x: Tensor) -> Array:
    """A tensor as a numpy array in float64, or complex128."""
    found: Array = x.detach().resolve_conj().to(torch.complex128 if x.is_complex() else F64).numpy()
    return found


def drawn(dtype: torch.dtype, *shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(i * n for i, n in enumerate(shape, 1)))
    return (size * torch.randn(*shape, generator=generator, dtype=F64)).to(dtype)


def columns(dtype: torch.dtype, n: int, r: int, seed: int = 0) -> Tensor:
    """Columns of about unit norm."""
    return drawn(dtype, n, r, seed=seed, size=n**-0.5)


def reflections(V: Tensor) -> Array:
    Q = np.eye(V.shape[1])
    for v in N(V):
        Q = Q @ (np.eye(len(v)) - 2 * np.outer(v, v) / (v @ v))
    return Q


def near_identity(dtype: torch.dtype, c: float, n: int = 9, r: int = 2, seed: int = 0) -> Made:
    U, V = columns(dtype, n, r, seed), columns(dtype, n, r, seed + 1)
    return ScaledIdentityPlusLowRank(c, U, V), float(torch.tensor(c, dtype=dtype)) * np.eye(n) + N(U) @ N(V).T


def positive_numbers(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.tensor([1.0, 0.3, 2.0], dtype=dtype), torch.tensor([0.5, -1.2, 0.0], dtype=dtype)


def turning(a: Tensor, b: Tensor) -> Array:
    return scipy.linalg.block_diag(*(np.array([[x, -y], [y, x]]) for x, y in zip(N(a), N(b), strict=True))).reshape(
        2 * len(a), -1
    )


# --------------------------------------------------------------------------------------------------------- structures
def dense(dtype: torch.dtype, m: int, n: int) -> Made:
    A = drawn(dtype, m, n, size=max(m, n, 1) ** -0.5)
    return Dense(A), N(A)


def matrix(M: Array, dtype: torch.dtype) -> Made:
    A = torch.from_numpy(M).to(dtype)
    return Dense(A), N(A)


def rows_in(dtype: torch.dtype, index: list[int], n: int) -> Made:
    return Selection(index, n, dtype=dtype), np.eye(n)[index]


def diagonal(dtype: torch.dtype, *d: float) -> Made:
    held = torch.tensor(d, dtype=dtype)
    return Diagonal(held), np.diag(N(held))


def mask(dtype: torch.dtype, *p: float) -> Made:
    return Projection(torch.tensor(p, dtype=dtype)), np.diag(np.round(p))


def blocks(dtype: torch.dtype, *shapes: tuple[int, int]) -> Made:
    parts = [drawn(dtype, m, n, seed=i, size=max(m, n) ** -0.5) for i, (m, n) in enumerate(shapes)]
    return BlockDiagonal(*parts), scipy.linalg.block_diag(*map(N, parts))


def batch_of_blocks(dtype: torch.dtype, k: int, m: int, n: int) -> Made:
    parts = drawn(dtype, k, m, n, size=max(m, n) ** -0.5)
    M = scipy.linalg.block_diag(*N(parts)) if k else np.zeros((0, 0))
    return BlockDiagonal(parts), M


def mixed_blocks(dtype: torch.dtype) -> Made:
    parts = [near_identity(dtype, 0.8), diagonal(dtype, 1.0, 2.0, 3.0), dense(dtype, 2, 2)]
    return BlockDiagonal(*(A for A, _ in parts)), scipy.linalg.block_diag(*(M for _, M in parts))


def turned_pairs(dtype: torch.dtype) -> Made:
    a, b = positive_numbers(dtype)
    return RotationScaling(a, b), turning(a, b)


def low_rank(dtype: torch.dtype, m: int, n: int, r: int, dependent: bool = False) -> Made:
    U, V = columns(dtype, m, r), columns(dtype, n, r, 1)
    if dependent:
        U, V = torch.cat([U, U[:, :1]], 1), torch.cat([V, V[:, 1:2]], 1)
    return LowRank(U, V), N(U) @ N(V).T


def householder(dtype: torch.dtype, k: int, n: int = 7) -> Made:
    V = drawn(dtype, k, n)
    return Householder(V), reflections(V)


def orthogonal(dtype: torch.dtype, n: int = 5) -> Made:
    Q = torch.linalg.qr(drawn(F64, n, n))[0].to(dtype)
    return Orthogonal(Q), N(Q)


def permutation(dtype: torch.dtype) -> Made:
    order = [3, 0, 4, 1, 2, 6, 5]
    return Permutation(order, dtype=dtype), np.eye(7)[order]


def skew_exponential(dtype: torch.dtype, n: int = 5) -> Made:
    S = drawn(dtype, n, n, size=0.5)
    return SkewExponential(S), scipy.linalg.expm((N(S) - N(S).T) / 2)


def lu(dtype: torch.dtype) -> Made:
    torch.manual_seed(0)
    A = LU(5).to(dtype)
    T, s = N(A.triangles), N(A.log_diagonal)
    L, U = np.tril(T, -1) + np.eye(5), np.triu(T, 1) + np.diag(N(A.sign) * np.exp(s))
    return A, (L @ U)[A.order.numpy()]


def convolution(dtype: torch.dtype, out: int, shape: tuple[int, ...], k: tuple[int, ...], mode: Any = "circular") -> Made:
    K = drawn(dtype, out, shape[0], *k, size=0.4)
    pads = tuple(((n - 1) // 2, n - 1 - (n - 1) // 2) for n in k)
    return Convolution(K, shape, mode=mode), N(convolution_matrix(K.double(), shape, pads, mode))


def blur(dtype: torch.dtype) -> Made:
    """A positive definite circular convolution, whose eigenvalues repeat."""
    K = torch.tensor([[[0.2, 1.0, 0.2]]], dtype=dtype)
    return Convolution(K, (1, 6), mode="circular"), N(convolution_matrix(K.double(), (1, 6), ((1, 1),), "circular"))


def differences(dtype: torch.dtype) -> Made:
    """x[i, j] - x[i - 1, j - 1] on a torus: 0 at frequencies before and behind those that their twins stand for."""
    K = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]], dtype=dtype)
    return Convolution(K, (1, 4, 4), mode="circular"), N(convolution_matrix(K.double(), (1, 4, 4), ((0, 1), (0, 1)), "circular"))


def block_circulant(dtype: torch.dtype) -> Made:
    R = drawn(dtype, 2, 2, 3, 4, size=0.2)  # y[o, p] = sum R[o, i, m] x[i, p - m]
    M = np.zeros((2, 3, 4, 2, 3, 4))
    for o, i, a, b, x, y in np.ndindex(2, 2, 3, 4, 3, 4):
        M[o, (x + a) % 3, (y + b) % 4, i, x, y] += N(R)[o, i, a, b]
    return BlockCirculant.of(R, 2), M.reshape(24, 24)


def scaled(a: float, made: Made) -> Made:
    return Scaled(a, made[0]), a * made[1]


def adjoint(made: Made) -> Made:
    return Adjoint(made[0]), made[1].T


def inverted(made: Made) -> Made:
    return Inverse(made[0]), np.linalg.inv(made[1])


def product(*made: Made) -> Made:
    M = made[0][1]
    for _, X in made[1:]:
        M = M @ X
    return Product(*(A for A, _ in made)), M


def plus(c: float, made: Made) -> Made:
    n, like = len(made[1]), torch.zeros((), dtype=made[0].dtype)
    return made[0] + c * identity(n, like), float(torch.tensor(c, dtype=like.dtype)) * np.eye(n) + made[1]


def number(dtype: torch.dtype, c: float, n: int) -> Made:
    return near_identity(dtype, c, n, 0)


def total(*made: Made) -> Made:
    return Sum(*(A for A, _ in made)), sum(M for _, M in made)  # type: ignore[return-value]


def tall_selection(dtype: torch.dtype) -> Made:
    S, M = rows_in(dtype, [3, 0, 2], 5)
    return S.H @ S, M.T @ M


CASES: dict[str, Make] = {
    "Dense square": lambda t: dense(t, 5, 5),
    "Dense tall": lambda t: dense(t, 7, 3),
    "Dense wide": lambda t: dense(t, 3, 7),
    "Dense very tall": lambda t: dense(t, 60, 2),
    "Dense of side 1": lambda t: matrix(np.array([[2.0]]), t),
    "Dense of rank 2": lambda t: matrix(np.outer([1.0, 2, 3, 4], [1.0, 0, 1, 0]) + np.outer([1.0, 0, 0, 0], [0.0, 1, 0, 2]), t),
    "Dense zero": lambda t: matrix(np.zeros((3, 3)), t),
    "Dense empty": lambda t: matrix(np.zeros((0, 0)), t),
    "Dense without rows": lambda t: matrix(np.zeros((0, 3)), t),
    "Dense, one value": lambda t: matrix(2 * np.eye(4)[[1, 2, 3, 0]], t),
    "Dense symmetric positive": lambda t: matrix(scipy.linalg.hilbert(3) + np.eye(3), t),
    "Diagonal": lambda t: diagonal(t, 3.0, 0.5, 2.0, 1.0),
    "Diagonal negative": lambda t: diagonal(t, 3.0, -0.5, 2.0),
    "Diagonal singular": lambda t: diagonal(t, 3.0, 0.0, 2.0, 0.0),
    "Diagonal repeated": lambda t: diagonal(t, 3.0, 3.0, 3.0, 1.0),
    "Diagonal zero": lambda t: diagonal(t, 0.0, 0.0),
    "Diagonal of side 1": lambda t: diagonal(t, 2.0),
    "Diagonal empty": lambda t: diagonal(t),
    "Projection": lambda t: mask(t, 1.0, 0.2, 0.9, 0.4),
    "Projection to nothing": lambda t: mask(t, 0.2, 0.1),
    "Selection": lambda t: rows_in(t, [3, 0, 2], 5),
    "Selection of all": lambda t: rows_in(t, [1, 2, 0], 3),
    "Selection of none": lambda t: rows_in(t, [], 3),
    "Adjoint(Selection)": lambda t: adjoint(rows_in(t, [3, 0, 2], 5)),
    "Selection.H @ Selection": tall_selection,
    "BlockDiagonal": lambda t: blocks(t, (2, 2), (3, 3), (1, 1)),
    "BlockDiagonal rectangular": lambda t: blocks(t, (2, 3), (3, 2), (1, 1)),
    "BlockDiagonal tall and wide": lambda t: blocks(t, (4, 2), (1, 3)),
    "BlockDiagonal of one": lambda t: blocks(t, (3, 3)),
    "BlockDiagonal of a batch": lambda t: batch_of_blocks(t, 3, 2, 2),
    "BlockDiagonal of a tall batch": lambda t: batch_of_blocks(t, 3, 4, 2),
    "BlockDiagonal of a wide batch": lambda t: batch_of_blocks(t, 3, 2, 4),
    "BlockDiagonal of numbers": lambda t: batch_of_blocks(t, 4, 1, 1),
    "BlockDiagonal of no blocks": lambda t: batch_of_blocks(t, 0, 2, 2),
    "BlockDiagonal of structures": mixed_blocks,
    "RotationScaling": turned_pairs,
    "RotationScaling singular": lambda t: (
        RotationScaling(torch.tensor([0.0, 1.0], dtype=t), torch.tensor([0.0, 1.0], dtype=t)),
        scipy.linalg.block_diag(np.zeros((2, 2)), [[1.0, -1.0], [1.0, 1.0]]),
    ),
    "RotationScaling empty": lambda t: (RotationScaling(torch.zeros(0, dtype=t), torch.zeros(0, dtype=t)), np.zeros((0, 0))),
    "LowRank": lambda t: low_rank(t, 8, 8, 2),
    "LowRank tall": lambda t: low_rank(t, 9, 6, 2),
    "LowRank wide": lambda t: low_rank(t, 6, 9, 2),
    "LowRank dependent": lambda t: low_rank(t, 8, 8, 2, dependent=True),
    "LowRank of rank 0": lambda t: low_rank(t, 6, 6, 0),
    "LowRank of more columns": lambda t: low_rank(t, 3, 3, 5),
    "c I + U V^T": lambda t: near_identity(t, 1.5),
    "c I + U V^T, c < 0": lambda t: near_identity(t, -1.5),
    "c I + U V^T, c = 0": lambda t: near_identity(t, 0.0),
    "c I + U V^T, many columns": lambda t: near_identity(t, 1.5, 5, 3),
    "c I": lambda t: near_identity(t, 2.0, 6, 0),
    "c I of side 1": lambda t: near_identity(t, 2.0, 1, 0),
    "Householder 1": lambda t: householder(t, 1),
    "Householder 2": lambda t: householder(t, 2),
    "Orthogonal": orthogonal,
    "Permutation": permutation,
    "SkewExponential": skew_exponential,
    "LU": lu,
    "Convolution 1-D even": lambda t: convolution(t, 2, (2, 6), (3,)),
    "Convolution 1-D odd": lambda t: convolution(t, 2, (2, 5), (2,)),
    "Convolution 2-D": lambda t: convolution(t, 1, (1, 4, 3), (3, 2)),
    "Convolution 2-D even": lambda t: convolution(t, 2, (2, 4, 2), (3, 1)),
    "Convolution 2-D, differences": differences,
    "Convolution to more channels": lambda t: convolution(t, 3, (2, 5), (3,)),
    "Convolution to fewer channels": lambda t: convolution(t, 1, (2, 4), (3,)),
    "Convolution, blur": blur,
    "Convolution zero-padded": lambda t: convolution(t, 1, (1, 6), (3,), "zeros"),
    "BlockCirculant": block_circulant,
    "Scaled(Householder)": lambda t: scaled(2.5, householder(t, 2)),
    "Scaled(LU) < 0": lambda t: scaled(-0.5, lu(t)),
    "Scaled(Diagonal singular)": lambda t: scaled(-2.0, diagonal(t, 3.0, 0.0, 2.0)),
    "Scaled by 0": lambda t: scaled(0.0, householder(t, 2)),
    "Adjoint(LU)": lambda t: adjoint(lu(t)),
    "Adjoint(Householder)": lambda t: adjoint(householder(t, 2)),
    "Adjoint(c I + U V^T)": lambda t: adjoint(near_identity(t, 1.5)),
    "Inverse(c I + U V^T)": lambda t: inverted(near_identity(t, 1.5)),
    "Inverse(LU)": lambda t: inverted(lu(t)),
    "Householder @ (c I + U V^T)": lambda t: product(householder(t, 2), near_identity(t, 1.5, 7)),
    "(c I + U V^T) @ Permutation": lambda t: product(near_identity(t, -1.5, 7), permutation(t)),
    "Householder @ (c I + U V^T) @ Permutation": lambda t: product(householder(t, 1), near_identity(t, 1.5, 7), permutation(t)),
    "Householder @ Diagonal @ Permutation": lambda t: product(
        householder(t, 1), diagonal(t, 1.0, 0.0, 2.0, 1.0, 3.0, 4.0, 5.0), permutation(t)
    ),
    "Householder @ BlockDiagonal @ Permutation": lambda t: product(
        householder(t, 1), blocks(t, (2, 2), (3, 3), (2, 2)), permutation(t)
    ),
    "Householder @ Convolution": lambda t: product(householder(t, 2, 6), convolution(t, 1, (1, 6), (3,))),
    "Householder @ LowRank": lambda t: product(householder(t, 2, 8), low_rank(t, 8, 6, 2)),
    "Householder @ Permutation @ (c I + U V^T)": lambda t: product(householder(t, 1), permutation(t), near_identity(t, 1.5, 7)),
    "(c I + U V^T) @ Permutation @ Householder": lambda t: product(near_identity(t, 1.5, 7), permutation(t), householder(t, 2)),
    "Permutation @ Householder @ BlockDiagonal @ Permutation @ Householder": lambda t: product(
        permutation(t), householder(t, 1), blocks(t, (2, 2), (5, 5)), permutation(t), householder(t, 2)
    ),
    "Householder @ wide @ tall @ Householder": lambda t: product(
        householder(t, 1, 3), dense(t, 3, 8), dense(t, 8, 3), householder(t, 2, 3)
    ),
    "Permutation @ Householder": lambda t: product(permutation(t), householder(t, 2)),
    "Diagonal @ (c I + U V^T)": lambda t: product(diagonal(t, *range(1, 10)), near_identity(t, 1.5)),
    "c I + Householder": lambda t: plus(1.5, householder(t, 1)),
    "c I + Permutation": lambda t: plus(1.5, permutation(t)),
    "c I + BlockDiagonal": lambda t: plus(1.5, blocks(t, (2, 2), (3, 3))),
    "c I + Convolution": lambda t: plus(1.5, convolution(t, 1, (1, 6), (3,))),
    "c I + RotationScaling": lambda t: plus(0.5, turned_pairs(t)),
    "c I + LU": lambda t: plus(1.5, lu(t)),
    "c I + Dense + Householder": lambda t: total(number(t, 1.5, 7), dense(t, 7, 7), householder(t, 1)),
    "Dense + c I": lambda t: total(dense(t, 7, 7), number(t, 1.5, 7)),
    "c I + Product": lambda t: plus(2.0, product(householder(t, 2), near_identity(t, 1.5, 7))),
}
