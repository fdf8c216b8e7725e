"""The reports of fixed objects are those that were recorded: nobody widens a tolerance, or drops a sample of a law, unseen.

Other tests show that right objects pass and broken ones fail; a tolerance could still grow a thousandfold. Here each report is
compared with a line of recorded_reports.json: law, verdict, note and tolerance, and where a law is violated, its residual and
worst sample. Numbers agree within 2 %, which covers another BLAS and other vector instructions. After a change of a tolerance
that is meant, record again and read the difference:

    python -m proofs_tests.counterexamples.test_recorded_reports
"""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from induced import SVD, EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator, Report, check
from induced.bijections import (
    Affine,
    Composition,
    LatticeCoupling,
    Log,
)
from induced.bijections.networks import MLP
from induced.checks import (
    check_adjoint,
    check_group,
    check_idempotent,
    check_linear,
    check_penrose,
    check_powers,
    check_svd,
)
from induced.operators import Dense, LowRank, Projection
from proofs_tests.counterexamples.maps import Between
from proofs_tests.counterexamples.recorded_charts import (
    SHIFTED,
    Off,
    Reported,
    Within,
    chart_cases,
    filled,
    graded,
    learned,
    normal,
    space_cases,
)
from proofs_tests.counterexamples.test_checks_reject import Flat
from proofs_tests.counterexamples.test_endomorphism_checks_reject import OneSpace

RECORD = Path(__file__).with_name("recorded_reports.json")
# where what is compared is a rounding itself, so is this number
ROUNDED = re.compile(r"(?:; )?relative to the numbers at the zero vector, \d+e\+(?:0[7-9]|[1-9]\d) times what is compared")
NUMBER = re.compile(r"\d+\.?\d*(?:e[-+]?\d+)?")


# --------------------------------------------------------------------------------------------------------------------- maps
def bent(share: float) -> Callable[[LinearizerOperator, Tensor], Tensor]:
    """Off in coordinates by a share that depends on the direction."""

    def forward(f: LinearizerOperator, x: Tensor) -> Tensor:
        z = f.domain.coords(x)
        return f.codomain.point(f.core(z) * (1 + share * torch.tanh(z[..., :1]) ** 2) + share / 9)

    return forward


def triplets_off(share: float) -> Callable[[LinearizerOperator, int | None], SVD]:
    def svd(f: LinearizerOperator, rank: int | None) -> SVD:
        S = f.svd(rank)
        turned = S.U + share * S.U.roll(1, 1) * torch.linspace(1, 2, S.U.shape[1]).to(S.U)
        return SVD(turned, S.values * (1 + share), S.V * (1 - share), f.domain, f.codomain)

    return svd


def scaled_map(part: str, share: float, f: LinearizerOperator) -> LinearizerOperator:
    g = f.pinv() if part == "pinv" else f.H
    M = g.core.matrix()
    return Between(M + share * normal(*M.shape, seed=4).to(M), g.domain, g.codomain, H=lambda _: f)


