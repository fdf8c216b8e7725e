"""What the checks of maps measure with: rearranged samples, norms, companions, directions and orbits."""

import math

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer, ProductSpace, check
from induced.bijections import Affine, Bijection, LatticeCoupling, Log, Sinh, real_nvp
from induced.bijections.networks import MLP
from induced.checks import check_bijection
from induced.checks.batches import rearrangements
from induced.checks.maps import along, gain_and_reach, independent, longest_image, sums, vjp
from induced.checks.measure import (
    Noise,
    finite_gradients,
    lattice_radius,
    not_applicable,
    random_like,
    unit_normal,
)
from induced.checks.orbits import Orbit, core_norm, directions, ratio, summed, underflow
from induced.checks.report import Reports
from induced.operators import Dense
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.orbits import HOLDS, VIOLATED, wide


def test_a_rearrangement_is_judged_by_what_rounding_may_do_to_the_result() -> None:
    x = torch.tensor([[3.0, 4.0], [6.0, 8.0]], dtype=torch.float64)
    reports = rearrangements("f", lambda p: 2 * p, x, 2 * x, Noise(30.0))
    assert [r.verdict for r in reports] == ["holds"] * 3
    assert [r.tolerance for r in reports] == [pytest.approx(10 * torch.finfo(x.dtype).eps * 30 / 20)] * 3


@pytest.mark.parametrize("which", ["first", "last"])
def test_a_sample_that_is_another_one_alone_is_seen_at_both_ends(which: str) -> None:
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    marked = x[0] if which == "first" else x[-1]

    def f(p: Tensor) -> Tensor:
        return p + 0.1 * (p.dim() == 1 and bool((p == marked).all()))

    assert [r.verdict for r in rearrangements("f", f, x, x, Noise(1.0))] == ["violated", "holds", "holds"]

    def g(p: Tensor) -> Tensor:
        return p + 0.1 * (p.shape == (1, 1) and bool((p == marked).all()))

    assert [r.verdict for r in rearrangements("f", g, x, x, Noise(1.0))] == ["violated", "holds", "holds"]


def test_the_norm_of_a_map_is_seen_from_samples_and_random_vectors() -> None:
    A = torch.diag(torch.tensor([1.0, 1.0, 1.0, 8.0], dtype=torch.float64))
    f = Linearizer(A, EuclideanSpace(4))
    x = torch.eye(4, dtype=torch.float64)
    assert gain_and_reach(f, 2 * x, f(2 * x)) == (8.0, 16.0)
    gain, reach = gain_and_reach(f, x[:1], f(x[:1]))
    drawn = random_like(EuclideanSpace(4), x[:1])
    assert gain == pytest.approx(float((drawn @ A).norm() / drawn.norm())) and reach == gain > 1.0
    assert sums(f) == 2.0 and sums(Linearizer(torch.ones(9, 4), EuclideanSpace(4), EuclideanSpace(9))) == 3.0
    z = unit_normal(x, 1, 4)
    assert longest_image(x, f) == pytest.approx(max(1.0, float((z @ A).norm())))
    assert longest_image(x, Linearizer(A / 100, EuclideanSpace(4))) == 1.0


def test_companions_of_samples_that_are_parallel_are_random_and_as_long() -> None:
    X = EuclideanSpace(3)
    x = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]], dtype=torch.float64)
    u, v, note = independent(X, x)
    assert u is x and torch.equal(v, x.roll(1, 0)) and note == ""
    parallel = torch.cat([x[:1], -2 * x[:1], x[1:2]])
    u, v, note = independent(X, parallel)
    assert len(u) == len(v) == 4 and "random companions" in note
    assert torch.equal(u[:3], parallel) and torch.equal(v[0], parallel[2]) and torch.equal(v[2], parallel[1])
    assert torch.allclose(v[1].norm(), torch.tensor(2.0).double()) and float((v[1] @ x[0]).abs()) < 1.99
    assert torch.allclose(u[3].norm(), v[3].norm()) and float((u[3] - v[3]).norm()) > 0.1


