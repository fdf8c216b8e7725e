"""Singular values, pseudoinverse and inverse of operators; closed forms where they beat dense algebra.

| function | Dense | Diagonal | U V^T | c I + U V^T |
|---|---|---|---|---|
| svd | LAPACK | sort | r x r | 2r x 2r; all n vectors at O(n^2 r) |
| pinv | SVD | entrywise | from the svd | K on span[U V]: O(n r^2) |
| inverse | LU | entrywise | none | r x r where that is well off, else K |

Every function falls back to `matrix()` for an operator without a row here. Linear algebra runs in at least float32, that of the
r x r and 2r x 2r matrices in float64. What `+` and `@` of two operators return (c I is `identity(n) * c`):

| + | Dense | Diagonal | U V^T | c I | c I + U V^T | other |
|---|---|---|---|---|---|---|
| Dense | Dense | Dense | Dense | Dense | Dense | Dense |
| Diagonal | Dense | Diagonal | Sum | Diagonal | Sum | Sum |
| U V^T | Dense | Sum | U V^T | c I + U V^T | c I + U V^T | Sum |
| c I | Dense | Diagonal | c I + U V^T | c I | c I + U V^T | Sum |
| c I + U V^T | Dense | Sum | c I + U V^T | c I + U V^T | c I + U V^T | Sum |

| left @ right | Dense | Diagonal | U V^T | c I | c I + U V^T | other |
|---|---|---|---|---|---|---|
| Dense | Dense | Dense | U V^T | Dense | Dense | Dense |
| Diagonal | Dense | Diagonal | U V^T | Diagonal | Product | Product |
| U V^T | U V^T | U V^T | U V^T | U V^T | U V^T | U V^T |
| c I | Dense | Diagonal | U V^T | c I | c I + U V^T | scaled |
| c I + U V^T | Dense | Product | U V^T | c I + U V^T | c I + U V^T | Product |
| other | Product | Product | U V^T | scaled | Product | Product |

A batch of operators without a closed form of its own gives a Sum or a Product. Sums and products of U V^T and c I + U V^T
recompress: what is dropped has operator norm at most eps * (|c| + ||U V^T||).
"""

from collections.abc import Callable
from functools import partial, singledispatch
from typing import NamedTuple, final

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import NotInvertible, ShapeError, SingularOperator
from induced.operators.base import Adjoint, LinearOperator, Resolved, Scalar
from induced.operators.blocks import (
    block,
    complement,
    cutoff,
    fixed,
    followed,
    low_rank_cutoff,
    reciprocal,
    thin,
    tracked,
    watched,
)
from induced.operators.dense import Dense, Diagonal, per_matrix
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank

__all__ = ["Inverse", "SVDFactors", "complement", "cutoff", "inverse", "pinv", "reciprocal", "svd"]


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


def _rank(A: LinearOperator, rank: int | None) -> int:
    full = min(A.shape)
    if rank is not None and not 0 <= rank <= full:
        raise ShapeError(f"rank must lie in 0..{full} for an operator of shape {A.shape}, got {rank}")
    return full if rank is None else rank


# ------------------------------------------------------------------------------------------------------------------ svd
@singledispatch
def svd(A: LinearOperator, rank: int | None = None) -> SVDFactors:
    """The `rank` largest singular triplets of A, or all min(m, n) of them; `(U, values, V)` with A = U diag(values) V^T.

    Gradients through the values are finite always. Those through the vectors exist where the values are distinct and not zero;
    elsewhere the backward pass raises. The values of c I + U V^T and U V^T have a first derivative only.

    Raises:
        ShapeError: `rank` lies outside 0..min(m, n), or A is a batch of operators.
        DomainError: in the backward pass, a derivative of singular vectors of a repeated value, or of dependent columns.

    Law:
        `A(V[:, i]) == values[i] * U[:, i]`, U and V orthonormal (Prop 2.9; laws/test_operators.py)
    """
    _unbatched(A, "svd")
    k = _rank(A, rank)
    U, s, Vh = torch.linalg.svd(watched(A.matrix()), full_matrices=False)
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
    k = _rank(A, rank)
    P, s, Q = (factor.to(A.U.dtype) for factor in thin(watched(A.U), watched(A.V)))
    more = max(k - len(s), 0)
    U, V = torch.cat([P, fixed(P, more)], -1)[:, :k], torch.cat([Q, fixed(Q, more)], -1)[:, :k]
    return SVDFactors(U, followed(A, U, torch.cat([s, s.new_zeros(more)])[:k], V), V)


