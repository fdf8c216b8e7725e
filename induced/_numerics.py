"""Arithmetic that stays right at the ends of the range of a dtype."""

import torch
from torch import Tensor

from induced._validate import eager


def scaled_norm(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """The 2-norm of x along `dim`, 0 where that is empty, without overflow or loss of digits where the squares leave the range.

    Where they might, the entries are divided by a power of two near the largest one. The gradient is x / ||x||, and 0 at 0.

    Law:
        `scaled_norm(a * x) == abs(a) * scaled_norm(x)` for a from 1e-30 to 1e30 in float32 (laws/test_krylov.py)
    """
    if not x.numel():
        return torch.zeros_like(x).abs().sum(dim)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim)
    if x.device.type == "cpu" and eager(x):  # elsewhere a look at the values would make the host wait
        least, largest = norm.detach().aminmax()
        if float(least) > torch.finfo(norm.dtype).tiny ** 0.25 and float(largest) < torch.finfo(norm.dtype).max ** 0.25:
            return norm
    size = x.detach().abs().amax(dim, keepdim=True)
    scale = torch.where((size > 0) & size.isfinite(), size / (2 * torch.frexp(size).mantissa), 1.0)
    scaled: Tensor = torch.linalg.vector_norm(x / scale, dim=dim)
    return scaled * scale.squeeze(dim)
