"""The same functions by the library and by mpmath, and Jordan blocks on which they are known."""

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from induced.operators import Diagonal, LinearOperator, exp, function, log, power, sqrt


def numbers(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


def entries(A: LinearOperator) -> Tensor:
    """The diagonal of an operator that is stored as one."""
    assert isinstance(A, Diagonal)
    return A.d


def jordan(value: float, size: int) -> Tensor:
    return value * torch.eye(size).double() + torch.diag(torch.ones(size - 1).double(), 1)


FUNCTIONS: list[tuple[str, Callable[[LinearOperator], LinearOperator], Callable[[mpmath.mpf], mpmath.mpf]]] = [
    ("exp", exp, mpmath.exp),
    ("log", log, mpmath.log),
    ("sqrt", sqrt, mpmath.sqrt),
    ("power", lambda A: power(A, -1.3), lambda x: x ** mpmath.mpf(-1.3)),
    ("sin", lambda A: function(A, torch.sin), mpmath.sin),
    ("rational", lambda A: function(A, lambda z: 1 / (7 - z)), lambda x: 1 / (7 - x)),
    ("logarithm by its values", lambda A: function(A, torch.log), mpmath.log),
]
every_function = pytest.mark.parametrize(("what", "f", "scalar"), FUNCTIONS, ids=[name for name, *_ in FUNCTIONS])


def of_jordan_block(scalar: Callable[[mpmath.mpf], mpmath.mpf], value: float, size: int) -> Tensor:
    """phi of a Jordan block: phi^(k) / k! on its k-th superdiagonal."""
    with mpmath.workdps(40):
        coefficients = [float(c) for c in mpmath.taylor(scalar, mpmath.mpf(value), size - 1)]
    return sum(
        (torch.diag(torch.full((size - k,), c, dtype=torch.float64), k) for k, c in enumerate(coefficients)),
        torch.zeros(1).double(),
    )
