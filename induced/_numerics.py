"""Numerics shared by every layer."""

import math

import torch
from torch import Tensor


def scaled_norm(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The 2-norm over dimensions, without the overflow and underflow of the squares.

    The entries are divided by a power of two near the largest one first. Its gradient is x / |x|, and 0 at 0.

    Arguments:
        x: a tensor.
        dim: the dimensions; over one of length 0 the norm is 0.
    """
    dims = (dim,) if isinstance(dim, int) else dim
    if any(x.shape[d] == 0 for d in dims):
        return x.abs().sum(dims)
    largest = x.detach().abs().amax(dims, keepdim=True)
    bound = -math.log2(torch.finfo(largest.dtype).tiny)
    # the clamp keeps the power and its inverse finite where the largest entry is 0, subnormal or inf
    scale = largest.log2().floor().clamp(-bound, bound).exp2()
    norm: Tensor = torch.linalg.vector_norm(x / scale, dim=dims) * scale.squeeze(dims)
    return norm
