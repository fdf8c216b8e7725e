"""Rows of a table whose columns differ in size, one of them constant, and seeded generators."""

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 400) -> Tensor:
    """Columns of three sizes and means, the second one constant."""
    z = torch.randn(n, 3, generator=generator(1), dtype=torch.float64)
    return torch.stack([1e4 + 100 * z[:, 0], torch.full((n,), 7.1, dtype=torch.float64), 1e-3 * (z[:, 1] ** 2 + z[:, 2])], 1)
