"""How functions of an operator follow from its reduction, and those of lazy expressions from the functions of their operands."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from induced._module import Module, reference, unset
from induced._validate import eager
from induced.errors import DtypeError, ShapeError, SingularOperator
from induced.operators.matrices import Phi, real_power
from induced.operators.reduction import Reduction, SignLogDet, Triplets

if TYPE_CHECKING:  # its module lies above this one
    from induced.operators.base import LinearOperator

LIMIT = 4096
"""Side of the largest square matrix that an operator without structure is made into for a function of it."""

Scalar = float | Tensor


def per_sample(a: Scalar, z: Tensor, batch: Sequence[int] | None = None) -> Scalar:
    """A scalar, or one scalar per sample of a batch, by default that of z, ready to multiply coordinates z (*batch, n).

    Raises:
        ShapeError: a fits the batch by none of `require_fit`. DtypeError: torch would give the product the dtype of a.
    """
    require_fit(a, z.shape[:-1] if batch is None else batch, "one scalar per sample")
    if isinstance(a, Tensor) and a.dim() and a.dtype != z.dtype and torch.result_type(a, z) != z.dtype:
        raise DtypeError(f"one scalar per sample has the dtype of the coordinates, {z.dtype}, got {a.dtype}: use a.to({z.dtype})")
    return per_matrix(a, 1)


def require_fit(a: Scalar, batch: Sequence[int], what: str) -> None:
    """Raise ShapeError unless a is a number, or a tensor whose shape meets that of the batch in one of two ways.

    Both have as many dimensions, which broadcast; or one of the two shapes is that of the result. A batch of k and scalars (k, 1)
    meet in neither: they would make k^2 samples. The rule of `per_sample`, multiples, times of `exp` and weights.
    """
    if not isinstance(a, Tensor) or not a.dim() or a.shape == batch:
        return
    mine, theirs = a.dim() >= len(batch), a.dim() <= len(batch)  # which sides of 1 may be repeated: theirs, mine
    pairs = zip(reversed(a.shape), reversed(batch), strict=False)
    if not all(p == q or (mine and q == 1) or (theirs and p == 1) for p, q in pairs):
        raise ShapeError(
            f"{what} has the shape (*batch,), here {tuple(batch)}, got {tuple(a.shape)}: pass that shape, or one "
            f"with as many dimensions, whose lengths of 1 broadcast"
        )


def per_matrix(a: Scalar, trailing: int = 2) -> Scalar:
    """A scalar, or one scalar per operator of a batch, ready to multiply tensors with so many dimensions after the batch."""
    return a[(..., *(None,) * trailing)] if isinstance(a, Tensor) and a.dim() > 0 else a


def kind(A: Any) -> Tensor:
    """A tensor of the dtype and device of what an operator or family holds; of torch's default ones where it holds nothing."""
    like: Tensor | None = reference(A)
    return torch.zeros(()) if like is None else like


def is_zero(start: object) -> bool:
    """Whether this is the number 0, with which Python's `sum` starts: 0 + A is A."""
    return isinstance(start, Real) and start == 0


class TooLarge(ShapeError):
    """A function needs a matrix of more than 4096^2 entries, which nothing forms unasked."""


class Functions(Module, ABC):
    """The functions of an operator, on its reduction; a class overrides those of which it knows more."""

    first_call = "super().__init__((m, n))"
    shape: tuple[int, int] = unset()

    @property
    def batch(self) -> torch.Size:
        """The leading batch dimensions of the operator; none for most."""
        return torch.Size()

    @property
    def orthogonal(self) -> bool:
        """Whether A^T A = A A^T = I by construction: then A^T is its inverse."""
        return False

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        """A as small blocks in orthonormal frames, on which every function of an operator works (induced.operators.reduction).

        By default one dense block: the matrix.

        Arguments:
            same_frames: ask for W = Z, so that functions of A are those of its blocks; A is square.

        Returns:
            The reduction; None where A has no structure and more than 4096^2 entries: it is not formed.

        Law:
            `L W (K + c I) Z^H R` is A (laws/test_reductions.py)
        """
        return None if self.shape[0] * self.shape[1] > LIMIT**2 else self._dense()

    def _reduction(self, same_frames: bool = False) -> Reduction:
        reduction = self.reduced(same_frames)
        return self._dense() if reduction is None else reduction

    @abstractmethod
    def _dense(self) -> Reduction:
        """The matrix as one block; raises where it is too large to be formed unasked."""

    def _whole(self, same_frames: bool = False) -> Reduction:
        """The reduction; the matrix, where operators that are made of frames would lack a part of their derivatives."""
        reduction = self._reduction(same_frames)
        return self._dense() if reduction.follows else reduction

    def _svd(self, k: int) -> Triplets:
        return self._reduction().svd(k)

    def _pinv(self, zero: Tensor | None) -> "LinearOperator":
        """A+; singular values up to `zero` (*batch,) count as zero, by default those that rounding cannot tell from it."""
        return self.H if self.orthogonal else self._whole().pinv(zero)  # type: ignore[return-value]

    def _inverse(self) -> "LinearOperator":
        return self.H if self.orthogonal else self._whole().inverse(self)  # type: ignore[arg-type,return-value]

    def _polar(self) -> "tuple[LinearOperator, LinearOperator]":
        return self._whole().polar()

    def _trace(self) -> Tensor:
        return self._reduction(True).trace()

    def _slogdet(self) -> SignLogDet:
        reduction = self._reduction()
        return (reduction if reduction.like_frames else self._dense()).slogdet()

    def _det(self) -> Tensor:
        reduction = self._reduction()
        return (reduction if reduction.like_frames else self._dense()).det()

    def _eigenvalues(self) -> Tensor:
        return self._reduction(True).eigenvalues()

    def _phi(self, phi: Phi) -> "LinearOperator":
        return self._whole(True).phi(phi)

    def _real_power(self, p: float) -> "LinearOperator":
        return self._phi(real_power(p))


