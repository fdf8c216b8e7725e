"""Real invariant subspaces of operators."""

from typing import Any, NamedTuple, final

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from induced.errors import ShapeError
from induced.operators.base import LinearOperator
from induced.operators.checked import checked
from induced.operators.columns import Columns
from induced.operators.reduction import Reduction
from induced.operators.schur import Array, clusters


@final
class InvariantSubspace(NamedTuple):
    """A basis, orthonormal columns (n, k), with A basis = basis K, and the k complex eigenvalues of K."""

    eigenvalues: Tensor
    basis: Tensor


@checked("the invariant subspaces", square=True, single=True)
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
        NotSquare: A is not square. DomainError: A is not finite. ShapeError: A is a batch, or n exceeds `limit`.

    Example:
        >>> from induced.operators import Dense
        >>> [s.basis.shape[1] for s in invariant_subspaces(Dense(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 3]])))]
        [1, 2]

    Law:
        `A(basis)` stays in the span of `basis`; the dimensions sum to n (laws/test_spectral.py)
    """
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


def _parts(A: LinearOperator, limit: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """(Q, K, rest, c): A = Q K Q^T + c rest rest^T for orthonormal [Q rest]."""
    n = A.shape[0]
    if n > limit:
        raise ShapeError(f"the {n} eigenvectors of a {A.shape} operator exceed limit={limit}; pass a larger limit")
    reduction = A.reduced(True)
    if isinstance(reduction, Reduction) and isinstance(reduction.W, Columns):
        j, eye = torch.zeros(1, dtype=torch.int64), torch.eye(reduction.blocks.shape[-1], dtype=torch.float64)
        Q = reduction.W.columns(j, eye.to(reduction.blocks))
        return Q, reduction.blocks[0], reduction.W.rest(n - Q.shape[1]), float(reduction.number())
    M = A.matrix(limit)
    return torch.eye(n, dtype=M.dtype, device=M.device), M, M.new_zeros(n, 0), 0.0


def _schur_eigenvalues(T: Array) -> Array:
    """The eigenvalues of a real Schur form: the diagonal, and pairs a +- i sqrt(-b c) from its standard 2 x 2 blocks."""
    w = T.diagonal().astype(complex)
    for i in np.flatnonzero(T.diagonal(-1)):
        w[i : i + 2] += 1j * np.sqrt(np.abs(T[i, i + 1])) * np.sqrt(np.abs(T[i + 1, i])) * np.array([1, -1])
    return w


def _leading(T: Array, Z: Array, select: Array) -> Array:
    """An orthonormal basis of the invariant subspace of the selected eigenvalues of Z T Z^T."""
    if not select.any() or select.all():
        return Z[:, select]
    moved: tuple[Any, ...] = scipy.linalg.lapack.dtrsen(select, T, Z, job="N", lwork=max(1, len(T)), liwork=1)
    basis: Array = moved[1][:, : int(select.sum())]
    return basis