def test_an_error_along_directions_is_that_of_the_space() -> None:
    X = EuclideanSpace(3)
    x = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)
    d = torch.tensor([[0.0, 4.0, 3.0]], dtype=torch.float64)
    expected = float(X.roundings(x, d / 5).max()) * 5
    found, still = along(X, (x, d), (x, 0 * d))
    assert found.roundings == pytest.approx(expected) and found.floor == 0.0 and still == Noise(0.0, 0.0)
    assert torch.equal(vjp(lambda z: z.sin(), x, d), x.cos() * d)


def test_ratios_are_of_vectors_that_have_a_length() -> None:
    z = torch.tensor([[1.0], [2.0], [0.0]])
    assert ratio(torch.tensor([[3.0], [10.0], [7.0]]), z) == 5.0
    assert ratio(torch.tensor([[3.0], [math.nan], [7.0]]), z) == math.inf
    assert ratio(z, 0 * z) == 0.0 and ratio(z, z + math.inf) == 0.0
    assert summed(EuclideanSpace(16)) == 2.0


@every_dtype
def test_the_norm_of_a_core_is_found_where_its_reciprocal_is_a_time(dtype: torch.dtype) -> None:
    A = torch.diag(torch.tensor([1.0, 3.0], dtype=dtype))
    z = torch.tensor([[1.0, 0.1]], dtype=dtype)
    w, norms = torch.cat([z, directions(z)]).double(), []
    for _ in range(4):
        norms.append(float(((w @ A.double()).norm(dim=-1) / w.norm(dim=-1)).max()))
        w = w @ A.double()
    assert core_norm(Dense(A), z) == pytest.approx(max(norms), rel=1e-5) and max(norms) < 3 * (1 - 1e-5)
    largest = torch.finfo(dtype).max
    for size, expected in (
        (largest / 1e5, largest / 1e5),
        (largest / 10, 1.0),
        (1e5 / largest, 1e5 / largest),
        (10 / largest, 1.0),
    ):
        assert core_norm(Dense(size * torch.eye(2, dtype=dtype)), z) == pytest.approx(expected, rel=1e-4)
    assert core_norm(Dense(0 * A), z) == 1.0
    tiny = torch.finfo(dtype).tiny
    assert underflow(3 * torch.ones(1, 4, dtype=dtype)) == Noise(tiny * 2 * 7, tiny)


def test_directions_are_at_least_eight_and_as_long_as_the_samples() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(directions(z).norm(dim=-1), torch.tensor([5.0, 1.0, 2.0] * 3, dtype=torch.float64))
    assert len(directions(z[:1])) == 8 and len(directions(torch.ones(9, 2))) == 9


def test_an_orbit_foretells_growth_and_rounding() -> None:
    A = torch.tensor([[2.0, -2.0], [0.0, 0.5]], dtype=torch.float64)
    X = EuclideanSpace(2)
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    orbit = Orbit(X, Dense(A), x, 3, 1)
    assert torch.allclose(orbit.coords(2), x @ A.mT @ A.mT) and torch.allclose(orbit.coords(-1), x @ torch.linalg.inv(A).mT)
    w = torch.cat([x, directions(x)])
    powers = {k: w @ torch.linalg.matrix_power(A, k).mT for k in range(-1, 4)}
    for k in (-1, 0, 1, 2, 3):
        grown = [powers[j + k].norm(dim=-1) / powers[j].norm(dim=-1) for j in powers if j + k in powers]
        assert orbit.growth(k) == pytest.approx(float(torch.cat(grown).max()))
    gain, size = orbit.growth(1), math.sqrt(2)
    by_entries = (x.abs() @ A.abs().mT @ A.abs().mT).norm().item()
    in_norm = 2**0.25 * gain**2 * size
    assert orbit.products(0) == pytest.approx((size, size))
    assert orbit.products(2, by_entries=False) == pytest.approx((math.sqrt(2) / 2 * in_norm, gain**2 * size))
    expected = min((in_norm, gain**2 * size), (by_entries, by_entries))
    assert orbit.products(2) == pytest.approx((math.sqrt(2) / 2 * expected[0], expected[1]))
    condition = gain * orbit.growth(-1)
    assert orbit.inverses(0) == pytest.approx(math.sqrt(2) * 2**0.25 * condition * size)
    ahead = orbit.growth(-1) * float(orbit.coords(0).norm())
    assert orbit.inverses(1) == pytest.approx(math.sqrt(2) * 2**0.25 * condition * ahead)
    length = float(orbit.coords(1).norm())
    just = 1e-2 * length / (10 * torch.finfo(x.dtype).eps)
    beside, said = orbit.beside(1, 0.9 * just, 3 * length)
    assert beside == pytest.approx(length) and said == ""
    assert orbit.beside(1, 1.1 * just, 3 * length) == (3 * length, "beside the terms that cancel")
    beside, said = orbit.beside(1, 1.1 * just, 0.5 * length)
    assert beside == pytest.approx(length) and said == ""


