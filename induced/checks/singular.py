"""The laws of singular values."""

import torch
from torch import Tensor

from induced.checks.maps import along, sums
from induced.checks.measure import (
    WIDE,
    Noise,
    attempt,
    compare,
    exactly,
    lattice_radius,
    noises,
    not_applicable,
    unit,
    unit_normal,
)
from induced.checks.report import Report, Reports
from induced.checks.untouched import untouched
from induced.errors import DomainError
from induced.linearizer import SVD, LinearizerOperator
from induced.precision import full_precision

TRIES = 8
"""Lengths of singular vectors, each a third of the last, that are tried where a chart refuses."""

STARTS, STEPS = 4, 6
"""Random vectors from which what is missing in an SVD is looked for, one in a wide space, and how often the map is applied."""


@full_precision()
def check_svd(f: LinearizerOperator, rank: int | None = None) -> Reports:
    """f(v_i) = s_i u_i, f*(u_i) = s_i v_i, both sets orthonormal, values descending, and none left out (Prop 2.9).

    There are min(m, n) triplets, or `rank`. All of them make f; the first k leave ||f - U_k S_k V_k*|| <= s_k, which a triplet
    left out would exceed (Eckart-Young). Without triplets the laws that speak of them do not apply.

    Arguments:
        f: the map; `forward`, `H`, `svd`, `domain` and `codomain` are used. It is given back bit for bit as it was.
        rank: as many triplets; all of them by default.
    """
    with untouched(f, f.domain, f.codomain), torch.no_grad():
        S, length = f.svd(rank), lattice_radius(f.domain, f.codomain) or 1.0
        for k in range(TRIES - 1):
            try:
                return Reports(_triplets(f, S, rank, length * 3.0**-k))
            except DomainError:
                continue
        return Reports(_triplets(f, S, rank, length * 3.0 ** (1 - TRIES)))


def _triplets(f: LinearizerOperator, S: SVD, rank: int | None, length: float) -> list[Report]:
    """The laws, at singular vectors of this length."""
    X, Y, s, all_of_them = f.domain, f.codomain, S.values, min(f.domain.dim, f.codomain.dim)
    asked = all_of_them if rank is None else rank
    number = exactly(
        "there are as many triplets as asked for", "Prop 2.9", float(len(s) != asked), note=f"{len(s)} of {asked} asked for"
    )
    if len(s) == 0:
        return [number, not_applicable("f(v_i) = s_i u_i", "Prop 2.9", "there are no triplets")]
    u, v = (S.left(), S.right()) if length == 1.0 else (Y.point(length * S.U.mT), X.point(length * S.V.mT))
    fv, Hu, top = f(v.clone()), f.H(u.clone()), float(s.max())
    zu, zv = Y.coords(u) / length, X.coords(v) / length
    (at_v, at_Hu), (at_u, at_fv) = noises(X, v, Hu), noises(Y, u, fv)
    known = sums(f)  # A V = U S, and U^T U = I of a product of reflections
    at_uv = (top / length) * (at_v + at_u) + top * known
    eye = torch.eye(len(s), dtype=s.dtype, device=s.device)
    disorder = torch.cat([s[1:] - s[:-1], -s[-1:]]).clamp(min=0)

    def orthonormal(law: str, z: Tensor, error: Noise) -> Report:
        return compare(law, "Prop 2.9", (z @ z.mT - eye).flatten(), 1.0, 2 / length * error + known, z, per=len(s))

    def pairs(law: str, image: Tensor, z: Tensor, at_image: Noise, samples: Tensor) -> Report:
        return compare(law, "Prop 2.9", image / length - s[:, None] * z, top, at_image / length + at_uv, samples)

    law, rest = ("f = U S V*", _complete) if len(s) == all_of_them else ("||f - U_k S_k V_k*|| <= s_k", _largest)
    return [
        number,
        pairs("f(v_i) = s_i u_i", Y.coords(fv), zu, at_fv, v),
        pairs("f*(u_i) = s_i v_i", X.coords(Hu), zv, at_Hu, u),
        orthonormal("<u_i, u_j> = delta_ij", zu, along(Y, (u, zu))[0]),
        orthonormal("<v_i, v_j> = delta_ij", zv, along(X, (v, zv))[0]),
        exactly("s_1 >= s_2 >= ... >= 0", "Prop 2.9", disorder),
        attempt(law, "Prop 2.9", lambda law, of: rest(law, of, f, S, length, known), chosen=True),
    ]


def _complete(law: str, statement: str, f: LinearizerOperator, S: SVD, length: float, known: float) -> Report:
    """f = U S V* at random vectors."""
    X, Y, top = f.domain, f.codomain, float(S.values.max())
    z = unit_normal(S.V, STARTS, X.dim)
    x = X.point(length * z)
    fx = f(x)
    (at_x,), (at_fx,) = noises(X, x), noises(Y, fx)
    difference = Y.coords(fx) / length - z @ S.V * S.values @ S.U.mT
    return compare(law, statement, difference, top, (top * at_x + at_fx) / length + 2 * top * known, x)


def _largest(law: str, statement: str, f: LinearizerOperator, S: SVD, length: float, known: float) -> Report:
    """||f - U_k S_k V_k*|| <= s_k, from below on the Krylov space of a few random vectors."""
    X, Y, H, s, top = f.domain, f.codomain, f.H, S.values, float(S.values.max())

    def rest(z: Tensor) -> tuple[Tensor, Noise]:
        x = X.point(length * z)
        fx = f(x)
        (at_x,), (at_fx,) = noises(X, x), noises(Y, fx)
        return Y.coords(fx) / length - z @ S.V * s @ S.U.mT, (top * at_x + at_fx) / length

    starts = STARTS if X.dim <= WIDE else 1
    z, spanned = unit_normal(S.V, starts, X.dim), []
    for _ in range(min(STEPS, -(-X.dim // starts))):
        spanned.append(z)
        w = unit(Y.coords(f(X.point(length * z))) / length - z @ S.V * s @ S.U.mT)
        z = unit(X.coords(H(Y.point(length * w))) / length - w @ S.U * s @ S.V.mT)
    basis = torch.linalg.qr(torch.cat(spanned).mT).Q.mT
    image, error = rest(basis)
    norm = torch.linalg.svdvals(image.double())[0]
    excess = (norm - s[-1].double()).clamp(min=0).reshape(1)
    return compare(law, statement, excess, max(top, float(norm)), error + 2 * top * known, basis[:1])
