"""Every structure is its reduction, and every function of it is that of its matrix. Oracles: numpy and scipy in float64."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product as product_of
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from induced.errors import DomainError, ShapeError, SingularOperator
from induced.operators import (
    LU,
    BlockCirculant,
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    Householder,
    Inverse,
    LinearOperator,
    LowRank,
    Orthogonal,
    Permutation,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    Selection,
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
from induced.operators.base import Adjoint, Product, Scaled, Sum
from induced.operators.blocks import DirectSum
from induced.operators.reduction import Frame, Reduction
from induced.operators.rules import per_sample
from proofs_tests.registry import convolution_matrix

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


# ------------------------------------------------------------------------------------------------------------- oracles
def scale(M: Array) -> float:
    return float(np.linalg.norm(M, 2)) if M.size else 0.0


def values_of(M: Array) -> Array:
    return np.linalg.svd(M, compute_uv=False) if M.size else np.zeros(min(M.shape))


def count_of(M: Array) -> int:
    """The rank: no case has a singular value between rounding and 0.005."""
    s = values_of(M)
    assert not ((s > 1e-6) & (s < 0.005)).any()
    return int((s > 1e-6).sum())


def condition(M: Array) -> float:
    s = values_of(M)[: count_of(M)]
    return float(s[0] / s[-1]) if len(s) else 1.0


def pinv_of(M: Array) -> Array:
    return np.linalg.pinv(M, rcond=1e-5) if M.size else M.T


def close(found: Tensor, expected: Array | float, eps: float, factor: float = 1.0) -> None:
    """At most 50 eps * factor, relative to the 2-norm of what is expected and at least 1."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape, f"{tuple(found.shape)}, expected {expected.shape}"
    error = float(np.linalg.norm(N(found) - expected))
    bound = 50 * eps * factor * max(1.0, float(np.linalg.norm(expected)))
    assert error <= bound, f"off by {error:.2g}, rounding explains {bound:.2g}"


def regular(M: Array) -> bool:
    return M.shape[0] == M.shape[1] and count_of(M) == len(M)


def off_the_cut(M: Array) -> bool:
    """Whether every eigenvalue is away from (-inf, 0]."""
    w = np.linalg.eigvals(M) if M.size else np.ones(1)
    return bool(((abs(w.imag) > 1e-3) | (w.real > 1e-3)).all())


def of_matrix(f: Callable[[Array], Any], M: Array) -> Array:
    return np.real(np.asarray(f(M))).reshape(M.shape) if M.size else M


def series(M: Array, odd: bool) -> Array:
    """exp(M), or sin(M), by its Taylor series in long double: scipy's loses 200 eps on a direct sum."""
    halvings = 0 if odd else 8
    X = M.astype(np.longdouble) / 2**halvings
    term = X if odd else np.eye(len(M), dtype=np.longdouble)
    total = term
    for k in range(1, 40):
        term = -term @ X @ X / ((2 * k) * (2 * k + 1)) if odd else term @ X / k
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total.astype(float)


def sensitivity(M: Array) -> float:
    """Of functions with a cut at 0: by the eigenvectors, the condition, and how near a pair is to meet across the cut."""
    if not M.size:
        return 1.0
    w, X = np.linalg.eig(M)
    gap = min([1.0, *(abs(v.imag) / abs(v) for v in w if v.real < -1e-6)])
    return float(np.linalg.cond(X)) ** 2 * condition(M) / gap


Check = Callable[[LinearOperator, Array, float], None]
SQUARE: set[str] = set()


def check_action(A: LinearOperator, M: Array, eps: float) -> None:
    assert A.dtype is not None and A.shape == M.shape
    z, w = (np.sin(np.arange(2.0 * n)).reshape(2, n) for n in reversed(M.shape))
    close(A.matrix(), M, eps)
    close(A(torch.from_numpy(z).to(A.dtype)), z @ M.T, eps, max(1.0, scale(M)))
    for apply in (A.apply_adjoint, A.H):
        close(apply(torch.from_numpy(w).to(A.dtype)), w @ M, eps, max(1.0, scale(M)))


