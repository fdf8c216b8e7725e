"""Numbers that belong to an operator: rank, norms, condition, trace and determinant.

| function | Dense | Diagonal | U V^T | c I + U V^T | Product | others that know |
|---|---|---|---|---|---|---|
| rank, norm, cond | SVD | O(n) | O(n r^2) | O(n r^2) | SVD | a A, A^T, A^-1 |
| trace | sum | sum | sum of U * V | n c + sum of U * V | sum of A * B^T | a A, A^T, A + B |
| det, slogdet | LU | product | 0 | c^(n - r) det(c I_r + V^T U) | product | a A, A^T, A^-1 |

Every function falls back to the matrix and takes a batch of operators, but for `rank`. The numbers have gradients; those made of
singular values of U V^T and c I + U V^T have a first derivative only. Subspaces and solutions: `induced.operators.solutions`.
"""

from functools import singledispatch
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from induced.errors import DomainError
from induced.operators.base import Adjoint, LinearOperator, Product, Scaled, Sum
from induced.operators.blocks import block, cutoff, followed, low_rank_cutoff, thin
from induced.operators.dense import Diagonal, per_matrix
from induced.operators.linalg import Inverse, _square, _unbatched
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank

__all__ = [
    "Norm",
    "SignLogDet",
    "SingularValues",
    "cond",
    "det",
    "norm",
    "rank",
    "singular_values",
    "slogdet",
    "trace",
]

Norm = Literal["spectral", "frobenius", "nuclear"]


@final
class SignLogDet(NamedTuple):
    """det A = sign * exp(logabs); sign is 0 and logabs -inf where A is singular."""

    sign: Tensor
    logabs: Tensor


# -------------------------------------------------------------------------------------------------------- singular values
@final
class SingularValues(NamedTuple):
    """All min(m, n) singular values: `values` (*batch, k) in no order, then `repeated` (*batch,) another `times` over."""

    values: Tensor
    repeated: Tensor
    times: int


@singledispatch
def singular_values(A: LinearOperator) -> SingularValues:
    """The singular values of A without its vectors; repeated ones are counted, not listed.

    Law:
        `sum of squares == (A.matrix() ** 2).sum()` (laws/test_invariants.py)
    """
    s = torch.linalg.svdvals(A.matrix())
    return SingularValues(s, s.new_zeros(s.shape[:-1]), 0)


@singular_values.register
def _(A: Diagonal) -> SingularValues:
    return SingularValues(A.d.abs(), A.d.new_zeros(A.batch), 0)


@singular_values.register
def _(A: LowRank) -> SingularValues:
    with torch.no_grad():
        U, s, V = thin(A.U, A.V)
    values = followed(A, U, s, V)
    return SingularValues(values, values.new_zeros(values.shape[:-1]), min(A.shape) - values.shape[-1])


@singular_values.register
def _(A: ScaledIdentityPlusLowRank) -> SingularValues:
    if 2 * A.U.shape[-1] >= A.shape[0]:
        return singular_values.dispatch(LinearOperator)(A)
    with torch.no_grad():
        Y, T, K = block(*A.parts())
        P, s, Rh = torch.linalg.svd(K)
        Q = Y @ T
    values = followed(A, Q @ P, s, Q @ Rh.mT)
    return SingularValues(values, A.c.abs().expand(A.batch), A.shape[0] - values.shape[-1])


@singular_values.register
def _(A: Scaled) -> SingularValues:
    values, repeated, times = singular_values(A.operator)
    a = torch.as_tensor(A.a, dtype=values.dtype, device=values.device).abs()
    return SingularValues(a.unsqueeze(-1) * values, a * repeated, times)


@singular_values.register
def _(A: Adjoint) -> SingularValues:
    return singular_values(A.operator)


@singular_values.register
def _(A: Inverse) -> SingularValues:
    values, repeated, times = singular_values(A.operator)
    return SingularValues(1.0 / values, 1.0 / repeated if times else repeated, times)


def _distinct(s: SingularValues) -> Tensor:
    """Each singular value once, of shape (*batch, k)."""
    return torch.cat([s.values, s.repeated.unsqueeze(-1)], -1) if s.times else s.values


