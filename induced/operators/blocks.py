"""Orthonormal bases of a few directions, and the small matrices in them that stand for U V^T and c I + U V^T; all in float64."""

from typing import NamedTuple, final

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import DomainError
from induced.operators.dense import per_matrix
from induced.operators.lowrank import LowRank, ScaledIdentityPlusLowRank

__all__ = ["Basis", "basis", "block", "complement", "cutoff", "fixed", "followed", "reciprocal", "thin", "tracked", "watched"]


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
    if W.numel() and eager(W) and not tracked(W):
        G = W.mT @ W
        scale = G.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(W.dtype).tiny).rsqrt()
        squares, E = torch.linalg.eigh(scale.unsqueeze(-1) * G * scale.unsqueeze(-2))
        if 10 * eps * float(squares.min()) > torch.finfo(W.dtype).eps:
            T = scale.unsqueeze(-1) * E * squares.rsqrt().unsqueeze(-2)
            return Basis(W, T, T.mT @ G)
    Q, R = torch.linalg.qr(W)
    return Basis(Q, torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device), R)


def block(c: Tensor, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Y, T, K in float64: c I + U V^T = Q K Q^T + c (I - Q Q^T), Q = Y T an orthonormal basis of a space that holds span[U V]."""
    W = torch.cat(torch.broadcast_tensors(U.double(), V.double()), -1)  # type: ignore[no-untyped-call]
    Y, T, R = basis(W, torch.finfo(U.dtype).eps)
    eye, r = torch.eye(R.shape[-2], dtype=R.dtype, device=R.device), U.shape[-1]
    return Y, T, per_matrix(c.double()) * eye + R[..., :r] @ R[..., r:].mT


def thin(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The min(r, m, n) leading singular triplets (P, s, Q) of U V^T = P diag(s) Q^T."""
    left, right = (basis(W.double(), torch.finfo(U.dtype).eps) for W in (U, V))
    P, s, Rh = torch.linalg.svd(left.R @ right.R.mT, full_matrices=False)
    return left.Y @ (left.T @ P), s, right.Y @ (right.T @ Rh.mT)


def complement(Q: Tensor, k: int) -> Tensor:
    """k orthonormal columns orthogonal to those of Q (n, p), p + k <= n, at O(n p k); they carry no gradient."""
    n, p = Q.shape
    with torch.no_grad():
        E = Q.new_zeros(n, k)
        E[p : p + k].fill_diagonal_(1.0)
        return E if k == 0 or p == 0 else torch.ormqr(*torch.geqrf(Q), E)


def cutoff(values: Tensor, shape: tuple[int, int], rtol: float | None) -> Tensor:
    """What counts as zero among values (*batch, k): rtol * their maximum, rtol = eps * max(m, n) by default."""
    rtol = torch.finfo(values.dtype).eps * max(shape) if rtol is None else rtol
    return rtol * values.amax(-1, keepdim=True) if values.shape[-1] else values.new_zeros(())


def low_rank_cutoff(A: LowRank, values: Tensor, rtol: float | None) -> Tensor:
    """`cutoff` for the singular values of U V^T; by default at least eps * max(m, n) * sum_k |u_k| |v_k|.

    That much a rounding of the columns moves U V^T, however they cancel.
    """
    threshold = cutoff(values, A.shape, rtol)
    if rtol is not None:
        return threshold
    sizes = (A.U.detach().norm(dim=-2) * A.V.detach().norm(dim=-2)).sum(-1, keepdim=True)
    return torch.maximum(threshold, cutoff(sizes.to(values.dtype), A.shape, None))


def reciprocal(values: Tensor, threshold: Tensor) -> Tensor:
    """1/values above the threshold and 0 elsewhere, with gradients that stay finite at 0."""
    keep = values.abs() > threshold
    return torch.where(keep, 1.0 / torch.where(keep, values, torch.ones_like(values)), torch.zeros_like(values))


def tracked(*tensors: Tensor) -> bool:
    """Whether gradients may be asked for: orthonormal bases have none where columns are dependent or values repeat."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def followed(A: LowRank | ScaledIdentityPlusLowRank, U: Tensor, s: Tensor, V: Tensor) -> Tensor:
    """The singular values s of A; where derivatives are asked for, u_i^T A v_i of fixed vectors, which has those of s_i."""
    if eager(A.U) and not tracked(*A.parts()):
        return s.to(A.U.dtype)
    U, V = (X.detach().to(A.U.dtype).movedim(-1, 0) for X in (U, V))
    return (U * A(V)).sum(-1).movedim(0, -1)


def fixed(Q: Tensor, k: int) -> Tensor:
    """Singular vectors of one value, any of many: a derivative of them does not exist."""
    columns = complement(Q, k)
    if tracked(Q) and eager(Q):
        columns.requires_grad_().register_hook(_refuse)  # type: ignore[no-untyped-call]
    return columns


def _refuse(gradient: Tensor | None) -> None:
    if gradient is not None and bool(gradient.any()):
        raise DomainError("the singular vectors of a repeated value are any basis of their span and have no derivative")


def watched(a: Tensor) -> Tensor:
    """a, whose gradient is checked to be finite in eager mode."""
    if tracked(a) and eager(a):
        a = a.view_as(a)
        a.register_hook(_require_derivative)  # type: ignore[no-untyped-call]
    return a


def _require_derivative(gradient: Tensor | None) -> None:
    if gradient is not None and not bool(gradient.isfinite().all()):
        raise DomainError("singular vectors have no derivative where values repeat, are zero, or columns depend on one another")
