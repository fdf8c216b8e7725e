"""The Penrose equations."""

import math

import torch
from torch import Tensor

from induced.checks.maps import along, at_pairs, gain_and_reach, independent, inner, longest_image, sums
from induced.checks.measure import compare, longest, noises, random_like, unit
from induced.checks.report import Report, Reports
from induced.checks.untouched import untouched
from induced.errors import DomainError
from induced.linearizer import LinearizerOperator

SHORTER = 12
"""How often vectors are shortened to a quarter, where a chart refuses them."""

FACTORISED = {torch.float32: 0.6, torch.float64: 10.0}
"""How far A may be from the matrix that a computed A+ belongs to, in multiples of eps ||A||; the tolerance is ten-fold.

The SVD of LAPACK was off by up to 4.5 in float32 and by 40 in float64, of 90,000 matrices each."""

SUMS = 0.05
"""Likewise for the rounding of a product with A, per sqrt(n): up to 0.3 was measured."""


def check_penrose(f: LinearizerOperator, x: Tensor, y: Tensor) -> Reports:
    """The four Penrose equations for f+ = f.pinv() (Lemma 4.1).

    Arguments:
        f: the map; `forward`, `H`, `pinv`, `domain` and `codomain` are used. It is given back bit for bit as it was.
        x, y: samples (*batch, *shape) of the domain, and as many of the codomain; shrunk as in `check_linear`.

    Raises:
        ShapeError, DomainError: as `check_linear`.
    """
    with untouched(f, f.domain, f.codomain), torch.no_grad():
        p = f.pinv()
        known: list[tuple[float, float]] = []

        def norms(x: Tensor, y: Tensor) -> tuple[float, float]:
            """Of f and of f+: the same at smaller samples."""
            known[:] = known or [(operator_norm(f, f.H, x, y), operator_norm(p, p.H, y, x))]
            return known[0]

        def laws(x: Tensor, y: Tensor) -> list[Report]:
            return _penrose(f, p, x, y, norms(x, y))

        with untouched(p):
            return Reports(at_pairs("the pseudoinverse", laws, f, x, y, longest_image(x, f, p)))


def _penrose(f: LinearizerOperator, p: LinearizerOperator, x: Tensor, y: Tensor, norms: tuple[float, float]) -> list[Report]:
    X, Y = f.domain, f.codomain
    (x, v, note_x), (y, w, note_y) = independent(X, x), independent(Y, y)
    fx, fv = f(torch.cat([x, v])).chunk(2)
    py, pw = p(torch.cat([y, w])).chunk(2)
    pfx, pfv = p(torch.cat([fx, fv])).chunk(2)
    fpy, fpw = f(torch.cat([py, pw])).chunk(2)
    fpfx, pfpy = f(pfx), p(fpy)
    zx, zv, zpfx, zpfv = X.coords(torch.cat([x, v, pfx, pfv])).chunk(4)
    zy, zw, zfpy, zfpw = Y.coords(torch.cat([y, w, fpy, fpw])).chunk(4)
    norm_f, norm_p = norms
    gain_f, gain_p = gain_and_reach(f, x, fx)[0], gain_and_reach(p, y, py)[0]
    size_x, size_y = longest(torch.cat([zx, zv])), longest(torch.cat([zy, zw]))
    # Each product rounds. What A adds comes back through A+, and A+ is that of a matrix near A, in no special direction: A+
    # makes it as much longer as vectors at random.
    known = sums(f)
    condition = norm_f * gain_p * (FACTORISED.get(x.dtype, 0.6) + SUMS * known)
    in_x, from_y = noises(X, torch.cat([x, pfx]), torch.cat([py, pfpy]))
    in_y, from_x = noises(Y, torch.cat([y, fpy]), torch.cat([fx, fpfx]))
    at_ffp = 2 * from_x + norm_f * (in_x + known * size_x) + condition * gain_f * size_x
    at_pfp = 2 * from_y + norm_p * (in_y + known * size_y) + condition * gain_p * size_y
    # an inner product sees what an error has along the other vector, <A e, w> = <e, A^T w>; two of them differ by two errors
    at_y, at_fx = along(Y, (torch.cat([y, fpy]), zy), (fx, Y.coords(p.H(x))))
    at_x, at_py = along(X, (torch.cat([x, pfx]), zx), (py, X.coords(f.H(y))))
    sym_y, sym_x = at_y + at_py, at_x + at_fx
    ffp, pfp = Y.coords(fpfx) - Y.coords(fx), X.coords(pfpy) - X.coords(py)
    left, right = inner(zfpy, zw) - inner(zy, zfpw), inner(zpfx, zv) - inner(zx, zpfv)
    return [
        compare("f f+ f = f", "Lemma 4.1", ffp, norm_f * size_x, at_ffp, x),
        compare("f+ f f+ = f+", "Lemma 4.1", pfp, norm_p * size_y, at_pfp, y),
        compare(
            "(f f+)* = f f+", "Lemma 4.1", left, size_y**2, math.sqrt(2) * sym_y + (known + condition) * size_y**2, y, note=note_y
        ),
        compare(
            "(f+ f)* = f+ f",
            "Lemma 4.1",
            right,
            size_x**2,
            math.sqrt(2) * sym_x + (known + condition) * size_x**2,
            x,
            note=note_x,
        ),
    ]


def operator_norm(f: LinearizerOperator, H: LinearizerOperator, x: Tensor, y: Tensor, iterations: int = 6) -> float:
    """||A|| from below, by power iteration on f* f from random vectors that are as long as samples x of the domain.

    Images go back as long as samples y of the codomain; both sides are shortened where a chart refuses.
    """
    X, Y = f.domain, f.codomain
    least = max(X.zero_size(x), Y.zero_size(y))
    there, back = (max(longest(S.coords(s)), least) or 1.0 for S, s in ((X, x), (Y, y)))
    z = unit(X.coords(random_like(X, x[:1].expand(2, *x.shape[1:]))))
    norm = 0.0
    for _ in range(iterations):
        for _ in range(SHORTER):
            length = there / max(1.0, norm * there / back)
            try:
                w = Y.coords(f(X.point(length * z)))
                onward = unit(X.coords(H(Y.point(back * unit(w)))))
                break
            except DomainError:
                there, back = there / 4, back / 4
        else:
            return norm
        norm, z = max(norm, longest(w) / length), onward
    return norm
