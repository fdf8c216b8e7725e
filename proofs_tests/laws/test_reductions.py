"""Reductions of structures to small blocks in orthonormal frames, and the functions that go through them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from induced.operators import (
    BlockCirculant,
    LinearOperator,
    LowRank,
    Permutation,
    ScaledIdentityPlusLowRank,
    cond,
    det,
    eigenvalues,
    image,
    norm,
    pinv,
    polar,
    rank,
    singular_values,
    slogdet,
    svd,
)
from induced.operators.base import Adjoint, Product, Scaled, Sum
from induced.operators.blocks import DirectSum
from induced.operators.reduction import Frame, Reduction
from proofs_tests.laws.function_checks import CHECKS, SQUARE, close, condition, pinv_of, regular, scale, values_of
from proofs_tests.laws.structure_cases import (
    CASES,
    DTYPES,
    Array,
    N,
    block_circulant,
    columns,
    drawn,
    householder,
    near_identity,
    number,
)

F32, F64 = torch.float32, torch.float64


# ------------------------------------------------------------------------------------------------------------- oracles
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