def check_svd(A: LinearOperator, M: Array, eps: float) -> None:
    s = values_of(M)
    for k in range(min(M.shape) + 1):
        U, values, V = svd(A, k)
        assert U.shape == (M.shape[0], k) and V.shape == (M.shape[1], k)
        close(values, s[:k], eps)
        close(U.mT @ U, np.eye(k), eps)
        close(V.mT @ V, np.eye(k), eps)
        close(U * values, M @ N(V), eps)
        close(V * values, M.T @ N(U), eps)


def check_singular_values(A: LinearOperator, M: Array, eps: float) -> None:
    found = singular_values(A)
    close(found.values.repeat_interleave(found.times).sort(descending=True).values, values_of(M), eps)


def check_gradient(A: LinearOperator, M: Array, eps: float) -> None:
    """The sum of s^3 over all singular values has the derivative 3 U s^2 V^T, also where they repeat."""
    held = [x.requires_grad_() for x in (*A.parameters(), *A.buffers()) if x.is_floating_point() and x.numel() and x.is_leaf]
    if not held or not M.size or isinstance(A, Orthogonal | BlockCirculant):
        return  # a matrix that stays orthogonal, and a symbol of which parts are redundant, are no free parameters
    values, times, _ = singular_values(A)
    total = (times * values**3).sum()
    found = torch.autograd.grad(total, held, allow_unused=True) if total.requires_grad else [None] * len(held)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    G = torch.from_numpy(3 * U * s**2 @ Vt).to(values.dtype)
    entries = (A.matrix() * G).sum()
    expected = torch.autograd.grad(entries, held, allow_unused=True) if entries.requires_grad else [None] * len(held)
    for f, e, x in zip(found, expected, held, strict=True):
        close(
            torch.zeros_like(x) if f is None else f, N(torch.zeros_like(x) if e is None else e), eps, 4 * max(1.0, scale(M)) ** 3
        )


def check_pinv(A: LinearOperator, M: Array, eps: float) -> None:
    close(pinv(A).matrix(), pinv_of(M), eps, condition(M))


def check_inverse(A: LinearOperator, M: Array, eps: float) -> None:
    if regular(M):
        close(inverse(A).matrix(), np.linalg.inv(M), eps, condition(M))
    else:
        with pytest.raises(SingularOperator):
            inverse(A).matrix()


def check_polar(A: LinearOperator, M: Array, eps: float) -> None:
    U, s, Vt = np.linalg.svd(M, full_matrices=False) if M.size else (M[:, :0], values_of(M)[:0], M[:0])
    k = count_of(M)
    found = polar(A)
    close(found.Q.matrix(), U[:, :k] @ Vt[:k], eps, condition(M))
    close(found.P.matrix(), (Vt.T * s) @ Vt, eps)


def check_solve(A: LinearOperator, M: Array, eps: float) -> None:
    b = np.cos(np.arange(3 * len(M))).reshape(3, len(M))
    close(solve(A, torch.from_numpy(b).to(A.dtype)), b @ pinv_of(M).T, max(eps, 1e-16), condition(M) ** 2)


def check_kernel(A: LinearOperator, M: Array, eps: float) -> None:
    Q = kernel(A).matrix()
    n, k = M.shape[1], count_of(M)
    assert Q.shape == (n, n - k)
    close(Q.mT @ Q, np.eye(n - k), eps)
    close(Q @ Q.mT, np.eye(n) - pinv_of(M) @ M, eps, condition(M))


def check_image(A: LinearOperator, M: Array, eps: float) -> None:
    Q = image(A).matrix()
    assert Q.shape == (M.shape[0], count_of(M))
    close(Q.mT @ Q, np.eye(Q.shape[1]), eps)
    close(Q @ Q.mT, M @ pinv_of(M), eps, condition(M))


