"""Orthonormal bases of the span of columns, with the rank that rounding can tell."""

import scipy.linalg
import torch
from torch import Tensor

from induced.errors import ShapeError


def orthonormal_columns(Z: Tensor, rtol: float | None = None) -> Tensor:
    """Q (n, r) with orthonormal columns that span those of Z (n, k), by a rank-revealing QR.

    A pivoted QR finds r columns that no others depend on; Gram-Schmidt in their given order makes Q. So independent columns
    give Q R = Z with R upper triangular and a positive diagonal, and gradients are those of an ordinary QR.

    Arguments:
        Z: columns (n, k).
        rtol: a column counts as dependent where what the others leave of it is at most rtol * the longest column; by
            default eps * min(n, k), and what float64 loses over the longer side.

    Raises:
        ShapeError: Z is not a matrix.

    Law:
        `Q.mT @ Q == I` and `Q @ Q.mT @ Z == Z` (laws/test_subspaces.py)
    """
    if Z.dim() != 2:
        raise ShapeError(f"an orthonormal basis is made of the columns of one matrix (n, k), got shape {tuple(Z.shape)}")
    if 0 in Z.shape:
        return Z[:, :0]
    if rtol is None:
        # the data are rounded to their own eps; the factorisation errs with its length, in float64
        rtol = torch.finfo(Z.dtype).eps * min(Z.shape) + torch.finfo(torch.float64).eps * max(Z.shape) ** 0.5
    R, pivots = scipy.linalg.qr(Z.detach().double().cpu().numpy(), mode="r", pivoting=True)
    diagonal = abs(R.diagonal())
    rank = int((diagonal > rtol * diagonal[0]).sum())
    Q, R = torch.linalg.qr(Z[:, sorted(pivots[:rank].tolist())].double())
    basis: Tensor = (Q * torch.where(R.detach().diagonal() < 0, -1.0, 1.0)).to(Z.dtype)
    return basis
