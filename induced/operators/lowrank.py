"""Operators U V^T and c I + U V^T: closed under sum, product, adjoint and functions at O(n r^2) (docs/theory/linearizer.md)."""

from collections.abc import Callable
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from induced._registry import saved_as
from induced._validate import require_floating, visible
from induced.errors import DomainError, ShapeError, SingularOperator
from induced.operators.algebra import register, require_matrix
from induced.operators.base import Dense, LinearOperator
from induced.operators.columns import Columns, basis, compress, dual, spectral, spread
from induced.operators.derivatives import blocks, halves, independent, moves
from induced.operators.diagonal import Diagonal, OnEntries
from induced.operators.factors import REPEATED, counted, determinant, tracked, watched
from induced.operators.matrices import Phi, divided_difference, real_power
from induced.operators.reduction import Reduction, SignLogDet, Triplets, require_regular
from induced.operators.rules import Scalar, per_matrix


class _Factored(LinearOperator):
    """What U V^T and c I + U V^T share: the algebra of the parts (c, U, V), with c = 0 for the first."""

    U: Tensor
    V: Tensor
    plain = False
    """Whether there is no multiple of the identity: U V^T."""

    def __init__(self, U: Tensor, V: Tensor) -> None:
        require_matrix(U, "the factor U")
        require_matrix(V, "the factor V")
        if U.shape[-1] != V.shape[-1] or U.dtype != V.dtype or U.device != V.device:
            got = " and ".join(f"{tuple(X.shape)} {X.dtype} {X.device}" for X in (U, V))
            raise ShapeError(f"U and V must be (m, r) and (n, r) of one dtype and device, got {got}")
        super().__init__((U.shape[-2], V.shape[-2]))
        register(self, "U", U)
        register(self, "V", V)

    @property
    def batch(self) -> torch.Size:
        c, U, V = self.parts()
        if c.dim() == 0 and U.dim() == 2 and V.dim() == 2:
            return torch.Size()
        return torch.broadcast_shapes(c.shape, U.shape[:-2], V.shape[:-2])  # type: ignore[no-any-return, no-untyped-call]

    def _reference(self) -> Tensor:
        return self.U

    def parts(self) -> Triplets:
        """(c, U, V) of c I + U V^T."""
        return self.U.new_zeros(()), self.U, self.V

    def _fixed(self) -> Reduction:
        """The reduction without derivatives."""
        c, U, V = (part.detach() for part in self.parts())
        return self.of_kind(c, U, V)._reduction()

    def _capacitance(self) -> tuple[Tensor, Tensor]:
        """c and c I_r + V^T U, in float64: det(c I + U V^T) = c^(n - r) det(c I_r + V^T U)."""
        c, U, V = (part.double() for part in self.parts())
        return c, per_matrix(c) * torch.eye(U.shape[-1], dtype=U.dtype, device=U.device) + V.mT @ U

    def _trace(self) -> Tensor:
        c, U, V = self.parts()
        return self.shape[0] * c + (U * V).sum((-2, -1))

    def _eigenvalues(self) -> Tensor:
        others = self.shape[0] - self.U.shape[-1]
        if others <= 0:
            return super()._eigenvalues()
        c, small = self._capacitance()
        found = [torch.linalg.eigvals(watched(small, REPEATED)), c.unsqueeze(-1).expand(*small.shape[:-2], others)]
        return torch.cat(found, -1).to(torch.promote_types(self.U.dtype, torch.complex64))

    def compressed(self, rtol: float | None = None) -> "LinearOperator":
        """The operator of the fewest columns within `rtol` of this one: U V^T by its best approximation of that rank.

        Arguments:
            rtol: singular values of U V^T up to rtol * (|c| + ||U V^T||) are dropped; eps by default.

        Raises:
            ShapeError: a batch of operators, whose ranks may differ.
            DomainError: U or V carry gradients: a truncation has none where singular values repeat.

        Law:
            `norm(A - A.compressed(rtol)) <= rtol * (abs(c) + norm(U V^T))` (laws/test_inverses.py)

        Example:
            >>> import torch
            >>> LowRank(torch.ones(4, 3), torch.ones(5, 3)).compressed().U.shape
            torch.Size([4, 1])
        """
        if self.batch:
            raise ShapeError(f"one operator is compressed, not a batch of them of shape {tuple(self.batch)}: {self}")
        if tracked(self.U, self.V):
            raise DomainError(f"a truncation has no derivative; compress under torch.no_grad(), or detached factors: {self}")
        return self.of_kind(*compress(*self.parts(), rtol))

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if self.batch or other.batch:
            return super()._plus(other)
        if isinstance(other, _Factored):
            (c, U, V), (d, X, Y) = self.parts(), other.parts()
            return self.of_kind(*compress(c + d, torch.cat([U, X], -1), torch.cat([V, Y], -1)), other)
        if isinstance(other, OnEntries) and self.is_scalar():
            return Diagonal(self.parts()[0] + other.diagonal())
        return other._plus(self) if self.is_scalar() else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if self.batch or other.batch:
            return super()._times(other)
        if self.plain:  # (U V^T) B = U (B^T V)^T
            return LowRank(self.U, other.H._columns(self.V.mT).mT)
        if self.is_scalar():
            return other._scaled(self.parts()[0])
        if isinstance(other, Dense):
            return Dense(self._columns(other.A.mT).mT)
        return super()._times(other)

    def _after(self, left: LinearOperator) -> LinearOperator:
        if self.batch or left.batch:
            return super()._after(left)
        if self.plain:
            return LowRank(left._columns(self.U.mT).mT, self.V)
        if self.is_scalar():
            return left._scaled(self.parts()[0])
        if isinstance(left, Dense):
            return Dense(self.H._columns(left.A))
        if not isinstance(left, _Factored):
            return super()._after(left)
        (c, U, V), (d, X, Y) = left.parts(), self.parts()
        right = d * V + Y @ (X.mT @ V)
        return self.of_kind(*compress(c * d, torch.cat([U, X], -1), torch.cat([right, c * Y], -1)))

    def of_kind(self, c: Tensor, U: Tensor, V: Tensor, *others: "_Factored") -> LinearOperator:
        """The operator of these parts, U V^T alone if this operator and the others are."""
        return factored(None if self.plain and all(A.plain for A in others) else c, U, V)

    def is_scalar(self) -> bool:
        """Whether this is c I: no column is left in U and V."""
        return self.U.shape[-1] == 0 and not self.plain