def check_rank(A: LinearOperator, M: Array, eps: float) -> None:
    assert rank(A) == count_of(M)
    assert rank(A, 0.5) == int((values_of(M) > 0.5 * scale(M)).sum())


def check_cond(A: LinearOperator, M: Array, eps: float) -> None:
    s = values_of(M)
    if count_of(M) < len(s):
        assert not float(cond(A)) <= 0.01 / eps  # inf, or what rounding leaves of 0
    else:
        close(cond(A), s[0] / s[-1] if len(s) else 0.0, eps, condition(M))


def check_norms(A: LinearOperator, M: Array, eps: float) -> None:
    s = values_of(M)
    close(norm(A), scale(M), eps)
    close(norm(A, "frobenius"), float(np.linalg.norm(s)), eps)
    close(norm(A, "nuclear"), s.sum(), eps)


def check_trace(A: LinearOperator, M: Array, eps: float) -> None:
    close(trace(A), np.trace(M), eps)


def check_det(A: LinearOperator, M: Array, eps: float) -> None:
    close(det(A), np.linalg.det(M), eps, condition(M) * max(scale(M), 1.0) ** (len(M) - 1))


def check_slogdet(A: LinearOperator, M: Array, eps: float) -> None:
    sign, logabs = slogdet(A)
    if regular(M):
        expected = np.linalg.slogdet(M)
        assert float(sign.detach()) == expected[0]
        close(logabs, expected[1], eps, condition(M))
    else:
        assert float(logabs.detach()) < np.log(eps) and abs(float(sign.detach())) <= 1


def check_eigenvalues(A: LinearOperator, M: Array, eps: float) -> None:
    w, found = np.linalg.eigvals(M) if M.size else np.zeros(0), N(eigenvalues(A))
    assert len(found) == len(w)
    assert (np.diff(abs(found)) <= 1e-5).all()
    if len(w):
        # a simple or semisimple eigenvalue moves by the condition of the vectors
        X = np.linalg.cond(np.linalg.eig(M)[1])
        pairs = scipy.optimize.linear_sum_assignment(abs(found[:, None] - w))
        assert abs(found[pairs[0]] - w[pairs[1]]).max() <= 50 * eps * max(1.0, scale(M)) * min(X, 1e3) + (
            eps**0.5 if X > 1e8 else 0
        )


def check_exp(A: LinearOperator, M: Array, eps: float) -> None:
    close(exp(A).matrix(), series(M, odd=False), eps, max(scale(M), 1.0))
    close(exp(A, -0.5).matrix(), series(-0.5 * M, odd=False), eps, max(scale(M), 1.0))


def check_log(A: LinearOperator, M: Array, eps: float) -> None:
    if off_the_cut(M):
        close(log(A).matrix(), of_matrix(scipy.linalg.logm, M), eps, sensitivity(M))
    else:
        with pytest.raises(DomainError):
            log(A).matrix()


def semisimple(M: Array) -> bool:
    """Singular, with as many vectors in the kernel as the eigenvalue 0 is counted, and else off the cut."""
    w = np.linalg.eigvals(M)
    kept = w[abs(w) > 1e-4]
    return len(kept) == count_of(M) and bool(((abs(kept.imag) > 1e-3) | (kept.real > 0)).all())


def root_of(M: Array, p: float) -> Array:
    w, X = np.linalg.eig(M.astype(complex))
    w = np.where(abs(w) < 1e-4, 0, w)
    image: Array = (X * np.where(w == 0, 0, np.where(w == 0, 1, w) ** p)) @ np.linalg.inv(X)
    return image.real


def check_sqrt(A: LinearOperator, M: Array, eps: float) -> None:
    for p, f in ((0.5, sqrt), (0.3, lambda B: power(B, 0.3))):
        if off_the_cut(M):
            close(f(A).matrix(), root_of(M, p) if M.size else M, eps, sensitivity(M))
        elif semisimple(M):
            close(f(A).matrix(), root_of(M, p), eps, sensitivity(M))
        else:
            with pytest.raises(DomainError):
                f(A).matrix()


