"""Laws of charts and of the spaces they make."""

import math

import torch
from torch import Tensor

from induced.bijections import Bijection, Inverse, rounding
from induced.checks.report import Report, compare, finite_gradients, norms, require_samples, worst
from induced.spaces import HilbertSpace


def check_bijection(g: Bijection, x: Tensor) -> list[Report]:
    """g^-1 g = id, g g^-1 = id, the same bits in train and eval mode, log|det J| of both directions, and finite gradients.

    Arguments:
        g: the chart.
        x: points (k, *shape), k >= 1. The determinant is compared with that of the autograd Jacobian up to 64 coordinates.

    Returns:
        The reports; of a chart that is not deterministic that one alone, since nothing else can be asked of it.
    """
    require_samples(x, g.shape)
    deterministic = Report("g is deterministic in train and eval mode", "contract", _mode_difference(g, x), 0.0, x[:1])
    if not deterministic.ok:
        return [deterministic]
    with torch.no_grad():
        z: Tensor = g(x)
        back, forth = g.inverse(z), g(g.inverse(z))
    k = x.dim() - len(g.shape)
    reports = [
        compare("g^-1(g(x)) = x", "Def 2.2", back - x, x, rounding(g, x), x, k),
        compare("g(g^-1(z)) = z", "Def 2.2", forth - z, z, rounding(g.inv, z), z, k),
        deterministic,
        finite_gradients(lambda p: g.inverse(2 * g(p)), x),
    ]
    if z[(0,) * k].numel() <= 64 and all(map(_has_determinant, g.layers())):
        reports.append(_check_log_abs_det(g, x, k))
    return reports


def check_space(X: HilbertSpace, points: Tensor) -> list[Report]:
    """The nine axioms of a vector space (Prop 2.3, App. A) and those of its inner product (Prop 2.7).

    Points are compared by their coordinates, but for 1 x = x: that one is compared in the space and so sees a chart that
    is not injective.

    Arguments:
        X: the space.
        points: samples (k, *shape), k >= 1; x, y and w are the points and their cyclic shifts. Sums of three and multiples up to
            1.3 are formed: keep the coordinates that far from the edge of the domain.
    """
    require_samples(points, X.shape)
    with torch.no_grad():
        x, y, w = points, points.roll(1, 0), points.roll(2, 0)
        a, b = 0.7, -1.3
        add, scale, zero = X.add, X.scale, X.zero(x.shape[0], dtype=x.dtype, device=x.device)
        xy, ax, bx, minus, once = add(x, y), scale(a, x), scale(b, x), X.neg(x), scale(1.0, x)
        sum_left, sum_right = add(xy, w), add(x, add(y, w))
        zx, zy = X.coords(x), X.coords(y)
        size = 3 * norms(zx).max()
        error = worst(X.roundings(torch.cat([x, zero[:1], xy, sum_left, ax, bx, minus])))

        def coords(law: str, left: Tensor, right: Tensor) -> Report:
            return compare(law, "Prop 2.3", X.coords(left) - X.coords(right), size, error, x)

        def numbers(law: str, statement: str, difference: Tensor) -> Report:
            return compare(law, statement, difference, size**2, error * float(size), x)

        return [
            compare("closure: g(x + y) = g(x) + g(y)", "Prop 2.3", X.coords(xy) - (zx + zy), size, error, x),
            coords("associativity: (x + y) + w = x + (y + w)", sum_left, sum_right),
            coords("commutativity: x + y = y + x", xy, add(y, x)),
            coords("identity: x + 0 = x", add(x, zero), x),
            coords("inverse: x + (-x) = 0", add(x, minus), zero),
            coords("compatibility: a (b x) = (a b) x", scale(a, bx), scale(a * b, x)),
            compare("scalar identity: 1 x = x", "Prop 2.3", once - x, x, worst(X.point_roundings(x)), x),
            coords("distributivity: a (x + y) = a x + a y", scale(a, xy), add(ax, scale(a, y))),
            coords("distributivity: (a + b) x = a x + b x", scale(a + b, x), add(ax, bx)),
            numbers("<a x + y, w> = a <x, w> + <y, w>", "Prop 2.7", _bilinear(X, a, x, y, w)),
            numbers("<x, y> = <y, x>", "Prop 2.7", X.inner(x, y) - X.inner(y, x)),
            numbers("<x, x> = ||x||^2", "Def 2.6", X.inner(x, x) - X.norm(x) ** 2),
        ]


def _bilinear(X: HilbertSpace, a: float, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return X.inner(X.add(X.scale(a, x), y), w) - (a * X.inner(x, w) + X.inner(y, w))


def _mode_difference(g: Bijection, x: Tensor) -> float:
    training = g.training
    with torch.no_grad():
        try:
            outcomes = [g.train(mode)(x) for mode in (True, True, False)]
        finally:
            g.train(training)
    return max(float((outcomes[0] - other).abs().max()) for other in outcomes[1:])


def _has_determinant(layer: Bijection) -> bool:
    g = layer.inv if isinstance(layer, Inverse) else layer
    return type(g).forward_and_log_abs_det is not Bijection.forward_and_log_abs_det


def _check_log_abs_det(g: Bijection, x: Tensor, k: int) -> Report:
    points = x.flatten(0, k - 1)
    # A chart of a constrained set has its derivative along the tangent space alone, which that of its inverse spans.
    tangent = points[0].numel() != math.prod(g.coord_shape)
    f, at = (g.inverse, g(points).detach()) if tangent else (g, points)
    J = torch.stack([torch.func.jacrev(f)(p) for p in at]).detach().double().reshape(len(at), -1, at[0].numel())
    s = torch.linalg.svdvals(J)
    volume = (-1 if tangent else 1) * s.log().sum(-1)
    there, back = g.log_abs_det(points), g.inv.log_abs_det(g(points).detach())
    difference = torch.stack([there.detach().double() - volume, back.detach().double() + volume]).abs().amax(0)
    n = s.shape[-1]
    return compare("log|det J|", "Jacobian", difference, n, n * float((s[:, 0] / s[:, -1]).max()), x, k)