@final
@saved_as("operators.LowRank", "U", "V")
class LowRank(_Factored):
    """A = U V^T, for U of shape (*batch, m, r) and V of shape (*batch, n, r); applied at O((m + n) r).

    Raises: ShapeError, where the factors differ in rank, dtype or device."""

    plain = True

    def forward(self, z: Tensor) -> Tensor:
        return _apply(z, self.U, self.V)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return _apply(w, self.V, self.U)

    def _adjoint(self) -> LinearOperator:
        return LowRank(self.V, self.U)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return LowRank(per_matrix(a) * self.U, self.V)

    def _power(self, k: int) -> LinearOperator:
        return LowRank(self.U @ torch.linalg.matrix_power(self._capacitance()[1], k - 1).to(self.U), self.V)

    def reduced(self, same_frames: bool = False) -> Reduction:
        if same_frames:
            return ScaledIdentityPlusLowRank(0.0, self.U, self.V)._reduction(True)
        U, V = self.U.double(), self.V.double()
        follows, dtype = moves(*self.parts()), self.U.dtype
        left, right = (basis(X.detach() if follows else X, torch.finfo(dtype).eps) for X in (U, V))
        K, moving = left.R @ right.R.mT, [None, None]
        if follows:
            K, *moving, _ = blocks(None, U, V, K, left, right)  # type: ignore[assignment]
        W, Z = (Columns(Q, factored, dtype, X) for Q, X in zip((left, right), moving, strict=True))
        rounding = counted(2 * U.shape[-1], max(self.shape), dtype)
        return Reduction(W, Z, K.unsqueeze(-3), None, dtype, rounding, partial(spread, left.R, right.R))

    def _pinv(self, zero: Tensor | None) -> LinearOperator:
        if self.batch or not (tracked(self.U, self.V) and visible(*self.parts())):
            return super()._pinv(zero)
        fixed, U, V = self._fixed(), self.U.double(), self.V.double()
        if fixed.blocks.shape[-2:] != (U.shape[-1],) * 2 or not fixed.regular(zero):
            U, V = independent(U, V, fixed, zero)
        return LowRank(dual(V).to(self.V), dual(U).to(self.U))

    def _inverse(self) -> LinearOperator:
        if (r := self.U.shape[-1]) < (n := self.shape[0]):
            raise SingularOperator(f"an operator of rank {r} on {n} coordinates has no inverse; use pinv: {self}")
        return super()._inverse()

    def _slogdet(self) -> SignLogDet:
        if self.U.shape[-1] >= self.shape[0]:
            return Dense(self.matrix(self.shape[0]))._slogdet()
        return SignLogDet(zero := 0 * self._trace(), zero - torch.inf)

    def _det(self) -> Tensor:
        return 0 * self._trace() if self.U.shape[-1] < self.shape[0] else Dense(self.matrix(self.shape[0]))._det()

    def _phi(self, phi: Phi) -> LinearOperator:
        return ScaledIdentityPlusLowRank(0.0, self.U, self.V)._phi(phi)

    def _real_power(self, p: float) -> LinearOperator:
        """A^p = U M^(p - 1) V^T, M = V^T U."""
        if p < 0 or self.batch or not visible(*self.parts()):
            return super()._real_power(p)
        _, U, V = compress(*self.parts())
        M = V.double().mT @ U.double()
        zero = 2 * U.shape[-1] * torch.finfo(U.dtype).eps * spread(U.detach(), V.detach()).double()
        if p < 1 and bool((torch.linalg.svdvals(M.detach()) <= zero).any()):  # superfluous columns, or a Jordan block of 0
            return Dense(self.matrix())._phi(real_power(p))
        return LowRank((U.double() @ real_power(p - 1).of_matrix(M, zero)).to(U), V)


