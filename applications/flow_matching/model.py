"""The model: one chart with an end-point label, and a family of operators between its two spaces."""

from typing import Literal

import torch
from torch import Tensor, nn

from applications.flow_matching.config import ModelConfig
from induced import InducedSpace, Linearizer
from induced.bijections import Bijection, ConditionalComposition, Flatten, glow, real_nvp
from induced.operators import LowRankFamily, integrate, propagator

NOISE, DATA = 0.0, 1.0


class FlowMatching(nn.Module):
    """x_1 = g_1^-1(B g_0(x_0)), B the propagator of z' = A_t z (docs/mathematics.md, 3).

    The first `rank` coordinates of the data end carry the image; the others have standard deviation `floor`, so that
    g_1^-1 on the range of B works as a decoder while B stays invertible.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        image = glow(config.shape, config.blocks, config.widths, levels=len(config.widths), context=1)
        coarse = _coarse_shape(config)
        flatten = Flatten(coarse)
        self.dim = flatten.coord_shape[0]
        dense = real_nvp(self.dim, config.dense_blocks, config.dense_width, context=1)
        self.chart = ConditionalComposition(image, flatten, dense)
        self.family = LowRankFamily(self.dim, config.rank, floor=config.floor)

    def chart_at(self, end: float) -> Bijection:
        """The chart g_0 of the noise end or g_1 of the data end."""
        return self.chart.at(end)

    def space(self, end: float) -> InducedSpace:
        """The induced space of an end point."""
        return InducedSpace(self.chart_at(end))

    def operator(self, steps: int = 100, method: Literal["euler", "midpoint", "rk4"] = "rk4") -> Linearizer:
        """The one-step sampler L(g_0, g_1, B), equal to the sampler of so many steps (eq. 17)."""
        return Linearizer(propagator(self.family, steps=steps, method=method), self.space(NOISE), self.space(DATA))

    def multi_step(self, x: Tensor, steps: int = 100, method: Literal["euler", "midpoint", "rk4"] = "rk4") -> Tensor:
        """The sampler that takes every step on the state."""
        return self.space(DATA).point(integrate(self.family, self.space(NOISE).coords(x), steps=steps, method=method))

    def latent_std(self) -> Tensor:
        """Standard deviations (dim,) of the fixed latent density at the data end."""
        like = self.family.offset
        std = torch.ones(self.dim, dtype=like.dtype, device=like.device)
        if self.config.floor is not None:
            std[self.config.rank :] = self.config.floor
        return std


def build(config: ModelConfig) -> FlowMatching:
    """The untrained model; its ActNorms wait for `initialize`."""
    return FlowMatching(config)


def _coarse_shape(config: ModelConfig) -> tuple[int, int, int]:
    """Shape of the coordinates of the convolutional part: one squeeze a level, but none in the first for several channels."""
    C, H, W = config.shape
    halvings = len(config.widths) - (C > 1)
    return C * 4**halvings, H // 2**halvings, W // 2**halvings
