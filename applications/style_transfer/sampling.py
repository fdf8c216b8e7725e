"""Pictures of any size through a model, in memory that does not grow with them."""

import torch
from torch import Tensor

from applications.style_transfer.algebra import low_rank, mix, remove, restyle, strength
from applications.style_transfer.model import Styles, StyleTransfer
from applications.style_transfer.tiles import framed, in_tiles
from induced import LinearizerOperator
from induced.errors import DomainError

FRAME = 32
"""Pixels by which a picture is reflected outwards before it goes through a model."""
TILE = 2048


def chosen(styles: Styles, weights: dict[str, float], amount: float = 1.0, rank: int | None = None) -> LinearizerOperator:
    """The mixture of styles, its low-rank part where a rank is given, at a strength."""
    f = mix(styles, weights)
    f = f if rank is None else low_rank(styles, f, rank)
    return f if amount == 1.0 else strength(styles, f, amount)


@torch.no_grad()
def stylise(
    model: StyleTransfer,
    x: Tensor,
    weights: dict[str, float],
    amount: float = 1.0,
    *,
    rank: int | None = None,
    tile: int = TILE,
    frame: int = FRAME,
) -> Tensor:
    """A mixture of styles at a strength, for pictures (N, 3, H, W) in [-1, 1) of any size.

    Larger pictures than a tile are computed tile by tile; a low-rank part looks at the whole picture, and is computed on it.

    Raises:
        DomainError: a tile is no multiple of the stride or not larger than twice the reach of the model; an unknown style.
    """

    def f(part: Tensor) -> Tensor:
        return chosen(model.at(*part.shape[-2:]), weights, amount, rank)(part)

    def tiled(whole: Tensor) -> Tensor:
        return in_tiles(f, whole, tile=tile, margin=model.reach, stride=model.config.stride)

    return framed(f if rank is not None else tiled, x, frame=frame, stride=model.config.stride)


@torch.no_grad()
def unstylise(
    model: StyleTransfer,
    y: Tensor,
    weights: dict[str, float],
    into: dict[str, float] | None = None,
    rtol: float | None = None,
    *,
    frame: int = FRAME,
) -> Tensor:
    """A style removed by the pseudoinverse from pictures (N, 3, H, W) in it; `into`: and others put on.

    The pseudoinverse of a convolution looks at the whole picture, so that this is not done in tiles. It undoes `stylise` where
    neither has a frame and sides are multiples of the stride; else a border as wide as the model's reach is only near to the
    photograph, since what was cut off is not known.

    Raises:
        DomainError: the cores are not circular; an unknown style.
    """
    if model.config.padding != "circular":
        raise DomainError(f"a style of {model.config.padding} padding has no pseudoinverse at any size, only circular ones have")

    def back(whole: Tensor) -> Tensor:
        styles = model.at(*whole.shape[-2:])
        f = mix(styles, weights)
        return restyle(f, mix(styles, into), rtol)(whole) if into else remove(f, rtol)(whole)

    return framed(back, y, frame=frame, stride=model.config.stride)
