"""What least squares computes, on matrices in float64; every result has derivatives of every order.

The problem is min |Z B - W|^2 + sum_j p_j |B_j|^2 over matrices B (n, m). A QR of Z leaves n rows of it, whatever their number:
|Z B - W|^2 = |R B - Q^T W|^2 + a constant. The normal equations would square the condition number of Z.
"""

from typing import Any

import torch
from torch import Tensor

from induced._numerics import largest
from induced._validate import eager, require_finite, require_one_forward
from induced.operators.factors import tracked


# ------------------------------------------------------------------------------------------------------------ the rows
class Rows:
    """Rows [Z | W] of a problem, in pieces; where no gradient is asked of them, a QR leaves n. Weights make them uneven."""

    def __init__(self, Z: Tensor, W: Tensor, uneven: bool = False) -> None:
        self.pieces, self.uneven = [(Z, W)], uneven

    def add(self, Z: Tensor, W: Tensor, uneven: bool = False, most: int = 0) -> None:
        """More rows (k, n), (k, m); fewer than `most` are held as they are."""
        self.pieces.append((Z, W))
        self.uneven = self.uneven or uneven
        if sum(piece.shape[0] for piece, _ in self.pieces) >= most:
            self.pieces = [self.reduced()]

    def reduced(self) -> tuple[Tensor, Tensor]:
        """The rows; n of them, R and Q^T W, where there were more and no gradient is asked of them."""
        Z, W = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*self.pieces, strict=True))
        if len(Z) <= Z.shape[1] or tracked(Z, W) or not (eager(Z) and eager(W)):
            return Z, W
        if self.uneven:  # light rows keep their digits below heavy ones, and lose them above
            order = torch.linalg.vector_norm(Z, dim=1).argsort(descending=True)
            Z, W = Z[order], W[order]
        packed, tau = torch.geqrf(Z)  # Q is applied, and never formed
        n = Z.shape[1]
        return packed[:n].triu(), torch.ormqr(packed, tau, W, True, True)[:n].clone()


# --------------------------------------------------------------------------------------------------------- the minimum
def minimum(Z: Tensor, W: Tensor, penalty: Tensor, rtol: float) -> Tensor:
    """The minimiser B (n, m) of least norm, for penalties p (n,) >= 0; no direction of Z below rtol |Z| is seen.

    In units of 1 / sqrt(p_j) each penalty is 1, and the singular values give the solution. It keeps its digits for every p > 0;
    [Z; sqrt(p)] would lose those of a small Z under a large p, and the kernel of Z under a small one. Coordinates without a
    penalty beside others with one are eliminated by their pseudoinverse.
    """
    for part in (Z, W):
        require_finite(part, "a QR of the coordinates of all points", "their norm overflows float64: take other units")
    if not bool(penalty.any()):
        B: Tensor = torch.linalg.pinv(Z, rtol=rtol) @ W
        return B
    U, s, Vh = torch.linalg.svd(Z.detach(), full_matrices=False)
    size, seen, free = s[0], s > rtol * s[0], penalty == 0
    if bool((penalty == penalty[0]).all()):
        return _unit(Z, W, penalty.sqrt(), U, torch.where(seen, s, 0.0) / penalty[0].detach().sqrt(), Vh)
    # Rounding is known in the units of Z and not in those of the penalties: there, only that of float64 is left.
    Z, rtol = Z - (U * torch.where(seen, 0.0, s)) @ Vh, torch.finfo(Z.dtype).eps * (Z.shape[1] + len(Z) ** 0.5)
    F, D, root = Z[:, free], Z[:, ~free], penalty[~free].sqrt()
    inverse = torch.linalg.pinv(F, rtol=rtol)
    off, T = (X - F @ (inverse @ X) for X in (D, W))
    U, s, Vh = _triplets((off / root).detach())
    seen = s > rtol * size * torch.linalg.vector_norm(Vh / root.detach(), dim=1)
    C = _unit(off, T, root, U, torch.where(seen, s, 0.0), Vh)
    order = torch.cat([free.nonzero(), (~free).nonzero()]).argsort(0)[:, 0]
    return torch.cat([inverse @ (W - D @ C), C])[order]


