"""c I + U V^T in closed form beside dense torch and scipy, CoLA, linear_operator and pylops; and exp(A) z of a dense A.

A has a rank-8 part and spectral radius 1, so that its powers neither grow nor vanish; all forms are float32. The oracle works in
float64 by scipy, in an orthonormal basis Q of the columns of U and V: f(A) = f(c) I + Q (f(c I + M) - f(c) I) Q^T for
M = Q^T U V^T Q.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from benchmarks.common import judge, limited, measure, pick, require
from induced.operators import Dense, LinearOperator, ScaledIdentityPlusLowRank, exp, exp_multiply, inverse, pinv, power, svd

RANK, TIMES, COLUMNS = 8, pick(1000, 20), 64
SIZES = pick((256, 1024, 4096, 12288), (64, 128))
DENSE = pick(4096, 128)
"""Largest n at which the dense peers run: above, their cubic functions take hours; one dense product stands for them."""
SLOW = 2048
"""Size from which the cubic functions of dense matrices are called once."""

Function = Callable[[Any, Tensor, Tensor], Any]
MATVEC, MATMAT, PRODUCT, POWER, INVERSE, EXP, SVD, PINV = MATRICES = (
    "A x", f"A X, {COLUMNS} columns", "A A", f"A^{TIMES}", "inverse", "exp", f"svd, {2 * RANK} triplets", "pinv"
)  # fmt: skip
POWER_X, SOLVE, EXP_X, SYMMETRIC = VECTORS = (f"A^{TIMES} x", "solve A y = x", "exp(A) x", "solve (c I + U U^T) y = x")


class Parts(NamedTuple):
    """c, U and V in float32."""

    c: float
    U: Tensor
    V: Tensor


def ours(parts: Parts) -> LinearOperator:
    return ScaledIdentityPlusLowRank(*parts)


def matrix(parts: Parts) -> Tensor:
    return parts.c * torch.eye(len(parts.U)) + parts.U @ parts.V.mT


def symmetric(parts: Parts) -> Parts:
    return parts._replace(V=parts.U)


def scipy_lazy(parts: Parts) -> Any:
    """A as scipy's LinearOperator."""
    c, (U, V), n = parts.c, (M.numpy() for M in parts[1:]), len(parts.U)
    return scipy.sparse.linalg.LinearOperator(
        (n, n),
        matvec=lambda z: c * z + U @ (V.T @ z),
        rmatvec=lambda z: c * z + V @ (U.T @ z),
        matmat=lambda Z: c * Z + U @ (V.T @ Z),
        dtype=np.float32,
    )


def cola(parts: Parts) -> Any:
    """A of CoLA, whose `A + B` raises (0.0.7), so that the sum is built by hand."""
    ops = import_module("cola").ops
    low_rank = ops.Product(ops.Dense(parts.U), ops.Dense(parts.V.mT))
    return ops.Sum(ops.Diagonal(torch.full((len(parts.U),), parts.c)), low_rank)


def linear_operator(parts: Parts) -> tuple[Any, Any]:
    """A, and the symmetric c I + U U^T, the only one that it has closed forms for."""
    operators = import_module("linear_operator.operators")
    cI = operators.ConstantDiagLinearOperator(torch.tensor([parts.c]), len(parts.U))
    return operators.MatmulLinearOperator(parts.U, parts.V.mT) + cI, operators.LowRankRootLinearOperator(parts.U) + cI


def pylops(parts: Parts) -> Any:
    lops = import_module("pylops")
    left, right = (lops.MatrixMult(np.ascontiguousarray(M.numpy()), dtype="float32") for M in (parts.U, parts.V.mT))
    return left @ right + parts.c * lops.Identity(len(parts.U), dtype="float32")


def one_by_one(parts: Parts, x: Tensor) -> Tensor:
    """A^TIMES x, A applied again and again by torch."""
    c, U, W = parts.c, parts.U, parts.V.mT.contiguous()
    for _ in range(TIMES):
        x = torch.addcmul(U @ (W @ x), torch.tensor(c), x)
    return x


class Library(NamedTuple):
    """A package, how it makes A, and its functions (A, x, X) -> value by row."""

    package: str
    make: Callable[[Parts], Any]
    functions: dict[str, Function]


