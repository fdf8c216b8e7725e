"""Metric, geodesics and principal components of an induced space."""

import math

import numpy as np
import pytest
import torch

from induced import EuclideanSpace, InducedSpace
from induced.bijections import Arctanh, Log
from induced.subspaces import principal_components
from proofs_tests.laws.charted import ROUND_TRIP, every_chart, flow, space
from proofs_tests.registry import CHARTS, ChartCase, agree


# ------------------------------------------------------------------------------------------------------- metric and geodesics
@pytest.mark.parametrize("case", [c for c in CHARTS if c.square], ids=str)
def test_the_metric_is_the_pullback_of_the_euclidean_one(case: ChartCase) -> None:
    X, x = space(case)
    G, v, step = X.metric(x), torch.randn_like(x), 1e-5
    d = math.prod(X.shape)
    assert G.shape == (5, d, d)
    agree(G, G.mT)
    flat = v.reshape(5, d)
    speed2 = torch.einsum("bi,bij,bj->b", flat, G, flat)
    measured = ((X.coords(x + step * v) - X.coords(x - step * v)) / (2 * step)).square().sum(-1)
    assert torch.allclose(speed2, measured, rtol=1e-6)


def test_the_metric_of_known_charts() -> None:
    x = torch.tensor([0.5, 0.25]).double()
    agree(InducedSpace(Log((2,))).metric(x), torch.diag(1 / x**2))
    agree(InducedSpace(Arctanh((2,))).metric(x), torch.diag(1 / (1 - x**2) ** 2))
    agree(EuclideanSpace((2, 1)).metric(torch.zeros(3, 2, 1)), torch.eye(2).expand(3, 2, 2))
    assert InducedSpace(Log((2,))).metric(torch.ones(3, 0, 2)).shape == (3, 0, 2, 2)
    assert EuclideanSpace(()).metric(torch.ones(3)).shape == (3, 1, 1)


@pytest.mark.parametrize("case", [c for c in CHARTS if c.square], ids=str)
def test_a_geodesic_starts_with_its_velocity_and_keeps_its_speed(case: ChartCase) -> None:
    X, x = space(case)
    v = 0.01 * torch.randn_like(x)
    z0, z1, z2 = (X.coords(X.geodesic(x, v, t)) for t in (0.0, 0.5, 1.0))
    agree(z0, X.coords(x), ROUND_TRIP)
    agree(z1 - z0, z2 - z1, ROUND_TRIP)
    flat = v.reshape(len(v), -1)
    agree((z2 - z0).square().sum(-1), torch.einsum("bi,bij,bj->b", flat, X.metric(x), flat), ROUND_TRIP)
    h = 1e-4
    velocity = (X.geodesic(x, v, h) - X.geodesic(x, v, -h)) / (2 * h)
    assert torch.allclose(velocity, v, atol=1e-6)


def test_on_the_positive_numbers_a_geodesic_is_an_exponential() -> None:
    X, x, v = InducedSpace(Log((1,))), torch.tensor([2.0]).double(), torch.tensor([3.0]).double()
    agree(X.geodesic(x, v, 0.7), x * torch.exp(v / x * 0.7))


# ------------------------------------------------------------------------------------------------------ principal components
@every_chart
def test_principal_components_are_those_of_the_coordinates(case: ChartCase) -> None:
    X, _ = space(case)
    g = X.chart
    x = case.points(g, (40,))
    k = min(2, X.dim)
    found = principal_components(X, x, k)
    z = X.coords(x).numpy()
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T)))
    agree(found.variances, torch.from_numpy(values[::-1][:k].copy()), ROUND_TRIP)
    agree(X.coords(found.mean), torch.from_numpy(z.mean(0)), ROUND_TRIP)
    top = torch.from_numpy(vectors[:, ::-1][:, :k].copy())
    agree(found.subspace.Q @ found.subspace.Q.mT, top @ top.mT, ROUND_TRIP * 100)
    if k == X.dim:
        agree(X.coords(found.point(found.coords(x))), X.coords(x), ROUND_TRIP)


def test_no_other_direction_explains_more() -> None:
    X = flow(4)
    x = X.sample(30)
    best = principal_components(X, x, 1)
    error = X.distance(x, best.point(best.coords(x))).square().sum()
    centred = X.coords(x) - X.coords(best.mean)
    for _ in range(20):
        q = torch.nn.functional.normalize(best.subspace.Q[:, 0] + 0.1 * torch.randn(4).double(), dim=0)
        assert (centred - (centred @ q)[:, None] * q).square().sum() >= error * (1 - 1e-12)


@pytest.mark.parametrize("size", [1e-16, 1.0, 1e18])
def test_variances_of_many_float32_points_are_right(size: float) -> None:
    x = torch.randn(200_000, 3) * torch.tensor([1.0, 0.1, 1e-3]) * size
    found = principal_components(EuclideanSpace(3), x)
    z = x.double().numpy()
    values = torch.from_numpy(np.linalg.eigvalsh(np.cov(z.T))[::-1].copy())
    assert found.variances.dtype == found.subspace.Q.dtype == torch.float32
    assert (found.variances.double() / values - 1).abs().max() < 1e-6
    # the counterexample: the singular values of the float32 block
    s = torch.linalg.svdvals(x - x.mean(0)) ** 2 / (len(x) - 1)
    assert (s.double() / values - 1).abs().max() > 1e-6


def test_directions_of_nearly_equal_variance_are_known_as_badly_as_rounding_tells_them_apart() -> None:
    U = torch.randn(100, 3).double()
    U = torch.linalg.qr(U - U.mean(0))[0]  # orthonormal and of mean 0
    for gap in (1e-2, 1e-8, 1e-12):
        x = U * torch.tensor([1.0, 1.0 - gap, 0.1], dtype=torch.float64)
        one, two = (principal_components(EuclideanSpace(3), x, k).subspace for k in (1, 2))
        assert 1e-17 / gap < one.accuracy < 1e-14 / gap + 1e-14 and two.accuracy < 1e-14
        assert abs(float(one.Q[1])) <= 10 * one.accuracy


def test_components_of_few_points() -> None:
    X = InducedSpace(Log((3,)))
    one = principal_components(X, torch.ones(1, 3).double() * 2)
    assert one.variances.tolist() == [0.0]
    agree(one.mean, torch.full((3,), 2.0).double())
    assert "PrincipalComponents(1 of 3" in repr(one)
    assert principal_components(X, torch.rand(2, 3).double() + 0.5).subspace.dim == 1