@singledispatch
def rank(A: LinearOperator, rtol: float | None = None) -> int:
    """The number of singular values above rtol * ||A||, rtol = eps * max(m, n) by default.

    Raises:
        ShapeError: A is a batch of operators.

    Law:
        `rank(A) == kernel(A.H).shape[0] - kernel(A.H).shape[1]` (laws/test_invariants.py)

    Example:
        >>> from induced.operators import Dense
        >>> rank(Dense(torch.tensor([[1.0, 2.0], [2.0, 4.0]])))
        1
    """
    _unbatched(A, "the rank")
    s = singular_values(A)
    values = _distinct(s)
    above = values > (low_rank_cutoff(A, values, rtol) if isinstance(A, LowRank) else cutoff(values, A.shape, rtol))
    return int(above.sum()) + (int(above[-1]) * (s.times - 1) if s.times else 0)


@singledispatch
def norm(A: LinearOperator, kind: Norm = "spectral") -> Tensor:
    """A norm of the singular values: their largest ("spectral"), root of the sum of squares ("frobenius"), or sum ("nuclear").

    Returns:
        The norm, (*batch,), with a finite gradient, one of several where the norm has a kink.

    Raises:
        DomainError: another kind of norm.

    Law:
        `norm(A, kind) == torch.linalg.matrix_norm(A.matrix(), kind)` (laws/test_invariants.py)

    Example:
        >>> norm(Diagonal(torch.tensor([3.0, -4.0]))), norm(Diagonal(torch.tensor([3.0, -4.0])), "frobenius")
        (tensor(4.), tensor(5.))
    """
    if kind not in ("spectral", "frobenius", "nuclear"):
        raise DomainError(f"a norm is 'spectral', 'frobenius' or 'nuclear', got {kind!r}")
    if kind == "frobenius" and singular_values.dispatch(type(A)) is singular_values.dispatch(LinearOperator):
        size: Tensor = torch.linalg.matrix_norm(A.matrix())
        return size
    s = singular_values(A)
    if kind == "spectral":
        return _distinct(s).amax(-1) if _distinct(s).shape[-1] else s.values.sum(-1)
    if kind == "nuclear":
        return s.values.sum(-1) + s.times * s.repeated
    total: Tensor = torch.linalg.vector_norm(torch.cat([s.values, s.times**0.5 * s.repeated.unsqueeze(-1)], -1), dim=-1)
    return total


@singledispatch
def cond(A: LinearOperator) -> Tensor:
    """The condition ||A|| ||A+|| over all min(m, n) singular values: the largest by the smallest, inf where that is 0.

    Returns:
        The condition, (*batch,); 0 for an operator of shape (m, 0) or (0, n).

    Law:
        `cond(A) == norm(A) * norm(inverse(A))` (laws/test_invariants.py)
    """
    s = _distinct(singular_values(A))
    if not s.shape[-1]:
        return s.sum(-1)
    largest, smallest = s.amax(-1), s.amin(-1)
    return torch.where(largest > 0, largest / smallest, torch.inf)


# ------------------------------------------------------------------------------------------------------ trace, determinant
@singledispatch
def trace(A: LinearOperator) -> Tensor:
    """The sum of the diagonal, and of the eigenvalues, (*batch,).

    Raises:
        NotInvertible: A is not square.

    Law:
        `trace(A @ B) == trace(B @ A)` (laws/test_invariants.py)
    """
    _square(A, "the trace")
    return A.matrix().diagonal(dim1=-2, dim2=-1).sum(-1)


@trace.register
def _(A: Diagonal) -> Tensor:
    return A.d.sum(-1)


@trace.register
def _(A: LowRank) -> Tensor:
    _square(A, "the trace")
    return (A.U * A.V).sum((-2, -1))


@trace.register
def _(A: ScaledIdentityPlusLowRank) -> Tensor:
    return A.shape[0] * A.c + (A.U * A.V).sum((-2, -1))


@trace.register
def _(A: Sum) -> Tensor:
    return trace(A.left) + trace(A.right)


@trace.register
def _(A: Product) -> Tensor:
    _square(A, "the trace")
    return (A.left.matrix() * A.right.matrix().mT).sum((-2, -1))


@trace.register
def _(A: Scaled) -> Tensor:
    return A.a * trace(A.operator)


@trace.register
def _(A: Adjoint) -> Tensor:
    return trace(A.operator)


@trace.register
def _(A: Inverse) -> Tensor:
    return trace(A.factorised())


