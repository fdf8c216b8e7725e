"""The map of a Gaussian mixture: its law, an independent density, and that it draws the clusters and nothing between them."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from applications.flow_matching.mixture import GaussianMixture
from induced.checks import check_bijection
from induced.errors import DomainError, ShapeError


def clusters(n: int, dim: int = 3) -> torch.Tensor:
    """Three narrow clusters, n points of each."""
    generator = torch.Generator().manual_seed(0)
    centres = 8 * torch.eye(3, dim)
    return torch.cat([c + 0.5 * torch.randn(n, dim, generator=generator) for c in centres])


@pytest.fixture(scope="module", params=[0.0, 0.02], ids=["Gaussian", "with tails"])
def fitted(request: pytest.FixtureRequest) -> GaussianMixture:
    g = GaussianMixture(3, 3, request.param)
    g.fit(clusters(300), floor=0.01)
    return g


def copied(g: GaussianMixture) -> GaussianMixture:
    other = GaussianMixture(3, 3, g.tail)
    other.load_state_dict(g.state_dict())
    return other


def test_a_new_one_is_the_identity() -> None:
    g, x = GaussianMixture(4, 3), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    z, log_det = g.forward_and_log_abs_det(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_det, torch.zeros(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws_hold(fitted: GaussianMixture, dtype: torch.dtype) -> None:
    g = copied(fitted)
    assert all(report.ok for report in check_bijection(g.to(dtype), clusters(4).to(dtype)))


@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0])
def test_it_is_inverted_far_out(fitted: GaussianMixture, scale: float) -> None:
    """The probabilities there are of 1e-15 to 1e-1000: their tails must not round to 0, nor a light component be left out."""
    g = copied(fitted).double()
    z = scale * torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(g(g.inverse(z)), z, rtol=0, atol=1e-11 * scale)


def test_its_density_is_that_of_the_mixture(fitted: GaussianMixture) -> None:
    """By SciPy: of each component, and of one 1.8 times as wide that has the share `tail` of its weight."""
    P = (fitted.lower.double().tril(-1) + torch.diag_embed(fitted.log_diagonal.double().exp())).detach().numpy()
    c, tail = clusters(5).double(), fitted.tail
    density = 0.0
    for weight, mean, Q in zip(
        fitted.logits.double().softmax(0).tolist(), fitted.means.double().detach().numpy(), P, strict=True
    ):
        for share, wide in ((1 - tail, 1.0), (tail, 1.8)):
            covariance = wide**2 * np.linalg.inv(Q.T @ Q)
            density = density + weight * share * scipy.stats.multivariate_normal(mean, covariance).pdf(c.numpy())
    z, log_det = fitted.forward_and_log_abs_det(c)
    found = log_det - (z.square() / 2).sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.detach(), torch.tensor(density).log())


@pytest.mark.parametrize("tail", [-0.1, 1.0, math.nan])
def test_a_tail_is_a_share_below_one(tail: float) -> None:
    with pytest.raises(DomainError, match=rf"a tail in \[0, 1\): got 2 and {tail}"):
        GaussianMixture(3, 2, tail)


def test_tails_keep_the_map_steep_enough_for_float32() -> None:
    """Codes between components, whose z has few digits left where there are no tails."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    data, between = (
        (centres[:, None] + size * torch.randn(20, 40, 12, generator=generator, dtype=torch.float64)).flatten(0, 1)
        for size in (0.2, 0.45)
    )
    lost = {}
    for tail in (0.0, 0.02):
        g = GaussianMixture(12, 20, tail).double()
        g.fit(data, floor=0.1)
        z = g(between).float().double()  # what float32 keeps
        lost[tail] = float((g.inverse(z) - between).abs().max().detach())
    assert lost[0.02] < lost[0.0] / 10


def test_noise_becomes_clusters_and_nothing_between_them(fitted: GaussianMixture) -> None:
    z = torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
    drawn, real = fitted.inverse(z), clusters(300)
    distance = torch.cdist(drawn, 8 * torch.eye(3)).amin(1)
    assert distance.max() < (3 if not fitted.tail else 5)  # the centres are 11 apart; tails are 1.8 times as wide
    torch.testing.assert_close(drawn.mean(0), real.mean(0), rtol=0, atol=0.5)
    torch.testing.assert_close(fitted(drawn), z, rtol=0, atol=1e-3)


def test_a_class_draws_its_own_points() -> None:
    g, c = GaussianMixture(3, 6), clusters(100)
    g.fit(c, torch.arange(3).repeat_interleave(100))
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    for kind in range(3):
        assert torch.cdist(g.of_class(kind).inverse(z), 8 * torch.eye(3)).argmin(1).eq(kind).all()
    with pytest.raises(DomainError, match="no component serves the class 3; there are 0, 1, 2"):
        g.of_class(3)


