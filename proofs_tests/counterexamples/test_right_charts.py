"""Charts that are right, and near what can be judged, are accepted; those beyond the precision are never accused."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from induced import InducedSpace
from induced.bijections import (
    ActNorm,
    Affine,
    AffineCoupling,
    Arctanh,
    Bijection,
    Composition,
    Identity,
    InverseSoftplus,
    LatticeCoupling,
    Linear,
    Log,
    Logit,
    PositiveDefinite,
    Simplex,
    Sinh,
    glow,
    real_nvp,
)
from induced.bijections.networks import MLP
from induced.checks import check_bijection, check_space, require
from induced.checks.report import Reports
from induced.operators import LU, Dense
from proofs_tests.counterexamples.dtypes import every_dtype


def near(e: float) -> Callable[[torch.dtype], Tensor]:
    """Points that far from the edge, up to twice."""
    return lambda dtype: (1 + torch.rand(5, 3, dtype=torch.float64)).to(dtype) * e


def with_condition(c: float, dtype: torch.dtype) -> Tensor:
    U, _, V = torch.linalg.svd(torch.randn(4, 4, dtype=torch.float64))
    return (U @ torch.diag(torch.logspace(0, -math.log10(c), 4, dtype=torch.float64)) @ V).to(dtype)


def definite(c: float, dtype: torch.dtype) -> Tensor:
    Q = torch.linalg.qr(torch.randn(5, 4, 4, dtype=torch.float64))[0]
    S = (Q * torch.logspace(0, -math.log10(c), 4, dtype=torch.float64)) @ Q.mT
    return ((S + S.mT) / 2).to(dtype)


def normal(*shape: int, scale: float = 1.0) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: (scale * torch.randn(*shape, dtype=torch.float64)).to(dtype)


def zeros(*shape: int) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: torch.zeros(*shape, dtype=dtype)


def initialised(chart: Bijection, x: Tensor) -> Bijection:
    chart.initialize(x.to(torch.float32))
    return chart


def parts(e: float) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: (torch.randn(5, 4, dtype=torch.float64) * -math.log(e) / 3).softmax(-1).to(dtype)


RIGHT: dict[str, tuple[Callable[[torch.dtype], Bijection], Callable[[torch.dtype], Tensor]]] = {
    **{f"real_nvp at points of size {s:.0e}": (lambda d: real_nvp(4), normal(5, 4, scale=s)) for s in (1e-30, 1e-12, 1e-6, 1e6)},
    "real_nvp at the point 0": (lambda d: real_nvp(4), zeros(3, 4)),
    "real_nvp of dimension 1": (lambda d: real_nvp(1), normal(5, 1)),
    "real_nvp, one sample": (lambda d: real_nvp(4), normal(1, 4)),
    "real_nvp of 30 blocks": (lambda d: real_nvp(8, blocks=30), normal(5, 8)),
    "real_nvp(300)": (lambda d: real_nvp(300), normal(3, 300)),
    "glow": (lambda d: initialised(glow((1, 8, 8), blocks=2), torch.randn(32, 1, 8, 8)), normal(4, 1, 8, 8)),
    "the identity at the point 0": (lambda d: Identity((4,)), zeros(3, 4)),
    "the identity at 1e30": (lambda d: Identity((4,)), normal(5, 4, scale=1e30)),
    "a shift of 1e6": (lambda d: Affine((4,), 1.0, 1e6), normal(5, 4)),
    "a scale of 1e-12": (lambda d: Affine((4,), 1e-12, 0.0), normal(5, 4)),
    "Log at 1e-23": (lambda d: Log((3,)), near(1e-23)),
    "Log at 1e23": (lambda d: Log((3,)), near(1e23)),
    "InverseSoftplus at 1e6": (lambda d: InverseSoftplus((3,)), near(1e6)),
    "InverseSoftplus at 1e-6": (lambda d: InverseSoftplus((3,)), near(1e-6)),
    "Sinh": (lambda d: Sinh((3,)), normal(5, 3)),
    "asinh at 1e30": (lambda d: Sinh((3,)).inv, normal(5, 3, scale=1e30)),
    "Logit at 1e-4": (lambda d: Logit((3,)), near(1e-4)),
    "Logit at 1e-6": (lambda d: Logit((3,)), near(1e-6)),
    "Logit at 1 - 1e-2": (lambda d: Logit((3,)), lambda d: 1 - near(1e-2)(d)),
    "Arctanh at 1 - 1e-2": (lambda d: Arctanh((3,)), lambda d: 1 - near(1e-2)(d)),
    "compositions with parts of 1e-4": (lambda d: Simplex(4), parts(1e-4)),
    "definite matrices of condition 100": (lambda d: PositiveDefinite(4), lambda d: definite(100.0, d)),
    "a matrix of condition 100": (lambda d: Linear(Dense(with_condition(100.0, d))), normal(5, 4)),
    "LU factors of condition 100": (lambda d: Linear(LU.of(with_condition(100.0, d))), normal(5, 4)),
    "a lattice of 8 bits": (lambda d: LatticeCoupling((4,), MLP(2, 2, 8), bits=8), normal(5, 4)),
    "data of mean 1e3 and deviation 1": (
        lambda d: initialised(ActNorm((4,)), torch.randn(100, 4) + 1e3),
        lambda d: 1e3 + normal(5, 4)(d),
    ),
    "a coupling with kinks": (
        lambda d: Composition(
            *[
                AffineCoupling((4,), nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 4)), flip=flip)
                for flip in (False, True)
            ]
        ),
        normal(5, 4),
    ),
}
# beyond what the dtype can judge: never accused
HARD: dict[str, tuple[Callable[[torch.dtype], Bijection], Callable[[torch.dtype], Tensor]]] = {
    "Logit at 1 - 1e-4": (lambda d: Logit((3,)), lambda d: 1 - near(1e-4)(d)),
    "Arctanh at 1 - 1e-4": (lambda d: Arctanh((3,)), lambda d: 1 - near(1e-4)(d)),
    "compositions with parts of 1e-6": (lambda d: Simplex(4), parts(1e-6)),
    "definite matrices of condition 1e4": (lambda d: PositiveDefinite(4), lambda d: definite(1e4, d)),
    "a matrix of condition 1e4": (lambda d: Linear(Dense(with_condition(1e4, d))), normal(5, 4)),
    "a matrix of condition 1e6": (lambda d: Linear(Dense(with_condition(1e6, d))), normal(5, 4)),
    "a lattice at a hundredth": (lambda d: LatticeCoupling((4,), MLP(2, 2, 8), bits=8), normal(5, 4, scale=0.01)),
    "real_nvp at 1e30": (lambda d: real_nvp(4), normal(5, 4, scale=1e30)),
}


def everything(make: Callable[[torch.dtype], Bijection], draw: Callable[[torch.dtype], Tensor], dtype: torch.dtype) -> Reports:
    g, x = make(dtype).to(dtype), draw(dtype)
    return Reports([*check_bijection(g, x), *check_space(InducedSpace(g), x)])


ROUND_TRIPS = ("g^-1(g(x)) = x", "g(g^-1(z)) = z", "scalar identity: 1 x = x")


@every_dtype
@pytest.mark.parametrize("name", RIGHT)
def test_right_charts_are_judged_and_accepted(name: str, dtype: torch.dtype) -> None:
    found = everything(*RIGHT[name], dtype)
    require(found)
    assert "lattice" in name or max(r.tolerance for r in found if r.law in ROUND_TRIPS) <= 1e-3


@every_dtype
@pytest.mark.parametrize("name", HARD)
def test_charts_beyond_the_precision_are_never_accused(name: str, dtype: torch.dtype) -> None:
    assert everything(*HARD[name], dtype).counts()["violated"] == 0


def test_a_report_says_where_the_samples_are_far_below_what_the_chart_computes_with() -> None:
    found = check_bijection(Affine((4,), 1.0, 1e7), torch.randn(5, 4))
    require(found)
    assert "times what is compared" in next(r.note for r in found if r.law == "g^-1(g(x)) = x")
    near = check_bijection(Affine((4,), 1.0, 1e2), torch.randn(5, 4))
    assert [r.law for r in near if "times what is compared" in r.note] == ["near zero: g(g^-1(z)) = z"]