def check_power(A: LinearOperator, M: Array, eps: float) -> None:
    for k in (0, 1, 2, 5):
        close(power(A, k).matrix(), np.linalg.matrix_power(M, k), eps, max(scale(M), 1.0) ** k)
    if regular(M):
        for k in (-1, -2):
            close(power(A, k).matrix(), np.linalg.matrix_power(np.linalg.inv(M), -k), eps, condition(M) ** 2)
    else:
        with pytest.raises(SingularOperator):
            power(A, -2).matrix()


def check_resolvent(A: LinearOperator, M: Array, eps: float) -> None:
    s = 2 * scale(M) + 1
    close(resolvent(A, s).matrix(), np.linalg.inv(s * np.eye(len(M)) - M), eps)


def check_function(A: LinearOperator, M: Array, eps: float) -> None:
    close(function(A, torch.sin).matrix(), series(M, odd=True), eps, max(scale(M), 1.0) ** 2)


def check_dtype(A: LinearOperator, M: Array, eps: float) -> None:
    assert A.dtype is not None
    found = [pinv(A).matrix(), polar(A).Q.matrix(), singular_values(A).values, norm(A), norm(A, "frobenius"), cond(A)]
    found += [*svd(A), image(A).matrix(), kernel(A).matrix()]
    if M.shape[0] == M.shape[1]:
        found += [trace(A), det(A), *slogdet(A), exp(A).matrix(), power(A, 2).matrix(), power(A, 0).matrix()]
        assert eigenvalues(A).dtype == torch.promote_types(A.dtype, torch.complex64)
    assert {x.dtype for x in found} == {A.dtype}


CHECKS: dict[str, Check] = {name[6:]: f for name, f in dict(globals()).items() if name.startswith("check_")}
SQUARE |= {"inverse", "trace", "det", "slogdet", "eigenvalues", "exp", "log", "sqrt", "power", "resolvent", "function"}


def applicable() -> Iterator[Any]:
    for name, make in CASES.items():
        m, n = make(F64)[1].shape
        for what in CHECKS:
            if m == n or what not in SQUARE:
                yield pytest.param(name, what, id=f"{what} of {name}")


@pytest.mark.parametrize(("name", "what"), list(applicable()))
def test_a_function_of_a_structure_is_that_of_its_matrix(name: str, what: str) -> None:
    for dtype in DTYPES:
        A, M = CASES[name](dtype)
        CHECKS[what](A, M, torch.finfo(dtype).eps)


# ------------------------------------------------------------------------------------------------------------ reductions
def vectors(frame: Frame, p: int, like: Tensor) -> tuple[list[Tensor], Tensor]:
    """The (dim, p) vectors of each group that stands, complex ones put together from real and imaginary parts; all as columns."""
    found, real = [], []
    for j in range(like.shape[-3]):
        copies = 1 if frame.times is None else int(frame.times[j])
        Q = frame.columns(torch.full((p,), j), torch.eye(p, dtype=like.dtype))
        if frame.times is not None and copies < 2:  # a complex frame has two vectors for each, of which the second is 0 here
            Q = Q[:, ::2] if copies else Q[:, :0]
        found.append(Q if copies < 2 else torch.complex(Q[:, ::2], Q[:, 1::2]) / 2**0.5)
        real.append(Q)
    return found, torch.cat(real, -1) if real else like.real.new_zeros(frame.dim, 0)


