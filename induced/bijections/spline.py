"""Couplings by monotone rational-quadratic splines (Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows, 2019)."""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from induced._registry import saved_as
from induced.bijections.coupling import Coupling
from induced.errors import DomainError

LEAST = 1e-3
"""Least width and height of a bin, in shares of 2 B / K, and least slope at a knot."""


class _Bin(NamedTuple):
    """The bin of each entry: its corner (x, y), its width and height, and the slopes at its two ends."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor


@final
@saved_as("bijections.RationalQuadraticCoupling", "shape", "conditioner", "flip", "bins", "bound")
class RationalQuadraticCoupling(Coupling):
    """(a, b) -> (a, h(b; conditioner(a))), h a monotone rational-quadratic spline of K bins on [-B, B], the identity outside.

    The conditioner returns 3 K - 1 blocks stacked along the first axis: K for the widths of the bins and K for their heights,
    each through a softmax, and K - 1 for the slopes at the inner knots, through a softplus. All 0 gives the identity. h is C^1;
    its slope is 1 at -B and B.

    Arguments:
        shape: shape of a point; its first axis of length C is cut after C // 2.
        conditioner: any deterministic module from the kept half to the parameters of h, e.g. an MLP with
            (3 K - 1) * (entries that change) outputs.
        flip: keep the second half and change the first.
        bins: K.
        bound: B.

    Raises:
        DomainError: `bins` is below 1, or `bound` is not positive.
        ShapeError: nothing is left to change, or the conditioner returns another shape than h needs.

    Example:
        >>> from induced.bijections.networks import MLP
        >>> g = RationalQuadraticCoupling((4,), MLP(2, 23 * 2, width=16), bins=8)
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(g.inverse(g(x)), x, atol=1e-5)
        True

    Law:
        `g.inverse(g(x)) == x`, and the slope is continuous at the knots (laws/test_splines.py)
    """

    def __init__(
        self, shape: Sequence[int], conditioner: nn.Module, *, flip: bool = False, bins: int = 8, bound: float = 4.0
    ) -> None:
        if bins < 1 or not 0 < bound < math.inf:
            raise DomainError(f"a spline needs bins >= 1 and a positive finite bound, got bins={bins}, bound={bound}")
        super().__init__(shape, conditioner, flip=flip)
        self.bins, self.bound = bins, float(bound)
        self.parameters_per_entry = 3 * bins - 1

    def _ulps(self, result: Tensor) -> Tensor:
        # the corner of a bin and a share of the bin, which cancel near 0; bins are 2 B / K wide on average
        return result.abs() + 2 * self.bound / self.bins

    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        inside = b.clamp(-self.bound, self.bound)
        x, y, width, height, left, right = self._bin(inside, parameters, 0)
        slope = height / width
        t = (inside - x) / width
        mixed = t * (1 - t)
        below = torch.addcmul(slope, left + right - 2 * slope, mixed)
        moved = y + height * torch.addcmul(left * mixed, slope, t * t) / below
        outside = b != inside
        log_slope = _log_slope(t, mixed, slope, below, left, right)
        return torch.where(outside, b, moved), torch.where(outside, torch.zeros_like(b), log_slope)

    def _restore(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        inside = b.clamp(-self.bound, self.bound)
        x, y, width, height, left, right = self._bin(inside, parameters, 1)
        slope = height / width
        # the root of p t^2 + q t = r in [0, 1]; of its two forms the one without cancellation
        above, curve = inside - y, left + right - 2 * slope
        bend = above * curve
        p, q, r = torch.addcmul(bend, height, slope - left), torch.addcmul(-bend, height, left), slope * above
        root = torch.addcmul(q * q, p, r, value=4).clamp_min(torch.finfo(b.dtype).tiny).sqrt()
        t = torch.where(q > 0, 2 * r, root - q) / torch.where(q > 0, q + root, 2 * p)
        mixed, outside = t * (1 - t), b != inside
        log_slope = -_log_slope(t, mixed, slope, torch.addcmul(slope, curve, mixed), left, right)
        restored = torch.where(outside, b, torch.addcmul(x, t, width))
        return restored, torch.where(outside, torch.zeros_like(b), log_slope)

    def _bin(self, points: Tensor, parameters: Tensor, side: int) -> _Bin:
        """The bin of each point, found among the knots of x (side 0) or of y (side 1)."""
        axis, bins = points.dim() + self._axis, self.bins
        before, after = parameters.shape[:axis], parameters.shape[axis + 1 :]
        blocks = parameters.reshape(*before, self.parameters_per_entry, self.changed, *after)
        widths, heights, raw = torch.split_with_sizes(blocks, [bins, bins, bins - 1], axis)
        width, height = self._sizes_of_bins(widths, axis), self._sizes_of_bins(heights, axis)
        x, y = width.cumsum(axis) - self.bound, height.cumsum(axis) - self.bound
        one = torch.ones_like(points).unsqueeze(axis)
        slopes = torch.cat([one, LEAST + F.softplus(raw + math.log(math.expm1(1 - LEAST))), one], axis)
        # a point on a knot belongs to the bin on its right, and the last knot to the last bin
        inner = (x, y)[side].narrow(axis, 0, bins - 1)
        index = (points.unsqueeze(axis) >= inner).sum(axis, keepdim=True)
        x, y, width, height, left = (table.gather(axis, index).squeeze(axis) for table in (x, y, width, height, slopes))
        return _Bin(x - width, y - height, width, height, left, slopes.gather(axis, index + 1).squeeze(axis))

    def _sizes_of_bins(self, raw: Tensor, axis: int) -> Tensor:
        whole = 2 * self.bound
        return LEAST * whole / self.bins + (1 - LEAST) * whole * torch.softmax(raw, axis)


def _log_slope(t: Tensor, mixed: Tensor, slope: Tensor, below: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """log h' at the share t of a bin, mixed = t (1 - t)."""
    rise = torch.addcmul(torch.addcmul(2 * slope * mixed, right, t * t), left, (1 - t) * (1 - t))
    return 2 * torch.log(slope / below) + torch.log(rise)
