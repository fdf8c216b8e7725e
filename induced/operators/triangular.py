"""The triangular factors of a matrix as its parameters: always invertible, with a determinant at O(n)."""

import math
from typing import final

import torch
from torch import Tensor, nn

from induced._registry import saved_as
from induced.operators.algebra import require_matrix
from induced.operators.base import Dense, LinearOperator
from induced.operators.orthogonal import parity
from induced.operators.reduction import SignLogDet


@final
@saved_as("operators.LU", describe=lambda A: {"n": A.shape[0]})
class LU(LinearOperator):
    """A = P L U: P a fixed permutation, L unit lower triangular, U upper triangular of diagonal sign * exp(s); L, U and s train.

    A is applied by two triangular products and inverted by two triangular solves; no step of an optimiser makes it singular.
    det A = det P * prod(sign) * exp(sum s). A new LU(n) is a random orthogonal matrix.

    Arguments:
        n: the number of coordinates.

    Raises:
        ShapeError: n < 0.

    Law:
        `inverse(A)(A(z)) == z`, `log|det A| == A.log_diagonal.sum()` (laws/test_structures.py)

    Example:
        >>> import torch
        >>> A = LU.of(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
        >>> A(torch.ones(2)), A.log_diagonal.exp()
        (tensor([2., 3.], grad_fn=<IndexBackward0>), tensor([3., 2.], grad_fn=<ExpBackward0>))
    """

    order: Tensor
    sign: Tensor

    def __init__(self, n: int) -> None:
        super().__init__((n, n))
        self.triangles = nn.Parameter(torch.zeros(n, n))  # L below the diagonal, U above it; the diagonal is not used
        self.log_diagonal = nn.Parameter(torch.zeros(n))
        self.register_buffer("sign", torch.ones(n))
        self.register_buffer("order", torch.arange(n))  # (P z)_i = z_order[i]
        self._factorise(torch.linalg.qr(torch.randn(n, n))[0])

    @classmethod
    def of(cls, M: Tensor) -> "LU":
        """The LU whose product is M, an invertible matrix (n, n); factorised with partial pivoting.

        Raises:
            ShapeError: M is not a square matrix.
            SingularOperator: M is singular at its precision.
        """
        require_matrix(M, "the matrix of an LU factorisation", square=True)
        A = cls(len(M)).to(M)
        Dense(M.detach())._inverse()  # raises where M is singular
        A._factorise(M.detach())
        return A

    def _factorise(self, M: Tensor) -> None:
        packed, pivots = torch.linalg.lu_factor(M)
        P = torch.lu_unpack(packed, pivots, unpack_data=False)[0]
        diagonal = packed.diagonal()
        with torch.no_grad():
            self.triangles.copy_(packed - torch.diag(diagonal))
            self.log_diagonal.copy_(diagonal.abs().log())
            self.sign.copy_(diagonal.sign())
            self.order.copy_(P.nonzero()[:, 1])

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U."""
        L = torch.tril(self.triangles, -1) + torch.eye(self.shape[0], dtype=self.sign.dtype, device=self.sign.device)
        return L, torch.triu(self.triangles, 1) + torch.diag(self.sign * self.log_diagonal.exp())

    def forward(self, z: Tensor) -> Tensor:
        L, U = self.factors()
        return (z @ U.mT @ L.mT)[..., self.order]

    def apply_adjoint(self, w: Tensor) -> Tensor:
        L, U = self.factors()
        return w[..., self.order.argsort()] @ L @ U

    def _inverse(self) -> LinearOperator:
        return Solve(self)

    def _slogdet(self) -> SignLogDet:
        return SignLogDet(self.sign.prod() * parity(self.order), self.log_diagonal.sum())

    def _det(self) -> Tensor:
        sign, logabs = self._slogdet()
        return sign * logabs.exp()


@final
@saved_as("operators.LUInverse", "operator")
class Solve(LinearOperator):
    """A^-1 = U^-1 L^-1 P^T of an LU, which it follows."""

    def __init__(self, operator: LU) -> None:
        super().__init__(operator.shape)
        self.operator = operator

    def _reference(self) -> Tensor:
        return self.operator.sign

    def forward(self, z: Tensor) -> Tensor:
        L, U = self.operator.factors()
        b = z[..., self.operator.order.argsort()]
        return _solve(U, _solve(L, b, upper=False), upper=True)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        L, U = self.operator.factors()
        return _solve(L.mT, _solve(U.mT, w, upper=False), upper=True)[..., self.operator.order]

    def _inverse(self) -> LinearOperator:
        return self.operator

    def _slogdet(self) -> SignLogDet:
        sign, logabs = self.operator._slogdet()
        return SignLogDet(sign, -logabs)


def _solve(T: Tensor, b: Tensor, *, upper: bool) -> Tensor:
    """T^-1 b for coordinates b of shape (*batch, n), by one solve for the whole batch."""
    rows = b.reshape(math.prod(b.shape[:-1]), b.shape[-1])
    solved: Tensor = torch.linalg.solve_triangular(T.mT, rows, upper=not upper, left=False)
    return solved.reshape(b.shape)
