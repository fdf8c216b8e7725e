"""What every public function of an operator asks of it before it starts."""

import torch

from induced._validate import require_finite
from induced.errors import DtypeError, NotSquare, ShapeError
from induced.operators.base import LinearOperator


def checked(A: LinearOperator, what: str, *, square: bool = False, single: bool = False) -> None:
    """Raise unless A is square, a single operator, in float32 or float64 and, where values may be looked at, finite.

    Raises:
        NotSquare, ShapeError, DtypeError, DomainError: in this order.
    """
    if square and A.shape[0] != A.shape[1]:
        raise NotSquare(f"{what} needs a square operator, got shape {A.shape}: {A}")
    if single and A.batch:
        raise ShapeError(f"{what} takes one operator, not a batch of them of shape {tuple(A.batch)}: {A}")
    for tensors in (A.parameters(), A.buffers()):
        for held in tensors:
            if held.is_floating_point():
                if held.dtype not in (torch.float32, torch.float64):
                    raise DtypeError(
                        f"{what} is computed in float32 or float64, got an operator of {held.dtype}: A.float() is one"
                    )
                require_finite(held, f"the operator given to {what}")