def rebuilt(R: Reduction | DirectSum | None, eps: float) -> Array:
    assert R is not None
    if isinstance(R, DirectSum):
        M = scipy.linalg.block_diag(*(rebuilt(part, eps) for part in R.parts)).reshape(R.shape)
    else:
        p, q = R.blocks.shape[-2:]
        (W, real), (Z, columns_) = vectors(R.W, p, R.blocks), vectors(R.Z, q, R.blocks)
        for Q in (real, columns_):
            close(Q.mT @ Q, np.eye(Q.shape[1]), eps)
        M = np.zeros((R.W.dim, R.Z.dim))
        for j, (w, z) in enumerate(zip(W, Z, strict=True)):
            if w.shape[1] or R.W.times is None:
                copies = 1 if R.W.times is None else int(R.W.times[j])
                M += copies * np.real(N(w) @ N(R.blocks[j]) @ N(z).conj().T)
        if R.c is not None and real.shape[1] < R.W.dim:
            assert R.W is R.Z
            M += float(R.c) * (np.eye(R.W.dim) - N(real) @ N(real).T)
    M = M if R.left is None else N(R.left.matrix()) @ M
    return M if R.right is None else M @ N(R.right.matrix())


def same_frames(R: Reduction | DirectSum) -> bool:
    """Whether functions of A are those of its blocks."""
    inner = all(map(same_frames, R.parts)) if isinstance(R, DirectSum) else R.W is R.Z
    return inner and R.left is None and R.right is None


@pytest.mark.parametrize("name", CASES)
def test_the_blocks_in_their_frames_are_the_operator(name: str) -> None:
    for dtype in DTYPES:
        A, M = CASES[name](dtype)
        eps = torch.finfo(dtype).eps
        close(torch.from_numpy(rebuilt(A.reduced(), eps)), M, eps)
        if M.shape[0] == M.shape[1]:
            R: Any = A.reduced(True)
            assert same_frames(R)
            close(torch.from_numpy(rebuilt(R, eps)), M, eps)


SHIFTED = ("Diagonal", "BlockDiagonal", "RotationScaling", "c I + U V^T", "Householder 2", "Convolution 2-D", "BlockCirculant")


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_keeps_the_blocks(name: str) -> None:
    """c I + A, in either order, costs what A costs."""
    A, M = CASES[name](F64)
    R: Any = A.reduced(True)
    for S in (Sum(number(F64, 1.5, len(M))[0], A), Sum(A, number(F64, 1.5, len(M))[0])):
        shifted: Any = S.reduced(True)
        assert type(shifted) is type(R)
        for mine, its in zip(getattr(shifted, "parts", [shifted]), getattr(R, "parts", [R]), strict=True):
            assert type(mine.W) is type(its.W) and mine.blocks.shape == its.blocks.shape
        close(torch.from_numpy(rebuilt(shifted, torch.finfo(F64).eps)), 1.5 * np.eye(len(M)) + M, torch.finfo(F64).eps)


@pytest.mark.parametrize("name", ["c I + U V^T", "BlockDiagonal of structures", "Diagonal"])
def test_what_counts_as_zero_scales_with_the_operator(name: str) -> None:
    A, M = CASES[name](F64)
    n = len(M)
    zero = singular_values(A).zero.max()
    for a in (1e-12, -3.0, 1e12):
        close(singular_values(Scaled(a, A)).zero.max() / abs(a) / zero, 1.0, 1e-15)
    P, H = Permutation(torch.arange(n).flip(0), dtype=F64), householder(F64, 1, n)[0]
    for same in (Adjoint(A), Product(P, A), Product(A, P), Product(H, P, A, P, H)):
        close(singular_values(same).zero.max() / zero, 1.0, 1e-15)
    for a in (1e-6, 1e6, -1e9):  # c I + A is as large as the larger of both
        S: Any = Sum(number(F64, a, n)[0], A).reduced(True)
        assert 0.5 <= float(S.singular_values().zero.max() / zero) / max(abs(a) / scale(M), 1) < n


@pytest.mark.parametrize("k", [0, 1, 3, 5, 9])
@pytest.mark.parametrize("c", [0.1, 1.0, 9.0])
def test_a_few_singular_vectors_need_no_more_of_the_rest_than_are_among_them(c: float, k: int) -> None:
    A, M = near_identity(F64, c)
    R: Any = A.reduced()
    asked = []

    def rest(more: int) -> Any:
        asked.append(more)
        return type(R.W).rest(R.W, more)

    R.W.rest = rest
    _, s, _ = R.svd(k)
    close(s, values_of(M)[:k], torch.finfo(F64).eps)
    assert sum(asked) == min(R.repeated, k - int((R.values() > c).sum().clamp(max=k)))