def test_an_orbit_knows_what_its_chart_adds() -> None:
    g: Bijection = real_nvp(2, 2, 8).double()
    X = InducedSpace(g.requires_grad_(False))
    x = X.point(torch.tensor([[1.0, 2.0], [0.1, 0.1]], dtype=torch.float64))
    orbit = Orbit(X, Dense(2 * torch.eye(2, dtype=torch.float64)), x, 2)
    known = orbit.known([0, 1])
    for k in (0, 1):
        z = 2**k * X.coords(x)
        added = X.roundings(X.point(z)) - z.norm(dim=-1)
        assert known[k].roundings == pytest.approx(max(0.0, float(added.max())), rel=1e-6)
        assert known[k].floor == X.zero_size(x)


def test_reports_count_and_summarise() -> None:
    reports = Reports([HOLDS, HOLDS, VIOLATED, wide(0.5), not_applicable("law", "", "why")])
    assert reports.summary() == "3 laws judged: 2 hold, 1 violated; 1 unjudgeable, 1 not applicable" and not reports.ok
    assert Reports([HOLDS]).ok and not Reports([HOLDS, wide(0.5)]).ok and not Reports([HOLDS, VIOLATED]).ok
    assert not Reports([HOLDS, VIOLATED, wide(0.5)]).ok and not Reports([not_applicable("law", "", "why")]).ok


def test_parts_of_one_kind_are_numbered() -> None:
    X = ProductSpace(*(InducedSpace(Log((1,))) for _ in range(4)))
    names = [part for part in dict.fromkeys(report.part for report in check(X)) if part.startswith("chart")]
    assert names == ["chart Log", "chart Log, 2", "chart Log, 3", "chart Log, 4"]


def test_at_the_zero_vector_far_out_is_in_units() -> None:
    notes = {report.law: report.note for report in check_bijection(Sinh((2,)), torch.zeros(3, 2).double())}
    assert notes["far out: g(g^-1(z)) = z"] == "at coordinates of norm 64"
    assert notes["near zero: g(g^-1(z)) = z"] == "at coordinates of norm 0.0001"


def test_a_function_that_ignores_what_it_is_given_has_the_gradient_0() -> None:
    x, p = torch.randn(3, 2), torch.ones(2, requires_grad=True)
    report = finite_gradients("law", "contract", x, (lambda t: p.expand(3, 2), x))
    assert report.ok and report.residual == 0


def test_no_contract_is_broken_by_overflow_at_samples_near_the_largest_number() -> None:
    g = Affine((2,), torch.tensor([4.0, 1.0]))
    largest = torch.finfo(torch.float32).max
    for x, verdict in ((torch.tensor([[largest / 2, 1.0]]), "unjudgeable"), (torch.tensor([[1.0, 1.0]]), "holds")):
        found = {report.law: report for report in check_bijection(g, x)}
        assert found["g is finite, of its dtype and shape"].verdict == verdict


def test_what_laws_are_tried_at_on_a_lattice_has_4096_steps_in_each_coordinate() -> None:
    X = InducedSpace(LatticeCoupling((4,), MLP(2, 2, 8), bits=10))
    assert lattice_radius(X) == lattice_radius(EuclideanSpace(9), X) == 4096 * 2**-10 * 2
    assert lattice_radius(EuclideanSpace(9)) == 0