def _triplets(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD of M, whose small columns keep their digits beside much larger ones: they come last in a triangle."""
    order = torch.linalg.vector_norm(M, dim=0).argsort(descending=True)
    Q, R = torch.linalg.qr(M[:, order])
    V, s, Uh = torch.linalg.svd(R.mT, full_matrices=False)
    return Q @ Uh.mT, s, V[order.argsort()].mT


def _unit(Z: Tensor, W: Tensor, root: Tensor, *factors: Tensor) -> Tensor:
    """The minimiser for p = root^2, from the singular triplets of Z / root."""
    M = Z / root
    return _damped(M, W, M.new_zeros(M.shape[1], W.shape[1]), *factors) / root[:, None]


class _Damped(torch.autograd.Function):
    """X = (M^T M + I)^-1 (M^T T + V), from the singular triplets of M; its derivatives are such X again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(M: Tensor, T: Tensor, V: Tensor, U: Tensor, s: Tensor, Vh: Tensor) -> Tensor:
        damped = (1 / (s + 1 / s))[:, None]  # s / (s^2 + 1), at 0 and infinity too
        X: Tensor = V + Vh.mT @ (damped * (U.mT @ T - s[:, None] * (Vh @ V)))
        return X

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2], output, *inputs[3:])
        ctx.save_for_forward(*inputs[:2], output, *inputs[3:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        M, T, X, *factors = ctx.saved_tensors
        G = _damped(M, torch.zeros_like(T), grads[0], *factors)
        return (T - M @ X) @ G.mT - M @ G @ X.mT, M @ G, G, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        require_one_forward()
        M, T, X, *factors = ctx.saved_tensors
        dM, dT, dV = tangents[:3]
        return _damped(M, dT - dM @ X, dM.mT @ (T - M @ X) + dV, *factors)


def _damped(*arguments: Tensor) -> Tensor:
    X: Tensor = _Damped.apply(*arguments)  # type: ignore[no-untyped-call]
    return X


# -------------------------------------------------------------------------------------------------- the leading subspace
def leading(F: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B (m, rank) and C such that B C^T projects on the span of the first right singular vectors of F.

    Both are those vectors in value. The derivative is that of the span, where the singular values at `rank` differ: that of an
    SVD would have 1/0 at repeated values.
    """
    _, s, Vh = torch.linalg.svd(torch.linalg.qr(F.detach(), mode="r").R, full_matrices=True)
    size = torch.where(largest(s) > 0, largest(s), 1.0)
    s = torch.where(s > torch.finfo(s.dtype).eps * max(F.shape) * size, s / size, 0.0)
    values = torch.nn.functional.pad(s.square(), (0, F.shape[1] - len(s)))
    U, rest = Vh[:rank].mT, Vh[rank:].mT
    S = (F / size).mT @ (F / size)
    change = Vh @ (S - S.detach()) @ Vh.mT + values.diag()
    # the span of U + rest X, X = 0 in value, is invariant under S
    X = _invariant(change[:rank, :rank], change[:rank, rank:], change[rank:, :rank], change[rank:, rank:])
    B = U + rest @ X
    eye = torch.eye(rank, dtype=F.dtype, device=F.device)
    return B, torch.linalg.solve(eye + X.mT @ X, B.mT).mT


class _Invariant(torch.autograd.Function):
    """X with C + D X = X A + X B X, for diagonal A and D, and B = 0 or C = 0, in value. Its derivatives are such X again.

    Entries of X that nothing decides, as A and D have a number in common, are 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        gap = A.diagonal() - D.diagonal()[:, None]
        return torch.where(gap != 0, C / torch.where(gap != 0, gap, 1.0), 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        A, B, _, D, X = ctx.saved_tensors
        G = _invariant((A + B @ X).mT, torch.zeros_like(B), grads[0], (D - X @ B).mT)
        return -X.mT @ G, -X.mT @ G @ X.mT, G, G @ X.mT

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        require_one_forward()
        A, B, _, D, X = ctx.saved_tensors
        dA, dB, dC, dD = tangents
        return _invariant(A + B @ X, torch.zeros_like(B), dC + dD @ X - X @ dA - X @ dB @ X, D - X @ B)


def _invariant(*arguments: Tensor) -> Tensor:
    X: Tensor = _Invariant.apply(*arguments)  # type: ignore[no-untyped-call]
    return X
