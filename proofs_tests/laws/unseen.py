"""An operator that refuses to be made a matrix, and numbers of every size."""

import pytest
import torch
from torch import Tensor

from induced.operators import LinearOperator
from proofs_tests.registry import DTYPES

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Unseen(LinearOperator):
    """An operator that refuses to be made a matrix."""

    M: Tensor

    def __init__(self, M: Tensor) -> None:
        super().__init__(tuple(M.shape))
        self.register_buffer("M", M)

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.M.mT

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return w @ self.M

    def matrix(self, limit: int = 4096) -> Tensor:
        raise AssertionError("materialised")


SIZES = [(torch.float32, a) for a in (1e-30, 1e-19, 1.0, 1e19, 1e30)] + [
    (torch.float64, a) for a in (1e-200, 1e-160, 1e154, 1e200)
]
sizes = pytest.mark.parametrize(("dtype", "a"), SIZES, ids=str)