@final
@saved_as("operators.ScaledIdentityPlusLowRank", "c", "U", "V")
class ScaledIdentityPlusLowRank(_Factored):
    """A = c I + U V^T, for a scalar c (or one per operator of a batch) and U, V of shape (*batch, n, r).

    Sum, product, power, inverse, exponential, pseudoinverse and singular values stay in closed form (`induced.operators.linalg`).
    A product or sum recompresses its factors: what is dropped has operator norm at most eps * (|c| + ||U V^T||).

    Example:
        >>> import torch
        >>> A = ScaledIdentityPlusLowRank(2.0, torch.ones(3, 1), torch.ones(3, 1))
        >>> A(torch.tensor([1.0, 0.0, 0.0]))
        tensor([3., 1., 1.])
    """

    c: Tensor

    def __init__(self, c: Scalar, U: Tensor, V: Tensor) -> None:
        super().__init__(U, V)
        if self.shape[0] != self.shape[1]:
            raise ShapeError(f"c I + U V^T is square, but U and V have {self.shape[0]} and {self.shape[1]} rows")
        require_floating(c if isinstance(c, Tensor) else U, "the number c of c I + U V^T")
        register(self, "c", c if isinstance(c, Tensor) else torch.as_tensor(c, dtype=U.dtype, device=U.device))

    def parts(self) -> Triplets:
        return self.c, self.U, self.V

    def forward(self, z: Tensor) -> Tensor:
        c = self.c
        return torch.addcmul(_apply(z, self.U, self.V), c.unsqueeze(-1) if c.dim() else c, z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        c = self.c
        return torch.addcmul(_apply(w, self.V, self.U), c.unsqueeze(-1) if c.dim() else c, w)

    def _adjoint(self) -> LinearOperator:
        return ScaledIdentityPlusLowRank(self.c, self.V, self.U)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return ScaledIdentityPlusLowRank(a * self.c, per_matrix(a) * self.U, self.V)

    def reduced(self, same_frames: bool = False) -> Reduction:
        """A = Q K Q^T + c (I - Q Q^T), Q an orthonormal basis of span[U V]."""
        n, r = self.U.shape[-2:]
        follows, dtype, core = moves(*self.parts()), self.U.dtype, (self.U.detach(), self.V.detach())

        def mixed() -> Tensor:
            return self.c.detach().abs() + spread(*core)

        if 2 * r >= n or (follows and same_frames):
            return self._dense()._replace(relative=counted(2 * r, n, dtype), mixed=mixed)
        c, U, V = parts = [part.double() for part in self.parts()]
        fixed, *both = [part.detach() if follows else part for part in parts]
        both = both[:1] if self.U is self.V else torch.broadcast_tensors(*both)  # type: ignore[no-untyped-call]
        Q = basis(torch.cat(both, -1), torch.finfo(dtype).eps)
        core = Q.R[..., :r], Q.R[..., Q.R.shape[-1] - r :]
        K = per_matrix(fixed) * torch.eye(Q.R.shape[-2], dtype=U.dtype, device=U.device) + core[0] @ core[1].mT
        c = c.expand(K.shape[:-2])
        if follows:
            K, *moving, c = blocks(c, U, V, K, Q, Q)
            W, Z = (Columns(Q, factored, dtype, X) for X in moving)
        else:
            W = Z = Columns(Q, factored, dtype)
        return Reduction(W, Z, K.unsqueeze(-3), c, dtype, counted(2 * r, n, dtype), mixed)

    def _woodbury(self) -> "tuple[LinearOperator, Tensor]":
        """A^-1 = (I - U S^-1 V^T) / c, S = c I_r + V^T U, smooth in c, U and V; and a bound of ||A|| ||A^-1||, over a batch.

        The bound also limits the condition of S, which can be far worse than that of A: K is more accurate there.
        """
        c, S = self._capacitance()
        X = (self.U @ torch.linalg.inv_ex(S).inverse.to(self.U)) / -per_matrix(c.to(self.U))
        with torch.no_grad():
            bound = _bound(self, X, partial(torch.linalg.vector_norm, dim=(-2, -1)))
            # |U|_F <= sqrt(r) |U|: with spectral norms it may be smaller by up to r^2
            if visible(X) and WELL < float(bound) <= WELL * self.U.shape[-1] ** 2:
                bound = _bound(self, X, spectral)
        return ScaledIdentityPlusLowRank((1.0 / c).to(self.c), X, self.V), bound

    def _pinv(self, zero: Tensor | None) -> LinearOperator:
        if 2 * self.U.shape[-1] >= self.shape[0]:
            return self._reduction().pinv(zero)
        woodbury, bound = self._woodbury()
        follows = tracked(*self.parts())
        if zero is None and (float(bound) <= WELL if visible(*self.parts()) else follows):
            return woodbury
        if self.batch or not (follows and visible(*self.parts())):
            return super()._pinv(zero)
        if (fixed := self._fixed()).regular(zero):
            return woodbury
        if bool(self.c.abs() <= fixed.zero_of_c(zero)):
            return super()._pinv(zero)
        # B = A + P Q^T is regular for bases P and Q of the kernels of A^T and A, which move as B^-T Q and B^-1 P at fixed rank
        c, U, V = (part.double() for part in self.parts())
        _, _, P, Q = halves(fixed, zero)
        B, _ = ScaledIdentityPlusLowRank(c, torch.cat([U, c.detach() * P], -1), torch.cat([V, Q], -1))._woodbury()
        right, left = B._columns(P.mT).mT, B.H._columns(Q.mT).mT
        off = (ScaledIdentityPlusLowRank(1.0, -X, dual(X)) for X in (right, left))
        found: LinearOperator = next(off)._times(B)._times(next(off))
        return ScaledIdentityPlusLowRank(*(part.to(self.U) for part in found.parts()))  # type: ignore[operator]

    def _inverse(self) -> LinearOperator:
        if 2 * self.U.shape[-1] >= self.shape[0]:
            return self._reduction().inverse(self)
        woodbury, bound = self._woodbury()
        if float(bound) <= WELL if visible(*self.parts()) else tracked(*self.parts()):
            return woodbury
        if tracked(*self.parts()):
            require_regular(self._reduction().singular_values(), self.U.dtype, self)
            return woodbury
        return super()._inverse()

    def _slogdet(self) -> SignLogDet:
        others = self.shape[0] - self.U.shape[-1]
        if others <= 0:
            return Dense(self.matrix(self.shape[0]))._slogdet()
        c, small = self._capacitance()
        sign, logabs = torch.linalg.slogdet(small)
        return SignLogDet((c.sign() ** others * sign).to(self.U.dtype), (others * c.abs().log() + logabs).to(self.U.dtype))

    def _det(self) -> Tensor:
        others = self.shape[0] - self.U.shape[-1]
        if others <= 0:
            return Dense(self.matrix(self.shape[0]))._det()
        c, small = self._capacitance()
        value: Tensor = (c**others * determinant(small)).to(self.U.dtype)
        return value

    def _power(self, k: int) -> LinearOperator:
        c, U, V = (part.double() for part in self.parts())
        psi = divided_difference(c, V.mT @ U, lambda M: torch.linalg.matrix_power(M, k), scaled=False)
        return ScaledIdentityPlusLowRank((c**k).to(self.c), self.U @ psi.to(self.U), self.V)

    def _phi(self, phi: Phi) -> LinearOperator:
        """phi(c) I + U psi(M) V^T, psi(mu) = (phi(c + mu) - phi(c)) / mu, M = V^T U; in the frames where phi is singular at 0."""
        if self.U.shape[-1] >= self.shape[0]:  # c need not be an eigenvalue
            return Dense(self.matrix(self.shape[0]))._phi(phi)
        c, U, V = (part.double() for part in self.parts())
        value = phi.of_scalars(c)
        if phi.cut and not self.batch and visible(*self.parts()) and (bool(c == 0) or not self._reduction().regular(None)):
            return super()._phi(phi)
        psi = divided_difference(c, V.mT @ U, lambda M: phi.of_matrix(M, 0.0))
        return ScaledIdentityPlusLowRank(value.to(self.U), (U @ psi).to(self.U), self.V)

    def _real_power(self, p: float) -> LinearOperator:
        if not self.batch and visible(self.c) and bool(self.c == 0):
            return LowRank(self.U, self.V)._real_power(p)
        return super()._real_power(p)


WELL = 100.0
"""Largest bound of `_woodbury` up to which its factors are as good as those of K."""


def _bound(A: ScaledIdentityPlusLowRank, X: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    u, v, x = (norm(t).double() for t in (A.U, A.V, X))
    c, least = A.c.double().abs(), torch.finfo(X.dtype).tiny / torch.finfo(X.dtype).eps
    # no factors where they leave the range of their dtype, or their squares that of float64
    bound = torch.where((u * v > 0) & (x > least), (1 + u * v / c) * (1 + x * v * c), torch.inf)
    return bound.max() if bound.numel() else bound.new_zeros(())


def identity(n: int, like: Tensor) -> ScaledIdentityPlusLowRank:
    """The identity of R^n, in the dtype and on the device of `like`."""
    return ScaledIdentityPlusLowRank(1.0, like.new_zeros(n, 0), like.new_zeros(n, 0))


def factored(c: Tensor | None, U: Tensor, V: Tensor) -> LinearOperator:
    """c I + U V^T, or U V^T where c is None."""
    return LowRank(U, V) if c is None else ScaledIdentityPlusLowRank(c, U, V)


def _apply(z: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """U V^T z, for factors with or without a batch."""
    if U.dim() == 2 and V.dim() == 2:
        return F.linear(z @ V, U) if z.dim() > 1 else U @ (z @ V)
    if z.dim() > 1 and all(X.dim() == 2 or X.shape[-3] == 1 for X in (U, V)):  # all rows of a matrix meet one operator
        return z @ V.reshape(*V.shape[:-3], *V.shape[-2:]) @ U.reshape(*U.shape[:-3], *U.shape[-2:]).mT
    return (U @ (V.mT @ z.unsqueeze(-1))).squeeze(-1)
