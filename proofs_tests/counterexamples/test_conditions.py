"""In float32 a tolerance is at most 1e-3 where the condition of its law, computed in float64 without the checks, is below 1e3."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer, Report
from induced.bijections import (
    Affine,
    Arctanh,
    Bijection,
    Composition,
    InverseSoftplus,
    Linear,
    Log,
    Logit,
    PositiveDefinite,
    Simplex,
    Sinh,
    real_nvp,
)
from induced.checks import (
    check_adjoint,
    check_bijection,
    check_group,
    check_linear,
    check_penrose,
    check_powers,
    check_space,
    check_svd,
)
from induced.operators import Dense
from induced.spaces import HilbertSpace

NARROW, BELOW = 1e-3, 1e3
APART = ("slopes", "far out", "near zero", "log|det J|", "exp(2 t f)", "d/dt")
"""Laws that choose points of their own, or divide by a step: their condition is not that of the samples."""
Conditions = Mapping[str, float]
"""By how the name of a law begins."""


def lengths(z: Tensor) -> Tensor:
    return z.detach().flatten(1).norm(dim=-1)


def size(z: Tensor) -> float:
    return float(lengths(z).max())


def top(A: Tensor) -> float:
    return float(torch.linalg.matrix_norm(A, 2))


def errors(X: HilbertSpace, *groups: Tensor) -> tuple[float, float]:
    """What one rounding of each number does, in norm, to coordinates there and back, and to points: at coordinates (k, dim)."""
    if isinstance(X, EuclideanSpace):
        return (2 * size(torch.cat(groups)),) * 2
    z = torch.cat(groups).detach()
    x = X.point(z).detach()
    J = torch.func.jacrev(lambda z: X.point(z).sum(0))(z).detach().flatten(0, -3).movedim(1, 0)
    s, x, z = torch.linalg.svdvals(J), lengths(x), lengths(z)
    return float((z + x / s[:, -1]).max()), float((x + z * s[:, 0]).max())


def of_chart(X: HilbertSpace, z: Tensor) -> Conditions:
    y, w = z.roll(1, 0), z.roll(2, 0)
    there, back = errors(X, z)
    sums, _ = errors(X, z, z + y, z + y + w, 0.7 * z, -1.3 * z, -z)
    there, back, sums = there / size(z), back / size(X.point(z)), sums / size(z)
    return {
        "g^-1(g(x))": back,
        "g^-1 ": back,
        "point": back,
        "scalar identity": back,
        "g(g^-1(z))": there,
        "g ": there,
        "coords": there,
        "": sums,
    }


def of_map(A: Tensor, X: HilbertSpace, Y: HilbertSpace, z: Tensor, w: Tensor) -> Conditions:
    B, gain, n = torch.linalg.pinv(A), top(A), max(A.shape) ** 0.5
    back, others = top(B), torch.cat([z, 0.7 * z - 1.3 * z.roll(1, 0), -1.3 * z])

    def at(S: HilbertSpace, *groups: Tensor) -> float:
        return errors(S, *groups)[0]

    linear = (gain * at(X, others) + at(Y, others @ A.mT)) / (gain * size(z)) + n
    adjoint = (gain * at(X, z) + at(Y, z @ A.mT)) / (gain * size(z)) + (gain * at(Y, w) + at(X, w @ A)) / (gain * size(w)) + n
    known = gain * back
    ffp = (gain * at(X, z, z @ A.mT @ B.mT) + 2 * at(Y, z @ A.mT)) / (gain * size(z)) + known + n
    pfp = (back * at(Y, w, w @ B.mT @ A.mT) + 2 * at(X, w @ B.mT)) / (back * size(w)) + known + n
    sym_y = (at(Y, w, w @ B.mT @ A.mT) + gain * at(X, w @ B.mT)) / size(w) + known + n
    sym_x = (at(X, z, z @ A.mT @ B.mT) + back * at(Y, z @ A.mT)) / size(z) + known + n
    U, s, V = torch.linalg.svd(A, full_matrices=False)
    svd = (float(s[0]) * (at(X, V) + at(Y, U.mT)) + at(Y, s[:, None] * U.mT) + at(X, s[:, None] * V)) / gain + n
    return {
        "f f+ f = f": ffp,
        "f+ f f+ = f+": pfp,
        "(f f+)*": sym_y,
        "(f+ f)*": sym_x,
        "f*": adjoint,
        "<f": adjoint,
        "f(v_i)": svd,
        "<": svd,
        "f = U": svd,
        "": linear,
    }


WAYS = {
    "f^0": (0,),
    "f^1": (1,),
    "f^3": (1, 2, 3),
    "f^2 f^3": (3, 5),
    "f^4": (2, 4),
    "f^6": (3, 6),
    "f^-1": (1, 0),
    "f^-2": (-1, -2),
}
"""Powers that a law visits, up to the one that it compares."""


def of_powers(A: Tensor, X: HilbertSpace, z: Tensor) -> Conditions:
    power, found = torch.linalg.matrix_power, {}
    for law, way in WAYS.items():
        end = way[-1]
        chart = sum(top(power(A, end - k)) * errors(X, z @ power(A, k).mT)[0] for k in (0, *way))
        known = size(z.abs() @ power(A.abs(), max(end, 0)).mT)
        if "-" in law:
            known += float(torch.linalg.cond(A)) * (1 + abs(end)) * top(torch.linalg.inv(A)) ** -end * size(z)
        found[law] = (chart + known) / size(z @ power(A, end).mT)
    return found


def of_group(A: Tensor, X: HilbertSpace, z: Tensor) -> Conditions:
    scale = top(A)
    flows = [torch.linalg.matrix_exp(t * A / scale) for t in (0.3, 0.5, 0.8, -0.5)]
    grown = max(map(top, flows))
    there = errors(X, z, *(z @ E.mT for E in flows))[0]
    return {"": 3 * grown * there / size(z) + max(A.shape) ** 0.5}


def positive(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64) + 0.1


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def graded(n: int, condition: float) -> Tensor:
    U, V = (torch.linalg.qr(normal(n, n)).Q for _ in range(2))
    return U * condition ** -torch.linspace(0, 1, n, dtype=torch.float64) @ V


def definite(condition: float) -> Tensor:
    Q = torch.linalg.qr(normal(5, 4, 4)).Q
    S = Q * condition ** -torch.linspace(0, 1, 4, dtype=torch.float64) @ Q.mT
    return (S + S.mT) / 2


CHARTS: dict[str, Callable[[], tuple[Bijection, Tensor]]] = {
    "an affine map": lambda: (Affine((4,), 1e6, 3.0), normal(5, 4)),
    "a shift of 100": lambda: (Affine((4,), 1.0, 100.0), normal(5, 4)),
    "real_nvp": lambda: (real_nvp(4), normal(5, 4)),
    "real_nvp far out": lambda: (real_nvp(4), 1e6 * normal(5, 4)),
    "30 couplings": lambda: (real_nvp(8, blocks=30), normal(5, 8)),
    "logarithms": lambda: (Log((4,)), positive(5, 4)),
    "logarithms of tiny numbers": lambda: (Log((4,)), 1e-12 * positive(5, 4)),
    "sinh": lambda: (Sinh((4,)), 3 * normal(5, 4)),
    "arsinh": lambda: (Sinh((4,)).inv, 1e6 * normal(5, 4)),
    "log(exp(x) - 1)": lambda: (InverseSoftplus((4,)), positive(5, 4)),
    "logits near 0": lambda: (Logit((3,)), 1e-4 * positive(5, 3)),
    "logits near 1": lambda: (Logit((3,)), 1 - 1e-2 * positive(5, 3)),
    "logits nearer to 1": lambda: (Logit((3,)), 1 - 1e-3 * positive(5, 3)),
    "artanh near 1": lambda: (Arctanh((3,)), (1 - 1e-2 * positive(5, 3)) * normal(5, 3).sign()),
    "a simplex": lambda: (Simplex(4), torch.softmax(3 * normal(5, 4), -1)),
    "definite matrices": lambda: (PositiveDefinite(4), definite(10.0)),
    "definite matrices of condition 100": lambda: (PositiveDefinite(4), definite(100.0)),
    "a matrix of condition 100": lambda: (Linear(Dense(graded(4, 1e2))), normal(5, 4)),
    "a matrix of condition 900": lambda: (Linear(Dense(graded(4, 9e2))), normal(5, 4)),
    "three charts": lambda: (Composition(Log((3,)), Sinh((3,)), real_nvp(3)), 2 * positive(5, 3)),
}

Space = Callable[[], HilbertSpace]
MAPS: dict[str, tuple[Callable[[], Tensor], Space, Space]] = {
    "a matrix 5 x 1": (lambda: normal(5, 1), lambda: EuclideanSpace(1), lambda: EuclideanSpace(5)),
    "a matrix 3 x 64": (lambda: normal(3, 64), lambda: EuclideanSpace(64), lambda: EuclideanSpace(3)),
    "tiny": (lambda: 1e-20 * graded(8, 10.0), lambda: EuclideanSpace(8), lambda: EuclideanSpace(8)),
    "huge": (lambda: 1e15 * graded(8, 10.0), lambda: EuclideanSpace(8), lambda: EuclideanSpace(8)),
    "condition 100": (lambda: graded(8, 1e2), lambda: EuclideanSpace(8), lambda: EuclideanSpace(8)),
    "condition 678, n = 200": (lambda: graded(200, 678.0), lambda: EuclideanSpace(200), lambda: EuclideanSpace(200)),
    "condition 100 over real_nvp": (lambda: graded(8, 1e2), lambda: InducedSpace(real_nvp(8)), lambda: InducedSpace(real_nvp(8))),
    "tiny over real_nvp": (lambda: 1e-20 * graded(8, 10.0), lambda: InducedSpace(real_nvp(8)), lambda: InducedSpace(real_nvp(8))),
    "logarithms to a simplex": (lambda: normal(3, 4), lambda: InducedSpace(Log((4,))), lambda: InducedSpace(Simplex(4))),
    "definite matrices to logarithms": (
        lambda: 0.5 * normal(4, 6),
        lambda: InducedSpace(PositiveDefinite(3)),
        lambda: InducedSpace(Log((4,))),
    ),
}


def scaled(scale: float, make: Callable[[], Tensor]) -> Tensor:
    return scale * make()


ENDOMORPHISMS: dict[str, tuple[Callable[[], Tensor], Space]] = {
    f"{name} x {scale:g}": (partial(scaled, scale, make), space)
    for name, make, space, scales in (
        ("any", lambda: normal(8, 8), lambda: EuclideanSpace(8), (1e-6, 1.0, 30.0)),
        ("skew", lambda: normal(8, 8).triu(1) - normal(8, 8).triu(1).mT, lambda: EuclideanSpace(8), (1.0, 1e3)),
        ("diagonal", lambda: torch.diag(normal(8)), lambda: EuclideanSpace(8), (3.0,)),
        ("graded", lambda: torch.diag(torch.logspace(0, -12, 8, dtype=torch.float64)), lambda: EuclideanSpace(8), (1.0,)),
        (
            "[[1, 1000], [0, -1]]",
            lambda: torch.tensor([[1.0, 1e3], [0.0, -1.0]], dtype=torch.float64),
            lambda: EuclideanSpace(2),
            (1.0,),
        ),
        ("over real_nvp", lambda: normal(8, 8) / 3, lambda: InducedSpace(real_nvp(8)), (1e-20, 1e-6, 1.0)),
    )
    for scale in scales
}


def require_narrow(reports: Sequence[Report], conditions: Conditions) -> None:
    """No law is violated, and none that is well conditioned is judged too loosely, or not at all."""
    wide, seen = [], 0
    for report in reports:
        assert report.verdict != "violated", report
        condition = next(c for law, c in conditions.items() if report.law.startswith(law))
        if report.verdict == "not applicable" or condition >= BELOW or any(word in report.law for word in APART):
            continue
        seen += 1
        if not report.tolerance <= NARROW:
            wide.append(f"condition {condition:.3g}: {report}")
    assert not wide, "\n".join(wide)
    assert seen


@pytest.mark.parametrize("name", CHARTS)
def test_well_conditioned_laws_of_charts_are_judged_narrowly(name: str) -> None:
    g, x = CHARTS[name]()
    X = InducedSpace(g.double())
    conditions = of_chart(X, X.coords(x).detach())
    require_narrow([*check_bijection(g.float(), x.float()), *check_space(X.float(), x.float())], conditions)


@pytest.mark.parametrize("name", MAPS)
def test_well_conditioned_laws_of_maps_are_judged_narrowly(name: str) -> None:
    matrix, domain, codomain = MAPS[name]
    A, X, Y = matrix(), domain().double(), codomain().double()
    z, w = normal(5, X.dim), normal(5, Y.dim)
    conditions = of_map(A, X, Y, z, w)
    x, y = X.point(z).detach().float(), Y.point(w).detach().float()
    f = Linearizer(A.float(), X.float(), Y.float())
    require_narrow([*check_linear(f, x), *check_adjoint(f, x, y), *check_penrose(f, x, y), *check_svd(f)], conditions)


@pytest.mark.parametrize("name", ENDOMORPHISMS)
def test_well_conditioned_laws_of_powers_and_flows_are_judged_narrowly(name: str) -> None:
    matrix, domain = ENDOMORPHISMS[name]
    A, X = matrix(), domain().double()
    z = normal(5, X.dim)
    powers, group = of_powers(A, X, z), of_group(A, X, z)
    x, f = X.point(z).detach().float(), Linearizer(A.float(), X.float())
    require_narrow(check_powers(f, x), powers)
    require_narrow(check_group(f, x), group)
