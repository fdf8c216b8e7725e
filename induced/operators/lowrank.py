"""Operators U V^T and c I + U V^T: closed under sum, product, adjoint and powers at O(n r^2) (docs/theory/linearizer.md)."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from induced.errors import DomainError, ShapeError
from induced.operators.base import LinearOperator, Scalar, register, require_matrix
from induced.operators.dense import Dense, Diagonal, per_matrix
from induced.operators.matrices import divided_difference

Parts = tuple[Tensor, Tensor, Tensor]


class _Factored(LinearOperator):
    """What U V^T and c I + U V^T share: the algebra of the parts (c, U, V), with c = 0 for the first."""

    U: Tensor
    V: Tensor

    def __init__(self, U: Tensor, V: Tensor) -> None:
        require_matrix(U, "the factor U")
        require_matrix(V, "the factor V")
        if U.shape[-1] != V.shape[-1] or U.dtype != V.dtype or U.device != V.device:
            raise ShapeError(
                f"U and V must be (m, r) and (n, r) of one dtype and device, got {tuple(U.shape)} {U.dtype} {U.device} "
                f"and {tuple(V.shape)} {V.dtype} {V.device}"
            )
        super().__init__((U.shape[-2], V.shape[-2]))
        register(self, "U", U)
        register(self, "V", V)

    @property
    def batch(self) -> torch.Size:
        c, U, V = self.parts()
        if c.dim() == 0 and U.dim() == 2 and V.dim() == 2:
            return torch.Size()
        shapes = (c.shape, U.shape[:-2], V.shape[:-2])
        return torch.broadcast_shapes(*shapes)  # type: ignore[no-any-return, no-untyped-call]

    def reference(self) -> Tensor:
        return self.U

    def parts(self) -> Parts:
        """(c, U, V) of c I + U V^T."""
        return self.U.new_zeros(()), self.U, self.V

    def compressed(self, rtol: float | None = None) -> "LinearOperator":
        """The operator of the fewest columns within `rtol` of this one: U V^T by its best approximation of that rank.

        Arguments:
            rtol: singular values of U V^T up to rtol * (|c| + ||U V^T||) are dropped; eps by default.

        Returns:
            An operator B of the same class with ||A - B|| <= rtol * (|c| + ||U V^T||) in the operator norm, besides rounding.

        Raises:
            ShapeError: a batch of operators, whose ranks may differ.
            DomainError: U or V carry gradients: a truncation has none where singular values repeat.

        Law:
            `norm(A - A.compressed(rtol)) <= rtol * (abs(c) + norm(U V^T))` (laws/test_operators.py)

        Example:
            >>> import torch
            >>> LowRank(torch.ones(4, 3), torch.ones(5, 3)).compressed().U.shape
            torch.Size([4, 1])
        """
        if self.batch:
            raise ShapeError(f"one operator is compressed, not a batch of them of shape {tuple(self.batch)}: {self}")
        if torch.is_grad_enabled() and (self.U.requires_grad or self.V.requires_grad):
            raise DomainError(f"a truncation has no derivative; compress under torch.no_grad(), or detached factors: {self}")
        return factored(*compress(*self.parts(), rtol), plain=is_plain(self))

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if self.batch or other.batch:
            return super()._plus(other)
        if isinstance(other, _Factored):
            (c, U, V), (d, X, Y) = self.parts(), other.parts()
            return factored(*compress(c + d, torch.cat([U, X], -1), torch.cat([V, Y], -1)), plain=is_plain(self, other))
        if isinstance(other, Diagonal) and self.is_scalar():
            return Diagonal(self.parts()[0] + other.d)
        return other._plus(self) if isinstance(other, Dense) else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if self.batch or other.batch:
            return super()._times(other)
        if is_plain(self):  # (U V^T) B = U (B^T V)^T
            return LowRank(self.U, other.H._columns(self.V.mT).mT)
        if self.is_scalar():
            return other._scaled(self.parts()[0])
        if isinstance(other, Dense):
            return Dense(self._columns(other.A.mT).mT)
        return super()._times(other)

    def _after(self, left: LinearOperator) -> LinearOperator:
        if self.batch or left.batch:
            return super()._after(left)
        if is_plain(self):
            return LowRank(left._columns(self.U.mT).mT, self.V)
        if self.is_scalar():
            return left._scaled(self.parts()[0])
        if isinstance(left, Dense):
            return Dense(self.H._columns(left.A))
        if not isinstance(left, _Factored):
            return super()._after(left)
        (c, U, V), (d, X, Y) = left.parts(), self.parts()
        right = d * V + Y @ (X.mT @ V)
        return factored(*compress(c * d, torch.cat([U, X], -1), torch.cat([right, c * Y], -1)), plain=False)

    def is_scalar(self) -> bool:
        """Whether this is c I: no column is left in U and V."""
        return self.U.shape[-1] == 0 and not is_plain(self)


@final
class LowRank(_Factored):
    """A = U V^T, for U of shape (*batch, m, r) and V of shape (*batch, n, r); applied at O((m + n) r).

    Raises:
        ShapeError: the factors differ in rank, dtype or device.
    """

    def __init__(self, U: Tensor, V: Tensor) -> None:
        super().__init__(U, V)

    def forward(self, z: Tensor) -> Tensor:
        return _apply(z, self.U, self.V)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return _apply(w, self.V, self.U)

    def _adjoint(self) -> LinearOperator:
        return LowRank(self.V, self.U)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return LowRank(per_matrix(a) * self.U, self.V)

    def _power(self, k: int) -> LinearOperator:
        middle = torch.linalg.matrix_power(self.V.double().mT @ self.U.double(), k - 1)
        return LowRank(self.U @ middle.to(self.U), self.V)


@final
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
        register(self, "c", c if isinstance(c, Tensor) else torch.as_tensor(c, dtype=U.dtype, device=U.device))

    def parts(self) -> Parts:
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

    def _power(self, k: int) -> LinearOperator:
        c, U, V = (part.double() for part in self.parts())
        psi = divided_difference(c, V.mT @ U, lambda M: torch.linalg.matrix_power(M, k))
        return ScaledIdentityPlusLowRank((c**k).to(self.c), self.U @ psi.to(self.U), self.V)


def identity(n: int, like: Tensor) -> ScaledIdentityPlusLowRank:
    """The identity of R^n, in the dtype and on the device of `like`."""
    return ScaledIdentityPlusLowRank(1.0, like.new_zeros(n, 0), like.new_zeros(n, 0))


def is_plain(*operators: LinearOperator) -> bool:
    """Whether every operator is U V^T with no multiple of the identity."""
    return all(isinstance(op, LowRank) for op in operators)


def factored(c: Tensor, U: Tensor, V: Tensor, *, plain: bool) -> LinearOperator:
    """The operator of the parts (c, U, V): LowRank where it is plain."""
    return LowRank(U, V) if plain else ScaledIdentityPlusLowRank(c, U, V)


def compress(c: Tensor, U: Tensor, V: Tensor, rtol: float | None = None) -> Parts:
    """The parts of the same operator with the fewest columns that rounding can tell apart (QR and a small SVD).

    Singular values of U V^T up to rtol * (|c| + ||U V^T||) are dropped, rtol = eps by default: that product bounds the operator
    norm of what is lost. Factors that carry gradients, or a batch, are returned as they are: the derivative of a truncated SVD
    does not exist at repeated singular values.
    """
    n, r = U.shape[-2], U.shape[-1]
    if r == 0 or U.dim() > 2 or (torch.is_grad_enabled() and (U.requires_grad or V.requires_grad)):
        return c, U, V
    if r > max(n, V.shape[-2]):
        left, s, right = torch.linalg.svd(U @ V.mT, full_matrices=False)
    else:
        QU, RU = torch.linalg.qr(U)
        QV, RV = torch.linalg.qr(V)
        left, s, right = torch.linalg.svd(RU @ RV.mT, full_matrices=False)
        left, right = QU @ left, right @ QV.mT
    rtol = torch.finfo(s.dtype).eps if rtol is None else rtol
    keep = int((s > rtol * (c.abs() + s[:1])).sum())
    return c, left[:, :keep] * s[:keep], right[:keep].mT


def _apply(z: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """U V^T z, for factors with or without a batch."""
    if U.dim() == 2 and V.dim() == 2:
        return F.linear(z @ V, U) if z.dim() > 1 else U @ (z @ V)
    return (U @ (V.mT @ z.unsqueeze(-1))).squeeze(-1)
