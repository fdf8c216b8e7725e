"""The laws of a Hilbert space of points."""

from typing import final

import torch
from torch import Tensor

from induced.bijections import Bijection
from induced.checks.batches import left_alone, rearrangements, same_again
from induced.checks.measure import Noise, compare, estimated, lengths, longest, noises, require_samples, shrunk, unjudgeable
from induced.checks.report import Report, Reports
from induced.checks.untouched import untouched
from induced.precision import full_precision
from induced.spaces import HilbertSpace


@final
class Coordinates(Bijection):
    """The coordinates of a space as the chart that they are, for a space that no chart makes."""

    def __init__(self, X: HilbertSpace) -> None:
        super().__init__(X.shape, (X.dim,))
        self.space = X

    def forward(self, x: Tensor) -> Tensor:
        return self.space.coords(x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.space.point(z)


@full_precision()
def check_space(X: HilbertSpace, points: Tensor) -> Reports:
    """The nine axioms of a vector space (Prop 2.3, App. A), those of its inner product (Prop 2.7), and samples that stay apart.

    Points are compared by their coordinates, but for 1 x = x: that one is compared in the space and so sees a chart that
    is not injective.

    Arguments:
        X: the space; it is given back bit for bit as it was.
        points: samples (*batch, *shape), at least one; x, y and w are the points and their cyclic shifts. Sums of three and
            multiples up to 1.3 are formed; where the chart cannot hold them, of a third of the samples, a ninth, and so on.

    Raises:
        ShapeError: there are no samples. Whatever the space raises at the samples themselves.
    """
    points = require_samples(points, X.shape)
    with untouched(X), torch.no_grad():
        given = points.clone()
        z = X.coords(given).clone()
        alone = left_alone("coords", given, points)
        coordinates = z.clone()
        back = X.point(coordinates).clone()
        alone_back = left_alone("point", coordinates, z)
        at_points = _at_points(X, points)
        return Reports(
            [
                *_laws(X, points, at_points),
                *shrunk("the operations", lambda x: _operations(X, x), X, points),
                alone,
                alone_back,
                *rearrangements("coords", X.coords, points, z, estimated(lambda: noises(X, points)[0], z)),
                *rearrangements("point", X.point, z, back, at_points),
                same_again("coords", X, X.coords, points, z),
                same_again("point", X, X.point, z, back),
            ]
        )


@full_precision()
def check_axioms(X: HilbertSpace, points: Tensor) -> Reports:
    """The laws of `check_space` without those of any function of samples, which `check_bijection` tries at a chart."""
    points = require_samples(points, X.shape)
    with untouched(X), torch.no_grad():
        return Reports(_laws(X, points, _at_points(X, points)))


@full_precision()
def check_operations(X: HilbertSpace, points: Tensor) -> Reports:
    """The laws of `check_axioms`, and those of the operations that a class may make anew."""
    points = require_samples(points, X.shape)
    with untouched(X), torch.no_grad():
        others = shrunk("the operations", lambda x: _operations(X, x), X, points)
        return Reports([*_laws(X, points, _at_points(X, points)), *others])


def _operations(X: HilbertSpace, x: Tensor) -> list[Report]:
    """Differences, combinations, means and distances are those of the coordinates."""
    y, a, b = x.roll(1, 0), 0.7, -1.3
    z, w = X.coords(x), X.coords(y)
    minus, mixed, mean = X.sub(x, y), X.combine((a, b), (x, y)), X.mean(torch.stack([x, y]))
    off = [X.coords(minus) - (z - w), X.coords(mixed) - (a * z + b * w), X.coords(mean) - (z + w) / 2]
    size, error = 2 * longest(z), 2 * noises(X, torch.cat([x, minus, mixed, mean]))[0]
    apart = X.distance(x, y) - lengths(z - w)
    return [
        compare("x - y, a x + b y and means are such sums", "Def 2.2", torch.cat(off, -1), size, error, x),
        compare("d(x, y) = ||x - y||", "Def 2.6", apart, size, error, x),
    ]


def _at_points(X: HilbertSpace, points: Tensor) -> Noise:
    return estimated(lambda: Noise(float(X.point_roundings(points).max()), X.zero_size(points)), points)


def _laws(X: HilbertSpace, points: Tensor, at_points: Noise) -> list[Report]:
    once = X.scale(1.0, points)
    return [
        *shrunk("the axioms", lambda x: _axioms(X, x), X, points),
        compare("scalar identity: 1 x = x", "Prop 2.3", once - points, longest(points), at_points, points),
    ]


def _axioms(X: HilbertSpace, x: Tensor) -> list[Report]:
    y, w = x.roll(1, 0), x.roll(2, 0)
    a, b = 0.7, -1.3
    add, scale, zero = X.add, X.scale, X.zero(x.shape[0], dtype=x.dtype, device=x.device)
    xy, ax, bx, minus = add(x, y), scale(a, x), scale(b, x), X.neg(x)
    sum_left, sum_right = add(xy, w), add(x, add(y, w))
    zx, zy = X.coords(x), X.coords(y)
    size = 3 * longest(zx)
    error = noises(X, torch.cat([x, zero[:1], xy, sum_left, ax, bx, minus]))[0]

    def coords(law: str, left: Tensor, right: Tensor) -> Report:
        return compare(law, "Prop 2.3", X.coords(left) - X.coords(right), size, error, x)

    # inner products of what has this size and is known to `error`: the larger of the size and the floor
    reach = max(size, min(error.floor, error.roundings))

    def numbers(law: str, statement: str, difference: Tensor) -> Report:
        if size * reach > 0.1 * torch.finfo(x.dtype).max:
            return unjudgeable(law, statement, "the products overflow")
        return compare(law, statement, difference, size * reach, error * reach, x)

    return [
        compare("closure: g(x + y) = g(x) + g(y)", "Prop 2.3", X.coords(xy) - (zx + zy), size, error, x),
        coords("associativity: (x + y) + w = x + (y + w)", sum_left, sum_right),
        coords("commutativity: x + y = y + x", xy, add(y, x)),
        coords("identity: x + 0 = x", add(x, zero), x),
        coords("inverse: x + (-x) = 0", add(x, minus), zero),
        coords("compatibility: a (b x) = (a b) x", scale(a, bx), scale(a * b, x)),
        coords("distributivity: a (x + y) = a x + a y", scale(a, xy), add(ax, scale(a, y))),
        coords("distributivity: (a + b) x = a x + b x", scale(a + b, x), add(ax, bx)),
        numbers("<a x + y, w> = a <x, w> + <y, w>", "Prop 2.7", _bilinear(X, a, x, y, w)),
        numbers("<x, y> = <y, x>", "Prop 2.7", X.inner(x, y) - X.inner(y, x)),
        numbers("<x, x> = ||x||^2", "Def 2.6", X.inner(x, x) - X.norm(x) ** 2),
    ]


def _bilinear(X: HilbertSpace, a: float, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return X.inner(X.add(X.scale(a, x), y), w) - (a * X.inner(x, w) + X.inner(y, w))
