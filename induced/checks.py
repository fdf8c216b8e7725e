"""The laws as functions: each takes an object and samples, and returns Reports with a derived tolerance (DESIGN.md, section 4).

A residual is normalised by the size of what is compared. The tolerance is 100 * eps * condition * certificate:
`condition` belongs to the law (the condition of the operator for Penrose), and `certificate` is the rounding
amplification of the charts at these samples. A tolerance above 1e-2 makes a report not ok: the object is too
ill-conditioned to judge at its precision.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from induced.bijections import Bijection, amplification
from induced.errors import LawViolation, ShapeError
from induced.linearizer import LinearizerOperator
from induced.spaces import HilbertSpace

FACTOR = 100.0
JUDGEABLE = 1e-2


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
    """
    _require_samples(x, g.shape)
    with torch.no_grad():
        z: Tensor = g(x)
        back, forth = g.inverse(z), g(g.inverse(z))
    k = x.dim() - len(g.shape)
    reports = [
        _compare("g^-1(g(x)) = x", "Def 2.2", back - x, x, _tolerance(x, amplification(g, x)), k, x),
        _compare("g(g^-1(z)) = z", "Def 2.2", forth - z, z, _tolerance(z, amplification(g.inv, z)), k, z),
        Report("g is deterministic in train and eval mode", "DESIGN 3", _mode_difference(g, x), 0.0),
        _finite_gradients(lambda p: g.inverse(2 * g(p)), x),
    ]
    if z[(0,) * k].numel() <= 64 and type(g).forward_and_log_abs_det is not Bijection.forward_and_log_abs_det:
        reports.append(_check_log_abs_det(g, x, k))
    return reports


