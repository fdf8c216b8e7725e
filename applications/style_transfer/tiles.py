"""Pictures of any size: a local map applied tile by tile, whose results agree with that on the whole picture."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from induced.errors import DomainError, ShapeError

Map = Callable[[Tensor], Tensor]


def cuts(length: int, tile: int, margin: int) -> list[tuple[int, int, int]]:
    """(start, first, end) of each tile along an axis: it begins at `start`, and the result of first..end is taken from it.

    Neighbours overlap by at least twice the margin, so that what is taken lies at least a margin inside, but at the ends of the
    axis. Starts are multiples of the stride where length, tile and margin are.
    """
    if length <= tile:
        return [(0, 0, length)]
    starts = sorted({*range(0, length - tile, tile - 2 * margin), length - tile})
    firsts = [0, *(start + margin for start in starts[1:])]
    return list(zip(starts, firsts, [*firsts[1:], length], strict=True))


def in_tiles(f: Map, x: Tensor, *, tile: int, margin: int, stride: int) -> Tensor:
    """f(x) for pictures (N, C, H, W), computed on squares of `tile` pixels that overlap by twice `margin`.

    Arguments:
        f: a map of pictures that keeps their size, moves with shifts by `stride`, and looks no farther than `margin` pixels.
        x: sides are multiples of the stride.
        tile: side of a square; a picture that fits in one is computed whole.
        margin: rounded up to a multiple of the stride.
        stride: offsets are multiples of it.

    Raises:
        DomainError: the tile is no multiple of the stride, or not larger than two margins.
        ShapeError: a side of x is no multiple of the stride.

    Law:
        `in_tiles(f, x) == f(x)` up to rounding, farther than `margin` from the border (applications/style_transfer/test_model.py)
    """
    margin = -(-margin // stride) * stride
    if tile % stride or tile <= 2 * margin:
        raise DomainError(f"a tile is a multiple of the stride {stride} and larger than two margins of {margin}, got {tile}")
    if x.shape[-1] % stride or x.shape[-2] % stride:
        raise ShapeError(f"sides of {x.shape[-2]}x{x.shape[-1]} are no multiples of the stride {stride}")
    rows = []
    for top, first, end in cuts(x.shape[-2], tile, margin):
        band = x[..., top : top + tile, :]
        done = []
        for left, begin, stop in cuts(x.shape[-1], tile, margin):
            done.append(f(band[..., left : left + tile])[..., first - top : end - top, begin - left : stop - left])
        rows.append(torch.cat(done, -1))
    return torch.cat(rows, -2)


def framed(f: Map, x: Tensor, *, frame: int, stride: int) -> Tensor:
    """f(x) for pictures (N, C, H, W) of any sides: reflected outwards by `frame` pixels, to multiples of the stride, then cut.

    A frame wider than a picture reflects is shortened.
    """
    H, W = x.shape[-2:]
    before = min(frame, H - 1, W - 1) // stride * stride
    pads = [(before, before + (-side - 2 * before) % stride) for side in (W, H)]
    mode = "reflect" if all(after < side for (_, after), side in zip(pads, (W, H), strict=True)) else "replicate"
    y = f(F.pad(x, (*pads[0], *pads[1]), mode=mode))
    return y[..., before : before + H, before : before + W]
