"""Tensors in float64: drawn, of numbers, and of arrays."""

import numpy as np
import torch
from torch import Tensor


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tensor(a: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(a))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
