"""Laws of maps between two spaces: linearity, the adjoint, the Moore-Penrose inverse, singular values."""

import math

import torch
from torch import Tensor

from induced.checks.measure import compare, finite_gradients, noise, random_like, require_samples
from induced.checks.report import Report
from induced.linearizer import LinearizerOperator


def check_linear(f: LinearizerOperator, points: Tensor) -> list[Report]:
    """f is additive and homogeneous for the operations of its spaces (Prop 2.4), f(0) = 0, and gradients are finite.

    Arguments:
        f: the map; `forward`, `domain` and `codomain` are called.
        points: samples (k, *shape) of the domain, k >= 1.
    """
    X, Y = f.domain, f.codomain
    require_samples(points, X.shape)
    with torch.no_grad():
        u, v = points, points.roll(1, 0)
        a, b = 0.7, -1.3
        fu, fv, zero = f(u), f(v), X.zero(1, dtype=u.dtype, device=u.device)
        mixed, scaled = X.combine((a, b), (u, v)), X.scale(b, u)
        gain, reach = gain_and_reach(f, u, fu)
        images = torch.cat([fu, Y.scale(b, fu), Y.combine((a, b), (fu, fv)), f(zero)])
        error = gain * noise(X, torch.cat([u, mixed, scaled, zero])) + noise(Y, images) + sums(f) * reach

        def coords(law: str, difference: Tensor) -> Report:
            return compare(law, "Prop 2.4", difference, reach, error, u)

        reports = [
            coords("f(a u + b v) = a f(u) + b f(v)", Y.coords(f(mixed)) - Y.coords(Y.combine((a, b), (fu, fv)))),
            coords("f(a u) = a f(u)", Y.coords(f(scaled)) - Y.coords(Y.scale(b, fu))),
            coords("f(0) = 0", Y.coords(f(zero))),
        ]
    return [*reports, finite_gradients("gradients are finite", "contract", points, (f, points))]


