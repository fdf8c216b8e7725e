"""Iterative methods that only multiply by A and A^T, and say what they did: singular triplets, eigenvalues, least squares.

scipy's methods run in float64 whatever the dtype of A is: in float32 ARPACK was seen to settle on wrong eigenvalues, and LSMR to
overflow. A itself is applied in its own dtype, whose rounding is the least tolerance, and divided by a power of two near its
size, so that no square leaves the range.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
import scipy
import scipy.sparse.linalg
import torch
from torch import Tensor

from induced._module import reference
from induced._numerics import scaled_norm
from induced._validate import require_finite, require_like, require_shape
from induced.errors import DomainError, NotConverged, NotSquare, ShapeError
from induced.operators.base import LinearOperator, Scaled
from induced.operators.factors import first
from induced.operators.interop import to_scipy
from induced.operators.reduction import SVDFactors

Array = npt.NDArray[Any]

OVERSAMPLE = 10
"""Columns that the randomized method carries beyond those asked for."""

FIRST = "singular values found by products have first derivatives only: for more, take Dense(A.matrix(limit))"

_PARTS: dict[str, Callable[[Array], Array]] = {"M": np.abs, "R": np.real, "I": lambda w: np.abs(w.imag)}

_SEEDED = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 17)  # before, ARPACK restarts from a seed of its own


@final
class Convergence(NamedTuple):
    """What an iterative method did.

    Attributes:
        method: its name.
        iterations: how often it multiplied by A or A^T A; a block of vectors counts once.
        residual: what is left of the equation it solves, relative to its terms; measured at the end, not estimated on the way.
        converged: whether the residual is at most the tolerance.
    """

    method: str
    iterations: int
    residual: float
    converged: bool

    def __str__(self) -> str:
        verdict = "converged" if self.converged else "NOT converged"
        return f"{self.method}: {verdict} after {self.iterations} products, residual {self.residual:.2e}"

    def checked(self, tolerance: float, strict: bool) -> "Convergence":
        """self; raises NotConverged where `strict` asks for convergence and there was none."""
        if strict and not self.converged:
            raise NotConverged(f"{self}, the tolerance is {tolerance:.2e}: allow more iterations or a larger tolerance")
        return self


def truncated_svd(
    A: LinearOperator,
    rank: int,
    *,
    method: str = "arpack",
    tol: float = 0.0,
    max_iterations: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> tuple[SVDFactors, Convergence]:
    """The `rank` largest singular triplets of A by products with A and A^T alone; A is never materialised.

    "arpack" runs Lanczos on the smaller of A^T A and A A^T, "randomized" iterates a block of rank + 10 random vectors: fewer
    passes where the values decay, more where they do not. Both end with Rayleigh-Ritz steps in which the values are those of A
    on the block, so that they keep all digits that A^T A squares away.

    Arguments:
        A: one operator of shape (m, n).
        rank: number of triplets, 0..min(m, n).
        method: "arpack" or "randomized".
        tol: relative residual that counts as converged; at least, and by default, 100 eps.
        max_iterations: of ARPACK (10 n by default), or passes of the block (100 by default).
        seed: of the starting vectors; the same seed gives the same result.
        strict: raise where the method does not converge.

    Returns:
        The factors, values descending, and what was done; the residual is max_i ||A^T u_i - s_i v_i|| / s_1, while
        A v_i = s_i u_i holds to rounding. The values have a first derivative (ds_i = u_i^T dA v_i; a second one raises); the
        vectors are constants.

    Raises:
        ShapeError: A is a batch, or `rank` is no integer in 0..min(m, n). DomainError: unknown method, or A holds nan or inf.
        DtypeError: A is not float32 or float64. NotConverged: only if `strict`.

    Law:
        `truncated_svd(A, k)[0].values == svd(A).values[:k]` (Prop 2.9; laws/test_krylov.py)

    Example:
        >>> from induced.operators import Diagonal
        >>> factors, report = truncated_svd(Diagonal(torch.arange(100.0)), 2)
        >>> factors.values, report.converged
        (tensor([99., 98.]), True)
    """
    if method not in ("arpack", "randomized"):
        raise DomainError(f"unknown method {method!r} of truncated_svd; known are arpack, randomized")
    rank = whole(rank, 0, min(A.shape), f"the rank of factors of an operator of shape {A.shape}")
    B, exported, scale, stop, target = _normalised(A, tol)
    rng = np.random.default_rng(seed)
    # ARPACK finds fewer vectors than its space has; for all of them one pass of a full block is exact
    lanczos = method == "arpack" and 0 < rank < min(A.shape)
    limit = _limit(max_iterations, 10 * min(A.shape) if lanczos else 100)
    block = A.shape[1], min(rank + OVERSAMPLE, *A.shape)
    with torch.no_grad(), torch.autocast(exported.kind.device.type, enabled=False):
        columns, products = _lanczos(exported, rank, stop, limit, rng) if lanczos else (rng.standard_normal(block), 0)
        V = torch.from_numpy(np.linalg.qr(columns)[0]).to(exported.kind)
        U, s, V, residual, passes = _iterate(B, V, rank, target, 3 if lanczos else limit)
    s = s * scale
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*A.parameters(), *A.buffers())):
        s = (U * first(A(V.mT).mT, FIRST)).sum(0)
    report = Convergence(method, products + passes, residual, residual <= target)
    return SVDFactors(U, s, V), report.checked(target, strict)


def spectral_norm(A: LinearOperator) -> Tensor:
    """||A||_2, the largest singular value, by products with A and A^T alone; its first derivative is u^T dA v.

    Raises:
        As `truncated_svd`; NotConverged where the triplet does not converge.

    Law:
        `spectral_norm(A) == svd(A).values.max()` (laws/test_krylov.py)
    """
    return truncated_svd(A, min(1, *A.shape), strict=True)[0].values.sum()


def truncated_eigenvalues(
    A: LinearOperator,
    k: int,
    *,
    which: str = "LM",
    tol: float = 0.0,
    max_iterations: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> tuple[Tensor, Convergence]:
    """k eigenvalues of A by products with A alone (ARPACK), as a complex tensor ordered by `which`; they carry no gradients.

    Arguments:
        A: one square operator on n coordinates.
        k: how many, 0..n; for k >= n - 1 the matrix of A is formed, which is no larger than the eigenvectors.
        which: "LM" largest modulus, "SM" smallest (slow: no inverse is formed), "LR" and "SR" by real part, "LI" and "SI" by the
            modulus of the imaginary part. One of a conjugate pair may be cut off.
        tol: relative accuracy asked for; at least, and by default, 100 eps.
        max_iterations: restarts of ARPACK (10 n by default).
        seed: of the starting vector.
        strict: raise where the method does not converge.

    Returns:
        The eigenvalues, fewer than k where ARPACK found fewer, and what was done; the residual is
        max_i ||A x_i - lambda_i x_i|| / max_i |lambda_i| for unit eigenvectors x_i.

    Raises:
        NotSquare: A is not square. ShapeError: A is a batch, or k is no integer in 0..n. DomainError: unknown `which`, or A
        holds nan or inf. DtypeError: A is not float32 or float64. NotConverged: only if `strict`.

    Law:
        the k eigenvalues of largest modulus of `A.matrix()` (laws/test_krylov.py)
    """
    n = A.shape[0]
    if n != A.shape[1]:
        raise NotSquare(f"only a square operator has eigenvalues, this one has shape {A.shape}: {A}")
    if which not in (known := [size + part for part in _PARTS for size in "LS"]):
        raise DomainError(f"unknown order {which!r} of eigenvalues; known are {', '.join(known)}")
    k, limit = whole(k, 0, n, "the number of eigenvalues"), _limit(max_iterations, 10 * n)
    _, exported, scale, stop, target = _normalised(A, tol)
    counted = _Counted(exported.matvec)
    if 0 < k < n - 1:
        square = scipy.sparse.linalg.LinearOperator((n, n), matvec=counted, dtype=np.float64)
        # with two to spare: asked for k alone, ARPACK was seen to converge to the k + 1st in place of a conjugate pair
        more, rng = min(k + 2, n - 2), np.random.default_rng(seed)
        values, vectors = _arpack(scipy.sparse.linalg.eigs, square, more, which, stop, limit, rng)
    else:
        values, vectors = np.linalg.eig(exported @ np.eye(n, dtype=exported.dtype))
        counted.count = n
    chosen = np.argsort(_PARTS[which[1]](values) * (-1 if which[0] == "L" else 1), kind="stable")[:k]
    values, vectors = values[chosen].astype(complex), vectors[:, chosen]
    defect = np.linalg.norm(exported @ vectors - vectors * values, axis=0)
    residual = _ratio(float(defect.max(initial=0.0)), float(np.abs(values).max(initial=0.0)))
    report = Convergence("arpack", counted.count, residual, residual <= target and len(values) == k)
    spectrum = torch.from_numpy(values * scale).to(
        exported.kind.device, torch.promote_types(exported.kind.dtype, torch.complex64)
    )
    return spectrum, report.checked(target, strict)


def iterative_solve(
    A: LinearOperator, b: Tensor, *, tol: float = 0.0, max_iterations: int | None = None, strict: bool = False
) -> tuple[Tensor, Convergence]:
    """The least-squares solution of least norm of A z = b by products with A and A^T alone (LSMR); no gradients.

    Arguments:
        A: one operator of shape (m, n).
        b: right sides of shape (*batch, m), solved one by one.
        tol: relative residual that counts as converged; at least, and by default, 100 eps.
        max_iterations: of each solution, 4 min(m, n) by default; about the condition of A are needed.
        strict: raise where the method does not converge.

    Returns:
        z of shape (*batch, n), and what was done; the residual is the worst of min(||r|| / (||A|| ||z|| + ||b||),
        ||A^T r|| / (||A|| ||r||)), r = b - A z and ||A|| as LSMR estimates it.

    Raises:
        ShapeError: A is a batch, or b has another length. DtypeError: b has another dtype or device than A, or A is not
        float32 or float64. DomainError: A or b holds nan or inf, or the solution overflows. NotConverged: only if `strict`.

    Law:
        `iterative_solve(A, b)[0] == pinv(A)(b)` (laws/test_krylov.py)
    """
    require_shape(b, A.shape[:1], "the right side of A z = b")
    require_like(b, reference(A), "the right side of A z = b")
    require_finite(b, "the right side of A z = b")
    limit = _limit(max_iterations, 4 * min(A.shape))
    _, exported, scale, stop, target = _normalised(A, tol)
    rows = b.detach().reshape(-1, A.shape[0]).double().cpu().numpy()
    exponents = np.frexp(np.abs(rows).max(1, initial=0.0))[1]
    solutions, worst = np.zeros((len(rows), A.shape[1])), 0.0
    counted = _Counted(exported.matvec)
    scaled = scipy.sparse.linalg.LinearOperator(A.shape, matvec=counted, rmatvec=_Counted(exported.rmatvec), dtype=np.float64)
    for i, right in enumerate(np.ldexp(rows, -exponents[:, None])):
        z, *_, norm, _, _ = scipy.sparse.linalg.lsmr(scaled, right, atol=stop, btol=stop, conlim=0, maxiter=limit)
        r = right - exported @ z
        size = float(np.linalg.norm(r))
        consistent = _ratio(size, norm * float(np.linalg.norm(z)) + float(np.linalg.norm(right)))
        stationary = _ratio(float(np.linalg.norm(exported.rmatvec(r))), norm * size)
        solutions[i] = np.ldexp(z / scale, exponents[i])
        worst = float(np.maximum(worst, np.minimum(consistent, stationary)))  # which keep a nan
    solution = torch.from_numpy(solutions).to(b).reshape(*b.shape[:-1], A.shape[1])
    require_finite(solution, "the solution of A z = b", f"it overflows {b.dtype}")
    report = Convergence("lsmr", counted.count, worst, worst <= target)
    return solution, report.checked(target, strict)


class _Counted:
    """A product that counts its calls."""

    def __init__(self, product: Callable[[Array], Array]) -> None:
        self.product, self.count = product, 0

    def __call__(self, x: Array) -> Array:
        self.count += 1
        return self.product(x).astype(np.float64)  # LSMR runs in the dtype of its vectors


def whole(value: int, least: int, most: float, what: str) -> int:
    """`value` as an int, numpy's integers included; raises ShapeError unless it is one from least to most."""
    number = operator.index(value) if hasattr(value, "__index__") else least - 1
    if not least <= number <= most:
        raise ShapeError(f"{what} must be an integer in {least}..{most}, got {value!r}")
    return number


