"""Linear charts: an invertible operator along the first axis of a point."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from induced._module import reference
from induced._numerics import linear_algebra, random_signs
from induced._registry import saved_as
from induced._validate import require_floating
from induced.bijections.base import Bijection
from induced.errors import NotSquare, ShapeError
from induced.operators import LU, Dense, Diagonal, LinearOperator, Permutation, RotationScaling, inverse, slogdet
from induced.operators.base import Product

__all__ = ["Conv1x1", "Linear"]


STABLE = (LU, Diagonal, RotationScaling)
"""Operators A whose inverse finds x with A x = z up to the rounding of a product with A, as orthogonal ones do."""

PROBES = 4
"""Random sign patterns that tell the size of what a structured operator adds up."""


class _Mixing(Bijection):
    """z = A x along the first axis of a point, at every position of the others, for the operator A that a subclass gives."""

    @abstractmethod
    def _operator(self) -> LinearOperator:
        """A, of shape (C, C) for points (C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._mix(self._operator(), x)

    def inverse(self, z: Tensor) -> Tensor:
        return self._solve(self._operator(), z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        A = self._operator()
        return self._mix(A, x), self._batch_zeros(x) + self._log_abs_det_of(A, x.dtype)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        A = self._operator()
        return self._solve(A, z), self._batch_zeros(z) - self._log_abs_det_of(A, z.dtype)

    def roundoff(self, x: Tensor) -> Tensor:
        A = self._operator()
        if isinstance(A, Permutation):
            return torch.zeros_like(x)
        size = _added(A, self._columns(x).mT.abs())
        return size.mT.reshape(x.shape)

    def _log_abs_det_of(self, A: LinearOperator, dtype: torch.dtype) -> Tensor:
        return _log_abs_det(A).to(dtype) * math.prod(self.shape[1:])

    def _solve(self, A: LinearOperator, z: Tensor) -> Tensor:
        """x with A x = z up to eps |A| |x|: a product with A^-1 leaves eps |A| |A^-1| |z|, the condition times as much."""
        if isinstance(A, Dense) and A.A.dtype != torch.float64:
            return self._mix(Dense(_inverse(A.A.double())), z).to(A.A.dtype)
        if isinstance(A, Dense) and not torch.compiler.is_compiling():
            rows = self._columns(z).mT.to(A.A)
            columns = rows.reshape(-1, len(A.A)).mT
            solved: Tensor = torch.linalg.solve(A.A, columns) if z.is_cpu else _unread(*torch.linalg.solve_ex(A.A, columns))
            return solved.mT.reshape(rows.shape).mT.reshape(z.shape)
        # a graph holds the inverse as a constant
        X = Dense(_inverse(A.A)) if isinstance(A, Dense) else A.H if A.orthogonal else inverse(A)
        x = self._mix(X, z)
        # a step of refinement
        return x if A.orthogonal or isinstance(A, STABLE) else x + self._mix(X, z - self._mix(A, x))

    def _columns(self, x: Tensor) -> Tensor:
        """Points as matrices (*batch, C, positions)."""
        require_floating(x, "what a linear chart takes")
        return x.flatten(1 - len(self.shape)) if len(self.shape) > 1 else x.unsqueeze(-1)

    @linear_algebra
    def _mix(self, A: LinearOperator, x: Tensor) -> Tensor:
        columns = self._columns(x)
        applied: Tensor = A.A @ columns.to(A.A.dtype) if isinstance(A, Dense) else A(columns.mT).mT
        return applied.reshape(x.shape)


def _inverse(A: Tensor) -> Tensor:
    return torch.linalg.inv(A) if A.is_cpu else _unread(*torch.linalg.inv_ex(A))


def _unread(result: Tensor, code: Tensor) -> Tensor:
    """The result, nan where the error code says singular: a host that reads the code waits for the device."""
    return result.masked_fill(code > 0, math.nan)


def _added(A: LinearOperator, z: Tensor) -> Tensor:
    """The sizes of what a product of A with numbers of sizes z (*batch, C) adds up: |A| z, without the matrix of a structure."""
    if isinstance(A, Dense):
        return z @ A.A.abs().mT
    if isinstance(A, LU):
        L, U = A.factors()
        return (z @ U.abs().mT @ L.abs().mT)[..., A.order]
    if isinstance(A, Product):
        return reduce(lambda size, factor: _added(factor, size), reversed(A.operators), z)
    # random signs keep the terms from cancelling, in all entries but few
    signs = random_signs(0, PROBES, *(1,) * (z.dim() - 1), z.shape[-1]).to(z)
    size: Tensor = A(signs * z)
    return size.abs().amax(0)


def _log_abs_det(A: LinearOperator) -> Tensor:
    return torch.linalg.slogdet(A.A.double()).logabsdet if isinstance(A, Dense) else slogdet(A).logabs


@final
@saved_as("bijections.Linear", "operator", "shape")
class Linear(_Mixing):
    """z = A x for an invertible operator A of shape (C, C), along the first axis of a point and at every position of the others.

    The inverse is that of the structure: the adjoint of an orthogonal operator, triangular solves of an LU, for Dense a solve in
    float64, rounded once. So `g(g.inverse(z))` is z within a few eps |A| |g^-1(z)|, whatever the condition. It is taken anew at
    each call, and so never stale while A trains.

    Arguments:
        operator: A. A `Permutation` only moves entries, and is exact.
        shape: the shape of a point, (C, ...); (C,) by default.

    Raises:
        NotSquare: A is not square.
        ShapeError: A is a batch of operators, or `shape` does not start with C.

    Law:
        `g(x) == A(x)`, `g.inverse(g(x)) == x` (laws/test_linear_charts.py)

    Example:
        >>> import torch
        >>> from induced.operators import Permutation
        >>> g = Linear(Permutation([1, 0]), (2, 3))
        >>> g(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        tensor([[4., 5., 6.],
                [1., 2., 3.]])
    """

    def __init__(self, operator: LinearOperator, shape: Sequence[int] | None = None) -> None:
        C = operator.shape[0]
        if operator.shape != (C, C):
            raise NotSquare(f"a chart needs a square operator, got shape {operator.shape}: {operator}")
        shape = (C,) if shape is None else tuple(shape)
        if operator.batch or shape[:1] != (C,):
            raise ShapeError(
                f"one operator on {C} coordinates acts on points of shape ({C}, ...), got the shape {shape} and the batch "
                f"{tuple(operator.batch)}: {operator}"
            )
        super().__init__(shape)
        self.operator = operator
        self.moves_entries = isinstance(operator, Permutation)

    def _operator(self) -> LinearOperator:
        return self.operator

    def _reference(self) -> Tensor | None:
        return reference(self.operator)


@final
@saved_as("bijections.Conv1x1", "shape")
class Conv1x1(_Mixing):
    """z = W x at every position of a (C, H, W) point, W an invertible (C, C) matrix that starts orthogonal.

    `Linear(Dense(W), shape)` is the same chart; this one makes W, its parameter `weight`.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        if len(self.shape) != 3:
            raise ShapeError(f"a 1x1 convolution acts on points of shape (C, H, W), got {self.shape}")
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(self.shape[0], self.shape[0]))[0])

    def _operator(self) -> LinearOperator:
        return Dense(self.weight)