def check_space(X: HilbertSpace, points: Tensor) -> list[Report]:
    """The nine axioms of a vector space (Prop 2.3, App. A) and those of its inner product (Prop 2.7).

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
        zx, zy = X.coords(x), X.coords(y)
        tolerance = _tolerance(x, X.amplification(x))
        size = 3 * torch.linalg.vector_norm(zx, dim=-1).max()

        def coords(law: str, left: Tensor, right: Tensor, statement: str = "Prop 2.3") -> Report:
            return _compare(law, statement, X.coords(left) - X.coords(right), size, tolerance, 1, x)

        return [
            _compare("closure: g(x + y) = g(x) + g(y)", "Prop 2.3", X.coords(add(x, y)) - (zx + zy), size, tolerance, 1, x),
            coords("associativity: (x + y) + w = x + (y + w)", add(add(x, y), w), add(x, add(y, w))),
            coords("commutativity: x + y = y + x", add(x, y), add(y, x)),
            _compare("identity: x + 0 = x", "Prop 2.3", add(x, zero) - x, x, tolerance, 1, x),
            coords("inverse: x + (-x) = 0", add(x, X.neg(x)), zero),
            coords("compatibility: a (b x) = (a b) x", scale(a, scale(b, x)), scale(a * b, x)),
            _compare("scalar identity: 1 x = x", "Prop 2.3", scale(1.0, x) - x, x, tolerance, 1, x),
            coords("distributivity: a (x + y) = a x + a y", scale(a, add(x, y)), add(scale(a, x), scale(a, y))),
            coords("distributivity: (a + b) x = a x + b x", scale(a + b, x), add(scale(a, x), scale(b, x))),
            _compare("<a x + y, w> = a <x, w> + <y, w>", "Prop 2.7", _bilinear(X, a, x, y, w), size**2, tolerance, 1, x),
            _compare("<x, y> = <y, x>", "Prop 2.7", X.inner(x, y) - X.inner(y, x), size**2, tolerance, 1, x),
            _compare("<x, x> = ||x||^2", "Def 2.6", X.inner(x, x) - X.norm(x) ** 2, size**2, tolerance, 1, x),
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
        fu, fv = f(u), f(v)
        size = torch.stack([_reach(f, u), Y.norm(fu).max()]).max()
        tolerance = _tolerance(u, _certificate(f, u, fu))
        left = Y.coords(f(X.combine((a, b), (u, v))))
        zero = f(X.zero(1, dtype=u.dtype, device=u.device))
        reports = [
            _compare(
                "f(a u + b v) = a f(u) + b f(v)", "Prop 2.4", left - Y.coords(Y.combine((a, b), (fu, fv))), size, tolerance, 1, u
            ),
            _compare("f(a u) = a f(u)", "Prop 2.4", Y.coords(f(X.scale(b, u))) - Y.coords(Y.scale(b, fu)), size, tolerance, 1, u),
            _compare("f(0) = 0", "Prop 2.4", Y.coords(zero), size, tolerance, 1),
        ]
    return [*reports, _finite_gradients(f, points)]


def check_adjoint(f: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    """<f(x), y>_Y = <x, f*(y)>_X (Prop 2.8) and f** = f, for samples x of the domain and as many y of the codomain."""
    X, Y, H = f.domain, f.codomain, f.H
    _require_samples(x, X.shape)
    _require_samples(y, Y.shape)
    with torch.no_grad():
        fx, Hy = f(x), H(y)
        reach = torch.stack([_reach(f, x), Y.norm(fx).max()]).max()
        tolerance = _tolerance(x, max(_certificate(f, x, fx), _certificate(H, y, Hy)))
        bound = reach * Y.norm(y).max()
        return [
            _compare("<f(x), y> = <x, f*(y)>", "Prop 2.8", Y.inner(fx, y) - X.inner(x, Hy), bound, tolerance, 1, x),
            _compare("f** = f", "Prop 2.8", Y.coords(H.H(x)) - Y.coords(fx), reach, tolerance, 1, x),
        ]


def check_penrose(f: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    """The four Penrose equations for f+ = f.pinv() (Lemma 4.1), for samples x of the domain and as many y of the codomain."""
    X, Y, p = f.domain, f.codomain, f.pinv()
    _require_samples(x, X.shape)
    _require_samples(y, Y.shape)
    with torch.no_grad():
        fx, py = f(x), p(y)
        norm_f, norm_p = _operator_norm(f, x), _operator_norm(p, y)
        condition = max(1.0, norm_f * norm_p)
        tolerance = _tolerance(x, condition * max(_certificate(f, x, fx), _certificate(p, y, py)))
        size_x, size_y = X.norm(x).max(), Y.norm(y).max()
        v, w = x.roll(1, 0), y.roll(1, 0)

        def symmetry(S: HilbertSpace, q: Callable[[Tensor], Tensor], s: Tensor, t: Tensor) -> Tensor:
            return S.inner(q(s), t) - S.inner(s, q(t))

        return [
            _compare("f f+ f = f", "Lemma 4.1", Y.coords(f(p(fx))) - Y.coords(fx), norm_f * size_x, tolerance, 1, x),
            _compare("f+ f f+ = f+", "Lemma 4.1", X.coords(p(f(py))) - X.coords(py), norm_p * size_y, tolerance, 1, y),
            _compare("(f f+)* = f f+", "Lemma 4.1", symmetry(Y, lambda s: f(p(s)), y, w), size_y**2, tolerance, 1, y),
            _compare("(f+ f)* = f+ f", "Lemma 4.1", symmetry(X, lambda s: p(f(s)), x, v), size_x**2, tolerance, 1, x),
        ]


def check_svd(f: LinearizerOperator, rank: int | None = None) -> list[Report]:
    """f(v_i) = s_i u_i, f*(u_i) = s_i v_i, both sets orthonormal, values descending (Prop 2.9); `rank` triplets."""
    X, Y = f.domain, f.codomain
    with torch.no_grad():
        S = f.svd(rank)
        if S.values.numel() == 0:
            return []
        u, v, s = S.left(), S.right(), S.values
        tolerance = _tolerance(s, max(_certificate(f, v, u), _certificate(f.H, u, v)))
        eye = torch.eye(s.shape[0], dtype=s.dtype, device=s.device)
        rows = len(s) ** 0.5
        disorder = torch.cat([s[1:] - s[:-1], -s[-1:]]).clamp(min=0)
        return [
            _compare("f(v_i) = s_i u_i", "Prop 2.9", Y.coords(f(v)) - s[:, None] * Y.coords(u), s[0], tolerance, 1, v),
            _compare("f*(u_i) = s_i v_i", "Prop 2.9", X.coords(f.H(u)) - s[:, None] * X.coords(v), s[0], tolerance, 1, u),
            _compare("<u_i, u_j> = delta_ij", "Prop 2.9", Y.gram(u) - eye, eye[0, 0], tolerance * rows, 1, u),
            _compare("<v_i, v_j> = delta_ij", "Prop 2.9", X.gram(v) - eye, eye[0, 0], tolerance * rows, 1, v),
            Report("s_1 >= s_2 >= ... >= 0", "Prop 2.9", float(disorder.max()), 0.0),
        ]


def _require_samples(x: Tensor, shape: tuple[int, ...]) -> None:
    if x.dim() <= len(shape) or x.numel() == 0:
        raise ShapeError(
            f"a law needs at least one sample, of shape (k, {', '.join(map(str, shape))}) with k >= 1; got {tuple(x.shape)}"
        )


def _tolerance(like: Tensor, certificate: float) -> float:
    return float(FACTOR * torch.finfo(like.dtype).eps * certificate)


def _compare(
    law: str, statement: str, difference: Tensor, size: Tensor, tolerance: float, batch: int, samples: Tensor | None = None
) -> Report:
    """The largest difference of a sample over `size` (a number, or samples whose largest norm it is); 0/0 counts as 0."""
    norms = difference.flatten(batch).norm(dim=-1) if difference.dim() > batch else difference.abs()
    size = size.flatten(batch).norm(dim=-1).max() if size.dim() > 0 else size
    worst = int(norms.flatten().argmax())
    largest = norms.flatten()[worst]
    residual = float(largest) if float(largest) == 0.0 else float(largest / size)
    sample = None if samples is None else samples.flatten(0, batch - 1)[min(worst, len(samples) - 1)]
    return Report(law, statement, residual, tolerance, sample)


def _certificate(f: LinearizerOperator, x: Tensor, y: Tensor) -> float:
    return max(f.domain.amplification(x), f.codomain.amplification(y))


def _random_like(X: HilbertSpace, x: Tensor) -> Tensor:
    """Points whose coordinates have random directions and the norms of those of x."""
    z = X.coords(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z)
    return X.point(noise * (z.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)))


def _reach(f: LinearizerOperator, x: Tensor) -> Tensor:
    """max ||f(r)|| over random r as long as the samples: an estimate of ||A|| max ||x|| from below."""
    return f.codomain.norm(f(_random_like(f.domain, x))).max()


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
    return Report("gradients are finite", "DESIGN 4", float((~torch.isfinite(gradient)).sum()), 0.0)


def _check_log_abs_det(g: Bijection, x: Tensor, k: int) -> Report:
    points = x.flatten(0, k - 1)
    jacobians = torch.stack([torch.func.jacrev(g)(p) for p in points])
    n = g.log_abs_det(points)
    J = jacobians.reshape(len(points), -1, points[0].numel()).double()
    expected = torch.linalg.slogdet(J)[1]
    condition = float(torch.linalg.cond(J).max())
    dim = J.shape[-1]
    difference = (n.double() - expected) / dim
    return _compare(
        "log|det J| = sum log|slopes|",
        "MATH 3",
        difference.detach(),
        difference.new_ones(()),
        _tolerance(x, condition),
        1,
        points,
    )