def _limit(max_iterations: int | None, default: int) -> int:
    return max(default, 1) if max_iterations is None else whole(max_iterations, 1, math.inf, "max_iterations")


def _normalised(A: LinearOperator, tol: float) -> tuple[LinearOperator, Any, float, float, float]:
    """B = A / scale, B in scipy's clothes, scale (a power of two near the size of A), and `tol` at least eps, and 100 eps."""
    exported: Any = to_scipy(A)
    limits = torch.finfo(exported.kind.dtype)
    with torch.no_grad():
        image = A(torch.from_numpy(np.random.default_rng(0).standard_normal(A.shape[1])).to(exported.kind))
    require_finite(image, f"a product with {A}", "A holds nan or inf, or its products overflow")
    size = float(scaled_norm(image)) / max(1, A.shape[1]) ** 0.5
    scale = 2.0 ** (math.frexp(max(size, limits.tiny))[1] - 1) if size else 1.0
    B = Scaled(1 / scale, A)
    return B, to_scipy(B), scale, max(tol, limits.eps), max(tol, 100 * limits.eps)


def _ratio(part: float, whole: float) -> float:
    """part / whole, and 0 for 0 / 0."""
    return part / whole if whole else part


def _arpack(
    solver: Any, square: Any, k: int, which: str, tol: float, limit: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors: all k, those that were found, or none where the starting vector is in the kernel."""
    n, seeded = square.shape[0], {"rng": rng} if _SEEDED else {}
    try:
        values, vectors = solver(square, k, which=which, v0=rng.standard_normal(n), maxiter=limit, tol=tol, **seeded)
    except scipy.sparse.linalg.ArpackNoConvergence as stopped:
        values, vectors = stopped.eigenvalues, stopped.eigenvectors
    except scipy.sparse.linalg.ArpackError:  # A times a random vector is zero, and so is A
        values, vectors = np.zeros(k), np.eye(n, k)
    return values, vectors


def _lanczos(exported: Any, k: int, tol: float, limit: int, rng: np.random.Generator) -> tuple[Array, int]:
    """Approximate right singular vectors of A, from ARPACK on the smaller of A^T A and A A^T, and the number of products."""
    m, n = exported.shape
    tall = m >= n
    first, second = (exported.matvec, exported.rmatvec) if tall else (exported.rmatvec, exported.matvec)
    counted = _Counted(lambda x: second(first(x)))
    gram = scipy.sparse.linalg.LinearOperator((min(m, n),) * 2, matvec=counted, dtype=np.float64)
    vectors = _arpack(scipy.sparse.linalg.eigsh, gram, k, "LM", tol, limit, rng)[1]
    found = vectors if tall else exported.rmatmat(np.ascontiguousarray(vectors))
    # where ARPACK stopped early, random directions complete the block
    return np.concatenate([found, rng.standard_normal((n, k - found.shape[1]))], 1), counted.count


def _iterate(A: LinearOperator, V: Tensor, k: int, target: float, limit: int) -> tuple[Tensor, Tensor, Tensor, float, int]:
    """Rayleigh-Ritz on a block V until A^T U = V diag(s) to `target`; A V = U diag(s) holds after every pass."""
    passes = 0
    while True:
        passes += 1
        U, s, Wh = torch.linalg.svd(A(V.mT).mT, full_matrices=False)
        V = V @ Wh.mT
        Z = A.apply_adjoint(U.mT).mT
        defects = scaled_norm((Z - V * s)[:, :k], 0).tolist()
        residual = _ratio(float(np.max(defects, initial=0.0)), float(s[:1].sum()))
        if residual <= target or passes >= limit:
            return U[:, :k], s[:k], V[:, :k], residual, passes
        V = torch.linalg.qr(Z)[0]