INDUCED = "induced"
LIBRARIES = {
    INDUCED: Library(
        "induced",
        ours,
        {
            MATVEC: lambda A, x, X: A(x),
            MATMAT: lambda A, x, X: A(X),
            PRODUCT: lambda A, x, X: A @ A,
            POWER: lambda A, x, X: power(A, TIMES),
            INVERSE: lambda A, x, X: inverse(A),
            EXP: lambda A, x, X: exp(A),
            SVD: lambda A, x, X: svd(A, rank=2 * RANK).values,
            PINV: lambda A, x, X: pinv(A),
            POWER_X: lambda A, x, X: power(A, TIMES)(x),
            SOLVE: lambda A, x, X: inverse(A)(x),
            EXP_X: lambda A, x, X: exp(A)(x),
            SYMMETRIC: lambda A, x, X: inverse(ScaledIdentityPlusLowRank(A.c, A.U, A.U))(x),
        },
    ),
    "torch, dense": Library(
        "torch",
        matrix,
        {
            MATVEC: lambda A, x, X: A @ x,
            MATMAT: lambda A, x, X: X @ A.mT,
            PRODUCT: lambda A, x, X: A @ A,
            POWER: lambda A, x, X: torch.linalg.matrix_power(A, TIMES),
            INVERSE: lambda A, x, X: torch.linalg.inv(A),
            EXP: lambda A, x, X: torch.linalg.matrix_exp(A),
            SVD: lambda A, x, X: torch.linalg.svd(A)[1][: 2 * RANK],
            PINV: lambda A, x, X: torch.linalg.pinv(A),
            SOLVE: lambda A, x, X: torch.linalg.solve(A, x),
        },
    ),
    "torch, step by step": Library("torch", lambda parts: parts, {POWER_X: lambda parts, x, X: one_by_one(parts, x)}),
    "scipy, dense": Library(
        "scipy",
        lambda parts: matrix(parts).numpy(),
        {
            MATVEC: lambda A, x, X: A @ x.numpy(),
            MATMAT: lambda A, x, X: X.numpy() @ A.T,
            PRODUCT: lambda A, x, X: A @ A,
            POWER: lambda A, x, X: np.linalg.matrix_power(A, TIMES),
            INVERSE: lambda A, x, X: scipy.linalg.inv(A),
            EXP: lambda A, x, X: scipy.linalg.expm(A),
            SVD: lambda A, x, X: scipy.linalg.svd(A)[1][: 2 * RANK],
            PINV: lambda A, x, X: scipy.linalg.pinv(A),
            SOLVE: lambda A, x, X: scipy.linalg.solve(A, x.numpy()),
        },
    ),
    "scipy, lazy": Library(
        "scipy",
        scipy_lazy,
        {
            MATVEC: lambda A, x, X: A @ x.numpy(),
            MATMAT: lambda A, x, X: (A @ X.numpy().T).T,
            POWER_X: lambda A, x, X: (A**TIMES) @ x.numpy(),
            SVD: lambda A, x, X: scipy.sparse.linalg.svds(A, k=2 * RANK, return_singular_vectors=True)[1][::-1].copy(),
            SOLVE: lambda A, x, X: scipy.sparse.linalg.gmres(A, x.numpy(), rtol=1e-6)[0],
            EXP_X: lambda A, x, X: scipy.sparse.linalg.expm_multiply(A, x.numpy(), traceA=0.0),
        },
    ),
    "CoLA": Library(
        "cola",
        cola,
        {
            MATVEC: lambda A, x, X: A @ x,
            MATMAT: lambda A, x, X: (A @ X.mT).mT,
            SOLVE: lambda A, x, X: import_module("cola").inv(A) @ x,
            EXP_X: lambda A, x, X: import_module("cola").exp(A) @ x,
        },
    ),
    "linear_operator": Library(
        "linear_operator",
        linear_operator,
        {
            MATVEC: lambda A, x, X: A[0] @ x,
            MATMAT: lambda A, x, X: (A[0] @ X.mT).mT,
            SYMMETRIC: lambda A, x, X: A[1].solve(x.unsqueeze(-1)).squeeze(-1),
        },
    ),
    "pylops": Library(
        "pylops",
        pylops,
        {
            MATVEC: lambda A, x, X: A @ x.numpy(),
            MATMAT: lambda A, x, X: (A @ X.numpy().T).T,
            POWER_X: lambda A, x, X: (A**TIMES) @ x.numpy(),
            SOLVE: lambda A, x, X: A.div(x.numpy(), niter=200),
        },
    ),
}
ITERATIVE = {
    (SOLVE, "scipy, lazy"): 1e-5,
    (SOLVE, "CoLA"): 1e-4,
    (SOLVE, "pylops"): 1e-5,
    (EXP_X, "scipy, lazy"): 1e-5,
    (EXP_X, "CoLA"): math.inf,
}
"""Forms that stop at a tolerance of their own, 1e-6 by default, and what is allowed them; CoLA's exp(A) x, by eigenvectors of a
Hessenberg matrix in float32, is off by 62 % at n = 256 (cola-ml 0.0.7)."""
CUBIC = {PRODUCT, POWER, INVERSE, EXP, SVD, PINV, SOLVE}