def check_adjoint(f: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    """<f(x), y>_Y = <x, f*(y)>_X (Prop 2.8) and f** = f, for samples x of the domain and as many y of the codomain."""
    X, Y, H = f.domain, f.codomain, f.H
    require_samples(x, X.shape)
    require_samples(y, Y.shape)
    with torch.no_grad():
        fx, Hy = f(x), H(y)
        gain, reach = gain_and_reach(f, x, fx)
        size_x, size_y = float(X.norm(x).max()), float(Y.norm(y).max())
        at_fx = gain * noise(X, x) + noise(Y, fx)
        at_Hy = gain * noise(Y, y) + noise(X, Hy)
        difference = Y.inner(fx, y) - X.inner(x, Hy)
        return [
            compare(
                "<f(x), y> = <x, f*(y)>",
                "Prop 2.8",
                difference,
                reach * size_y,
                at_fx * size_y + at_Hy * size_x,
                x,
            ),
            compare("f** = f", "Prop 2.8", Y.coords(H.H(x)) - Y.coords(fx), reach, at_fx, x),
        ]


def check_penrose(f: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    """The four Penrose equations for f+ = f.pinv() (Lemma 4.1), for samples x of the domain and as many y of the codomain."""
    X, Y, p = f.domain, f.codomain, f.pinv()
    require_samples(x, X.shape)
    require_samples(y, Y.shape)
    with torch.no_grad():
        fx, py = f(x), p(y)
        pfx, fpy = p(fx), f(py)
        norm_f, norm_p = _operator_norm(f, x), _operator_norm(p, y)
        condition = norm_f * norm_p
        size_x, size_y = float(X.norm(x).max()), float(Y.norm(y).max())
        # Each visit of a space rounds; A+ itself is known to `condition` roundings of a product with A.
        known = condition * sums(f)
        v, w = x.roll(1, 0), y.roll(1, 0)
        # An inner product sees what an error has along the other vector: <A e, w> = <e, A^T w>.
        along_y = noise(Y, torch.cat([y, fpy]), Y.coords(y)) + noise(X, py, X.coords(f.H(y)))
        along_x = noise(X, torch.cat([x, pfx]), X.coords(x)) + noise(Y, fx, Y.coords(p.H(x)))
        fpfx, pfpy = f(pfx), p(fpy)
        ffp, pfp = Y.coords(fpfx) - Y.coords(fx), X.coords(pfpy) - X.coords(py)
        at_ffp = noise(Y, torch.cat([fx, fpfx])) + norm_f * (noise(X, torch.cat([x, pfx])) + known * size_x)
        at_pfp = noise(X, torch.cat([py, pfpy])) + norm_p * (noise(Y, torch.cat([y, fpy])) + known * size_y)
        sym_y = Y.inner(fpy, w) - Y.inner(y, f(p(w)))
        sym_x = X.inner(pfx, v) - X.inner(x, p(f(v)))
        return [
            compare("f f+ f = f", "Lemma 4.1", ffp, norm_f * size_x, at_ffp, x),
            compare("f+ f f+ = f+", "Lemma 4.1", pfp, norm_p * size_y, at_pfp, y),
            compare("(f f+)* = f f+", "Lemma 4.1", sym_y, size_y**2, 2 * along_y + condition * size_y**2, y),
            compare("(f+ f)* = f+ f", "Lemma 4.1", sym_x, size_x**2, 2 * along_x + condition * size_x**2, x),
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
        along_x, along_y = noise(X, v, zv), noise(Y, u, zu)
        known = sums(f)  # A V = U S, and U^T U = I of a product of reflections
        at_uv = top * (noise(X, v) + noise(Y, u) + known)
        eye = torch.eye(s.shape[0], dtype=s.dtype, device=s.device)
        disorder = torch.cat([s[1:] - s[:-1], -s[-1:]]).clamp(min=0)
        return [
            compare(
                "f(v_i) = s_i u_i",
                "Prop 2.9",
                Y.coords(fv) - s[:, None] * zu,
                top,
                noise(Y, fv) + at_uv,
                v,
            ),
            compare(
                "f*(u_i) = s_i v_i",
                "Prop 2.9",
                X.coords(Hu) - s[:, None] * zv,
                top,
                noise(X, Hu) + at_uv,
                u,
            ),
            compare("<u_i, u_j> = delta_ij", "Prop 2.9", (zu @ zu.mT - eye).flatten(), 1.0, 2 * along_y + known, u, per=len(s)),
            compare("<v_i, v_j> = delta_ij", "Prop 2.9", (zv @ zv.mT - eye).flatten(), 1.0, 2 * along_x + known, v, per=len(s)),
            Report("s_1 >= s_2 >= ... >= 0", "Prop 2.9", float(disorder.max()), 0.0),
        ]


def sums(f: LinearizerOperator) -> float:
    """Roundings of a product with A, in multiples of eps ||A|| ||z||: the sums of n terms make n roundings of random signs."""
    return math.sqrt(max(f.domain.dim, f.codomain.dim))


def gain_and_reach(f: LinearizerOperator, x: Tensor, fx: Tensor) -> tuple[float, float]:
    """||A|| from below, by the samples and by random vectors as long, and that times the longest sample."""
    lengths = f.domain.norm(x)
    images = torch.stack([f.codomain.norm(fx), f.codomain.norm(f(random_like(f.domain, x)))])
    gain = float((images.detach() / torch.where(lengths > 0, lengths, torch.ones_like(lengths))).max())
    return gain, gain * float(lengths.max())


def _operator_norm(f: LinearizerOperator, x: Tensor, iterations: int = 12) -> float:
    """||A|| by power iteration on f* f, from a random vector; f(v) is kept as short as a hundredth of the first sample."""
    X, length = f.domain, 0.01 * float(f.domain.norm(x[:1]))
    if length == 0.0:
        return 0.0
    z, norm = X.coords(random_like(X, x[:1])), 0.0
    for _ in range(iterations):
        shortened = length / max(1.0, norm)
        image = f(X.point(z * (shortened / z.norm())))
        norm = float(f.codomain.norm(image)) / shortened
        if norm == 0.0:
            return 0.0
        z = X.coords(f.H(image))
    return norm
