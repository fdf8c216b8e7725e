"""Orthonormal bases of a few directions, in float64, as frames."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from induced._numerics import HALVES, linear_algebra, scaled_norm
from induced._validate import visible
from induced.operators.base import Dense, LinearOperator
from induced.operators.factors import tracked
from induced.operators.reduction import Frame, Triplets


@final
class Basis(NamedTuple):
    """Y (n, k) and T (k, p) with orthonormal columns Q = Y T, and R (p, k) with Q R = W."""

    Y: Tensor
    T: Tensor
    R: Tensor


def basis(W: Tensor, eps: float) -> Basis:
    """A basis of the span of the columns of W (*batch, n, k) in float64, orthonormal to `eps`, the precision of the operator.

    That of the Gram matrix costs a third of a QR, and loses rounding over its least eigenvalue; it is taken where that suffices.
    """
    if W.numel() and visible(W):
        X, largest = W, torch.ones_like(W[..., :1, :])
        if eps <= torch.finfo(W.dtype).eps:  # squares of float32 numbers neither overflow nor vanish in float64
            size = W.abs().amax(-2, keepdim=True)
            least, most = (float(x) for x in size.aminmax())
            if not (least > 1e-140 and most < 1e140):
                largest = torch.where(size > 0, size, largest)
                X = W / largest
        G = X.mT @ X
        scale = G.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(W.dtype).tiny).rsqrt()
        squares, E = torch.linalg.eigh(scale.unsqueeze(-1) * G * scale.unsqueeze(-2))
        if 10 * eps * float(squares.min()) > torch.finfo(W.dtype).eps:
            T = scale.unsqueeze(-1) * E * squares.rsqrt().unsqueeze(-2)
            return Basis(X, T, T.mT @ (G * largest))
    Q, R = torch.linalg.qr(W)
    return Basis(Q, torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device), R)


@final
class Columns(Frame):
    """The columns of one basis, as one block.

    Arguments:
        basis: the basis.
        factored: makes U V^T of (None, U, V), and c I + U V^T of (c, U, V).
        dtype: that of the operator.
        moving: Q as a function of what the basis was made of, if that has derivatives. Then singular values and vectors have them
            too, and operators that `join` makes do not.
    """

    groups = 1
    _Q: Tensor | None

    def __init__(
        self,
        basis: Basis,
        factored: Callable[[Tensor | None, Tensor, Tensor], LinearOperator],
        dtype: torch.dtype,
        moving: Tensor | None = None,
    ) -> None:
        self.basis, self.factored, self.dtype, self.follows = basis, factored, dtype, moving is not None
        self.dim, self._Q, self._moving = basis.Y.shape[-2], None, moving

    @property
    def Q(self) -> Tensor:
        """The basis in the dtype of the operator, made once."""
        if self._Q is None:
            Q = self.basis.Y @ self.basis.T if self._moving is None else self._moving
            self._Q = Q.to(self.dtype)
        return self._Q

    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        if self._moving is not None:
            return (self._moving @ y.mT).to(self.dtype)
        if self._Q is None:
            return (self.basis.Y @ (self.basis.T @ y.mT)).to(self.dtype)
        return self._Q @ y.mT.to(self.dtype)

    def span(self, j: Tensor, y: Tensor) -> LinearOperator:
        return Dense(self.columns(j, y))

    def rest(self, k: int) -> Tensor:
        return complement(self.Q, k)

    def join(self, other: Frame, blocks: Tensor, c: Tensor | None) -> LinearOperator:
        assert isinstance(other, Columns)
        Y, T, _ = self.basis
        if c is not None:
            blocks = blocks - c[..., None, None, None] * torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
        left = (Y @ (T @ blocks.squeeze(-3))).to(self.dtype)
        return self.factored(None if c is None else c.to(self.dtype), left, other.Q)


def complement(Q: Tensor, k: int) -> Tensor:
    """k orthonormal columns orthogonal to those of Q (n, p), p + k <= n, at O(n p k); they carry no gradient."""
    n, p = Q.shape
    with torch.no_grad():  # which does not end forward derivatives
        Q, E = Q.detach(), F.pad(torch.eye(k, dtype=Q.dtype, device=Q.device), (0, 0, p, n - p - k))
        return E if k == 0 or p == 0 else torch.ormqr(*torch.geqrf(Q), E)


def spread(U: Tensor, V: Tensor) -> Tensor:
    """|U| |V| with the columns of both in balance: the norm of what was added up to form U V^T, however it cancels."""
    u, v = (scaled_norm(X, -2).unsqueeze(-2) for X in (U, V))
    ratio = torch.where((u > 0) & (v > 0), v.sqrt() / u.sqrt(), torch.ones_like(u))
    size: Tensor = torch.linalg.matrix_norm(U * ratio, 2) * torch.linalg.matrix_norm(V / ratio, 2)
    return size


@linear_algebra
def compress(c: Tensor, U: Tensor, V: Tensor, rtol: float | None = None) -> Triplets:
    """The parts of the same operator with the fewest columns that rounding can tell apart (QR and a small SVD).

    Singular values of U V^T up to rtol * (|c| + ||U V^T||) are dropped, rtol = eps by default: that product bounds the operator
    norm of what is lost. Factors that carry gradients, or a batch, are returned as they are: the derivative of a truncated SVD
    does not exist at repeated singular values.
    """
    n, r = U.shape[-2], U.shape[-1]
    if r == 0 or U.dim() > 2 or tracked(U, V) or not visible(U):
        return c, U, V
    rtol = torch.finfo(U.dtype).eps if rtol is None else rtol
    if U.dtype in HALVES:
        return tuple(part.to(U.dtype) for part in compress(c.float(), U.float(), V.float(), rtol))  # type: ignore[return-value]
    if r > max(n, V.shape[-2]):
        left, s, right = torch.linalg.svd(U @ V.mT, full_matrices=False)
    else:
        QU, RU = torch.linalg.qr(U)
        QV, RV = torch.linalg.qr(V)
        left, s, right = torch.linalg.svd(RU @ RV.mT, full_matrices=False)
        left, right = QU @ left, right @ QV.mT
    keep = int((s > rtol * (c.abs() + s[:1])).sum())
    return c, left[:, :keep] * s[:keep], right[:keep].mT


def dual(U: Tensor) -> Tensor:
    """U (U^T U)^-1 for independent columns, smooth in U; the fixed R of a QR conditions U^T U."""
    R = torch.linalg.qr(U.detach())[1]
    X = torch.linalg.solve_triangular(R, U, upper=True, left=False)
    columns: Tensor = torch.linalg.solve_triangular(R.mT, torch.linalg.solve(X.mT @ X, X, left=False), upper=False, left=False)
    return columns


def spectral(U: Tensor) -> Tensor:
    """The largest singular value of a tall matrix."""
    largest: Tensor = torch.linalg.eigvalsh(U.mT @ U).amax(-1).sqrt()
    return largest
