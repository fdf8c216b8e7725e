"""Laws of operators on one space: powers, the one-parameter group, idempotents."""

import torch
from torch import Tensor

from induced.checks.maps import gain_and_reach, sums
from induced.checks.measure import FACTOR, compare, noise, require_samples
from induced.checks.report import Report
from induced.linearizer import LinearizerOperator


def check_powers(f: LinearizerOperator, x: Tensor) -> list[Report]:
    """f^0 = id, f^1 = f, f^3 = f f f and f^2 f^3 = f^5 (eq. 4), for samples x of the space."""
    X = f.domain
    require_samples(x, X.shape)
    with torch.no_grad():
        orbit = [x]
        for _ in range(3):
            orbit.append(f(orbit[-1]))
        cube = f**3
        pairs = {
            "f^0 = id": (0, (f**0)(x), x),
            "f^1 = f": (1, (f**1)(x), orbit[1]),
            "f^3 = f f f": (3, cube(x), orbit[3]),
            "f^2 f^3 = f^5": (5, (f**2)(cube(x)), (f**5)(x)),
        }
        gain, reach = gain_and_reach(f, x, orbit[1])
        known = noise(X, torch.cat([*orbit, *(side for _, *sides in pairs.values() for side in sides)]))
        start = float(X.norm(x).max())

        def law(name: str, k: int, left: Tensor, right: Tensor) -> Report:
            size = reach * gain ** (k - 1) if k else start
            # each of k points is known to `known`, which f carries on; the entries of A^k to those of k products
            error = known * sum(gain**i for i in range(k + 1)) + k * sums(f) * size
            return compare(name, "eq. 4", X.coords(left) - X.coords(right), size, error, x)

        return [law(name, *pair) for name, pair in pairs.items()]


def check_group(f: LinearizerOperator, x: Tensor, s: float | None = None, t: float | None = None) -> list[Report]:
    """exp(0) = id, exp(s f) exp(t f) = exp((s + t) f), exp(-t f) exp(t f) = id, and d/dt exp(t f) = f at t = 0 (section 7).

    Arguments:
        f: an operator of one space; `forward` and `exp` are called.
        x: samples (k, *shape), k >= 1.
        s, t: times; 0.3 and 0.5 over the norm of f by default, so that every point stays near the samples.

    The derivative is a central difference of order 4, of a step that balances its truncation against rounding; its
    tolerance holds both.
    """
    X = f.domain
    require_samples(x, X.shape)
    with torch.no_grad():
        fx = f(x)
        gain, _ = gain_and_reach(f, x, fx)
        size = float(X.norm(x).max())
        # a map that rounding cannot tell from zero sets no time scale
        unclear = 10 * FACTOR * torch.finfo(x.dtype).eps * noise(X, torch.cat([x, fx])).roundings
        scale = gain if gain * size > unclear else 1.0
        s, t = 0.3 / scale if s is None else s, 0.5 / scale if t is None else t
        h = torch.finfo(x.dtype).eps ** 0.2 / scale
        flow = {time: f.exp(time) for time in (0.0, s, t, s + t, -t)}
        xt = flow[t](x)
        images = {time: flow[time](x) for time in (0.0, s + t)}
        joined, back = flow[s](xt), flow[-t](xt)
        visited = torch.cat([x, xt, joined, back, *images.values()])
        error = noise(X, visited) * float(torch.tensor(scale * (s + 2 * t)).exp())

        def law(name: str, left: Tensor, right: Tensor) -> Report:
            return compare(name, "section 7", X.coords(left) - X.coords(right), size, error + sums(f) * size, x)

        near = [f.exp(k * h)(x) for k in (-2, -1, 1, 2)]
        at_near, steps = noise(X, torch.cat([x, *near])), [X.coords(point) for point in near]
        difference = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h) - X.coords(fx)
        truncation = (scale * h) ** 4 / torch.finfo(x.dtype).eps
        return [
            law("exp(0) = id", images[0.0], x),
            law("exp(s f) exp(t f) = exp((s + t) f)", joined, images[s + t]),
            law("exp(-t f) exp(t f) = id", back, x),
            compare(
                "d/dt exp(t f) = f at t = 0",
                "section 7",
                difference,
                scale * size,
                (at_near + sums(f) * size) / h + scale * size * (1 + truncation),
                x,
            ),
        ]


def check_idempotent(f: LinearizerOperator, x: Tensor, *, exact: bool = False) -> list[Report]:
    """f f = f (Lemma 4.2), for samples x of the space.

    Arguments:
        f: an operator of one space.
        x: samples (k, *shape), k >= 1.
        exact: compare the points bit for bit, as a 0/1 core over lattice charts allows.
    """
    X = f.domain
    require_samples(x, X.shape)
    with torch.no_grad():
        once = f(x)
        twice = f(once)
        if exact:
            bits = torch.int32 if x.element_size() == 4 else torch.int64
            different = (once.view(bits) != twice.view(bits)).flatten(1).any(-1)
            sample = x[int(different.int().argmax())]
            return [Report("f(f(x)) = f(x), bit for bit", "Lemma 4.2", float(different.sum()), 0.0, sample)]
        gain, reach = gain_and_reach(f, x, once)
        error = (1 + gain) * noise(X, torch.cat([once, twice])) + sums(f) * gain * reach
        difference = X.coords(twice) - X.coords(once)
        return [compare("f(f(x)) = f(x)", "Lemma 4.2", difference, reach, error, x)]
