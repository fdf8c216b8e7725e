"""The map of a Gaussian mixture: its law, an independent density, and that it draws the clusters and nothing between them."""

import math

import pytest
import torch

from applications.flow_matching.mixture import GaussianMixture
from induced.checks import check_bijection
from induced.errors import DomainError


def clusters(n: int, dim: int = 3) -> torch.Tensor:
    """Three narrow clusters, n points of each."""
    generator = torch.Generator().manual_seed(0)
    centres = 8 * torch.eye(3, dim)
    return torch.cat([c + 0.5 * torch.randn(n, dim, generator=generator) for c in centres])


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    g = GaussianMixture(3, 3)
    g.fit(clusters(300), floor=0.01)
    return g


def test_a_new_one_is_the_identity() -> None:
    g, x = GaussianMixture(4, 3), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    z, log_det = g.forward_and_log_abs_det(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_det, torch.zeros(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws_hold(fitted: GaussianMixture, dtype: torch.dtype) -> None:
    g = GaussianMixture(3, 3)
    g.load_state_dict(fitted.state_dict())
    assert all(report.ok for report in check_bijection(g.to(dtype), clusters(4).to(dtype)))


@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0])
def test_it_is_inverted_far_out(fitted: GaussianMixture, scale: float) -> None:
    """The probabilities there are of 1e-15 to 1e-1000: their tails must not round to 0, nor a light component be left out."""
    g = GaussianMixture(3, 3).double()
    g.load_state_dict(fitted.state_dict())
    z = scale * torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(g(g.inverse(z)), z, rtol=0, atol=1e-11 * scale)


def test_its_density_is_that_of_the_mixture(fitted: GaussianMixture) -> None:
    parts = torch.distributions
    P = fitted.lower.double().tril(-1) + torch.diag_embed(fitted.log_diagonal.double().exp())
    gaussians = parts.MultivariateNormal(fitted.means.double(), precision_matrix=P.mT @ P)
    mixture = parts.MixtureSameFamily(parts.Categorical(logits=fitted.logits.double()), gaussians)
    c = clusters(5).double()
    z, log_det = fitted.forward_and_log_abs_det(c)
    found = log_det - (z.square() / 2).sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found, mixture.log_prob(c))


def test_noise_becomes_clusters_and_nothing_between_them(fitted: GaussianMixture) -> None:
    z = torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
    drawn, real = fitted.inverse(z), clusters(300)
    distance = torch.cdist(drawn, 8 * torch.eye(3)).amin(1)
    assert distance.max() < 3  # the centres are 11 apart
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
    g = GaussianMixture(3, 3).double()
    g.load_state_dict(fitted.state_dict())
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