@svd.register
def _(A: ScaledIdentityPlusLowRank, rank: int | None = None) -> SVDFactors:
    _unbatched(A, "svd")
    k, n = _rank(A, rank), A.shape[0]
    if 2 * A.U.shape[-1] >= n:
        return svd.dispatch(LinearOperator)(A, rank)
    Y, T, K = block(*map(watched, A.parts()))
    P, s, Rh = torch.linalg.svd(K)
    c = A.c.double().abs()
    above = int((s >= c).sum())
    first = min(above, k)
    others = min(n - len(s), k - first)  # |c|, with left vectors sign(c) q for q in the complement of Q
    last = slice(above, above + k - first - others)
    values = torch.cat([s[:first], c.expand(others), s[last]]).to(A.U.dtype)
    Q = (Y @ T).to(A.U.dtype)
    U, V = (Q @ torch.cat([X[:, :first], X[:, last]], -1).to(Q) for X in (P, Rh.mT))
    rest = fixed(Q, others)
    sign = torch.where(A.c < 0, -1.0, 1.0).to(rest)
    U = torch.cat([U[:, :first], sign * rest, U[:, first:]], -1)
    V = torch.cat([V[:, :first], rest, V[:, first:]], -1)
    return SVDFactors(U, followed(A, U, values, V), V)


# ------------------------------------------------------------------------------------------------- inverse, pseudoinverse
@singledispatch
def pinv(A: LinearOperator, rtol: float | None = None) -> LinearOperator:
    """The Moore-Penrose inverse A+; singular values up to rtol * ||A|| count as zero (rtol = eps * max(m, n) by default).

    Of U V^T, by default, those up to eps * max(m, n) * sum_k |u_k| |v_k| do too: the noise of columns that cancel.
    Gradients are finite at repeated singular values and at rank-deficient A; there they are those at fixed rank, for A+ is not
    continuous where the rank changes.

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
    differentiated = tracked(A.U, A.V)
    U, s, V = thin(*(W.detach() if differentiated else W for W in (A.U, A.V)))
    threshold = low_rank_cutoff(A, s.to(A.U.dtype), rtol)
    if not differentiated:
        return LowRank((V * reciprocal(s, threshold).unsqueeze(-2)).to(A.V), U.to(A.U))
    if s.shape[-1] < A.U.shape[-1] or not bool((s > threshold).all()):
        return pinv.dispatch(LinearOperator)(A, rtol)
    return LowRank(_dual(A.V.double()).to(A.V), _dual(A.U.double()).to(A.U))


def _dual(U: Tensor) -> Tensor:
    """U (U^T U)^-1 for independent columns, smooth in U; the fixed R of a QR conditions U^T U."""
    R = torch.linalg.qr(U.detach())[1]
    X = torch.linalg.solve_triangular(R, U, upper=True, left=False)
    dual: Tensor = torch.linalg.solve_triangular(R.mT, torch.linalg.solve(X.mT @ X, X, left=False), upper=False, left=False)
    return dual


@pinv.register
def _(A: ScaledIdentityPlusLowRank, rtol: float | None = None) -> LinearOperator:
    if 2 * A.U.shape[-1] >= A.shape[0]:
        return pinv.dispatch(LinearOperator)(A, rtol)
    rtol = torch.finfo(A.U.dtype).eps * A.shape[0] if rtol is None else rtol
    woodbury, bound = _woodbury(A)
    if eager(A.U) and float(bound) <= _WELL and float(bound) * rtol < 1:
        return woodbury
    differentiated = tracked(*A.parts())
    Y, T, K = block(*(part.detach() if differentiated else part for part in A.parts()))
    P, s, Rh = torch.linalg.svd(K)
    c = A.c.double()
    threshold = rtol * torch.maximum(s.amax(-1), c.abs()) if s.shape[-1] else rtol * c.abs()
    if differentiated:
        kept = bool((s > threshold.unsqueeze(-1)).all()) and bool((c.abs() > threshold).all())
        return woodbury if kept else pinv.dispatch(LinearOperator)(A, rtol)
    return _on_block(A, reciprocal(c, threshold), Y, T, (Rh.mT * reciprocal(s, threshold.unsqueeze(-1)).unsqueeze(-2)) @ P.mT)


@singledispatch
def inverse(A: LinearOperator) -> LinearOperator:
    """A^-1, with finite gradients, also at repeated singular values.

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
    if 2 * A.U.shape[-1] >= A.shape[0]:
        return inverse.dispatch(LinearOperator)(A)
    woodbury, bound = _woodbury(A)
    differentiated = tracked(*A.parts())
    if eager(A.U) and float(bound) <= _WELL:
        return woodbury
    Y, T, K = block(*(part.detach() if differentiated else part for part in A.parts()))
    if eager(A.U):
        c = A.c.detach().double().abs().unsqueeze(-1)
        s = torch.linalg.svdvals(K.detach())
        s = torch.cat([s, c.expand(*s.shape[:-1], 1)], -1)
        _require_condition((s.amax(-1) / s.amin(-1)).max().to(A.U.dtype), None, A)
    return woodbury if differentiated else _on_block(A, 1.0 / A.c.double(), Y, T, torch.linalg.inv(K))