@pytest.mark.parametrize("what", ["svd", "pinv", "inverse", "polar", "solve", "kernel", "image", "rank"])
def test_c_of_rounding_counts_as_zero(what: str) -> None:
    for dtype in DTYPES:
        CHECKS[what](*near_identity(dtype, 1e-20), torch.finfo(dtype).eps)


@pytest.mark.parametrize("rtol", [None, 0.4])
@pytest.mark.parametrize("c", [None, 0.7, 1e-20, -2.0])
@pytest.mark.parametrize("singular", [False, True])
def test_factors_that_train_have_the_pseudoinverse_of_the_others(c: float | None, singular: bool, rtol: float | None) -> None:
    U, V = (columns(F64, 9, 2, seed).requires_grad_() for seed in (0, 1))
    if singular:  # c I + U V^T along v, or U V^T in its second column
        V = torch.linalg.qr(V.detach())[0]
        U = torch.stack([-V[:, 0], V[:, 1]], 1).mul(c or 1.0).mul(torch.tensor([1.0, 1.0 if c else 0.0])).requires_grad_()
    A = LowRank(U, V) if c is None else ScaledIdentityPlusLowRank(c, U, V)
    M = (c or 0.0) * np.eye(9) + N(U) @ N(V).T
    close(pinv(A, rtol).matrix(), np.linalg.pinv(M, rcond=rtol or 1e-9), torch.finfo(F64).eps, 10.0)


def test_the_pseudoinverse_of_complex_blocks_is_right_in_a_compiled_graph() -> None:
    A, M = CASES["Convolution 1-D even"](F64)
    torch.compiler.reset()
    found = torch.compile(lambda w: pinv(A)(w), fullgraph=True, backend="eager")(torch.eye(len(M)).double())
    close(found, pinv_of(M).T, torch.finfo(F64).eps, condition(M))


Function = Callable[[LinearOperator], object]


class Factorising(TorchDispatchMode):
    """Names the factorisations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += [str(func)] if "linalg" in str(func) and "vector_norm" not in str(func) else []
        return func(*args, **(kwargs or {}))


NUMBERS = ("Diagonal", "Projection", "Selection", "BlockDiagonal of numbers", "RotationScaling", "Convolution, blur")


@pytest.mark.parametrize("name", NUMBERS)
def test_functions_of_numbers_factorise_nothing(name: str) -> None:
    A, M = CASES[name](F64)
    square: list[Function] = [det, slogdet, eigenvalues, lambda A: A**-1] if regular(M) else []
    every: list[Function] = [singular_values, norm, rank, cond, pinv, polar, image, lambda A: svd(A, 2)]
    with Factorising() as seen:
        for f in every + square:
            f(A)
    assert seen.found == []


def test_the_gradient_of_the_singular_values_of_a_circulant_reaches_its_response() -> None:
    R = drawn(F64, 2, 2, 3, 4, size=0.2).requires_grad_()
    A = BlockCirculant.of(R, 2)
    values, times, _ = singular_values(A)
    (found,) = torch.autograd.grad((times * values**3).sum(), R, retain_graph=True)
    U, s, Vt = np.linalg.svd(block_circulant(F64)[1])
    G = (3 * U * s**2 @ Vt).reshape(2, 3, 4, 2, 3, 4)
    expected = np.zeros((2, 2, 3, 4))
    for o, i, a, b, x, y in np.ndindex(2, 2, 3, 4, 3, 4):
        expected[o, i, a, b] += G[o, (x + a) % 3, (y + b) % 4, i, x, y]
    close(found, expected, torch.finfo(F64).eps)


# --------------------------------------------------------------------------------------------------------------- batches
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