def test_derivatives_of_the_inverse_are_those_of_differences(fitted: GaussianMixture) -> None:
    g = copied(fitted).double()
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    names, values = zip(*g.named_parameters(), strict=True)

    class Inverse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g = g

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.g.inverse(z)

    module = Inverse()

    def called(z: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        given = {f"g.{name}": value for name, value in zip(names, parameters, strict=True)}
        found: torch.Tensor = torch.func.functional_call(module, given, (z,))
        return found

    assert torch.autograd.gradcheck(called, (z, *values), atol=1e-4, rtol=1e-3)


def test_roots_far_out_are_those_of_exact_arithmetic() -> None:
    g = GaussianMixture(1, 2).double()
    weights, means, sds = (0.9, 0.1), (-2.0, 3.0), (0.5, 2.0)
    with torch.no_grad():
        g.logits.copy_(torch.tensor(weights, dtype=torch.float64).log())
        g.means[:, 0], g.log_diagonal[:, 0] = (
            torch.tensor(means, dtype=torch.float64),
            -torch.tensor(sds, dtype=torch.float64).log(),
        )
    for z in (-1e12, -1e8, -50.0, 50.0, 1e8, 1e20):
        c = g.inverse(torch.tensor([z], dtype=torch.float64))
        # the wide component has all of both tails, and there Phi^-1(w Phi(u)) = u + log(w) / u
        assert float(c.detach()) == pytest.approx(3 + 2 * (z + math.log(0.1) / z), rel=1e-3 / z**2 + 1e-14)
        assert float(g(c).detach()) == pytest.approx(z, rel=1e-14)
    with mpmath.workdps(60):
        for z in (-300.0, -38.0, -9.0, 0.5, 9.0, 38.0, 300.0):
            c, side = mpmath.mpf(float(g.inverse(torch.tensor([z], dtype=torch.float64)).detach())), mpmath.sign(z)
            tail = sum(
                mpmath.mpf(w) * mpmath.erfc(side * (c - m) / (s * mpmath.sqrt(2)))
                for w, m, s in zip(g.logits.softmax(0).tolist(), means, sds, strict=True)
            )
            assert float(mpmath.log(tail / mpmath.erfc(side * z / mpmath.sqrt(2)))) == pytest.approx(0, abs=1e-14 * (1 + z**2))


def test_empty_batches_and_numbers_that_are_none(fitted: GaussianMixture) -> None:
    """A row of NaN or infinity is NaN, from its coordinate on, and spoils no other."""
    assert fitted.inverse(torch.zeros(0, 2, 3)).shape == (0, 2, 3)
    for bad in (math.nan, math.inf, -math.inf):
        z = torch.tensor([[0.5, 0.5, 0.5], [0.5, bad, 0.5]])
        c = fitted.inverse(z)
        assert c[1, 1:].isnan().all() and torch.equal(c[0], fitted.inverse(z[:1])[0]) and fitted(z)[1, 1:].isnan().all()


def test_second_derivatives_are_those_of_differences(fitted: GaussianMixture) -> None:
    g = copied(fitted).double()
    c = clusters(1).double()[:2] + 0.3
    for x, map_ in ((c, g), (c, g.log_abs_det), (g(c).detach(), g.inverse)):
        assert torch.autograd.gradgradcheck(map_, (x.requires_grad_(),), atol=1e-4, rtol=1e-3)


def test_a_component_without_points_has_no_tail() -> None:
    """The second class has one component fewer than its share: beyond 141 standard deviations it would be all of the density."""
    c = 0.01 * torch.randn(40, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    g = GaussianMixture(1, 9).double()
    g.fit(c[:3])
    x = torch.tensor([[0.02], [3.0], [-40.0]], dtype=torch.float64)
    mean, sd = c[:3].mean(), (c[:3].var(correction=0) + 0.01 * c[:3].var()).sqrt()
    torch.testing.assert_close(g(x), (x - mean) / sd)


def test_points_that_coincide_are_fitted() -> None:
    g, c = GaussianMixture(2, 6), torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(50, 1)
    g.fit(c)
    assert g.classes.tolist() == [0, 0, -1, -1, -1, -1]
    torch.testing.assert_close(g.means[:2].sort(0).values, c[:2])
    torch.testing.assert_close(g.inverse(g(c)), c, rtol=0, atol=1e-5)
    g.fit(torch.ones(20, 2))
    torch.testing.assert_close(g(torch.tensor([[1.0, 1.1]])), torch.tensor([[0.0, 1.0]]))  # a floor of 0.1, in units
    g.fit(c, torch.tensor([-3] * 50 + [-1] * 50))
    with pytest.raises(DomainError, match="no component serves the class -3; there is none"):
        g.of_class(-3)


@pytest.mark.parametrize(
    ("points", "options", "error", "message"),
    [
        (torch.zeros(5, 3), {}, ShapeError, r"a mixture in 2 coordinates is fitted to points \(N, 2\), got \(5, 3\)"),
        (torch.zeros(5), {}, ShapeError, r"a mixture in 2 coordinates is fitted to points \(N, 2\), got \(5,\)"),
        (torch.zeros(5, 2), {"labels": torch.zeros(4)}, ShapeError, r"5 points have labels \(5,\), got \(4,\)"),
        (torch.zeros(5, 2), {"floor": 0.0}, DomainError, "is a finite number above 0, got floor 0.0"),
        (torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), {}, DomainError, "1 of 2 have coordinates that are NaN or infinite"),
    ],
)
def test_what_cannot_be_fitted(points: torch.Tensor, options: dict[str, Any], error: type[Exception], message: str) -> None:
    g = GaussianMixture(2, 2)
    with pytest.raises(error, match=message):
        g.fit(points, **options)
    assert torch.equal(g(torch.eye(2)), torch.eye(2))  # as it was
