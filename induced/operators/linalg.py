"""Singular values, pseudoinverse, inverse, powers and exponential of operators; closed forms where they beat dense algebra.

| function | Dense | Diagonal | U V^T | c I + U V^T |
|---|---|---|---|---|
| svd | LAPACK | sort | QR + r x r | QR + 2r x 2r; all n vectors at O(n^2 r) |
| pinv, inverse | SVD, LU | entrywise | from the svd, none | K on span[U V]: O(n r^2) |
| power, exp | dense | entrywise | r x r, exp as c = 0 | 2r x 2r block: O(n r^2) |

Every function falls back to `matrix()` for an operator without a row here. Linear algebra runs in at least float32.
"""

from functools import singledispatch
from typing import NamedTuple, final

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import NotInvertible, ShapeError, SingularOperator
from induced.operators.base import LinearOperator, Scalar, per_sample
from induced.operators.dense import Dense, Diagonal, per_matrix
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank, divided_difference, identity


@final
class SVDFactors(NamedTuple):
    """A = U diag(values) V^T with U (m, k), values (k,) descending, V (n, k)."""

    U: Tensor
    values: Tensor
    V: Tensor


def _square(A: LinearOperator, what: str) -> None:
    if A.shape[0] != A.shape[1]:
        raise NotInvertible(f"{what} needs a square operator, got shape {A.shape}: {A}")


def _unbatched(A: LinearOperator, what: str) -> None:
    if A.batch:
        raise ShapeError(f"{what} takes one operator, not a batch of them of shape {tuple(A.batch)}: {A}")


