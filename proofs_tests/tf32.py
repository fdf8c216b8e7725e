"""TF32 on a CPU: operands of float32 convolutions and products rounded to 10 bits, where torch's flags allow it on CUDA."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CONVOLUTIONS = {"aten::convolution": (0, 1), "aten::convolution_backward": (0, 1, 2)}
PRODUCTS = {"aten::mm": (0, 1), "aten::bmm": (0, 1), "aten::addmm": (1, 2), "aten::baddbmm": (1, 2), "aten::mv": (0, 1)}
"""Operators, and which of their arguments are multiplied; sums stay in float32."""


def convolutions_allowed() -> bool:
    """What cuDNN is told: by default, yes."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def products_allowed() -> bool:
    """What cuBLAS is told: by default, no."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def rounded(x: Any) -> Any:
    """float32 to the nearest number with 10 bits of mantissa; anything else as it is."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class EmulatedTF32(TorchDispatchMode):
    """What CUDA would compute within it, wherever the tensors are; `always`: whatever the flags say."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name()
        multiplied = CONVOLUTIONS.get(name, ()) if self.always or convolutions_allowed() else ()
        if self.always or products_allowed():
            multiplied = (*multiplied, *PRODUCTS.get(name, ()))
        return func(*(rounded(x) if i in multiplied else x for i, x in enumerate(args)), **(kwargs or {}))
