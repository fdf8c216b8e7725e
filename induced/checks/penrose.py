"""The Penrose equations."""

import math

import torch
from torch import Tensor

from induced.checks.maps import along, at_pairs, independent, inner, longest_image, sums
from induced.checks.measure import compare, longest, noises, unit
from induced.checks.orbits import directions, ratio
from induced.checks.report import Report, Reports
from induced.checks.untouched import untouched
from induced.linearizer import LinearizerOperator
from induced.operators import LinearOperator
from induced.precision import full_precision

FACTORISED = {torch.float32: 0.6, torch.float64: 10.0}
"""How far A may be from the matrix that a computed A+ belongs to, in multiples of eps ||A||; the tolerance is ten-fold.

The SVD of LAPACK was off by up to 4.5 in float32 and by 40 in float64, of 90,000 matrices each."""

SUMS = 0.05
"""Likewise for the rounding of a product with A, per sqrt(n): up to 0.3 was measured."""


@full_precision()
def check_penrose(f: LinearizerOperator, x: Tensor, y: Tensor) -> Reports:
    """The four Penrose equations for f+ = f.pinv() (Lemma 4.1).

    Arguments:
        f: the map; `forward`, `pinv`, `core`, `domain` and `codomain` are used. It is given back bit for bit as it was.
        x, y: samples (*batch, *shape) of the domain, and as many of the codomain; shrunk as in `check_linear`.

    Raises:
        ShapeError, DomainError: as `check_linear`.
    """
    with untouched(f, f.domain, f.codomain), torch.no_grad():
        p = f.pinv()
        with untouched(p):
            return Reports(at_pairs("the pseudoinverse", lambda x, y: _penrose(f, p, x, y), f, x, y, longest_image(x, f, p)))


def _penrose(f: LinearizerOperator, p: LinearizerOperator, x: Tensor, y: Tensor) -> list[Report]:
    X, Y = f.domain, f.codomain
    (x, v, note_x), (y, w, note_y) = independent(X, x), independent(Y, y)
    fx, fv = f(torch.cat([x, v])).chunk(2)
    py, pw = p(torch.cat([y, w])).chunk(2)
    pfx, pfv = p(torch.cat([fx, fv])).chunk(2)
    fpy, fpw = f(torch.cat([py, pw])).chunk(2)
    fpfx, pfpy = f(pfx), p(fpy)
    zx, zv, zpfx, zpfv = X.coords(torch.cat([x, v, pfx, pfv])).chunk(4)
    zy, zw, zfpy, zfpw = Y.coords(torch.cat([y, w, fpy, fpw])).chunk(4)
    (norm_f, gain_f), (norm_p, gain_p) = core_norms(f.core, zx), core_norms(p.core, zy)
    size_x, size_y = longest(torch.cat([zx, zv])), longest(torch.cat([zy, zw]))
    # Each product rounds. What A adds comes back through A+, and A+ is that of a matrix near A, in no special direction: A+
    # makes it as much longer as vectors at random.
    known = sums(f)
    condition = norm_f * gain_p * (FACTORISED.get(x.dtype, 0.6) + SUMS * known)
    in_x, from_y = noises(X, torch.cat([x, pfx]), torch.cat([py, pfpy]))
    in_y, from_x = noises(Y, torch.cat([y, fpy]), torch.cat([fx, fpfx]))
    at_ffp = 2 * from_x + norm_f * (in_x + known * size_x) + condition * gain_f * size_x
    at_pfp = 2 * from_y + norm_p * (in_y + known * size_y) + condition * gain_p * size_y
    # An inner product sees what an error has along the other vector, <A e, w> = <e, A^T w>; two of them differ by two errors. The
    # chart would round A^T w to what it computes with at zero.
    at_y, at_fx = along(Y, (torch.cat([y, fpy]), zy), (fx, p.core.apply_adjoint(zx)))
    at_x, at_py = along(X, (torch.cat([x, pfx]), zx), (py, f.core.apply_adjoint(zy)))
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


def core_norms(A: LinearOperator, z: Tensor, iterations: int = 6) -> tuple[float, float]:
    """||A|| from below, by power iteration on A^T A, and how much longer coordinates z or random ones become at most.

    That is the operator's own: a chart would round short images to the numbers that it computes with at zero.
    """
    start = torch.cat([z, directions(z)])
    image = A(start)
    gain = norm = ratio(image, start)
    for _ in range(iterations):
        v = unit(A.apply_adjoint(unit(image)))
        image = A(v)
        norm = max(norm, longest(image))
    return norm, gain
