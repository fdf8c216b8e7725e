"""Orthonormal bases of the span of columns, with the rank that rounding can tell."""

from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
from torch import Tensor

from induced._validate import innermost, require_cutoff, require_finite
from induced.errors import ShapeError
from induced.operators.factors import counted


@final
class Span(NamedTuple):
    """Orthonormal columns Q (n, r), and the sine of the angle by which their span may be off, up to 1."""

    Q: Tensor
    accuracy: float


def orthonormal_columns(Z: Tensor, rtol: float | None = None, noise: float = 0.0) -> Span:
    """Q (n, r) with orthonormal columns that span those of Z (n, k), and how well that span is known.

    The singular values of Z decide r. A pivoted QR finds r independent columns; Gram-Schmidt in their given order makes Q. So
    independent columns give Q R = Z with R upper triangular and a positive diagonal, and gradients of an ordinary QR.
    All of it runs in float64, since the rounding of a factorisation grows with the longer side.

    The cut-off is the norm by which Z may be off: singular values up to it count as zero. The cut-off over the least value that
    is kept is the sine of the angle by which the span may be off.

    Arguments:
        Z: columns (n, k).
        rtol: singular values up to rtol * ||Z|| count as zero; by default eps * min(n, k), with the eps of Z's dtype. The longer
            side, the number of samples, does not count, but for what the factorisation in float64 loses over it.
        noise: the norm of what Z may be off by besides, where `rtol` is not given.

    Raises:
        ShapeError: Z is not a matrix. DomainError: rtol is not a finite number >= 0, or Z is not finite or its norms overflow.

    Law:
        `Q.mT @ Q == I` and `Q @ Q.mT @ Z == Z` (laws/test_spans.py)
    """
    if Z.dim() != 2:
        raise ShapeError(f"an orthonormal basis is made of the columns of one matrix (n, k), got shape {tuple(Z.shape)}")
    if rtol is not None:
        require_cutoff(rtol, "a cut-off relative to the largest singular value")
    if 0 in Z.shape:
        return Span(Z[:, :0], 0.0)
    R, pivots = scipy.linalg.qr(_array(Z), mode="r", pivoting=True, check_finite=False)
    require_finite(torch.from_numpy(R), "a QR of the columns", "they hold nan or inf, or their norms overflow float64")
    s = scipy.linalg.svdvals(R[: min(Z.shape)])
    zero = counted(min(Z.shape), max(Z.shape), Z.dtype) * s[0] + noise if rtol is None else rtol * s[0]
    rank = int((s > zero).sum())
    if rank == 0:
        return Span(Z[:, :0], 0.0)
    Q, R = torch.linalg.qr(Z[:, sorted(pivots[:rank].tolist())].double())
    return Span((Q * torch.where(R.detach().diagonal() < 0, -1.0, 1.0)).to(Z.dtype), float(zero / s[rank - 1]))


def _array(Z: Tensor) -> npt.NDArray[np.float64]:
    """The values of Z, under torch.func.grad and jvp too, which would follow a tensor on its way to NumPy."""
    values = innermost(Z, "the dimension of a span")
    with torch._C._DisableFuncTorch():
        array: npt.NDArray[np.float64] = values.detach().double().cpu().numpy()
    return array
