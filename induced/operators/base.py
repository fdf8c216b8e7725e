"""Euclidean linear operators A : R^n -> R^m, and the lazy sums, products and adjoints of operators without a closed form."""

from abc import ABC, abstractmethod
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._validate import require_shape
from induced.errors import DtypeError, NotInvertible, ShapeError

Scalar = float | Tensor


def per_sample(a: Scalar) -> Scalar:
    """A scalar, or one scalar per sample, ready to multiply coordinates of shape (*batch, n)."""
    return a.unsqueeze(-1) if isinstance(a, Tensor) and a.dim() > 0 else a


class LinearOperator(nn.Module, ABC):
    """A linear map z -> A z on coordinates of shape (*batch, n).

    Subclasses give `shape = (m, n)` to `__init__` and implement `forward` and `apply_adjoint`; all else is derived. The algebra
    (`+ - * / @ **`) returns the cheapest structure known to be correct and falls back to lazy sums and products. An operator may
    carry leading batch dimensions, which broadcast against those of z.

    Law:
        `A(z) == z @ A.matrix().mT` and `(w * A(z)).sum(-1) == (A.H(w) * z).sum(-1)` (laws/test_operators.py)
    """

    shape: tuple[int, int]

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        if len(shape) != 2 or min(shape) < 0:
            raise ShapeError(f"an operator has the shape (m, n) of its matrix, got {shape}")
        self.shape = (int(shape[0]), int(shape[1]))
        self._adjoint_of: tuple[LinearOperator, ...] = ()

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """A z, of shape (*batch, m), for z of shape (*batch, n)."""

    @abstractmethod
    def apply_adjoint(self, w: Tensor) -> Tensor:
        """A^T w, of shape (*batch, n), for w of shape (*batch, m)."""

    @property
    def H(self) -> "LinearOperator":
        """The adjoint A^T, an operator of shape (n, m); `A.H.H is A`."""
        if self._adjoint_of and _same_kind(self, self._adjoint_of[0]):
            return self._adjoint_of[0]
        adjoint = self._adjoint()
        adjoint._adjoint_of = (self,)
        return adjoint

    def _adjoint(self) -> "LinearOperator":
        return Adjoint(self)

    def __call__(self, z: Tensor) -> Tensor:
        if z.shape[-1:] != self.shape[1:]:
            raise ShapeError(f"{self} takes coordinates of shape (*batch, {self.shape[1]}), got {tuple(z.shape)}")
        like = self.reference()
        if not z.is_meta and torch.is_autocast_enabled(z.device.type):  # linear algebra runs in the precision of the operator
            with torch.autocast(z.device.type, enabled=False):
                full: Tensor = super().__call__(z if like is None else z.to(like.dtype))
                return full
        if like is not None and like.dtype != z.dtype:
            raise DtypeError(f"{self} holds {like.dtype} and takes coordinates of that dtype, got {z.dtype}")
        applied: Tensor = super().__call__(z)
        return applied

    @property
    def batch(self) -> torch.Size:
        """The leading batch dimensions of the operator; none for most."""
        return torch.Size()

    def reference(self) -> Tensor | None:
        """A tensor that names the operator's dtype and device, or None where it takes those of its input."""
        return next((t for t in chain(self.parameters(), self.buffers()) if t.is_floating_point()), None)

    def matrix(self, limit: int = 4096) -> Tensor:
        """The matrix of A, of shape (*batch, m, n).

        Arguments:
            limit: the longest side that may be materialised.

        Raises:
            ShapeError: a side exceeds `limit`; a huge operator is never made dense unawares.
        """
        if max(self.shape) > limit:
            raise ShapeError(f"a {self.shape} matrix exceeds limit={limit}; pass matrix(limit={max(self.shape)}) to allow it")
        like = self.reference()
        eye = torch.eye(self.shape[1], dtype=None if like is None else like.dtype, device=None if like is None else like.device)
        return self._columns(eye).mT

    def _columns(self, rows: Tensor) -> Tensor:
        """A applied to each row of a matrix (k, n), of shape (*batch, k, m): the rows must not meet the operator's batch."""
        applied = self(rows.reshape(rows.shape[0], *(1,) * len(self.batch), rows.shape[1]))
        return applied.movedim(0, -2)

    def _plus(self, other: "LinearOperator") -> "LinearOperator":
        return Sum(self, other)

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
        return half @ half @ self if k % 2 else half @ half

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if self.shape != other.shape:
            raise ShapeError(f"operators of shapes {self.shape} and {other.shape} cannot be added: {self} + {other}")
        return self._plus(other)

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        return self + (-other)

    def __neg__(self) -> "LinearOperator":
        return self._scaled(-1.0)

    def __mul__(self, a: Scalar) -> "LinearOperator":
        if not isinstance(a, (int, float, Tensor)):
            return NotImplemented
        return self._scaled(a)

    __rmul__ = __mul__

    def __truediv__(self, a: Scalar) -> "LinearOperator":
        if not isinstance(a, (int, float, Tensor)):
            return NotImplemented
        return self._scaled(1.0 / a)

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if self.shape[1] != other.shape[0]:
            raise ShapeError(f"operators of shapes {self.shape} and {other.shape} do not compose: {self} @ {other}")
        return self._times(other)

    def __pow__(self, k: int) -> "LinearOperator":
        """A^k for an integer k >= 1 on a square operator; `linalg.power` adds 0 and the negative powers."""
        if not isinstance(k, int) or k < 1:
            raise NotInvertible(f"A ** k takes an integer k >= 1, got {k!r}; use induced.operators.power for the others")
        if self.shape[0] != self.shape[1]:
            raise NotInvertible(f"only a square operator has powers, this one is {self.shape}: {self}")
        return self._power(k)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


