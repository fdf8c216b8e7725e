"""What every public function of an operator asks of it before it starts."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor, nn

from induced._numerics import F, linear_algebra
from induced._validate import require_finite
from induced.errors import DtypeError, NotSquare, ShapeError
from induced.operators.base import LinearOperator


def checked(what: str, *, square: bool = False, single: bool = False) -> Callable[[F], F]:
    """A function of an operator A, its first argument, that asks this of A and runs in at least float32 (`linear_algebra`).

    Raises, before the function starts:
        DtypeError: A is not a LinearOperator, or not in float32 or float64. NotSquare: A is not square, though `square`.
        ShapeError: A is a batch, though `single`. DomainError: A holds nan or inf, where values may be looked at.
    """

    def decorate(function: F) -> F:
        @linear_algebra
        @wraps(function)
        def of_checked(A: LinearOperator, *arguments: Any, **keywords: Any) -> Any:
            _require(A, what, square, single)
            return function(A, *arguments, **keywords)

        return cast(F, of_checked)

    return decorate


def _require(A: LinearOperator, what: str, square: bool, single: bool) -> None:
    if not isinstance(A, LinearOperator):
        raise DtypeError(f"{what} is that of a LinearOperator, got {type(A).__name__}; as_operator(A) makes one of a matrix")
    if square and A.shape[0] != A.shape[1]:
        raise NotSquare(f"{what} needs a square operator, got shape {A.shape}: {A}")
    if single and A.batch:
        raise ShapeError(f"{what} takes one operator, not a batch of them of shape {tuple(A.batch)}: {A}")
    for value in held(A):
        if value.dtype in (torch.float32, torch.float64):
            require_finite(value, f"the operator given to {what}", "its parameters or buffers hold nan or inf")
        elif value.is_floating_point():
            raise DtypeError(
                f"{what} needs float32 or float64, got an operator of {value.dtype}: convert it, e.g. with A.float()"
            )


def held(module: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a module; nn.Module's own iterators cost more than a small function of an operator."""
    for tensors in (module._parameters, module._buffers):
        yield from (value for value in tensors.values() if value is not None)
    for inner in module._modules.values():
        if inner is not None:
            yield from held(inner)