def operator(n: int, rank: int = RANK) -> Parts:
    """c I + U V^T of spectral radius 1, whose entries float32 holds: no error is that of rounding A."""
    generator = torch.Generator().manual_seed(n)
    U, V = (torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    U = 0.05 * U
    radius = float((1 + torch.linalg.eigvals(V.mT @ U)).abs().max().clamp(min=1))
    return Parts(float(np.float32(1 / radius)), (U / radius).float(), V.float())


class Oracle:
    """Functions of c I + U V^T in float64, by scipy on a basis of what U and V span."""

    def __init__(self, parts: Parts) -> None:
        self.c, U, V = float(parts.c), parts.U.double(), parts.V.double()
        self.Q = torch.linalg.qr(torch.cat([U, V], 1))[0]
        self.M = ((self.Q.mT @ U) @ (V.mT @ self.Q)).numpy() + self.c * np.eye(self.Q.shape[1])

    def rows(self, f: Callable[[np.ndarray], np.ndarray], X: Tensor) -> Tensor:
        """f(A) applied to each row of X."""
        own = f(np.array([[self.c]])).item()
        inside = torch.from_numpy(np.ascontiguousarray(f(self.M))) - own * torch.eye(len(self.M))
        return own * X.double() + X.double() @ self.Q @ inside.mT @ self.Q.mT

    def values(self) -> Tensor:
        """The singular values in the span of Q and, of those outside of it, as many |c|: enough for the largest few."""
        found = scipy.linalg.svdvals(self.M)
        return torch.from_numpy(np.sort(np.concatenate([found, np.full_like(found, abs(self.c))]))[::-1].copy())


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    MATVEC: lambda M: M,
    MATMAT: lambda M: M,
    PRODUCT: lambda M: M @ M,
    POWER: lambda M: np.linalg.matrix_power(M, TIMES),
    INVERSE: np.linalg.inv,
    EXP: scipy.linalg.expm,
    PINV: np.linalg.inv,
    POWER_X: lambda M: np.linalg.matrix_power(M, TIMES),
    SOLVE: np.linalg.inv,
    EXP_X: scipy.linalg.expm,
    SYMMETRIC: np.linalg.inv,
}


@lru_cache(1)
def case(n: int) -> tuple[Parts, Tensor, Tensor]:
    """A, a vector and the rows of a matrix."""
    X = torch.randn(COLUMNS, n, generator=torch.Generator().manual_seed(1))
    return operator(n), X[0].clone(), X


@lru_cache(1)
def made(n: int, library: str) -> Any:
    return LIBRARIES[library].make(case(n)[0])


def bound(row: str, library: str, n: int) -> float:
    """A hundred roundings, by the condition of the row; sqrt(n) of them where n numbers are added up; a peer's own tolerance.

    A^k amplifies a relative error of A k times; A and exp(A) have condition numbers below 1.3.
    """
    eps = torch.finfo(torch.float32).eps
    condition = TIMES if row in (POWER, POWER_X) else 1
    added = n**0.5 if "dense" in library else 1
    return 100 * eps * condition * added + ITERATIVE.get((row, library), 0)