@final
class Adjoint(LinearOperator):
    """A^T of an operator without a closed form for it."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__((operator.shape[1], operator.shape[0]))
        self.operator = operator

    def reference(self) -> Tensor | None:
        return self.operator.reference()

    @property
    def batch(self) -> torch.Size:
        return self.operator.batch

    def forward(self, z: Tensor) -> Tensor:
        return self.operator.apply_adjoint(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.operator(w)


@final
class Sum(LinearOperator):
    """A + B, applied term by term."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__(left.shape)
        self.left, self.right = left, right

    @property
    def batch(self) -> torch.Size:
        return _joint_batch(self.left, self.right)

    def forward(self, z: Tensor) -> Tensor:
        return self.left(z) + self.right(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.left.apply_adjoint(w) + self.right.apply_adjoint(w)


@final
class Product(LinearOperator):
    """A B, applied factor by factor."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        super().__init__((left.shape[0], right.shape[1]))
        self.left, self.right = left, right

    @property
    def batch(self) -> torch.Size:
        return _joint_batch(self.left, self.right)

    def forward(self, z: Tensor) -> Tensor:
        return self.left(self.right(z))

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.right.apply_adjoint(self.left.apply_adjoint(w))


@final
class Scaled(LinearOperator):
    """a A for a scalar a, or one scalar per operator of a batch."""

    a: Scalar

    def __init__(self, a: Scalar, operator: LinearOperator) -> None:
        super().__init__(operator.shape)
        self.operator = operator
        if isinstance(a, Tensor):
            register(self, "a", a)
        else:
            self.a = float(a)

    def reference(self) -> Tensor | None:
        return self.operator.reference()

    @property
    def batch(self) -> torch.Size:
        own = self.a.shape if isinstance(self.a, Tensor) else torch.Size()
        return torch.broadcast_shapes(own, self.operator.batch)  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, z: Tensor) -> Tensor:
        return per_sample(self.a) * self.operator(z)

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return per_sample(self.a) * self.operator.apply_adjoint(w)


def _joint_batch(A: LinearOperator, B: LinearOperator) -> torch.Size:
    return torch.broadcast_shapes(A.batch, B.batch)  # type: ignore[no-any-return, no-untyped-call]


def _same_kind(A: LinearOperator, B: LinearOperator) -> bool:
    """Whether neither has been moved to another dtype or device since one was made from the other."""
    mine, theirs = A.reference(), B.reference()
    return mine is None or theirs is None or (mine.dtype, mine.device) == (theirs.dtype, theirs.device)


@final
class Resolved:
    """A singledispatch function at one type of operator, found once: torch.compile traces no dispatch.

    It is pickled by the function and the type, for pickle finds none of the functions named `_`.
    """

    def __init__(self, generic: Any, kind: type[LinearOperator]) -> None:
        self.generic, self.kind = generic, kind
        self.function = generic.dispatch(kind)

    def __call__(self, A: LinearOperator) -> Any:
        return self.function(A)

    def __reduce__(self) -> tuple[Any, ...]:
        return Resolved, (self.generic, self.kind)


def register(module: nn.Module, name: str, value: Tensor) -> None:
    """Keep a leaf `nn.Parameter` as a parameter; anything else becomes a buffer, so that only what is asked to train does."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def require_matrix(a: Tensor, what: str) -> Tensor:
    """Raise unless a is a floating point matrix, possibly with leading batch dimensions."""
    if not isinstance(a, Tensor) or a.dim() < 2:
        raise ShapeError(f"{what} must be a tensor of shape (*batch, m, n), got {tuple(getattr(a, 'shape', ()))}")
    require_shape(a, a.shape[-2:], what)
    return a
