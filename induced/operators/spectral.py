"""Eigenvalues, real invariant subspaces and polar decomposition of operators."""

from functools import singledispatch
from typing import Any, NamedTuple, final

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from induced.errors import ShapeError
from induced.operators.base import LinearOperator
from induced.operators.blocks import low_rank_cutoff
from induced.operators.dense import Dense, Diagonal
from induced.operators.functions import _square, on_span, tracked
from induced.operators.linalg import Inverse, complement, cutoff, svd
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank
from induced.operators.schur import Array, clusters

__all__ = ["InvariantSubspace", "Polar", "eigenvalues", "invariant_subspaces", "polar"]


@final
class InvariantSubspace(NamedTuple):
    """A basis, orthonormal columns (n, k), with A basis = basis K, and the k complex eigenvalues of K."""

    eigenvalues: Tensor
    basis: Tensor


@final
class Polar(NamedTuple):
    """A = Q P: Q a partial isometry of the shape of A, P = (A^T A)^(1/2)."""

    Q: LinearOperator
    P: LinearOperator


def _unbatched(A: LinearOperator, what: str) -> None:
    if A.batch:
        raise ShapeError(f"{what} takes one operator, not a batch of them of shape {tuple(A.batch)}: {A}")


# ------------------------------------------------------------------------------------------------------------ eigenvalues
def eigenvalues(A: LinearOperator) -> Tensor:
    """All n eigenvalues with their multiplicities; O(n r^2) for c I + U V^T and U V^T, which have c, or 0, n - r times.

    Arguments:
        A: a square operator, or a batch of them.

    Returns:
        A complex tensor (*batch, n): descending in modulus, then in real part, then in imaginary part (a pair is
        exactly of one modulus, others up to rounding). Gradients exist where the eigenvalues are distinct.

    Raises:
        NotInvertible: A is not square.

    Example:
        >>> import torch
        >>> eigenvalues(Diagonal(torch.tensor([1.0, -2.0])))
        tensor([-2.+0.j,  1.+0.j])

    Law:
        `eigenvalues(A).sum() == trace(A)`, those of A^k are their k-th powers (laws/test_spectral.py)
    """
    _square(A, "the spectrum")
    w = _eigenvalues(A)
    order = torch.arange(w.shape[-1], device=w.device).expand(w.shape)
    for part in (torch.imag, torch.real, torch.abs):  # stable sorts: the last one decides first
        keys = part(w.detach()).gather(-1, order)
        order = order.gather(-1, keys.sort(dim=-1, descending=True, stable=True).indices)
    return w.gather(-1, order)


@singledispatch
def _eigenvalues(A: LinearOperator) -> Tensor:
    w: Tensor = torch.linalg.eigvals(A.matrix())
    return w


@_eigenvalues.register
def _(A: Diagonal) -> Tensor:
    return torch.complex(A.d, torch.zeros_like(A.d))


@_eigenvalues.register(LowRank)
@_eigenvalues.register(ScaledIdentityPlusLowRank)
def _(A: LowRank | ScaledIdentityPlusLowRank) -> Tensor:
    c, U, V = A.parts()
    n, r = U.shape[-2:]
    if r >= n:
        return _eigenvalues.dispatch(LinearOperator)(A)
    c = c.double().expand(A.batch)
    few = c.unsqueeze(-1) + torch.linalg.eigvals(V.double().mT @ U.double())
    many = c.unsqueeze(-1).expand(*A.batch, n - r)
    return torch.cat([few.expand(*A.batch, r), many.to(few.dtype)], -1).to(
        torch.complex64 if U.dtype == torch.float32 else few.dtype
    )


@_eigenvalues.register
def _(A: Inverse) -> Tensor:
    return 1.0 / _eigenvalues(A.operator)