@singledispatch
def det(A: LinearOperator) -> Tensor:
    """The determinant, (*batch,); `slogdet` where it would overflow.

    Raises:
        NotInvertible: A is not square; between two spaces only |det| of a square A has a meaning.

    Law:
        `det(A @ B) == det(A) * det(B)` (laws/test_invariants.py)
    """
    _square(A, "the determinant")
    value: Tensor = torch.linalg.det(A.matrix())
    return value


@singledispatch
def slogdet(A: LinearOperator) -> SignLogDet:
    """The sign and the logarithm of the absolute value of the determinant, (*batch,) each.

    Raises:
        NotInvertible: A is not square.

    Law:
        `slogdet(A).sign * slogdet(A).logabs.exp() == det(A)`, `slogdet(exp(A)).logabs == trace(A)` (laws/test_invariants.py)
    """
    _square(A, "the determinant")
    return SignLogDet(*torch.linalg.slogdet(A.matrix()))


@det.register
def _(A: Diagonal) -> Tensor:
    return A.d.prod(-1)


@slogdet.register
def _(A: Diagonal) -> SignLogDet:
    return SignLogDet(A.d.sign().prod(-1), A.d.abs().log().sum(-1))


@det.register
def _(A: LowRank) -> Tensor:
    _square(A, "the determinant")
    return 0 * trace(A) if A.U.shape[-1] < A.shape[0] else det.dispatch(LinearOperator)(A)


@slogdet.register
def _(A: LowRank) -> SignLogDet:
    _square(A, "the determinant")
    if A.U.shape[-1] >= A.shape[0]:
        return slogdet.dispatch(LinearOperator)(A)
    zero = 0 * trace(A)
    return SignLogDet(zero, zero - torch.inf)


def _capacitance(A: ScaledIdentityPlusLowRank) -> tuple[Tensor, Tensor]:
    """c and c I_r + V^T U, in float64: det(c I + U V^T) = c^(n - r) det(c I_r + V^T U)."""
    c, U, V = A.c.double(), A.U.double(), A.V.double()
    return c, per_matrix(c) * torch.eye(U.shape[-1], dtype=U.dtype, device=U.device) + V.mT @ U


@det.register
def _(A: ScaledIdentityPlusLowRank) -> Tensor:
    others = A.shape[0] - A.U.shape[-1]
    if others <= 0:
        return det.dispatch(LinearOperator)(A)
    c, small = _capacitance(A)
    value: Tensor = (c**others * torch.linalg.det(small)).to(A.U.dtype)
    return value


@slogdet.register
def _(A: ScaledIdentityPlusLowRank) -> SignLogDet:
    others = A.shape[0] - A.U.shape[-1]
    if others <= 0:
        return slogdet.dispatch(LinearOperator)(A)
    c, small = _capacitance(A)
    sign, logabs = torch.linalg.slogdet(small)
    return SignLogDet((c.sign() ** others * sign).to(A.U.dtype), (others * c.abs().log() + logabs).to(A.U.dtype))


@det.register
def _(A: Product) -> Tensor:
    _square(A, "the determinant")
    return det(A.left) * det(A.right) if A.left.shape == A.right.shape else det.dispatch(LinearOperator)(A)


@slogdet.register
def _(A: Product) -> SignLogDet:
    _square(A, "the determinant")
    if A.left.shape != A.right.shape:
        return slogdet.dispatch(LinearOperator)(A)
    (s, x), (t, y) = slogdet(A.left), slogdet(A.right)
    return SignLogDet(s * t, x + y)


@det.register
def _(A: Scaled) -> Tensor:
    return A.a ** A.shape[0] * det(A.operator)


@slogdet.register
def _(A: Scaled) -> SignLogDet:
    sign, logabs = slogdet(A.operator)
    a = torch.as_tensor(A.a, dtype=logabs.dtype, device=logabs.device)
    return SignLogDet(a.sign() ** A.shape[0] * sign, A.shape[0] * a.abs().log() + logabs)


@det.register
def _(A: Adjoint) -> Tensor:
    return det(A.operator)


@slogdet.register
def _(A: Adjoint) -> SignLogDet:
    return slogdet(A.operator)


@det.register
def _(A: Inverse) -> Tensor:
    return 1.0 / det(A.operator)


@slogdet.register
def _(A: Inverse) -> SignLogDet:
    sign, logabs = slogdet(A.operator)
    return SignLogDet(sign, -logabs)