class OfOne(Functions):
    """What is made of one operator, and has its kind and batch."""

    operator: "LinearOperator"

    def _reference(self) -> Tensor | None:
        return reference(self.operator)

    @property
    def batch(self) -> torch.Size:
        return self.operator.batch


class OfAdjoint(OfOne):
    """Functions of the adjoint: the adjoints of the functions."""

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        reduction = self.operator.reduced(same_frames)
        return None if reduction is None else reduction.adjoint()

    def _inverse(self) -> "LinearOperator":
        return self.operator._inverse().H

    def _trace(self) -> Tensor:
        return self.operator._trace()

    def _slogdet(self) -> SignLogDet:
        return SignLogDet(*self.operator._slogdet())

    def _det(self) -> Tensor:
        return self.operator._det()


class OfScaled(OfOne):
    """Functions of a multiple a A."""

    a: Scalar

    def _number(self) -> Tensor:
        """a as a tensor of the operator's kind."""
        like = kind(self.operator)
        return torch.as_tensor(self.a, dtype=like.dtype, device=like.device)

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        reduction = self.operator.reduced(same_frames)
        return None if reduction is None else reduction.scaled(self._number())

    def _inverse(self) -> "LinearOperator":
        a = self._number()
        if eager(a) and bool((a == 0).any()):
            raise SingularOperator(f"0 times an operator has no inverse; pinv gives 0: {self}")
        return self.operator._inverse() * (1.0 / self.a)

    def _trace(self) -> Tensor:
        return self._number() * self.operator._trace()

    def _slogdet(self) -> SignLogDet:
        (sign, logabs), a, n = self.operator._slogdet(), self._number(), self.shape[0]
        return SignLogDet(a.sign() ** n * sign, n * a.abs().log() + logabs)

    def _det(self) -> Tensor:
        return self._number() ** self.shape[0] * self.operator._det()


class OfSeveral(Functions):
    """What is made of operators in a row, its submodules 0, 1, ..."""

    @property
    def operators(self) -> "tuple[LinearOperator, ...]":
        return tuple(self._modules.values())  # type: ignore[arg-type]


class OfSum(OfSeveral):
    """Functions of A + B + ...: c I + A shifts the blocks of A, where its frames are the same."""

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        numbers: list[Any] = [A for A in self.operators if is_number(A)]
        if len(self.operators) == 2 and numbers:
            other = self.operators[1 if numbers[0] is self.operators[0] else 0]
            reduction: Reduction | None = other.reduced(True)
            return None if reduction is None else reduction.shifted(numbers[0].parts()[0])
        return super().reduced(same_frames)

    def _trace(self) -> Tensor:
        return reduce(torch.add, (A._trace() for A in self.operators))


class OfProduct(OfSeveral):
    """Functions of A B ...: orthogonal factors at either end go around the reduction of the others; square factors one by one."""

    @abstractmethod
    def without(self, i: int) -> "LinearOperator":
        """The product of the factors after the i-th and then of those before it."""

    def reduced(self, same_frames: bool = False) -> Reduction | None:
        first, last = self.operators[0], self.operators[-1]
        if same_frames or not (first.orthogonal or last.orthogonal):
            return super().reduced(same_frames)
        inner: Reduction | None = self.without(0 if first.orthogonal else len(self.operators) - 1).reduced()
        return None if inner is None else inner.turned(*((first, None) if first.orthogonal else (None, last)))

    def _square(self) -> bool:
        return all(A.shape == self.shape for A in self.operators)

    def _inverse(self) -> "LinearOperator":
        if not self._square():
            return super()._inverse()
        return reduce(lambda left, right: right._times(left), (A._inverse() for A in self.operators))

    def _trace(self) -> Tensor:
        """tr(A (c I + U V^T) B) = c tr(B A) + the sum of (B A U) * V, where a factor has that form; else entry by entry."""
        i = next((i for i, A in enumerate(self.operators) if hasattr(A, "parts") and not A.batch), None)
        if i is not None:
            factor: Any = self.operators[i]
            (c, U, V), rest = factor.parts(), self.without(i)
            trace: Tensor = (rest._columns(U.mT) * V.mT).sum((-2, -1))
            return trace if factor.plain else trace + c * rest._trace()
        return (self.operators[0].matrix() * self.without(0).matrix().mT).sum((-2, -1))

    def _slogdet(self) -> SignLogDet:
        if not self._square():
            return super()._slogdet()
        signs, logs = zip(*(A._slogdet() for A in self.operators), strict=True)
        return SignLogDet(math.prod(signs), sum(logs))

    def _det(self) -> Tensor:
        return reduce(torch.mul, (A._det() for A in self.operators)) if self._square() else super()._det()


def is_number(A: Any) -> bool:
    """Whether A is c I."""
    return hasattr(A, "is_scalar") and bool(A.is_scalar())
