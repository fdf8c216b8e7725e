"""Dense and diagonal operators."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from induced._validate import require_shape
from induced.errors import ShapeError
from induced.operators.base import LinearOperator, Product, Scalar, per_sample, register, require_matrix


def per_matrix(a: Scalar) -> Scalar:
    """A scalar, or one scalar per operator of a batch, ready to multiply matrices of shape (*batch, m, n)."""
    return a[..., None, None] if isinstance(a, Tensor) and a.dim() > 0 else a


@final
class Dense(LinearOperator):
    """z -> A z for a matrix A of shape (*batch, m, n); an `nn.Parameter` trains, any other tensor is a buffer.

    Example:
        >>> import torch
        >>> A = Dense(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        >>> A(torch.tensor([1.0, 3.0])), (A @ A).matrix()
        (tensor([3., 2.]), tensor([[2., 0.],
                [0., 2.]]))
    """

    A: Tensor

    def __init__(self, A: Tensor) -> None:
        require_matrix(A, "the matrix of a Dense operator")
        super().__init__((A.shape[-2], A.shape[-1]))
        register(self, "A", A)

    @property
    def batch(self) -> torch.Size:
        return self.A.shape[:-2]

    def reference(self) -> Tensor:
        return self.A

    def forward(self, z: Tensor) -> Tensor:
        A = self.A
        if A.dim() == 2:
            return F.linear(z, A) if z.dim() > 1 else A @ z
        return (A @ z.unsqueeze(-1)).squeeze(-1)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        A = self.A
        return w @ A if A.dim() == 2 else (A.mT @ w.unsqueeze(-1)).squeeze(-1)

    def _adjoint(self) -> LinearOperator:
        return Dense(self.A.mT)

    def matrix(self, limit: int = 4096) -> Tensor:
        return self.A

    def _plus(self, other: LinearOperator) -> LinearOperator:
        return Dense(self.A + other.matrix(max(other.shape)))

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Dense) or self.batch or other.batch:
            return Dense(self.A @ other.matrix(max(other.shape)))
        # (A B)^T = B^T A^T applies B's adjoint to the rows of A, and so uses the structure of B.
        product = other._after(self)
        return Dense(other.H._columns(self.A)) if isinstance(product, Product) else product

    def _scaled(self, a: Scalar) -> LinearOperator:
        return Dense(per_matrix(a) * self.A)

    def _power(self, k: int) -> LinearOperator:
        return Dense(torch.linalg.matrix_power(self.A, k))


@final
class Diagonal(LinearOperator):
    """z -> d z, coordinate by coordinate, for d of shape (*batch, n)."""

    d: Tensor

    def __init__(self, d: Tensor) -> None:
        if not isinstance(d, Tensor) or d.dim() < 1:
            raise ShapeError(f"the diagonal must be a tensor of shape (*batch, n), got {tuple(getattr(d, 'shape', ()))}")
        require_shape(d, d.shape[-1:], "the diagonal")
        super().__init__((d.shape[-1], d.shape[-1]))
        register(self, "d", d)

    @property
    def batch(self) -> torch.Size:
        return self.d.shape[:-1]

    def reference(self) -> Tensor:
        return self.d

    def forward(self, z: Tensor) -> Tensor:
        return self.d * z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.d * w

    def _adjoint(self) -> LinearOperator:
        return self

    def matrix(self, limit: int = 4096) -> Tensor:
        if self.shape[0] > limit:
            raise ShapeError(f"a {self.shape} matrix exceeds limit={limit}; pass a larger limit to allow it")
        return torch.diag_embed(self.d)

    def _plus(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Diagonal):
            return Diagonal(self.d + other.d)
        return other._plus(self) if isinstance(other, Dense) or hasattr(other, "parts") else super()._plus(other)

    def _times(self, other: LinearOperator) -> LinearOperator:
        if isinstance(other, Diagonal):
            return Diagonal(self.d * other.d)
        if isinstance(other, Dense):
            return Dense(self.d.unsqueeze(-1) * other.A)
        return super()._times(other)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return Diagonal(per_sample(a) * self.d)

    def _power(self, k: int) -> LinearOperator:
        return Diagonal(self.d**k)
