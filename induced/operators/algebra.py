"""What +, -, *, /, @, ** and H ask of operators before a class joins them."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from induced._numerics import linear_algebra
from induced._validate import require_floating, require_precision, require_tensor
from induced.errors import DomainError, DtypeError, NotSquare, ShapeError
from induced.operators.rules import Functions, Scalar, is_zero, require_fit

if TYPE_CHECKING:
    from induced.operators.base import LinearOperator


class Algebra(Functions):
    """The signs between operators, on `_plus`, `_times`, `_scaled`, `_power` and `_adjoint` of their classes."""

    _adjoint_of: "tuple[LinearOperator, ...]" = ()

    def __getstate__(self) -> dict[str, object]:
        # a copy is moved and trained without the operator that it is the adjoint of
        return {**super().__getstate__(), "_adjoint_of": ()}  # type: ignore[no-untyped-call]

    @abstractmethod
    def _adjoint(self) -> "LinearOperator": ...

    @abstractmethod
    def _plus(self, other: "LinearOperator") -> "LinearOperator": ...

    @abstractmethod
    def _times(self, other: "LinearOperator") -> "LinearOperator": ...

    @abstractmethod
    def _scaled(self, a: Scalar) -> "LinearOperator": ...

    @abstractmethod
    def _power(self, k: int) -> "LinearOperator": ...

    @property
    def H(self) -> "LinearOperator":
        """The adjoint A^T, an operator of shape (n, m); `A.H.H is A`."""
        if self._adjoint_of and _same_kind(self, self._adjoint_of[0]):
            return self._adjoint_of[0]
        adjoint = self._adjoint()
        adjoint._adjoint_of = (self,)  # type: ignore[assignment]
        return adjoint

    @linear_algebra
    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, Algebra):
            return NotImplemented
        if self.shape != other.shape:
            raise ShapeError(f"operators of shapes {self.shape} and {other.shape} cannot be added: {self} + {other}")
        _require_same_kind(self, other, "+")
        return self._plus(other)

    def __radd__(self, zero: object) -> Self:
        return self if is_zero(zero) else NotImplemented

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, Algebra):
            return NotImplemented
        return self + (-other)

    def __neg__(self) -> "LinearOperator":
        return self._scaled(-1.0)

    def multiplier(self, a: Scalar) -> Scalar:
        """A number, or one per operator of a batch in the operator's dtype, ready to multiply it."""
        if not isinstance(a, Tensor):
            return float(a)
        if a.dim():
            require_fit(a, self.batch, "a multiple or time for each operator of a batch")
            if self.dtype not in (None, a.dtype):
                raise DtypeError(f"the numbers of a batch of multiples have the operator's dtype {self.dtype}, got {a.dtype}")
        return a

    def __mul__(self, a: Scalar) -> "LinearOperator":
        if not isinstance(a, (Real, Tensor)):
            return NotImplemented
        return self._scaled(self.multiplier(a))

    __rmul__ = __mul__

    def __truediv__(self, a: Scalar) -> "LinearOperator":
        if not isinstance(a, (Real, Tensor)):
            return NotImplemented
        if not isinstance(a, Tensor) and a == 0:
            raise DomainError(f"an operator was divided by 0: {self} / {a}")
        return self._scaled(1.0 / self.multiplier(a))

    @linear_algebra
    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        if not isinstance(other, Algebra):
            return NotImplemented
        if self.shape[1] != other.shape[0]:
            raise ShapeError(f"operators of shapes {self.shape} and {other.shape} do not compose: {self} @ {other}")
        _require_same_kind(self, other, "@")
        return self._times(other)

    @linear_algebra
    def __pow__(self, p: float) -> "LinearOperator":
        """A^p: the p-fold product for an integer (0: the identity; negative: of the inverse), else the real power."""
        if self.shape[0] != self.shape[1]:
            raise NotSquare(f"a power needs a square operator, got shape {self.shape}: {self}")
        if not isinstance(p, Real) or not math.isfinite(p):
            raise DomainError(f"A ** p takes a finite real number p, got {p!r}")
        if p < 0 or p != int(p):
            require_precision(self.dtype or torch.float32, f"the operator whose power {p:g} is asked for")
        if p != int(p):
            return self._real_power(float(p))
        k = int(p)
        if k == 0:
            return self._reduction(True).one()
        return self._power(k) if k > 0 else self._inverse()._power(-k)


def _same_kind(A: Functions, B: Functions) -> bool:
    """Whether neither has been moved to another dtype or device since one was made from the other."""
    return A.dtype is None or B.dtype is None or (A.dtype, A.device) == (B.dtype, B.device)


def _require_same_kind(A: Functions, B: Functions, sign: str) -> None:
    if not _same_kind(A, B):
        raise DtypeError(
            f"A {sign} B takes operators of one dtype and device, got {A.dtype} on {A.device} and {B.dtype} on {B.device}: "
            f"convert one of them, e.g. with A.to({B.dtype})"
        )


def hold(module: nn.Module, operators: "Sequence[LinearOperator]") -> None:
    """Make the operators submodules named 0, 1, ...; torch.compile can make no nn.ModuleList in its graph."""
    for i, A in enumerate(operators):
        module.add_module(str(i), A)


def register(module: nn.Module, name: str, value: Tensor) -> None:
    """Keep a leaf `nn.Parameter` as a parameter; anything else becomes a buffer, so that only what is asked to train does."""
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def require_matrix(a: Tensor, what: str, *, square: bool = False) -> None:
    """Raise unless a is a floating point matrix: possibly with leading batch dimensions, or one `square` matrix."""
    require_tensor(a, what)
    if a.dim() < 2:
        raise ShapeError(f"{what} must be a tensor of shape (*batch, m, n), got {tuple(a.shape)}")
    require_floating(a, what)
    if square and (a.dim() != 2 or a.shape[0] != a.shape[1]):
        raise ShapeError(f"{what} has the shape (n, n), got {tuple(a.shape)}")
