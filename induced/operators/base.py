"""Euclidean linear operators A : R^n -> R^m: what they promise, the dense ones, and lazy sums, products, multiples, adjoints."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from induced._module import reference
from induced._numerics import linear_algebra
from induced._registry import saved_as
from induced._validate import eager, require_tensor, whole_sides
from induced.errors import DomainError, DtypeError, ShapeError
from induced.operators.algebra import Algebra, hold, register, require_matrix
from induced.operators.factors import counted
from induced.operators.reduction import Frame, Reduction, require_regular
from induced.operators.rules import LIMIT, OfAdjoint, OfProduct, OfScaled, OfSeveral, OfSum, Scalar, TooLarge, kind, per_matrix
from induced.precision import exactly

SHOWN = 3
"""Operators of a long expression that its text names."""


class LinearOperator(Algebra):
    """A linear map z -> A z on coordinates of shape (*batch, n).

    Subclasses give `shape = (m, n)` to `__init__` and implement `forward` and `apply_adjoint`; all else is derived. The algebra
    (`+ - * / @ **`) returns the cheapest structure known to be correct and falls back to lazy sums and products. Functions of A
    (`svd`, `pinv`, `exp`, ...) work on what `reduced()` returns; a class overrides the `_function` of which it knows more. An
    operator may carry leading batch dimensions, which broadcast against those of z.

    Law:
        `A(z) == z @ A.matrix().mT` and `(w * A(z)).sum(-1) == (A.H(w) * z).sum(-1)` (laws/test_operators.py)
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        if len(shape) != 2 or min(shape) < 0:
            raise ShapeError(f"an operator has the shape (m, n) of its matrix, got {shape}")
        self.shape = whole_sides(shape, "the sides of an operator")  # type: ignore[assignment]

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """A z, of shape (*batch, m), for z of shape (*batch, n)."""

    @abstractmethod
    def apply_adjoint(self, w: Tensor) -> Tensor:
        """A^T w, of shape (*batch, n), for w of shape (*batch, m)."""

    def __call__(self, z: Tensor) -> Tensor:
        if not isinstance(z, Tensor):
            require_tensor(z, f"coordinates that {self} takes")
        if z.shape[-1:] != self.shape[1:]:
            raise ShapeError(f"{self} takes coordinates of shape (*batch, {self.shape[1]}), got {tuple(z.shape)}")
        like = reference(self)
        if not z.is_meta and torch.is_autocast_enabled(z.device.type):  # linear algebra runs in the precision of the operator
            with torch.autocast(z.device.type, enabled=False):
                return self(z if like is None else z.to(like.dtype))
        if like is not None and (like.dtype != z.dtype or like.is_cpu != z.is_cpu):
            raise DtypeError(
                f"{self} holds {like.dtype} on {like.device} and takes coordinates of that dtype and device, got {z.dtype} on "
                f"{z.device}: convert or move one of them; what was made of a map before it moved, as f.pinv(), stays"
            )
        applied: Tensor = super().__call__(z) if z.is_cpu else exactly(super().__call__, z)
        return applied

    @linear_algebra
    def matrix(self, limit: int = 4096) -> Tensor:
        """The matrix of A, of shape (*batch, m, n).

        Arguments:
            limit: the longest side that may be materialised.

        Raises:
            ShapeError: a side exceeds `limit`; a huge operator is never made dense unawares.
        """
        if max(self.shape) > limit:
            raise ShapeError(f"a {self.shape} matrix exceeds limit={limit}; pass matrix(limit={max(self.shape)}) to allow it")
        like = kind(self)
        eye = torch.eye(self.shape[1], dtype=like.dtype, device=like.device)
        return self._columns(eye).mT

    def _columns(self, rows: Tensor) -> Tensor:
        """A applied to each row of a matrix (k, n), of shape (*batch, k, m): the rows must not meet the operator's batch."""
        return self(rows.reshape(rows.shape[0], *(1,) * len(self.batch), rows.shape[1])).movedim(0, -2)

    def _dense(self) -> Reduction:
        m, n = self.shape
        if m * n > LIMIT**2:
            raise TooLarge(
                f"this function has no closed form for this operator, and its {m} x {n} matrix has more than {LIMIT}^2 entries; "
                f"if it fits, pass Dense(A.matrix(limit={max(m, n)})): {self}"
            )
        return Dense(self.matrix(max(m, n))).reduced()

    # ------------------------------------------------------------------------------------------------------- algebra
    def _adjoint(self) -> "LinearOperator":
        return Adjoint(self)

    def _plus(self, other: "LinearOperator") -> "LinearOperator":
        return other._plus(self) if isinstance(other, Dense) else Sum(self, other)

    def _times(self, other: "LinearOperator") -> "LinearOperator":
        return other._after(self)

    def _after(self, left: "LinearOperator") -> "LinearOperator":
        """left @ self, where the class of `left` has no form for it."""
        return Product(left, self)

    def _scaled(self, a: Scalar) -> "LinearOperator":
        return Scaled(a, self)

    def _power(self, k: int) -> "LinearOperator":
        half = self._power(k // 2) if k > 1 else None
        if half is None:
            return self
        square = half._times(half)  # torch.compile traces no signs between operators made in its graph
        return square._times(self) if k % 2 else square

    def extra_repr(self) -> str:
        return f"shape={self.shape}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


# ------------------------------------------------------------------------------------------------------------------ dense
@final
class Whole(Frame):
    """The frame of all of R^dim: one block, in its coordinates."""

    groups = 1

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def columns(self, j: Tensor, y: Tensor) -> Tensor:
        return y.mT

    def span(self, j: Tensor, y: Tensor) -> LinearOperator:
        return Dense(y.mT)

    def join(self, other: Frame, blocks: Tensor, c: Tensor | None) -> LinearOperator:
        return Dense(blocks.squeeze(-3))


@final
@saved_as("operators.Dense", "A")
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

    def _reference(self) -> Tensor:
        return self.A

    def forward(self, z: Tensor) -> Tensor:
        A = self.A
        if A.dim() == 2:
            return F.linear(z, A) if z.dim() > 1 else A @ z
        return (A @ z.unsqueeze(-1)).squeeze(-1)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        A = self.A
        return w @ A if A.dim() == 2 else (A.mT @ w.unsqueeze(-1)).squeeze(-1)

    def matrix(self, limit: int = 4096) -> Tensor:
        return self.A

    def reduced(self, same_frames: bool = False) -> Reduction:
        m, n = self.shape
        Z = Whole(n)
        return Reduction(
            Z if m == n else Whole(m), Z, self.A.unsqueeze(-3), None, self.A.dtype, counted(min(m, n), max(m, n), self.A.dtype)
        )

    def _inverse(self) -> LinearOperator:
        inverse, info = torch.linalg.inv_ex(self.A)
        if inverse.numel() and eager(inverse):
            M, X = self.A.detach(), inverse.detach()
            condition = float((torch.linalg.matrix_norm(M, 1) * torch.linalg.matrix_norm(X, 1)).max())
            # the condition in the 1-norm is cheap, and up to n times that of the singular values
            if int(info.max()) != 0 or not condition * self.shape[0] * torch.finfo(M.dtype).eps <= 1:
                require_regular(self.reduced().singular_values(), M.dtype, self)
        return Dense(inverse)

    def _adjoint(self) -> LinearOperator:
        return Dense(self.A.mT)

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


# --------------------------------------------------------------------------------------------------------- lazy operators
@final
@saved_as("operators.Adjoint", "operator")
class Adjoint(OfAdjoint, LinearOperator):
    """A^T of an operator without a closed form for it, which it follows as that trains."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__((operator.shape[1], operator.shape[0]))
        self.operator = operator

    @property
    def orthogonal(self) -> bool:
        return self.operator.orthogonal

    def forward(self, z: Tensor) -> Tensor:
        return self.operator.apply_adjoint(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.operator(w)

    def _adjoint(self) -> LinearOperator:
        return self.operator

    def _plus(self, other: LinearOperator) -> LinearOperator:
        return self.operator._plus(other.H).H

    def _times(self, other: LinearOperator) -> LinearOperator:
        return (other.operator @ self.operator).H if isinstance(other, Adjoint) else super()._times(other)

    def extra_repr(self) -> str:
        return brief(self.operator)


class _Several(OfSeveral, LinearOperator):
    """What sums and products share: operators in a row, of which those of the same class are joined into one row."""

    def __init__(self, shape: tuple[int, int], operators: Sequence[LinearOperator]) -> None:
        super().__init__(shape)
        hold(self, [B for A in operators for B in (A.operators if isinstance(A, _Several) and type(A) is type(self) else [A])])

    @property
    def batch(self) -> torch.Size:
        return torch.broadcast_shapes(*(A.batch for A in self.operators))  # type: ignore[no-any-return, no-untyped-call]

    def _reference(self) -> Tensor | None:
        return next((like for A in self.operators if (like := reference(A)) is not None), None)

    def extra_repr(self) -> str:
        few = [brief(A) for A in self.operators[: SHOWN if len(self.operators) > SHOWN + 1 else None]]
        left = len(self.operators) - len(few)
        return ", ".join([*few, f"... {left} more"] if left else few)


@final
@saved_as("operators.Sum", "*operators")
class Sum(OfSum, _Several):
    """A + B + ..., applied term by term."""

    def __init__(self, *terms: LinearOperator) -> None:
        super().__init__(terms[0].shape, terms)

    def forward(self, z: Tensor) -> Tensor:
        return reduce(torch.add, (A(z) for A in self.operators))

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return reduce(torch.add, (A.apply_adjoint(w) for A in self.operators))

    def _adjoint(self) -> LinearOperator:
        return Sum(*(A.H for A in self.operators))


@final
@saved_as("operators.Product", "*operators")
class Product(OfProduct, _Several):
    """A B ..., applied factor by factor from the right."""

    def __init__(self, *factors: LinearOperator) -> None:
        super().__init__((factors[0].shape[0], factors[-1].shape[1]), factors)

    @property
    def orthogonal(self) -> bool:
        return all(A.orthogonal for A in self.operators)

    def forward(self, z: Tensor) -> Tensor:
        for A in reversed(self.operators):
            z = A(z)
        return z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        for A in self.operators:
            w = A.apply_adjoint(w)
        return w

    def without(self, i: int) -> LinearOperator:
        others = [*self.operators[i + 1 :], *self.operators[:i]]
        return others[0] if len(others) == 1 else Product(*others)

    def _adjoint(self) -> LinearOperator:
        return Product(*(A.H for A in reversed(self.operators)))


@final
@saved_as("operators.Scaled", "a", "operator")
class Scaled(OfScaled, LinearOperator):
    """a A for a scalar a, or one scalar per operator of a batch."""

    a: Scalar

    def __init__(self, a: Scalar, operator: LinearOperator) -> None:
        super().__init__(operator.shape)
        self.operator = operator
        if isinstance(a, Tensor):
            register(self, "a", a)
        elif math.isfinite(a):
            self.a = float(a)
        else:
            raise DomainError(f"an operator is multiplied by a finite number, got {a}: {operator}")

    @property
    def batch(self) -> torch.Size:
        own = self.a.shape if isinstance(self.a, Tensor) else torch.Size()
        return torch.broadcast_shapes(own, self.operator.batch)  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, z: Tensor) -> Tensor:
        return per_matrix(self.a, 1) * self.operator(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return per_matrix(self.a, 1) * self.operator.apply_adjoint(w)

    def _scaled(self, a: Scalar) -> LinearOperator:
        return Scaled(a.to(self._number()) * self.a if isinstance(a, Tensor) else a * self.a, self.operator)

    def _adjoint(self) -> LinearOperator:
        return Scaled(self.a, self.operator.H)

    def extra_repr(self) -> str:
        a = f"{self.a:g}" if isinstance(self.a, float) else f"a of shape {tuple(self.a.shape)}"
        return f"{a} * {self.operator}"


def brief(A: LinearOperator) -> str:
    """An operator within an expression, by its class and shape: so that no text grows with the depth of an expression."""
    return f"{type(A).__name__}{A.shape}"