@cache
def map_cases(dtype: torch.dtype) -> dict[str, Callable[[], Reported]]:
    x, y = normal(5, 4).to(dtype), normal(5, 3, seed=1).to(dtype)
    X, Y = InducedSpace(learned(4, dtype)), InducedSpace(learned(3, dtype, 0.4))
    A = (normal(3, 4, seed=3) / 2).to(dtype)
    f = Linearizer(A, X, Y)
    parallel = torch.cat([x[:1], X.scale(2.0, x[:1])])
    flat = Linearizer(1.7 * normal(3, 4, seed=3).to(dtype), EuclideanSpace(4), EuclideanSpace(3))
    low = Linearizer(LowRank(normal(70, 2, seed=5).to(dtype), normal(70, 2, seed=6).to(dtype)), EuclideanSpace(70))
    ill = Linearizer(graded(6, 100).to(dtype), EuclideanSpace(6))
    six = normal(2, 6, seed=2).to(dtype)
    # exp overflows in float32 at 88, far below in float64
    steep = Linearizer((150.0 if dtype == torch.float32 else 1200.0) * torch.eye(3).to(dtype), InducedSpace(Log((3,))))
    positive = (0.5 * y).exp()
    within = Linearizer(torch.diag(torch.tensor([1.0, 0.5, 0.25, 0.0])).to(dtype), InducedSpace(Within(0.5)))
    tight = Composition(learned(4, dtype), Within(1e-3))
    short = Linearizer(A[:, :3] @ A[:, :3], InducedSpace(Composition(learned(3, dtype), Affine((3,), 1.0, 2.0))))
    tiny = Linearizer(torch.diag(torch.tensor([1.0, 0.5, 0.25, 0.2])).to(dtype), InducedSpace(tight))
    ties = Linearizer(torch.diag(torch.tensor([2.0, 2.0, 1.0])).to(dtype), InducedSpace(learned(3, dtype)))
    wrong = Between(A, X, Y, forward=bent(0.01))
    off = Between(
        A, X, Y, H=lambda f: scaled_map("H", 0.01, f), pinv=lambda f: scaled_map("pinv", 0.01, f), svd=triplets_off(0.01)
    )
    return {
        "linear": lambda: check_linear(f, x),
        "linear: parallel samples": lambda: check_linear(f, parallel),
        "linear: zero samples": lambda: check_linear(Linearizer(A[:, :3], SHIFTED), SHIFTED.zero(2, dtype=dtype)),
        "linear: near zero": lambda: check_linear(Linearizer(A[:, :3], SHIFTED, Y), SHIFTED.point(0.07 * y)),
        "linear: steep": lambda: check_linear(steep, positive),
        "linear: within": lambda: check_linear(within, 0.1 * x),
        "linear: low rank": lambda: check_linear(low, normal(2, 70).to(dtype)),
        "linear: wrong": lambda: check_linear(wrong, x),
        "adjoint": lambda: check_adjoint(f, x, y),
        "adjoint: flat": lambda: check_adjoint(flat, x, 3 * y),
        "adjoint: wrong": lambda: check_adjoint(off, x, y),
        "adjoint: steep": lambda: check_adjoint(steep, positive, positive.flip(0)),
        "pseudoinverse": lambda: check_penrose(f, x, y),
        "pseudoinverse: ill-conditioned": lambda: check_penrose(ill, six, six.flip(1)),
        "pseudoinverse: within": lambda: check_penrose(within, 0.1 * x, 0.1 * x.flip(0)),
        "pseudoinverse: parallel": lambda: check_penrose(flat, parallel, 0 * y[:2]),
        "pseudoinverse: wrong": lambda: check_penrose(off, x, y),
        "triplets": lambda: check_svd(f),
        "triplets: two": lambda: check_svd(f, 2),
        "triplets: none": lambda: check_svd(f, 0),
        "triplets: ties": lambda: check_svd(ties),
        "triplets: within": lambda: check_svd(within),
        "triplets: tiny": lambda: check_svd(tiny),
        "all of a short map": lambda: [*check_linear(short, y), *check_adjoint(short, y, y.flip(0)), *check_svd(short)],
        "triplets: wrong": lambda: check_svd(off),
        "triplets: two wrong": lambda: check_svd(off, 2),
        "triplets: low rank": lambda: check_svd(low, 2),
    }


# ------------------------------------------------------------------------------------------------------------ endomorphisms
@cache
def endomorphism_cases(dtype: torch.dtype) -> dict[str, Callable[[], Reported]]:
    x = normal(5, 4).to(dtype)
    X, E = InducedSpace(learned(4, dtype)), EuclideanSpace(4)
    M = (normal(4, 4, seed=3) / 2).to(dtype)
    f, flat, turning = Linearizer(M, X), Linearizer(3 * M, E), Linearizer(M - 0.9 * M.mT, X)
    singular = Linearizer(LowRank(x[:2].mT.contiguous(), M[:, :2].contiguous()), E)
    nilpotent = Linearizer(torch.diag(torch.ones(3), 1).to(dtype), X)
    grades = Linearizer(torch.diag(torch.tensor([1.0, 0.1, 1e-2, 1e-3])).to(dtype), E)
    ill = Linearizer(torch.diag(torch.logspace(0, 1, 4, base=torch.finfo(dtype).eps ** 0.8)).to(dtype), E)
    large = Linearizer((1e7 if dtype == torch.float32 else 1e60) * M, E)
    within = Linearizer(1.5 * M, InducedSpace(Within(8.0)))
    P = torch.tensor([[1.0, 0.0, 2.0, -1.0], [0.0, 1.0, 0.5, 3.0], [0.0] * 4, [0.0] * 4]).to(dtype)
    kept = Projection(torch.tensor([1.0, 0.0, 0.0, 1.0]).to(dtype))
    wrong = OneSpace(
        matrix=M,
        powers={k: torch.linalg.matrix_power(M, k) * (1 + 0.01 * k) for k in (-2, -1, 2, 3, 5, 6)},
        exp=lambda t: Linearizer(torch.linalg.matrix_exp(t * M) * (1 + 0.01 * t + 0.02 * t * t), E),
        space=E,
    )
    return {
        "powers": lambda: check_powers(f, x),
        "powers: flat": lambda: check_powers(flat, x),
        "powers: singular": lambda: check_powers(singular, x),
        "powers: nilpotent": lambda: check_powers(nilpotent, x),
        "powers: graded": lambda: check_powers(grades, x),
        "powers: ill-conditioned": lambda: check_powers(ill, x),
        "powers: large": lambda: check_powers(large, x),
        "powers: within": lambda: check_powers(within, x),
        "powers: wrong": lambda: check_powers(wrong, x),
        "powers: one sample": lambda: check_powers(f, x[:1]),
        "group": lambda: check_group(turning, x),
        "group: flat": lambda: check_group(flat, x),
        "group: nilpotent": lambda: check_group(nilpotent, x),
        "group: graded": lambda: check_group(grades, x),
        "group: large": lambda: check_group(large, x),
        "group: times": lambda: check_group(turning, x, 0.25, -0.75),
        "group: within": lambda: check_group(within, x),
        "group: wrong": lambda: check_group(wrong, x),
        "idempotent": lambda: check_idempotent(Linearizer(P, X), x),
        "idempotent: flat": lambda: check_idempotent(Linearizer(P, E), x),
        "idempotent: exact": lambda: check_idempotent(Linearizer(kept, E), x, exact=True),
        "idempotent: wrong": lambda: check_idempotent(Linearizer(P * 1.01, E), x),
        "idempotent: wrong bits": lambda: check_idempotent(Linearizer(P * 1.01, E), x, exact=True),
        "idempotent: within": lambda: check_idempotent(Linearizer(P, InducedSpace(Within(9.0))), x),
    }


