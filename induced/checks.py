"""The laws as functions: each takes an object and samples, and returns Reports with a derived tolerance.

A residual is normalised by the size of what is compared. The tolerance is 10 * eps * (what rounding may do) / size: the
roundings of the charts at every point that the law visits (`HilbertSpace.rounding`), each carried through the operators
that follow it. A tolerance above 1e-2 makes a report not ok: too ill-conditioned to judge at its precision.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import final

import torch
from torch import Tensor

from induced.bijections import Bijection, rounding
from induced.errors import LawViolation, ShapeError
from induced.linearizer import LinearizerOperator
from induced.spaces import HilbertSpace

FACTOR = 10.0
JUDGEABLE = 1e-2


@final
@dataclass(frozen=True)
class Report:
    """What one law gave.

    Attributes:
        law: the equation.
        statement: its number in the paper, or the section that states it.
        residual: the largest normalised violation over the samples.
        tolerance: what rounding explains.
        worst: the sample with the largest violation, where the law speaks of samples.
    """

    law: str
    statement: str
    residual: float
    tolerance: float
    worst: Tensor | None = None

    @property
    def ok(self) -> bool:
        """Whether the law holds, and could be judged: a nan residual and a tolerance above 1e-2 are not ok."""
        return self.residual <= self.tolerance <= JUDGEABLE

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "too ill-conditioned to judge" if self.residual <= self.tolerance else "VIOLATED"
        return f"{self.statement:<12} {self.law:<44} residual {self.residual:8.2e}  tolerance {self.tolerance:8.2e}  {verdict}"


def require(*reports: Report | Iterable[Report]) -> None:
    """Raise LawViolation, listing every report that is not ok."""
    flat = list(chain.from_iterable([r] if isinstance(r, Report) else r for r in reports))
    failed = [report for report in flat if not report.ok]
    if failed:
        raise LawViolation(f"{len(failed)} of {len(flat)} laws do not hold:\n" + "\n".join(map(str, failed)))


def check_bijection(g: Bijection, x: Tensor) -> list[Report]:
    """g^-1 g = id, g g^-1 = id, the same bits in train and eval mode, log|det J|, and finite gradients.

    Arguments:
        g: the chart.
        x: points (k, *shape), k >= 1. The determinant is compared with that of the autograd Jacobian up to 64 coordinates.

    Returns:
        The reports; of a chart that is not deterministic that one alone, since nothing else can be asked of it.
    """
    _require_samples(x, g.shape)
    deterministic = Report("g is deterministic in train and eval mode", "contract", _mode_difference(g, x), 0.0, x[:1])
    if not deterministic.ok:
        return [deterministic]
    with torch.no_grad():
        z: Tensor = g(x)
        back, forth = g.inverse(z), g(g.inverse(z))
    k = x.dim() - len(g.shape)
    reports = [
        _compare("g^-1(g(x)) = x", "Def 2.2", back - x, x, rounding(g, x), x, k),
        _compare("g(g^-1(z)) = z", "Def 2.2", forth - z, z, rounding(g.inv, z), z, k),
        deterministic,
        _finite_gradients(lambda p: g.inverse(2 * g(p)), x),
    ]
    if z[(0,) * k].numel() <= 64 and type(g).forward_and_log_abs_det is not Bijection.forward_and_log_abs_det:
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
    _require_samples(points, X.shape)
    with torch.no_grad():
        x, y, w = points, points.roll(1, 0), points.roll(2, 0)
        a, b = 0.7, -1.3
        add, scale, zero = X.add, X.scale, X.zero(x.shape[0], dtype=x.dtype, device=x.device)
        xy, ax, bx, minus, once = add(x, y), scale(a, x), scale(b, x), X.neg(x), scale(1.0, x)
        sum_left, sum_right = add(xy, w), add(x, add(y, w))
        zx, zy = X.coords(x), X.coords(y)
        size = 3 * _norms(zx).max()
        error = X.rounding(torch.cat([x, zero[:1], xy, sum_left, ax, bx, minus]))[1]

        def coords(law: str, left: Tensor, right: Tensor) -> Report:
            return _compare(law, "Prop 2.3", X.coords(left) - X.coords(right), size, error, x)

        def numbers(law: str, statement: str, difference: Tensor) -> Report:
            return _compare(law, statement, difference, size**2, error * float(size), x)

        return [
            _compare("closure: g(x + y) = g(x) + g(y)", "Prop 2.3", X.coords(xy) - (zx + zy), size, error, x),
            coords("associativity: (x + y) + w = x + (y + w)", sum_left, sum_right),
            coords("commutativity: x + y = y + x", xy, add(y, x)),
            coords("identity: x + 0 = x", add(x, zero), x),
            coords("inverse: x + (-x) = 0", add(x, minus), zero),
            coords("compatibility: a (b x) = (a b) x", scale(a, bx), scale(a * b, x)),
            _compare("scalar identity: 1 x = x", "Prop 2.3", once - x, x, X.rounding(x)[0], x),
            coords("distributivity: a (x + y) = a x + a y", scale(a, xy), add(ax, scale(a, y))),
            coords("distributivity: (a + b) x = a x + b x", scale(a + b, x), add(ax, bx)),
            numbers("<a x + y, w> = a <x, w> + <y, w>", "Prop 2.7", _bilinear(X, a, x, y, w)),
            numbers("<x, y> = <y, x>", "Prop 2.7", X.inner(x, y) - X.inner(y, x)),
            numbers("<x, x> = ||x||^2", "Def 2.6", X.inner(x, x) - X.norm(x) ** 2),
        ]


def check_linear(f: LinearizerOperator, points: Tensor) -> list[Report]:
    """f is additive and homogeneous for the operations of its spaces (Prop 2.4), f(0) = 0, and gradients are finite.

    Arguments:
        f: the map; `forward`, `domain` and `codomain` are called.
        points: samples (k, *shape) of the domain, k >= 1.
    """
    X, Y = f.domain, f.codomain
    _require_samples(points, X.shape)
    with torch.no_grad():
        u, v = points, points.roll(1, 0)
        a, b = 0.7, -1.3
        fu, fv, zero = f(u), f(v), X.zero(1, dtype=u.dtype, device=u.device)
        mixed, scaled = X.combine((a, b), (u, v)), X.scale(b, u)
        gain, reach = _gain(f, u, fu)
        images = torch.cat([fu, Y.scale(b, fu), Y.combine((a, b), (fu, fv)), f(zero)])
        error = gain * X.rounding(torch.cat([u, mixed, scaled, zero]))[1] + Y.rounding(images)[1]

        def coords(law: str, difference: Tensor) -> Report:
            return _compare(law, "Prop 2.4", difference, reach, error, u, zero_size=X.norm(u).max())

        reports = [
            coords("f(a u + b v) = a f(u) + b f(v)", Y.coords(f(mixed)) - Y.coords(Y.combine((a, b), (fu, fv)))),
            coords("f(a u) = a f(u)", Y.coords(f(scaled)) - Y.coords(Y.scale(b, fu))),
            coords("f(0) = 0", Y.coords(f(zero))),
        ]
    return [*reports, _finite_gradients(f, points)]


def check_adjoint(f: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    """<f(x), y>_Y = <x, f*(y)>_X (Prop 2.8) and f** = f, for samples x of the domain and as many y of the codomain."""
    X, Y, H = f.domain, f.codomain, f.H
    _require_samples(x, X.shape)
    _require_samples(y, Y.shape)
    with torch.no_grad():
        fx, Hy = f(x), H(y)
        gain, reach = _gain(f, x, fx)
        size_x, size_y = float(X.norm(x).max()), float(Y.norm(y).max())
        at_fx = gain * X.rounding(x)[1] + Y.rounding(fx)[1]
        at_Hy = gain * Y.rounding(y)[1] + X.rounding(Hy)[1]
        difference = Y.inner(fx, y) - X.inner(x, Hy)
        return [
            _compare(
                "<f(x), y> = <x, f*(y)>",
                "Prop 2.8",
                difference,
                reach * size_y,
                at_fx * size_y + at_Hy * size_x,
                x,
                zero_size=size_x * size_y,
            ),
            _compare("f** = f", "Prop 2.8", Y.coords(H.H(x)) - Y.coords(fx), reach, at_fx, x, zero_size=size_x),
        ]


def check_penrose(f: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    """The four Penrose equations for f+ = f.pinv() (Lemma 4.1), for samples x of the domain and as many y of the codomain."""
    X, Y, p = f.domain, f.codomain, f.pinv()
    _require_samples(x, X.shape)
    _require_samples(y, Y.shape)
    with torch.no_grad():
        fx, py = f(x), p(y)
        pfx, fpy = p(fx), f(py)
        norm_f, norm_p = _operator_norm(f, x), _operator_norm(p, y)
        condition = norm_f * norm_p
        size_x, size_y = float(X.norm(x).max()), float(Y.norm(y).max())
        # Each visit of a space rounds; A+ itself is known to `condition` roundings.
        e_x, e_y = X.rounding(torch.cat([x, pfx, py]))[1], Y.rounding(torch.cat([y, fx, fpy]))[1]
        v, w = x.roll(1, 0), y.roll(1, 0)
        # An inner product sees what an error has along the other vector: <A e, w> = <e, A^T w>.
        along_y = Y.rounding(torch.cat([y, fpy]), Y.coords(y))[1] + X.rounding(py, X.coords(f.H(y)))[1]
        along_x = X.rounding(torch.cat([x, pfx]), X.coords(x))[1] + Y.rounding(fx, Y.coords(p.H(x)))[1]
        ffp = Y.coords(f(pfx)) - Y.coords(fx)
        pfp = X.coords(p(fpy)) - X.coords(py)
        sym_y = Y.inner(fpy, w) - Y.inner(y, f(p(w)))
        sym_x = X.inner(pfx, v) - X.inner(x, p(f(v)))
        return [
            _compare(
                "f f+ f = f", "Lemma 4.1", ffp, norm_f * size_x, e_y + norm_f * (e_x + condition * size_x), x, zero_size=size_x
            ),
            _compare(
                "f+ f f+ = f+", "Lemma 4.1", pfp, norm_p * size_y, e_x + norm_p * (e_y + condition * size_y), y, zero_size=size_y
            ),
            _compare("(f f+)* = f f+", "Lemma 4.1", sym_y, size_y**2, 2 * along_y + condition * size_y**2, y),
            _compare("(f+ f)* = f+ f", "Lemma 4.1", sym_x, size_x**2, 2 * along_x + condition * size_x**2, x),
        ]


def check_svd(f: LinearizerOperator, rank: int | None = None) -> list[Report]:
    """f(v_i) = s_i u_i, f*(u_i) = s_i v_i, both sets orthonormal, values descending (Prop 2.9); `rank` triplets."""
    X, Y = f.domain, f.codomain
    with torch.no_grad():
        S = f.svd(rank)
        if S.values.numel() == 0:
            return []
        u, v, s = S.left(), S.right(), S.values
        fv, Hu, top = f(v), f.H(u), float(s[0])
        zu, zv = Y.coords(u), X.coords(v)
        # <u_i, u_j> sees only what the error of one has along the other
        along_x, along_y = X.rounding(v, zv)[1], Y.rounding(u, zu)[1]
        e_x, e_y = X.rounding(torch.cat([v, Hu]))[1], Y.rounding(torch.cat([u, fv]))[1]
        eye = torch.eye(s.shape[0], dtype=s.dtype, device=s.device)
        disorder = torch.cat([s[1:] - s[:-1], -s[-1:]]).clamp(min=0)
        return [
            _compare(
                "f(v_i) = s_i u_i",
                "Prop 2.9",
                Y.coords(fv) - s[:, None] * zu,
                top,
                e_y + top * (e_x + e_y),
                v,
                zero_size=1.0,
            ),
            _compare(
                "f*(u_i) = s_i v_i",
                "Prop 2.9",
                X.coords(Hu) - s[:, None] * zv,
                top,
                e_x + top * (e_x + e_y),
                u,
                zero_size=1.0,
            ),
            _compare("<u_i, u_j> = delta_ij", "Prop 2.9", (zu @ zu.mT - eye).flatten(), 1.0, 2 * along_y, u, per=len(s)),
            _compare("<v_i, v_j> = delta_ij", "Prop 2.9", (zv @ zv.mT - eye).flatten(), 1.0, 2 * along_x, v, per=len(s)),
            Report("s_1 >= s_2 >= ... >= 0", "Prop 2.9", float(disorder.max()), 0.0),
        ]


def _require_samples(x: Tensor, shape: tuple[int, ...]) -> None:
    if x.dim() <= len(shape) or x.numel() == 0:
        raise ShapeError(
            f"a law needs at least one sample, of shape (k, {', '.join(map(str, shape))}) with k >= 1; got {tuple(x.shape)}"
        )


def _norms(x: Tensor, batch: int = 1) -> Tensor:
    return x.flatten(batch).norm(dim=-1) if x.dim() > batch else x.abs()


def _compare(
    law: str,
    statement: str,
    difference: Tensor,
    size: Tensor | float,
    roundings: float,
    samples: Tensor,
    batch: int = 1,
    per: int = 1,
    zero_size: Tensor | float = 0.0,
) -> Report:
    """The report of a law: the largest difference of a sample beside the roundings, both over `size`.

    Arguments:
        difference: what should be zero, (*batch, ...).
        size: a number, or points (*batch, ...) the largest norm of which it is; where it is 0, a difference of 0 is 0/0 = 0.
        roundings: what rounding may do to the difference, in multiples of eps.
        samples: what the law was tried at, (*batch, ...).
        batch: number of batch dimensions.
        per: differences a sample.
        zero_size: the size for a map that rounding cannot tell from zero: that of its input.
    """
    norms = _norms(difference, batch).flatten()
    scale = float(_norms(size, batch).max()) if isinstance(size, Tensor) and size.dim() > 0 else float(size)
    eps = torch.finfo(samples.dtype).eps
    if scale <= 10 * FACTOR * eps * roundings:
        scale = max(scale, float(zero_size))
    worst = int(norms.argmax())
    largest = float(norms[worst])
    residual = 0.0 if largest == 0.0 else largest / scale if scale else float("inf")
    tolerance = FACTOR * eps * (roundings / scale if scale else 0.0)
    return Report(law, statement, residual, tolerance, samples.flatten(0, batch - 1)[min(worst // per, len(samples) - 1)])


def _random_like(X: HilbertSpace, x: Tensor) -> Tensor:
    """Points whose coordinates have random directions and the norms of those of x."""
    z = X.coords(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z)
    return X.point(noise * (z.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)))


def _gain(f: LinearizerOperator, x: Tensor, fx: Tensor) -> tuple[float, float]:
    """||A|| from below, by the samples and by random vectors as long, and that times the longest sample."""
    lengths = f.domain.norm(x)
    images = torch.stack([f.codomain.norm(fx), f.codomain.norm(f(_random_like(f.domain, x)))])
    gain = float((images / torch.where(lengths > 0, lengths, torch.ones_like(lengths))).max())
    return gain, gain * float(lengths.max())


def _operator_norm(f: LinearizerOperator, x: Tensor, iterations: int = 12) -> float:
    """||A|| by power iteration on f* f, from a random vector; f(v) is kept as short as a hundredth of the first sample."""
    X, length = f.domain, 0.01 * float(f.domain.norm(x[:1]))
    if length == 0.0:
        return 0.0
    z, norm = X.coords(_random_like(X, x[:1])), 0.0
    for _ in range(iterations):
        shortened = length / max(1.0, norm)
        image = f(X.point(z * (shortened / z.norm())))
        norm = float(f.codomain.norm(image)) / shortened
        if norm == 0.0:
            return 0.0
        z = X.coords(f.H(image))
    return norm


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


def _finite_gradients(f: Callable[[Tensor], Tensor], x: Tensor) -> Report:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return Report("gradients are finite", "contract", float((~torch.isfinite(gradient)).sum()), 0.0)


def _check_log_abs_det(g: Bijection, x: Tensor, k: int) -> Report:
    points = x.flatten(0, k - 1)
    J = torch.stack([torch.func.jacrev(g)(p) for p in points]).detach().double().reshape(len(points), -1, points[0].numel())
    difference = g.log_abs_det(points).detach().double() - torch.linalg.slogdet(J)[1]
    n = J.shape[-1]
    return _compare("log|det J|", "Jacobian", difference, n, n * float(torch.linalg.cond(J).max()), x, k)
