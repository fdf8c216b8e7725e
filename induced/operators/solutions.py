"""Subspaces that belong to an operator, its kernel and its range, and solutions of A z = b.

| function | Dense | Diagonal | U V^T | c I + U V^T |
|---|---|---|---|---|
| kernel (n, k) | SVD | O(n k) | O(n k r) | O(n r^2 + n k r) |
| image (m, k) | SVD | O(n k) | O(m r^2) | O(n r^2 + n k r) |
| solve | LU, or SVD | O(n) | O(n r^2) | O(n r^2) |
"""

from functools import singledispatch

import torch
from torch import Tensor

from induced._validate import eager, require_like, require_shape
from induced.errors import SingularOperator
from induced.operators.base import LinearOperator
from induced.operators.blocks import block, complement, cutoff, low_rank_cutoff, thin
from induced.operators.dense import Diagonal
from induced.operators.invariants import rank
from induced.operators.linalg import Inverse, _unbatched, inverse, pinv, svd
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank

__all__ = ["image", "kernel", "solve"]


@singledispatch
def kernel(A: LinearOperator, rtol: float | None = None) -> Tensor:
    """Orthonormal columns (n, k) that span {z : A z = 0}; singular values up to rtol * ||A|| count as zero (eps * max(m, n)).

    A basis is not unique and carries no gradient.

    Raises:
        ShapeError: A is a batch of operators.

    Law:
        `A(kernel(A).mT) == 0`, `kernel(A).shape[1] + rank(A) == n` (laws/test_solutions.py)

    Example:
        >>> kernel(Diagonal(torch.tensor([2.0, 0.0])))
        tensor([[0.],
                [1.]])
    """
    _unbatched(A, "the kernel")
    with torch.no_grad():
        M = A.matrix()
        _, s, Vh = torch.linalg.svd(M)
        basis: Tensor = Vh[int((s > cutoff(s, A.shape, rtol)).sum()) :].mT
        return basis


@kernel.register
def _(A: Diagonal, rtol: float | None = None) -> Tensor:
    _unbatched(A, "the kernel")
    return _units(A.d, A.d.abs() <= cutoff(A.d.abs(), A.shape, rtol))


@kernel.register
def _(A: LowRank, rtol: float | None = None) -> Tensor:
    _unbatched(A, "the kernel")
    with torch.no_grad():
        _, s, V = thin(A.U, A.V)
        V = V[:, s > low_rank_cutoff(A, s.to(A.U.dtype), rtol)].to(A.V)
        return complement(V, A.shape[1] - V.shape[1])


@kernel.register
def _(A: ScaledIdentityPlusLowRank, rtol: float | None = None) -> Tensor:
    _unbatched(A, "the kernel")
    n = A.shape[0]
    if 2 * A.U.shape[-1] >= n:
        return kernel.dispatch(LinearOperator)(A, rtol)
    with torch.no_grad():
        Y, T, K = block(*A.parts())
        _, s, Rh = torch.linalg.svd(K)
        values = torch.cat([s, A.c.double().abs().reshape(1)]).to(A.U.dtype)
        kept = values > cutoff(values, A.shape, rtol)
        if kept[-1]:  # nothing off the span of U and V is lost
            lost: Tensor = (Y @ (T @ Rh[~kept[:-1]].mT)).to(A.U)
            return lost
        rows = (Y @ (T @ Rh[kept[:-1]].mT)).to(A.U)
        return complement(rows, n - rows.shape[1])


@singledispatch
def image(A: LinearOperator, rtol: float | None = None) -> Tensor:
    """Orthonormal columns (m, k) that span the range {A z}; singular values up to rtol * ||A|| count as zero (eps * max(m, n)).

    A basis is not unique and carries no gradient.

    Raises:
        ShapeError: A is a batch of operators.

    Law:
        `Q @ Q.mT @ A.matrix() == A.matrix()` (laws/test_solutions.py)
    """
    _unbatched(A, "the column space")
    with torch.no_grad():
        U, s, _ = svd(A)
        return U[:, : int((s > cutoff(s, A.shape, rtol)).sum())]


@image.register
def _(A: Diagonal, rtol: float | None = None) -> Tensor:
    _unbatched(A, "the column space")
    return _units(A.d, A.d.abs() > cutoff(A.d.abs(), A.shape, rtol))


@image.register
def _(A: LowRank, rtol: float | None = None) -> Tensor:
    with torch.no_grad():
        return svd(A, rank(A, rtol)).U


@image.register
def _(A: ScaledIdentityPlusLowRank, rtol: float | None = None) -> Tensor:
    with torch.no_grad():
        return svd(A, rank(A, rtol)).U


def _units(d: Tensor, where: Tensor) -> Tensor:
    """The unit vectors of the coordinates in a mask (n,), as columns."""
    return torch.eye(len(d), dtype=d.dtype, device=d.device)[:, where]


@singledispatch
def solve(A: LinearOperator, b: Tensor, rtol: float | None = None) -> Tensor:
    """The z of least norm among those of least ||A z - b||: A^-1 b where A has an inverse, A+ b else.

    Arguments:
        A: an operator of shape (m, n).
        b: right-hand sides (*batch, m).
        rtol: singular values up to rtol * ||A|| count as zero; eps * max(m, n) by default.

    Returns:
        z of shape (*batch, n), with the gradients of `pinv`.

    Raises:
        ShapeError, DtypeError: b is not made for A.

    Law:
        `solve(A, b) == pinv(A)(b)`, `A.H(A(solve(A, b)) - b) == 0` (laws/test_solutions.py)

    Example:
        >>> solve(Diagonal(torch.tensor([2.0, 0.0])), torch.tensor([4.0, 1.0]))
        tensor([2., 0.])
    """
    require_shape(b, A.shape[:1], "the right-hand side")
    require_like(b, A.reference(), "the right-hand side")
    structured = pinv.dispatch(type(A)) is not pinv.dispatch(LinearOperator)
    if structured or rtol is not None or A.shape[0] != A.shape[1] or A.batch or not eager(b):
        solution: Tensor = pinv(A, rtol)(b)
        return solution
    try:
        with torch.no_grad():
            inverse(A)  # tells whether LU may be trusted
    except SingularOperator:
        least: Tensor = pinv(A)(b)
        return least
    rows: Tensor = torch.linalg.solve(A.matrix().mT, b.reshape(-1, A.shape[0]), left=False)
    return rows.reshape(b.shape)


@solve.register
def _(A: Inverse, b: Tensor, rtol: float | None = None) -> Tensor:
    return solve.dispatch(LinearOperator)(A, b, rtol) if rtol is not None else A.operator(b)
