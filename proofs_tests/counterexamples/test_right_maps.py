"""Maps that are right are accepted at every size of core and samples, and are left as they were."""

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import Bijection, Log, RationalQuadraticCoupling, real_nvp
from induced.bijections.networks import MLP
from induced.checks import check_adjoint, check_linear, check_penrose, check_svd, require
from induced.checks.measure import random_like
from induced.checks.report import Reports
from induced.operators import Orthogonal
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.maps import M, N, between
from proofs_tests.counterexamples.test_checks_reject import A, linear


def violated(reports: Reports) -> list[str]:
    return [report.law for report in reports if report.verdict == "violated"]


def graded(dtype: torch.dtype, n: int, condition: float) -> Tensor:
    U, V = (torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q for _ in range(2))
    return ((U * condition ** -torch.linspace(0, 1, n, dtype=torch.float64)) @ V.mT).to(dtype)


def all_laws(f: LinearizerOperator, x: Tensor, y: Tensor) -> Reports:
    return Reports([*check_linear(f, x), *check_adjoint(f, x, y), *check_penrose(f, x, y), *check_svd(f, min(4, *f.core.shape))])


@every_dtype
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6])
def test_laws_hold_at_and_near_the_zero_vector_of_a_learned_chart(size: float, dtype: torch.dtype) -> None:
    f = between(dtype)
    X, Y = f.domain, f.codomain
    z, w = size * torch.randn(3, N, dtype=dtype), size * torch.randn(3, M, dtype=dtype)
    z[0] = 0.0
    require(all_laws(f.honest, X.point(z), Y.point(w)))


@every_dtype
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("of", ["the core", "the samples"])
def test_laws_hold_at_every_size_of_core_and_samples(size: float, of: str, dtype: torch.dtype) -> None:
    core = torch.randn(M, N, dtype=dtype) * (size if of == "the core" else 1.0)
    x, y = torch.randn(3, N, dtype=dtype), torch.randn(3, M, dtype=dtype)
    if of == "the samples":
        x, y = size * x, size * y
    reports = all_laws(Linearizer(core, EuclideanSpace(N), EuclideanSpace(M)), x, y)
    require(reports)
    assert max(r.tolerance for r in reports if r.verdict == "holds") < 1e-3


@every_dtype
def test_pseudoinverses_of_graded_cores_are_judged_to_a_thousandth(dtype: torch.dtype) -> None:
    for n, condition in ((784, 1e2), (64, 800.0), (8, 800.0)):
        f = Linearizer(graded(dtype, n, condition), EuclideanSpace(n))
        reports = check_penrose(f, *torch.randn(2, 3, n, dtype=dtype))
        require(reports)
        assert max(r.tolerance for r in reports) <= 1e-3


def steep(n: int) -> list[Bijection]:
    """Learned charts, some of them with weights three times as large as they start."""
    spline = RationalQuadraticCoupling((n,), MLP(n // 2, 23 * (n // 2), 16)) @ RationalQuadraticCoupling(
        (n,), MLP(n // 2, 23 * (n // 2), 16), flip=True
    )
    charts: list[Bijection] = [real_nvp(n), spline, real_nvp(n)]
    with torch.no_grad():
        for g in charts[1:]:
            for p in g.parameters():
                p.mul_(3)
    return charts


@every_dtype
def test_right_maps_between_learned_charts_violate_no_law(dtype: torch.dtype) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        spaces = [InducedSpace(g.to(dtype)) for g in steep(N)]
        X, Y = spaces[seed], spaces[(seed + 1) % 3]
        x, y = X.point(torch.randn(4, N, dtype=dtype)), Y.point(torch.randn(4, N, dtype=dtype))
        assert not violated(all_laws(Linearizer(torch.randn(N, N, dtype=dtype) / 3, X, Y), x, y))


def test_images_beyond_what_a_chart_holds_are_judged_at_a_part_of_the_samples() -> None:
    f = Linearizer(200 * torch.eye(3), InducedSpace(Log((3,))))  # float32: exp overflows at 88
    x = f.domain.point(torch.randn(4, 3))
    reports = check_linear(f, x)
    require(reports)
    assert any("scaled by" in report.note for report in reports)
    require(check_adjoint(f, x, x), check_penrose(f, x, x))


@pytest.mark.parametrize("batch", [(2, 3), (1,), (2, 1, 2)], ids=str)
def test_checks_of_maps_take_batches_of_any_rank(batch: tuple[int, ...]) -> None:
    x, y = torch.randn(*batch, 3, dtype=torch.float64), torch.randn(*batch, 3, dtype=torch.float64)
    kept = x.clone()
    require(check_linear(linear(A), x), check_adjoint(linear(A), x, y), check_penrose(linear(A), x, y))
    assert torch.equal(x, kept)


def test_checks_of_maps_leave_them_as_they_were() -> None:
    f = between(torch.float32).honest
    f.domain.eval()
    modes, state, generator = (
        [m.training for m in f.modules()],
        {k: v.clone() for k, v in f.state_dict().items()},
        torch.get_rng_state(),
    )
    all_laws(f, torch.ones(3, N), torch.ones(3, M))
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in f.modules()] == modes and all(p.grad is None for p in f.parameters())
    assert all(torch.equal(v, state[k]) for k, v in f.state_dict().items())


def test_a_map_that_raises_is_rejected_with_what_it_raised() -> None:
    def forward(f: LinearizerOperator, x: Tensor) -> Tensor:
        if x.dim() != 2:
            raise ValueError("only batches of one dimension")
        return f(x)

    reports = check_linear(between(torch.float64, forward=forward), torch.randn(4, N, dtype=torch.float64))
    assert any(r.verdict == "violated" and "only batches of one dimension" in r.note for r in reports)
    require(all_laws(Linearizer(Orthogonal(torch.eye(N)), EuclideanSpace(N)), torch.randn(4, N), torch.randn(4, N)))


def test_random_companions_are_as_long_as_asked_for() -> None:
    X = InducedSpace(real_nvp(4).double())
    x = X.point(torch.cat([torch.zeros(1, 4), 2 * torch.eye(4)]).double())
    lengths = X.norm(random_like(X, x, seed=1))
    assert torch.allclose(lengths[1:], torch.full((4,), 2.0).double()) and 0 < lengths[0]
    assert torch.allclose(X.norm(random_like(X, x, seed=1, least=5.0)), torch.full((5,), 5.0).double())