# ------------------------------------------------------------------------------------------------------ invariant subspaces
@singledispatch
def _parts(A: LinearOperator, limit: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """(Q, K, rest, c): A = Q K Q^T + c rest rest^T for orthonormal [Q rest]."""
    M = A.matrix(limit)
    return torch.eye(len(M), dtype=M.dtype, device=M.device), M, M.new_zeros(len(M), 0), 0.0


@_parts.register
def _(A: LowRank, limit: int) -> tuple[Tensor, Tensor, Tensor, float]:
    return _parts(ScaledIdentityPlusLowRank(0.0, A.U, A.V), limit)


@_parts.register
def _(A: ScaledIdentityPlusLowRank, limit: int) -> tuple[Tensor, Tensor, Tensor, float]:
    n, r = A.U.shape
    if 2 * r >= n:
        return _parts.dispatch(LinearOperator)(A, limit)
    if n > limit:
        raise ShapeError(
            f"the {n - 2 * r} and more eigenvectors of c of a {A.shape} operator exceed limit={limit}; pass a larger limit"
        )
    Q, K = on_span(A)
    Q = Q.to(A.U)
    return Q, K, complement(Q, n - Q.shape[1]), float(A.c)


def invariant_subspaces(A: LinearOperator, rtol: float | None = None, limit: int = 4096) -> list[InvariantSubspace]:
    """The real invariant subspaces of A, one for each real eigenvalue, complex pair, or cluster of nearly equal ones.

    A defective eigenvalue keeps all of its Jordan blocks in one subspace. Subspaces of different clusters are independent, and
    orthogonal where A is normal.

    Arguments:
        A: a square operator.
        rtol: eigenvalues joined by steps up to rtol * ||A|| form a cluster; eps^(1/4) by default, since rounding splits an
            eigenvalue with a Jordan block of size k by about eps^(1/k) ||A||.
        limit: the largest n for which n basis vectors are returned.

    Returns:
        The subspaces in descending order of the modulus of their first eigenvalue. They carry no gradient.

    Raises:
        NotInvertible: A is not square. ShapeError: A is a batch, or n exceeds `limit`.

    Example:
        >>> import torch
        >>> [s.basis.shape[1] for s in invariant_subspaces(Dense(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 3]])))]
        [1, 2]

    Law:
        `A(basis)` stays in the span of `basis`; the dimensions sum to n (laws/test_spectral.py)
    """
    _square(A, "the invariant subspaces")
    _unbatched(A, "invariant_subspaces")
    with torch.no_grad():
        Q, K, rest, c = _parts(A, limit)
        norm = max(float(torch.linalg.matrix_norm(K, 2)) if K.numel() else 0.0, abs(c) if rest.shape[1] else 0.0)
        gap = (torch.finfo(Q.dtype).eps ** 0.25 if rtol is None else rtol) * norm
        T, Z = scipy.linalg.schur(K.detach().double().cpu().numpy())
        w = _schur_eigenvalues(T)
        # a pair has one label; the eigenvalue c of `rest` takes part in the clustering
        labels = clusters(np.append(w.real + 1j * np.abs(w.imag), [c] if rest.shape[1] else []), gap)
        found = []
        for label in np.unique(labels):
            select = labels[: len(w)] == label
            basis, values = Q @ torch.from_numpy(_leading(T, Z, select)).to(Q), w[select]
            if rest.shape[1] and labels[-1] == label:
                basis, values = torch.cat([basis, rest], -1), np.append(values, np.full(rest.shape[1], c))
            values = values[np.lexsort((-values.imag, -values.real, -np.abs(values)))]
            found.append((values, basis))
    found.sort(key=lambda pair: (-abs(pair[0][0]), -pair[0][0].real))
    kind = torch.complex64 if Q.dtype == torch.float32 else torch.complex128
    return [InvariantSubspace(torch.from_numpy(values).to(Q.device, kind), basis) for values, basis in found]


def _schur_eigenvalues(T: Array) -> Array:
    """The eigenvalues of a real Schur form: the diagonal, and pairs a +- i sqrt(-b c) from its standard 2 x 2 blocks."""
    w = T.diagonal().astype(complex)
    for i in np.flatnonzero(T.diagonal(-1)):
        w[i : i + 2] += 1j * np.sqrt(-T[i, i + 1] * T[i + 1, i]) * np.array([1, -1])
    return w


def _leading(T: Array, Z: Array, select: Array) -> Array:
    """An orthonormal basis of the invariant subspace of the selected eigenvalues of Z T Z^T."""
    if not select.any() or select.all():
        return Z[:, select]
    moved: tuple[Any, ...] = scipy.linalg.lapack.dtrsen(select, T, Z, job="N", lwork=max(1, len(T)), liwork=1)
    basis: Array = moved[1][:, : int(select.sum())]
    return basis


# ------------------------------------------------------------------------------------------------------------------ polar
@singledispatch
def polar(A: LinearOperator) -> Polar:
    """A = Q P with P = (A^T A)^(1/2), symmetric positive semidefinite, and Q a partial isometry with the kernel of A.

    Q is orthogonal where A is invertible, and has orthonormal columns (rows) where A has full column (row) rank. Singular values
    up to eps * max(m, n) * ||A|| count as zero.

    Arguments:
        A: an operator of any shape (m, n).

    Returns:
        `(Q, P)`, of shapes (m, n) and (n, n), in the structure of A; Dense where gradients are tracked. These are of first
        order, finite at repeated singular values too; where A is singular, that of Q is taken along operators of the same rank.

    Raises:
        ShapeError: A is a batch of operators.

    Example:
        >>> import torch
        >>> Q, P = polar(Dense(torch.tensor([[0.0, -2.0], [3.0, 0.0]])))
        >>> P.matrix()
        tensor([[3., 0.],
                [0., 2.]])

    Law:
        `Q @ P == A`, `P @ P == A.H @ A`, `Q.H @ Q @ P == P` (laws/test_spectral.py)
    """
    _unbatched(A, "polar")
    M = A.matrix()
    Q: Tensor = _PolarFactor.apply(M)  # type: ignore[no-untyped-call]
    P = Q.mT @ M
    return Polar(Dense(Q), Dense((P + P.mT) / 2))


class _PolarFactor(torch.autograd.Function):
    """Q = U V^T, from the svd A = U S V^T without its zeros; divides by s_i + s_j, never by their difference."""

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        U, s, Vh = torch.linalg.svd(A, full_matrices=False)
        rank = int((s > cutoff(s, (A.shape[-2], A.shape[-1]), None)).sum())
        ctx.save_for_backward(U[:, :rank], s[:rank], Vh[:rank].mT)
        Q: Tensor = U[:, :rank] @ Vh[:rank]
        return Q

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        U, s, V = ctx.saved_tensors
        right, left = grad @ V, grad.mT @ U
        X = U.mT @ right
        inner = (X - X.mT) / (s[:, None] + s)
        gradient: Tensor = U @ inner @ V.mT + ((right - U @ X) / s) @ V.mT + U @ ((left - V @ X.mT) / s).mT
        return gradient


@polar.register
def _(A: Diagonal) -> Polar:
    _unbatched(A, "polar")
    return Polar(
        Diagonal(torch.where(A.d.abs() > cutoff(A.d.abs(), A.shape, None), A.d.sign(), torch.zeros_like(A.d))),
        Diagonal(A.d.abs()),
    )


@polar.register
def _(A: LowRank) -> Polar:
    _unbatched(A, "polar")
    if tracked(A):
        return polar.dispatch(LinearOperator)(A)
    U, s, V = svd(A, min(A.U.shape[-1], *A.shape))
    kept = s > low_rank_cutoff(A, s, None)
    return Polar(LowRank(U * kept, V), LowRank(V * s, V))


@polar.register
def _(A: ScaledIdentityPlusLowRank) -> Polar:
    _unbatched(A, "polar")
    if tracked(A) or 2 * A.U.shape[-1] >= A.shape[0]:
        return polar.dispatch(LinearOperator)(A)
    B, K = on_span(A)
    U, s, Vh = torch.linalg.svd(K)
    c, dtype = A.c.double(), A.U.dtype
    zero = float(cutoff(torch.cat([s, c.abs().reshape(1)]).to(dtype), A.shape, None))
    sign = torch.where(c.abs() > zero, c.sign(), torch.zeros_like(c))
    eye = torch.eye(len(K), dtype=K.dtype, device=K.device)
    factors = ((sign, (U * (s > zero)) @ Vh), (c.abs(), (Vh.mT * s) @ Vh))
    return Polar(*(ScaledIdentityPlusLowRank(a.to(dtype), (B @ (X - a * eye)).to(dtype), B.to(dtype)) for a, X in factors))


@polar.register
def _(A: Inverse) -> Polar:
    return polar(A.factorised())
