"""Arithmetic that stays right at the ends of the range of a dtype, and under autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import explain_float64
from induced.precision import full_precision, tf32_matmul

F = TypeVar("F", bound=Callable[..., Any])
HALVES = (torch.float16, torch.bfloat16)
AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def linear_algebra(function: F) -> F:
    """The function, run outside autocast and TF32: products keep the precision of their tensors.

    Where autocast was on, half-precision arguments are taken in float32: a network may have made them so. Networks inside charts
    and families do want autocast; so this stands at functions whose products are linear algebra, not at charts.

    Law:
        `pinv(A)` under autocast == `pinv(A)` (laws/test_autocast.py)
    """

    @wraps(function)
    def outside(*arguments: Any, **keywords: Any) -> Any:
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):
                    return outside(*map(widened, arguments), **{name: widened(value) for name, value in keywords.items()})
        try:
            if tf32_matmul():
                with full_precision():
                    return function(*arguments, **keywords)
            return function(*arguments, **keywords)
        except TypeError as error:
            explain_float64(error)
            raise

    return cast(F, outside)


def widened(value: Any) -> Any:
    """A tensor in half precision as float32; anything else as it is."""
    half = isinstance(value, Tensor) and value.dtype in HALVES
    return value.float() if half else value


def random_signs(seed: int, *shape: int) -> Tensor:
    """Integers 1 and -1, the same ones for the same seed; under torch.vmap, which draws no random numbers, and compiled too."""
    with torch._C._DisableFuncTorch():
        return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# torch.compiler.assume_constant_result, which would import torch's compiler
random_signs._dynamo_marked_constant = True  # type: ignore[attr-defined]


def largest(sizes: Tensor) -> Tensor:
    """The largest of numbers >= 0; 0 where there is none."""
    return sizes.amax() if sizes.numel() else sizes.new_zeros(())


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


def longest_product(x: Tensor, factors: Tensor) -> Tensor:
    """The largest norm of the products, entry by entry, of vectors x (*batch, n) and one of (m, n); (*batch,), 0 for m = 0."""
    if not len(factors):
        return torch.zeros_like(x).sum(-1)
    sizes, reach = scaled_norm(x), largest(scaled_norm(factors))
    tiny = torch.finfo(x.dtype).tiny
    unit, units = x / sizes.clamp(min=tiny).unsqueeze(-1), factors / reach.clamp(min=tiny)
    norms: Tensor = sizes * reach * (unit.square() @ units.square().mT).amax(-1).sqrt()
    return norms


def matrix_exp(A: Tensor) -> Tensor:
    """exp(A) of matrices (*batch, k, k) by torch, which sums too few terms of a single small one: that one is given twice.

    Law:
        `matrix_exp(A[:1]) == matrix_exp(A)[:1]` up to rounding (laws/test_matrices.py)
    """
    if A.numel() != A.shape[-1] ** 2:
        whole: Tensor = torch.linalg.matrix_exp(A)
        return whole
    twice: Tensor = torch.linalg.matrix_exp(A.reshape(1, *A.shape[-2:]).expand(2, *A.shape[-2:]))
    return twice[0].reshape(A.shape)