def _tracked(A: LinearOperator) -> bool:
    """Whether gradients may be asked for: orthonormal bases have none where columns are dependent or values repeat."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (*A.parameters(), *A.buffers()))


def _rank(A: LinearOperator, rank: int | None) -> int:
    full = min(A.shape)
    if rank is not None and not 0 <= rank <= full:
        raise ShapeError(f"rank must lie in 0..{full} for an operator of shape {A.shape}, got {rank}")
    return full if rank is None else rank


def cutoff(values: Tensor, shape: tuple[int, int], rtol: float | None) -> Tensor:
    """What counts as zero among values (*batch, k): rtol * their maximum, rtol = eps * max(m, n) by default."""
    rtol = torch.finfo(values.dtype).eps * max(shape) if rtol is None else rtol
    return rtol * values.amax(-1, keepdim=True) if values.shape[-1] else values.new_zeros(())


def reciprocal(values: Tensor, threshold: Tensor) -> Tensor:
    """1/values above the threshold and 0 elsewhere, with gradients that stay finite at 0."""
    keep = values.abs() > threshold
    return torch.where(keep, 1.0 / torch.where(keep, values, torch.ones_like(values)), torch.zeros_like(values))


# ------------------------------------------------------------------------------------------------------------------ svd
@singledispatch
def svd(A: LinearOperator, rank: int | None = None) -> SVDFactors:
    """The `rank` largest singular triplets of A, or all min(m, n) of them; `(U, values, V)` with A = U diag(values) V^T.

    Raises:
        ShapeError: `rank` lies outside 0..min(m, n), or A is a batch of operators.

    Law:
        `A(V[:, i]) == values[i] * U[:, i]`, U and V orthonormal (Prop 2.9; laws/test_operators.py)
    """
    _unbatched(A, "svd")
    k = _rank(A, rank)
    U, s, Vh = torch.linalg.svd(A.matrix(), full_matrices=False)
    return SVDFactors(U[:, :k], s[:k], Vh[:k].mT)


@svd.register
def _(A: Diagonal, rank: int | None = None) -> SVDFactors:
    _unbatched(A, "svd")
    k = _rank(A, rank)
    order = A.d.abs().argsort(descending=True, stable=True)[:k]
    V = torch.zeros(A.shape[0], k, dtype=A.d.dtype, device=A.d.device)
    V[order, torch.arange(k, device=A.d.device)] = 1.0
    return SVDFactors(V * torch.where(A.d[order] < 0, -1.0, 1.0).to(V), A.d[order].abs(), V)


@svd.register
def _(A: LowRank, rank: int | None = None) -> SVDFactors:
    _unbatched(A, "svd")
    k, r = _rank(A, rank), A.U.shape[-1]
    if r == 0 or 2 * r > min(A.shape):
        return svd.dispatch(LinearOperator)(A, rank)
    QU, RU = torch.linalg.qr(A.U)
    QV, RV = torch.linalg.qr(A.V)
    P, s, Rh = torch.linalg.svd(RU @ RV.mT)
    U, V, values = QU @ P, QV @ Rh.mT, s
    if k > r:
        U, V = torch.cat([U, complement(U, k - r)], -1), torch.cat([V, complement(V, k - r)], -1)
        values = torch.cat([s, s.new_zeros(k - r)])
    return SVDFactors(U[:, :k], values[:k], V[:, :k])


@svd.register
def _(A: ScaledIdentityPlusLowRank, rank: int | None = None) -> SVDFactors:
    _unbatched(A, "svd")
    k, n = _rank(A, rank), A.shape[0]
    if 2 * A.U.shape[-1] >= n:
        return svd.dispatch(LinearOperator)(A, rank)
    Q, K = _invariant_block(A)
    P, s, Rh = torch.linalg.svd(K)
    p = s.shape[0]
    others = n - p  # |c|, with left vectors sign(c) q for q in the complement of Q
    values, order = torch.cat([s, A.c.abs().expand(min(others, k))]).sort(descending=True, stable=True)
    values, order = values[:k], order[:k]
    missing = int((order >= p).sum())
    rest = complement(Q, missing)
    slot = torch.where(order < p, order, p + (torch.cumsum(order >= p, 0) - 1))
    sign = torch.where(A.c < 0, -1.0, 1.0).to(rest)
    return SVDFactors(torch.cat([Q @ P, sign * rest], -1)[:, slot], values, torch.cat([Q @ Rh.mT, rest], -1)[:, slot])


def _invariant_block(A: ScaledIdentityPlusLowRank) -> tuple[Tensor, Tensor]:
    """Q, an orthonormal basis of a space that holds span[U V], and K with A = Q K Q^T + c (I - Q Q^T)."""
    Q = torch.linalg.qr(torch.cat([A.U, A.V], -1))[0]
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    return Q, A.c * eye + (Q.mT @ A.U) @ (A.V.mT @ Q)


def complement(Q: Tensor, k: int) -> Tensor:
    """k orthonormal columns orthogonal to those of Q (n, p), p + k <= n, at O(n (p + k)^2)."""
    n, p = Q.shape
    if k == 0:
        return Q.new_zeros(n, 0)
    generator = torch.Generator().manual_seed(0)
    fill = torch.randn(n, k, generator=generator, dtype=torch.float64).to(Q)
    with torch.no_grad():
        full = torch.linalg.qr(torch.cat([Q, fill], -1))[0][:, p:]
        full = full - Q @ (Q.mT @ full)
    columns: Tensor = torch.linalg.qr(full)[0]
    return columns


# ------------------------------------------------------------------------------------------------- inverse, pseudoinverse
@singledispatch
def pinv(A: LinearOperator, rtol: float | None = None) -> LinearOperator:
    """The Moore-Penrose inverse A+; singular values up to rtol * ||A|| count as zero (rtol = eps * max(m, n) by default).

    Law:
        the four Penrose equations (Lemma 4.1; laws/test_operators.py)
    """
    # torch's own pseudoinverse has a closed derivative, also at repeated singular values
    M = A.matrix()
    return Dense(torch.linalg.pinv(M, rtol=torch.finfo(M.dtype).eps * max(A.shape) if rtol is None else rtol))


@pinv.register
def _(A: Diagonal, rtol: float | None = None) -> LinearOperator:
    return Diagonal(reciprocal(A.d, cutoff(A.d.abs(), A.shape, rtol)))


@pinv.register
def _(A: LowRank, rtol: float | None = None) -> LinearOperator:
    if _tracked(A):
        return pinv.dispatch(LinearOperator)(A, rtol)
    U, s, V = svd(A, min(A.U.shape[-1], *A.shape))
    return LowRank(V * reciprocal(s, cutoff(s, A.shape, rtol)), U)


@pinv.register
def _(A: ScaledIdentityPlusLowRank, rtol: float | None = None) -> LinearOperator:
    _unbatched(A, "pinv")
    if 2 * A.U.shape[-1] >= A.shape[0]:
        return pinv.dispatch(LinearOperator)(A, rtol)
    Q, K = _invariant_block(A)
    P, s, Rh = torch.linalg.svd(K)
    values = torch.cat([s, A.c.abs().reshape(1)])
    threshold = cutoff(values, A.shape, rtol).squeeze(-1)
    if _tracked(A):
        return _woodbury(A) if bool((values > threshold).all()) else pinv.dispatch(LinearOperator)(A, rtol)
    c = reciprocal(A.c, threshold)
    return ScaledIdentityPlusLowRank(c, Q @ ((Rh.mT * reciprocal(s, threshold)) @ P.mT) - c * Q, Q)


@singledispatch
def inverse(A: LinearOperator) -> LinearOperator:
    """A^-1.

    Raises:
        NotInvertible: A is not square.
        SingularOperator: the condition of A exceeds 1 / (n eps), so that no digit of the inverse could be trusted; `pinv` is the
            inverse on the range.
    """
    _square(A, "the inverse")
    M = A.matrix()
    result, info = torch.linalg.inv_ex(M)
    if M.numel():
        _require_condition((torch.linalg.matrix_norm(M, 1) * torch.linalg.matrix_norm(result, 1)).max(), info.max(), A)
    return Dense(result)


@inverse.register
def _(A: Diagonal) -> LinearOperator:
    if A.d.numel():
        _require_condition((A.d.abs().amax(-1) / A.d.abs().amin(-1)).max(), None, A)
    return Diagonal(1.0 / A.d)


@inverse.register
def _(A: LowRank) -> LinearOperator:
    _square(A, "the inverse")
    if A.U.shape[-1] < A.shape[0]:
        raise SingularOperator(f"an operator of rank {A.U.shape[-1]} on {A.shape[0]} coordinates has no inverse; use pinv: {A}")
    return inverse.dispatch(LinearOperator)(A)


@inverse.register
def _(A: ScaledIdentityPlusLowRank) -> LinearOperator:
    _unbatched(A, "the inverse")
    if 2 * A.U.shape[-1] >= A.shape[0]:
        return inverse.dispatch(LinearOperator)(A)
    Q, K = _invariant_block(A)
    s = torch.cat([torch.linalg.svdvals(K.detach()), A.c.detach().abs().reshape(1)])
    _require_condition(s.max() / s.min(), None, A)
    if _tracked(A):
        return _woodbury(A)
    return ScaledIdentityPlusLowRank(1.0 / A.c, Q @ torch.linalg.inv(K) - Q / A.c, Q)


def _woodbury(A: ScaledIdentityPlusLowRank) -> LinearOperator:
    """A^-1 = (I - U (c I_r + V^T U)^-1 V^T) / c, smooth in c, U and V; K is more accurate where that matrix is worse off."""
    small = A.c * torch.eye(A.U.shape[-1], dtype=A.U.dtype, device=A.U.device) + A.V.mT @ A.U
    return ScaledIdentityPlusLowRank(1.0 / A.c, -torch.linalg.solve(small, A.U, left=False) / A.c, A.V)


def _require_condition(condition: Tensor, info: Tensor | None, A: LinearOperator) -> None:
    condition = condition.detach()
    if not eager(condition):
        return
    limit = 1.0 / (max(A.shape[0], 1) * torch.finfo(condition.dtype).eps)
    if (info is not None and int(info) != 0) or not float(condition) <= limit:
        raise SingularOperator(
            f"the operator is singular at {condition.dtype}: its condition is {float(condition):.3g}, the limit {limit:.3g}; "
            f"use pinv(rtol), or float64: {A}"
        )


# -------------------------------------------------------------------------------------------------------------- functions
def power(A: LinearOperator, k: int) -> LinearOperator:
    """A^k for any integer k: the identity for 0, powers of the inverse below it (eq. 4)."""
    _square(A, "a power")
    if not isinstance(k, int):
        raise NotInvertible(f"A^k takes an integer k, got {k!r}")
    if k == 0:
        like = A.reference()
        return identity(A.shape[0], torch.zeros(()) if like is None else like)
    return A**k if k > 0 else inverse(A) ** (-k)


@singledispatch
def exp(A: LinearOperator, t: Scalar = 1.0) -> LinearOperator:
    """exp(t A), the one-parameter group of A; sizes up to `matrix(limit)`.

    Law:
        `exp(A, s) @ exp(A, t) == exp(A, s + t)` (laws/test_operators.py)
    """
    _square(A, "the exponential")
    return Dense(torch.linalg.matrix_exp(per_matrix(t) * A.matrix()))


@exp.register
def _(A: Diagonal, t: Scalar = 1.0) -> LinearOperator:
    return Diagonal(torch.exp(per_sample(t) * A.d))


@exp.register
def _(A: LowRank, t: Scalar = 1.0) -> LinearOperator:
    _square(A, "the exponential")
    return exp(ScaledIdentityPlusLowRank(0.0, A.U, A.V), t)


@exp.register
def _(A: ScaledIdentityPlusLowRank, t: Scalar = 1.0) -> LinearOperator:
    psi = divided_difference(A.c * t, (A.V.mT @ A.U) * per_matrix(t), torch.linalg.matrix_exp)
    return ScaledIdentityPlusLowRank(torch.exp(t * A.c), A.U @ psi * per_matrix(t), A.V)


# ----------------------------------------------------------------------------------------------------------- lazy inverse
@final
class Inverse(LinearOperator):
    """A^-1, factorised on first use and again whenever the tensors of A have changed; never stale.

    Raises:
        NotInvertible: A is not square. SingularOperator, on use: A has no inverse at its precision.
    """

    def __init__(self, operator: LinearOperator) -> None:
        _square(operator, "the inverse")
        super().__init__(operator.shape)
        self.operator = operator
        # resolved here, since torch.compile cannot trace a singledispatch
        self._invert = inverse.dispatch(type(operator))
        self._seen: tuple[tuple[int, int], ...] | None = None
        self._factors: list[LinearOperator] = []  # in a list: not a submodule, so never saved or trained

    @property
    def batch(self) -> torch.Size:
        return self.operator.batch

    def factorised(self) -> LinearOperator:
        """A^-1 as an operator of the cheapest structure."""
        tensors = (*self.operator.parameters(), *self.operator.buffers())
        traced = torch.compiler.is_compiling() or any(t.is_inference() for t in tensors)  # no version counters there
        if traced or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return self._invert(self.operator)
        seen = tuple((id(t), t._version) for t in tensors)
        if self._seen != seen:
            self._factors, self._seen = [self._invert(self.operator)], seen
        return self._factors[0]

    def forward(self, z: Tensor) -> Tensor:
        applied: Tensor = self.factorised()(z)
        return applied

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.factorised().apply_adjoint(w)

    def _adjoint(self) -> LinearOperator:
        return Inverse(self.operator.H)

    def matrix(self, limit: int = 4096) -> Tensor:
        return self.factorised().matrix(limit)

    def _plus(self, other: LinearOperator) -> LinearOperator:
        return self.factorised() + other

    def _times(self, other: LinearOperator) -> LinearOperator:
        return self.factorised() @ other

    def _scaled(self, a: Scalar) -> LinearOperator:
        return self.factorised() * a

    def _power(self, k: int) -> LinearOperator:
        return self.factorised() ** k


@inverse.register
def _(A: Inverse) -> LinearOperator:
    return A.operator


@svd.register
def _(A: Inverse, rank: int | None = None) -> SVDFactors:
    return svd(A.factorised(), rank)


@pinv.register
def _(A: Inverse, rtol: float | None = None) -> LinearOperator:
    return pinv(A.factorised(), rtol)


@exp.register
def _(A: Inverse, t: Scalar = 1.0) -> LinearOperator:
    return exp(A.factorised(), t)