_WELL = 100.0
"""Largest bound of `_woodbury` up to which its factors are as good as those of K."""


def _woodbury(A: ScaledIdentityPlusLowRank) -> tuple[LinearOperator, Tensor]:
    """A^-1 = (I - U S^-1 V^T) / c, S = c I_r + V^T U, smooth in c, U and V; and a bound of ||A|| ||A^-1||, over a batch.

    The bound also limits the condition of S, which can be far worse than that of A: K is more accurate there.
    """
    c, U, V = A.c.double(), A.U.double(), A.V.double()
    small = torch.linalg.inv_ex(per_matrix(c) * torch.eye(U.shape[-1], dtype=U.dtype, device=U.device) + V.mT @ U).inverse
    X = A.U @ (-small / per_matrix(c)).to(A.U)
    with torch.no_grad():
        bound = _bound(A, X, partial(torch.linalg.vector_norm, dim=(-2, -1)))
        # |U|_F <= sqrt(r) |U|: with spectral norms it may be smaller by up to r^2
        if eager(A.U) and _WELL < float(bound) <= _WELL * A.U.shape[-1] ** 2:
            bound = _bound(A, X, _spectral)
    return ScaledIdentityPlusLowRank((1.0 / c).to(A.c), X, A.V), bound


def _bound(A: ScaledIdentityPlusLowRank, X: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    u, v, x = (norm(t) for t in (A.U, A.V, X))
    bound = (1 + u * v / A.c.abs()) * (1 + x * v * A.c.abs())
    largest: Tensor = bound.max() if bound.numel() else bound.new_zeros(())
    return largest


def _spectral(U: Tensor) -> Tensor:
    """The largest singular value of a tall matrix."""
    largest: Tensor = torch.linalg.eigvalsh(U.mT @ U).amax(-1).sqrt()
    return largest


def _on_block(A: ScaledIdentityPlusLowRank, c: Tensor, Y: Tensor, T: Tensor, K: Tensor) -> LinearOperator:
    """Q K Q^T + c (I - Q Q^T) for Q = Y T, in the dtype of A."""
    eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
    return ScaledIdentityPlusLowRank(c.to(A.c), (Y @ (T @ (K - per_matrix(c) * eye))).to(A.U), (Y @ T).to(A.U))


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
        self._invert: Callable[[LinearOperator], LinearOperator] = Resolved(inverse, type(operator))
        self._seen: tuple[tuple[int, int], ...] | None = None
        self._factors: list[LinearOperator] = []  # in a list: not a submodule, so never saved or trained

    @property
    def batch(self) -> torch.Size:
        return self.operator.batch

    def reference(self) -> Tensor | None:
        return self.operator.reference()

    def factorised(self) -> LinearOperator:
        """A^-1 as an operator of the cheapest structure."""
        if torch.compiler.is_compiling():  # no version counters there, nor in inference mode
            return self._invert(self.operator)
        tensors = (*self.operator.parameters(), *self.operator.buffers())
        inferred = any(t.is_inference() for t in tensors)
        if inferred or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
            return self._invert(self.operator)
        seen = tuple((id(t), t._version) for t in tensors)
        if self._seen != seen:
            self._factors, self._seen = [self._invert(self.operator)], seen
        return self._factors[0]

    def __getstate__(self) -> dict[str, object]:
        # a copy has tensors of its own, whose ids may be those seen here
        return {**self.__dict__, "_seen": None, "_factors": []}

    def forward(self, z: Tensor) -> Tensor:
        applied: Tensor = self.factorised()(z)
        return applied

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.factorised().apply_adjoint(w)

    def _adjoint(self) -> LinearOperator:
        # torch.compile traces no dispatch on the type of a new operator
        return Adjoint(self) if torch.compiler.is_compiling() else Inverse(self.operator.H)

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