def check(benchmark: Any, found: Any, row: str, parts: Parts, X: Tensor, allowed: float) -> None:
    """Judge what a function found, a matrix or an operator by what it does to the rows of X, of which x is the first."""
    value: Any = found if isinstance(found, (Tensor, LinearOperator)) else torch.from_numpy(np.ascontiguousarray(found))
    oracle = Oracle(symmetric(parts) if row == SYMMETRIC else parts)
    if row == SVD:
        judge(benchmark, value, oracle.values()[: 2 * RANK], allowed)
        return
    if row in (PRODUCT, POWER, INVERSE, EXP, PINV):
        value = value(X) if isinstance(value, LinearOperator) else X @ value.mT
    judge(benchmark, value, oracle.rows(FUNCTIONS[row], X[0] if row in (MATVEC, *VECTORS) else X), allowed)


CELLS = [
    (n, row, name)
    for n in SIZES
    for name, library in LIBRARIES.items()
    for row in (*MATRICES, *VECTORS)
    if row in library.functions
    and (n <= DENSE or "dense" not in name)
    and (n <= SLOW or name != "scipy, dense" or row not in (SVD, PINV))  # the same minute of LAPACK as torch's
]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("n", "row", "name"), CELLS)
def bench_functions(benchmark: Any, n: int, row: str, name: str) -> None:
    library, (parts, x, X) = LIBRARIES[name], case(n)
    require(library.package)
    A, mine = made(n, name), ours(parts)
    facts: dict[str, Any] = {"table": f"A = c I + U V^T, rank {RANK}, n = {n}", "row": row, "form": name}
    slow = n > SLOW and "dense" in name and row in CUBIC

    def form() -> Any:
        return library.functions[row](A, x, X)

    if not slow and name != INDUCED:
        start = time.thread_time()
        with limited():
            form()
        slow = time.thread_time() - start > 1
    own = None if name == INDUCED else lambda: LIBRARIES[INDUCED].functions[row](mine, x, X)
    try:
        found = measure(benchmark, form, own, once=slow, **facts)
    except LinAlgError as error:  # divide and conquer, at a value that is repeated thousands of times
        pytest.skip(f"fails: {str(error).partition('(')[0].strip()}")
    check(benchmark, found, row, parts, X, bound(row, name, n))


@torch.no_grad()
@pytest.mark.parametrize(
    ("n", "row"), [(n, row) for n in SIZES if n >= 1024 or n == SIZES[-1] for row in (POWER, EXP, SVD, PINV)]
)
def bench_one_dense_product(benchmark: Any, n: int, row: str) -> None:
    """The least that any algorithm on dense matrices costs: one product, of which a sixteenth is timed."""
    A, part = torch.randn(n, n), torch.randn(n, n // 16)
    mine, x, X = ours(case(n)[0]), *case(n)[1:]
    measure(
        benchmark,
        lambda: A @ part,
        lambda: LIBRARIES[INDUCED].functions[row](mine, x, X),
        table=f"A = c I + U V^T, rank {RANK}, n = {n}",
        row=row,
        once=n > SLOW,
        form="one dense product",
        peer=False,
        scale=16,
        note="timed on a sixteenth of its columns",
    )


EXPONENTIALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "induced": lambda A, z: exp_multiply(Dense(A), z)[0],
    "scipy expm_multiply": lambda A, z: torch.from_numpy(scipy.sparse.linalg.expm_multiply(A.numpy(), z.numpy().T).T.copy()),
    "torch matrix_exp": lambda A, z: z @ torch.linalg.matrix_exp(A).mT,
}


@torch.no_grad()
@pytest.mark.parametrize("name", EXPONENTIALS)
@pytest.mark.parametrize("norm", [1.0, 30.0])
def bench_dense_exponential(benchmark: Any, norm: float, name: str) -> None:
    n = pick(1024, 64)
    M, z = torch.randn(n, n), torch.randn(1, n)
    A = M * (norm / torch.linalg.matrix_norm(M, 2))
    exact = torch.from_numpy(scipy.linalg.expm(A.double().numpy())) @ z.double().squeeze()
    own = None if name == "induced" else lambda: EXPONENTIALS["induced"](A, z)
    facts: dict[str, Any] = {"table": f"exp(A) z of a dense A, n = {n}", "row": f"norm {norm:g}", "form": name}
    found = measure(benchmark, lambda: EXPONENTIALS[name](A, z), own, **facts)
    eps = torch.finfo(torch.float32).eps
    judge(benchmark, found[0], exact, 100 * eps * norm * n**0.5)
