"""Maps for the checks of maps: honest ones between learned spaces, some of whose parts are replaced."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from induced import SVD, HilbertSpace, InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import real_nvp
from induced.operators import LinearOperator


class OfHonest(LinearizerOperator):
    """A map with the spaces and the core of an honest one."""

    def __init__(self, honest: Linearizer) -> None:
        super().__init__()
        self.honest = honest

    @property
    def domain(self) -> HilbertSpace:
        return self.honest.domain

    @property
    def codomain(self) -> HilbertSpace:
        return self.honest.codomain

    @property
    def core(self) -> LinearOperator:
        return self.honest.core


N, M = 8, 6


class Between(OfHonest):
    """A map between two learned spaces, with some of its parts replaced by functions of the honest one."""

    def __init__(self, core: Tensor, X: HilbertSpace, Y: HilbertSpace, **parts: Callable[..., Any]) -> None:
        super().__init__(Linearizer(core, X, Y))
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.parts["forward"](self.honest, x) if "forward" in self.parts else self.honest(x)

    @property
    def H(self) -> LinearizerOperator:
        return self.parts["H"](self.honest) if "H" in self.parts else self.honest.H

    def pinv(self, rtol: float | None = None) -> LinearizerOperator:
        return self.parts["pinv"](self.honest) if "pinv" in self.parts else self.honest.pinv(rtol)

    def svd(self, rank: int | None = None) -> SVD:
        return self.parts["svd"](self.honest, rank) if "svd" in self.parts else self.honest.svd(rank)


def learned(dtype: torch.dtype) -> tuple[HilbertSpace, HilbertSpace]:
    torch.manual_seed(5)
    return InducedSpace(real_nvp(N).to(dtype)), InducedSpace(real_nvp(M).to(dtype))


def between(dtype: torch.dtype, **parts: Any) -> Between:
    return Between(torch.randn(M, N, dtype=dtype) / 3, *learned(dtype), **parts)