# ----------------------------------------------------------------------------------------------------------- all of a thing
def lattice(dtype: torch.dtype) -> InducedSpace:
    return InducedSpace(LatticeCoupling((3,), filled(MLP(1, 2, 4)).to(dtype), bits=8))


@cache
def run_cases(dtype: torch.dtype) -> dict[str, Callable[[], Reported]]:
    A = torch.tensor([[0.1, 0.7, 0.0], [-0.5, 0.2, -0.4], [0.1, 0.6, 0.1]]).to(dtype)
    P = torch.tensor([[1.0, 2.0, 0.0], [0.0] * 3, [0.0] * 3]).to(dtype)
    return {
        "all laws of a map": lambda: check(Linearizer(A, InducedSpace(learned(3, dtype))), samples=4, seed=3, radius=1.5),
        "all laws of a map between": lambda: check(Linearizer(A[:2], InducedSpace(Log((3,))), EuclideanSpace(2)), samples=3),
        "all laws of a lattice": lambda: check(Linearizer(Projection(torch.tensor([1.0, 1.0, 0.0]).to(dtype)), lattice(dtype))),
        "all laws of a map of equal spaces": lambda: check(Linearizer(A, EuclideanSpace(3), EuclideanSpace(3)), samples=2),
        "all laws of a projection": lambda: check(Dense(P), normal(2, 3).to(dtype)),
        "all laws of a broken space": lambda: check(Flat(sub=lambda x, y: 1.1 * x - y), normal(3, 3).to(dtype)),
        "all laws of a broken chart": lambda: check(Off(0.01), dtype=dtype, samples=2),
    }


FAMILIES = (chart_cases, space_cases, map_cases, endomorphism_cases, run_cases)
CASES = {
    f"{str(dtype).removeprefix('torch.')}: {name}": (family, dtype, name)
    for family in FAMILIES
    for dtype in (torch.float64, torch.float32)
    for name in family(dtype)
}
LOOSE = {"f* is the transpose of df": 0.15}
"""Laws whose tolerance is measured, by differences that are a rounding."""
Row = list[str | float | None]


def row(report: Report) -> Row:
    """What is kept of a report: a residual that is rounding differs from machine to machine."""
    broken = report.verdict == "violated" and math.isfinite(report.residual)
    worst = report.worst.flatten()[:3].tolist() if broken and report.worst is not None else []
    texts = [report.part, report.law, report.statement, report.verdict, ROUNDED.sub("", report.note)]
    return [*texts, _plain(report.tolerance), _plain(report.residual) if broken else None, *map(_plain, worst)]


def _plain(number: float) -> float | str:
    return float(f"{number:.4g}") if math.isfinite(number) else str(number)


def rows(case: str) -> list[Row]:
    family, dtype, name = CASES[case]
    torch.manual_seed(0)
    return [row(report) for report in family(dtype)[name]()]


def alike(one: object, other: object, share: float) -> bool:
    """Equal, numbers within a share, those in texts too."""
    if isinstance(one, str) and isinstance(other, str):
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (one, other)]
        same = NUMBER.sub("#", one) == NUMBER.sub("#", other)
        return same and all(alike(a, b, share) for a, b in zip(*numbers, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= share * max(abs(one), abs(other))
    return one == other


@cache
def recorded() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def compare(case: str) -> None:
    for came, expected in zip(json.loads(json.dumps(rows(case))), recorded()[case], strict=True):
        same = [alike(*pair, LOOSE.get(str(came[1]), 0.02)) for pair in zip(came, expected, strict=True)]
        assert all(same), f"recorded {expected}, now {came}"


def of(family: Callable[[torch.dtype], dict[str, Callable[[], Reported]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [case for case, found in CASES.items() if found[0] is family])


@of(chart_cases)
def test_reports_of_charts(case: str) -> None:
    compare(case)


@of(space_cases)
def test_reports_of_spaces(case: str) -> None:
    compare(case)


@of(map_cases)
def test_reports_of_maps(case: str) -> None:
    compare(case)


@of(endomorphism_cases)
def test_reports_of_endomorphisms(case: str) -> None:
    compare(case)


@of(run_cases)
def test_reports_of_all_laws(case: str) -> None:
    compare(case)


def test_nothing_else_is_recorded() -> None:
    assert list(recorded()) == list(CASES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tables = {case: ",\n".join(f"  {json.dumps(found)}" for found in rows(case)) for case in CASES}
    text = ",\n".join(f"{json.dumps(case)}: [\n{table}\n]" for case, table in tables.items())
    RECORD.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
