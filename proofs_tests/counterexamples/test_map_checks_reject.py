"""Maps that break one law each, and the law that names it; right maps of every size, which all laws accept."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from induced import SVD, EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import real_nvp
from induced.checks import check_adjoint, check_linear, check_penrose, check_svd, require
from induced.operators import Dense, Diagonal, LinearOperator, LowRank, pinv
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.maps import Between, M, N, OfHonest, between, learned
from proofs_tests.counterexamples.test_checks_reject import A, linear, points, rejected, verdicts
from proofs_tests.registry import shaken


class Map(OfHonest):
    """A map of R^3 with some of its parts replaced."""

    def __init__(self, A: LinearOperator | Tensor, **replaced: Any) -> None:
        super().__init__(Linearizer(A, EuclideanSpace(3)))
        self.replaced = replaced

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        function = self.replaced.get("forward", self.honest)
        return function(x)

    @property
    def H(self) -> LinearizerOperator:
        return self.replaced.get("H", self.honest.H)

    def pinv(self, rtol: float | None = None) -> LinearizerOperator:
        return self.replaced.get("pinv", self.honest.pinv(rtol))

    def svd(self, rank: int | None = None) -> SVD:
        return self.replaced.get("svd", self.honest.svd(rank))


NOT_LINEAR: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a bias": (lambda x: x @ A.mT + 0.01, "f(a u + b v)"),
    "a bias, seen at zero": (lambda x: x @ A.mT + 0.01, "f(0) = 0"),
    "a kink": (lambda x: (x @ A.mT).abs(), "f(a u) = a f(u)"),
    "a slope that is not finite": (lambda x: x @ A.mT + 0 * (x - x.detach()).sum(-1, keepdim=True).sqrt(), "gradients"),
}


@pytest.mark.parametrize("broken", NOT_LINEAR)
def test_check_linear_rejects(broken: str) -> None:
    forward, law = NOT_LINEAR[broken]
    rejected(check_linear(Map(A, forward=forward), points()), law)


def test_check_linear_rejects_a_bias_between_charts() -> None:
    X = InducedSpace(shaken(real_nvp(3, 2, 8)).double())
    f = Linearizer(A / 3, X)

    class Biased(LinearizerOperator):
        domain, codomain, core = X, X, f.core

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return X.point(f.core(X.coords(x)) + 0.01)

    x = points() * 0.3
    require(check_linear(f, x))
    reports = check_linear(Biased(), x)
    for law in ("f(a u + b v)", "f(a u) = a f(u)", "f(0) = 0"):
        rejected(reports, law)


def test_check_adjoint_rejects_the_map_itself_as_its_adjoint() -> None:
    rejected(check_adjoint(Map(A, H=linear(A)), points(), points()), "<f(x), y>")


def test_check_adjoint_rejects_an_adjoint_that_does_not_lead_back() -> None:
    reports = check_adjoint(Map(A, H=Map(A.mT.clone(), H=linear(2 * A))), points(), points())
    rejected(reports, "f** = f")
    assert verdicts(reports)["<f(x), y> = <x, f*(y)>"]


FLAT = torch.diag(torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64))
TILTED = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)


class WrongPinv(NamedTuple):
    """A matrix, a pseudoinverse that it has not, and the equations that still hold of it."""

    pseudoinverse: LinearOperator
    law: str
    still: tuple[str, ...]


WRONG_PINVS: dict[str, WrongPinv] = {
    "the zero map": WrongPinv(Dense(0 * FLAT), "f f+ f = f", ("f+ f f+ = f+", "(f f+)* = f f+", "(f+ f)* = f+ f")),
    "1/diag, kept finite": WrongPinv(
        Diagonal(1 / torch.tensor([1.0, 1e-6, 2.0], dtype=torch.float64)), "f+ f f+ = f+", ("(f f+)* = f f+", "(f+ f)* = f+ f")
    ),
    "an oblique projection on the left": WrongPinv(Dense(TILTED), "(f f+)* = f f+", ("f f+ f = f", "(f+ f)* = f+ f")),
    "an oblique projection on the right": WrongPinv(Dense(TILTED.mT.clone()), "(f+ f)* = f+ f", ("f f+ f = f", "(f f+)* = f f+")),
}


@pytest.mark.parametrize("broken", WRONG_PINVS)
def test_check_penrose_rejects(broken: str) -> None:
    wrong = WRONG_PINVS[broken]
    p = Map(wrong.pseudoinverse)
    reports = check_penrose(Map(FLAT, pinv=p), points(), points())
    rejected(reports, wrong.law)
    assert all(verdicts(reports)[law] for law in wrong.still)


def _svd(U: Tensor, s: Tensor, V: Tensor) -> SVD:
    return SVD(U, s, V, EuclideanSpace(3), EuclideanSpace(3))


U_, S_, V_ = torch.linalg.svd(A)
V_ = V_.mT
WRONG_SVDS: dict[str, tuple[SVD, str]] = {
    "vectors of the other side": (_svd(V_, S_, U_), "f(v_i) = s_i u_i"),
    "vectors of the other side, seen by the adjoint": (_svd(V_, S_, U_), "f*(u_i) = s_i v_i"),
    "singular values that miss a square root": (_svd(U_, S_**2, V_), "f(v_i) = s_i u_i"),
    "left vectors that are not of length 1": (_svd(2 * U_, S_ / 2, V_), "<u_i, u_j>"),
    "right vectors that are not of length 1": (_svd(U_, 2 * S_, 2 * V_), "<v_i, v_j>"),
    "values in ascending order": (_svd(U_.flip(1), S_.flip(0), V_.flip(1)), "s_1 >= s_2"),
    "negative values": (_svd(-U_, -S_, V_), "s_1 >= s_2"),
}


@pytest.mark.parametrize("broken", WRONG_SVDS)
def test_check_svd_rejects(broken: str) -> None:
    triplets, law = WRONG_SVDS[broken]
    rejected(check_svd(Map(A, svd=triplets)), law)


def test_the_checks_accept_the_same_map_unbroken() -> None:
    x, y = points(), points()
    for core in (A, FLAT):
        f = Map(core)
        require(check_linear(f, x), check_adjoint(f, x, y), check_penrose(f, x, y), check_svd(f))


# --------------------------------------------------------------------------------------------------- one fault, both dtypes
Forward = Callable[[LinearizerOperator, Tensor], Tensor]


def in_coordinates(function: Callable[[LinearizerOperator, Tensor, Tensor], Tensor]) -> Forward:
    """A map whose coordinates are a function of the map, the coordinates of its argument and those of its image."""

    def forward(f: LinearizerOperator, x: Tensor) -> Tensor:
        z = f.domain.coords(x)
        return f.codomain.point(function(f, z, f.core(z)))

    return forward


def bend(f: LinearizerOperator, z: Tensor, w: Tensor) -> Tensor:
    """Homogeneous of degree one, and not additive."""
    direction = z[..., :1] / z.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return w * (1 + 0.5 * torch.tanh(direction**2))


def with_mean(f: LinearizerOperator, z: Tensor, w: Tensor) -> Tensor:
    return w + w.mean(0) if w.dim() > 1 else w


def spoiled(f: LinearizerOperator, x: Tensor) -> Tensor:
    image = f(x)
    x.mul_(1.5)
    return image


FORWARDS: dict[str, tuple[Forward, str]] = {
    "adds the mean image of the batch": (in_coordinates(with_mean), "f of a sample is the same alone and in a batch"),
    "depends on how the batch is arranged": (
        in_coordinates(lambda f, z, w: w if z.dim() < 3 else 2 * w),
        "f of a batch is the same in any order and shape",
    ),
    "not linear far out": (
        in_coordinates(lambda f, z, w: w + torch.relu(z.norm(dim=-1, keepdim=True) - 15)),
        "far out: f(a u) = a f(u)",
    ),
    "another map than its core says": (in_coordinates(lambda f, z, w: 2 * w), "f = g_y^-1 A g_x"),
    "the zero map": (lambda f, x: f.codomain.zero(*x.shape[:-1], dtype=x.dtype), "f = g_y^-1 A g_x"),
    "spoils what it is given": (spoiled, "f leaves its input as it is"),
    "random": (lambda f, x: f(x) + 0 * torch.rand(1).to(x) + 1e-9 * torch.rand(1).to(x), "f is deterministic"),
    "no gradient": (lambda f, x: f(x).detach(), "gradients are finite"),
}


@every_dtype
@pytest.mark.parametrize("broken", FORWARDS)
def test_check_linear_names_the_fault(broken: str, dtype: torch.dtype) -> None:
    forward, law = FORWARDS[broken]
    f = between(dtype, forward=forward)
    rejected(check_linear(f, torch.randn(6, N, dtype=dtype)), law)


@every_dtype
@pytest.mark.parametrize("samples", ["one", "equal", "parallel", "zero"])
def test_samples_that_say_nothing_about_sums_get_companions(samples: str, dtype: torch.dtype) -> None:
    f = between(dtype, forward=in_coordinates(bend))
    z = torch.randn(1, N, dtype=dtype)
    z[0, 0] = 2.0
    x = {"one": z, "equal": z.repeat(3, 1), "parallel": torch.cat([z, -2 * z, 0.5 * z]), "zero": 0 * z.repeat(2, 1)}[samples]
    reports = check_linear(f, f.domain.point(x))
    (report,) = (r for r in reports if r.law == "f(a u + b v) = a f(u) + b f(v)")
    assert report.verdict == "violated" and "random companions" in report.note
    require(check_linear(f.honest, f.domain.point(x)))


def adjoint_off(by: float) -> Callable[[LinearizerOperator], LinearizerOperator]:
    """An adjoint with one coordinate too long by this share, which leads back to the map."""

    def H(f: LinearizerOperator) -> LinearizerOperator:
        B = f.core.matrix().mT.clone()
        B[0] *= 1 + by
        return Between(B, f.codomain, f.domain, H=lambda _: f)

    return H


@every_dtype
def test_an_adjoint_that_is_wrong_in_one_coordinate_of_many_is_rejected(dtype: torch.dtype) -> None:
    n = 784
    f = Between(torch.randn(n, n, dtype=dtype) / n**0.5, EuclideanSpace(n), EuclideanSpace(n), H=adjoint_off(1e-3))
    x, y = torch.randn(2, 3, n, dtype=dtype)
    rejected(check_adjoint(f, x, y), "f* is the transpose of df")
    require(check_adjoint(f.honest, x, y))
    g = between(dtype, H=adjoint_off(3e-4))
    rejected(check_adjoint(g, torch.randn(5, N, dtype=dtype), torch.randn(5, M, dtype=dtype)), "f* is the transpose of df")


@every_dtype
def test_an_adjoint_that_looks_at_the_batch_is_rejected(dtype: torch.dtype) -> None:
    H: Callable[[LinearizerOperator], LinearizerOperator] = lambda f: Between(  # noqa: E731
        f.core.matrix().mT, f.codomain, f.domain, forward=in_coordinates(with_mean), H=lambda _: f
    )
    reports = check_adjoint(between(dtype, H=H), torch.randn(5, N, dtype=dtype), torch.randn(5, M, dtype=dtype))
    rejected(reports, "f* of a sample is the same alone and in a batch")


def test_a_derivative_that_is_not_there_is_not_judged() -> None:
    f = between(torch.float64, forward=lambda f, x: f(x).detach())
    reports = check_adjoint(f, torch.randn(5, N, dtype=torch.float64), torch.randn(5, M, dtype=torch.float64))
    (report,) = (r for r in reports if r.law == "f* is the transpose of df")
    assert report.verdict == "not applicable" and "no derivative" in report.note
    require(reports)


def without_the_largest(f: LinearizerOperator, rank: int | None) -> SVD:
    S = f.svd()
    return SVD(S.U[:, 1:], S.values[1:], S.V[:, 1:], f.domain, f.codomain)


def the_smallest(f: LinearizerOperator, rank: int | None) -> SVD:
    S, k = f.svd(), rank or M
    return SVD(S.U[:, -k:], S.values[-k:], S.V[:, -k:], f.domain, f.codomain)


def one_too_small(f: LinearizerOperator, rank: int | None) -> SVD:
    """All triplets but the last, whose place another copy of the one before takes."""
    S = f.svd()
    index = [0, 1, 2, 3, 4, 4]
    return SVD(S.U[:, index], S.values[index], S.V[:, index], f.domain, f.codomain)


INCOMPLETE: dict[str, tuple[Callable[[LinearizerOperator, int | None], SVD], int | None, str]] = {
    "without the largest": (without_the_largest, None, "there are as many triplets as asked for"),
    "the two smallest": (the_smallest, 2, "||f - U_k S_k V_k*|| <= s_k"),
    "none": (lambda f, rank: f.svd(0), None, "there are as many triplets as asked for"),
    "one of them twice": (one_too_small, None, "f = U S V*"),
}


@every_dtype
@pytest.mark.parametrize("broken", INCOMPLETE)
def test_check_svd_rejects_what_leaves_triplets_out(broken: str, dtype: torch.dtype) -> None:
    svd, rank, law = INCOMPLETE[broken]
    rejected(check_svd(between(dtype, svd=svd), rank), law)


@every_dtype
def test_an_svd_without_triplets_is_right_where_none_are_asked_for(dtype: torch.dtype) -> None:
    X, Y = learned(dtype)
    zero = Linearizer(torch.zeros(M, N, dtype=dtype), X, Y)
    require(
        check_svd(zero), check_svd(zero, 0), check_svd(Linearizer(LowRank(*torch.zeros(2, 4, 0, dtype=dtype)), EuclideanSpace(4)))
    )
    reports = check_svd(between(dtype), 0)
    assert [r.verdict for r in reports] == ["holds", "not applicable"]
    for rank in (1, 3, M):
        require(check_svd(between(dtype), rank))


def into_the_kernel(f: LinearizerOperator) -> LinearizerOperator:
    K = torch.linalg.svd(f.core.matrix()).Vh[M:].mT
    return Linearizer(pinv(f.core).matrix() + 1e-4 * K[:, :1] @ torch.ones(1, M, dtype=K.dtype), f.codomain, f.domain)


@every_dtype
def test_small_defects_of_a_pseudoinverse_are_rejected(dtype: torch.dtype) -> None:
    x, y = torch.randn(5, N, dtype=dtype), torch.randn(5, M, dtype=dtype)
    rejected(check_penrose(between(dtype, pinv=into_the_kernel), x, y), "(f+ f)* = f+ f")
    small = {torch.float32: 1e-3, torch.float64: 1e-5}[dtype]
    U, _, Vh = torch.linalg.svd(torch.randn(M, N, dtype=dtype))
    core = U @ torch.diag(torch.tensor([1, 0.9, 0.8, 0.7, 0.6, small], dtype=dtype)) @ Vh[:M]
    f = Between(core, *learned(dtype), pinv=lambda f: f.pinv(0.2))
    rejected(check_penrose(f, x, y), "f f+ f = f")
    require(check_penrose(f.honest, x, y))
