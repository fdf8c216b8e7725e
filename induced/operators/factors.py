"""Factorisations of blocks, and derivatives that end after the first."""

from typing import Any

import torch
from torch import Tensor

from induced._validate import eager
from induced.errors import DomainError

TALL = 16
"""Ratio of sides from which a float32 factorisation is off by hundreds of eps, and is made in float64."""


def counted(size: int, rows: int, dtype: torch.dtype) -> float:
    """eps times the size of a block; float64 counts the roundings of its own tall factorisations too, about sqrt(rows)."""
    return torch.finfo(dtype).eps * (size + (rows**0.5 if dtype == torch.float64 and rows > size else 0.0))


def precise(K: Tensor) -> Tensor:
    """K, in float64 where it is tall or wide enough for a float32 factorisation to be off by more than it should."""
    short, long = sorted(K.shape[-2:])
    return K.double() if K.dtype == torch.float32 and long >= TALL * max(short, 1) else K


def reciprocal(values: Tensor, zero: Tensor) -> Tensor:
    """1/values above the threshold and 0 elsewhere, with gradients that stay finite at 0."""
    keep = ~(values.abs() <= zero)  # nan is kept
    return torch.where(keep, 1.0 / torch.where(keep, values, torch.ones_like(values)), torch.zeros_like(values))


def tracked(*tensors: Tensor) -> bool:
    """Whether gradients may be asked for: orthonormal bases have none where columns are dependent or values repeat."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def watched(K: Tensor) -> Tensor:
    """K, whose gradient is checked to be finite in eager mode."""
    if tracked(K) and eager(K):
        K = K.view_as(K)
        K.register_hook(_require_derivative)  # type: ignore[no-untyped-call]
    return K


def _require_derivative(gradient: Tensor | None) -> None:
    if gradient is not None and not bool(gradient.isfinite().all()):
        raise DomainError("singular vectors have no derivative where values repeat, are zero, or columns depend on one another")


class _Refused(torch.autograd.Function):
    """A first derivative, which depends on x, and has no derivative of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, x: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise DomainError("this function of an operator has a first derivative only; Dense(A.matrix()) may have a second")


def refuse_second(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of a function of x, of which a further derivative raises."""
    refused: Tensor = _Refused.apply(gradient, x)  # type: ignore[no-untyped-call]
    return refused


class PolarFactor(torch.autograd.Function):
    """Q = U V^H, from the svd K = U S V^H without its zeros; its derivative divides by s_i + s_j, never by their difference."""

    generate_vmap_rule = True

    @staticmethod
    def forward(K: Tensor, zero: Tensor | float, frame: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        U, s, Vh = frame.factors(K)
        zero = zero * s.amax(-1, keepdim=True) if isinstance(zero, float) and s.numel() else zero
        kept = s > zero
        U, V = U * kept.unsqueeze(-2), Vh.mH * kept.unsqueeze(-2)
        return U @ V.mH, U, torch.where(kept, s, torch.ones_like(s)), V

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[0], *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        K, U, s, V = ctx.saved_tensors
        right, left = grad @ V, grad.mH @ U
        X = U.mH @ right
        inner = (X - X.mH) / (s.unsqueeze(-1) + s.unsqueeze(-2))
        s = s.unsqueeze(-2)
        gradient = U @ inner @ V.mH + ((right - U @ X) / s) @ V.mH + U @ ((left - V @ X.mH) / s).mH
        return refuse_second(gradient, K), None, None
