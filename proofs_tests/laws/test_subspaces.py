"""Subspaces, orthonormal bases, metric and principal components; the oracle is linear algebra of coordinates in numpy."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, ProductSpace, Subspace
from induced.bijections import Affine, Arctanh, Log, Sinh, real_nvp
from induced.checks import check_space, require
from induced.operators.bases import orthonormal_columns
from induced.subspaces import principal_components
from proofs_tests.registry import CHARTS, DTYPES, ChartCase, agree, shaken

every_chart = pytest.mark.parametrize("case", CHARTS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
ROUND_TRIP = 1e3
"""Condition of going through the registry's charts and back."""


def space(case: ChartCase, dtype: torch.dtype = torch.float64) -> tuple[InducedSpace, Tensor]:
    """The space of a chart with gradients off, and five points."""
    g = case.make(dtype).requires_grad_(False)
    return InducedSpace(g), case.points(g, (5,), dtype)


def flow(dim: int) -> InducedSpace:
    return InducedSpace(shaken(real_nvp(dim, 2, 8)).double().requires_grad_(False))


# ------------------------------------------------------------------------------------------------------ orthonormal columns
@every_dtype
@pytest.mark.parametrize(
    ("n", "k", "r"), [(5, 3, 3), (5, 5, 5), (3, 5, 3), (6, 4, 2), (4, 4, 1), (1, 1, 1), (4, 3, 0), (4, 0, 0)]
)
def test_an_orthonormal_basis_spans_the_columns_and_has_their_rank(n: int, k: int, r: int, dtype: torch.dtype) -> None:
    Z = (torch.randn(n, r).double() @ torch.randn(r, k).double()).to(dtype)
    Q = orthonormal_columns(Z)
    assert Q.shape == (n, r)
    agree(Q.mT @ Q, torch.eye(r, dtype=dtype))
    agree(Q @ (Q.mT @ Z), Z)


def test_independent_columns_are_orthonormalized_in_their_order() -> None:
    Z = torch.randn(6, 4).double()
    Q = orthonormal_columns(Z)
    R = Q.mT @ Z
    agree(R.tril(-1), torch.zeros(4, 4).double())
    assert (R.diagonal() > 0).all()


def test_the_cutoff_of_a_basis_decides_what_is_dependent() -> None:
    Z = torch.tensor([[1.0, 1.0], [0.0, 1e-3]]).double()
    assert orthonormal_columns(Z).shape[1] == 2
    assert orthonormal_columns(Z, rtol=1e-2).shape[1] == 1


def test_a_column_that_depends_on_earlier_ones_does_not_turn_the_later_ones() -> None:
    Z = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]).double()
    Q = orthonormal_columns(Z)
    agree(Q.abs(), torch.eye(3).double()[:, [0, 2]])


@pytest.mark.parametrize("tall", [True, False])
def test_a_million_samples_in_float32_hide_no_direction(tall: bool) -> None:
    x = torch.randn(1_000_000, 3) * torch.tensor([1.0, 0.3, 0.05])
    Z = x if tall else x.mT
    Q = orthonormal_columns(Z)
    assert Q.shape == (len(Z), 3)
    agree((Q.double().mT @ Q.double()).float(), torch.eye(3))
    assert Subspace.span(EuclideanSpace(3), x).dim == 3
    # the counterexample: a cut-off of eps times the number of samples
    assert orthonormal_columns(Z, rtol=torch.finfo(x.dtype).eps * max(Z.shape)).shape[1] < 3


def test_a_million_samples_of_a_plane_have_rank_2_in_float32() -> None:
    x = torch.randn(1_000_000, 2, dtype=torch.float64) @ torch.randn(2, 3, dtype=torch.float64)
    assert orthonormal_columns(x.float()).shape[1] == Subspace.span(EuclideanSpace(3), x.float()).dim == 2
    assert orthonormal_columns(x).shape[1] == Subspace.span(EuclideanSpace(3), x).dim == 2


@every_chart
def test_orthonormalized_points_are_orthonormal_and_span_the_points(case: ChartCase) -> None:
    X, x = space(case)
    x = x[: min(3, X.dim)]
    q = X.orthonormalize(x)
    zx, zq = X.coords(x), X.coords(q)
    agree(X.gram(q), torch.eye(len(q)).double(), ROUND_TRIP)
    agree((zx @ zq.mT) @ zq, zx, ROUND_TRIP)
    if X.norm(x[0]) > 1e-9:
        agree(X.coords(q[0]), zx[0] / zx[0].norm(), ROUND_TRIP)


def test_points_without_direction_give_an_empty_basis() -> None:
    X = flow(3)
    assert X.orthonormalize(X.zero(2, dtype=torch.float64), rtol=1e-9).shape in {(0, 3), (1, 3)}
    assert EuclideanSpace(3).orthonormalize(torch.zeros(2, 3)).shape == (0, 3)
    assert EuclideanSpace(3).orthonormalize(torch.zeros(0, 3)).shape == (0, 3)


def test_gradients_of_an_orthonormal_basis_are_those_of_gram_schmidt() -> None:
    Z = torch.randn(5, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: orthonormal_columns(a), Z)


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


# ---------------------------------------------------------------------------------------------------------------- Subspace
@every_dtype
@every_chart
def test_the_projection_is_idempotent_orthogonal_and_nearest(case: ChartCase, dtype: torch.dtype) -> None:
    X, x = space(case, dtype)
    W = Subspace.span(X, x[: max(1, X.dim // 2)][:2])
    P = W.Q @ W.Q.mT
    z = X.coords(x)
    projected = X.coords(W.project(x))
    agree(projected, z @ P, ROUND_TRIP)
    agree(X.coords(W.project(W.project(x))), projected, ROUND_TRIP)
    agree(X.coords(W.residual(x)), z - z @ P, ROUND_TRIP)
    agree(X.coords(W.residual(x)) @ projected.mT, torch.zeros(5, 5, dtype=dtype), ROUND_TRIP * float(z.norm()))
    agree(W.distance(x), (z - z @ P).norm(dim=-1), ROUND_TRIP)
    assert bool(W.contains(W.project(x)).all())
    assert bool(W.contains(x[0]))


@every_chart
def test_a_point_off_the_subspace_is_no_member(case: ChartCase) -> None:
    X, x = space(case)
    if X.dim > 2:
        W = Subspace.span(X, x[:2])
        assert W.contains(x).tolist() == [True, True, False, False, False]
        assert not W.complement().contains(x).any()


@given(st.integers(1, 6), st.integers(0, 6))
def test_a_subspace_and_its_complement_make_the_space(n: int, k: int) -> None:
    X = flow(n)
    W = Subspace(X, torch.linalg.qr(torch.randn(n, n).double())[0][:, : min(k, n)])
    C = W.complement()
    assert W.dim + C.dim == n
    agree(W.Q @ W.Q.mT + C.Q @ C.Q.mT, torch.eye(n).double())
    x = X.sample(3)
    agree(X.coords(X.add(W.project(x), C.project(x))), X.coords(x), ROUND_TRIP)


def test_coefficients_and_elements_are_inverse() -> None:
    X = flow(4)
    W = Subspace.span(X, X.sample(2))
    a = torch.randn(3, 2).double()
    agree(W.coefficients(W.element(a)), a, ROUND_TRIP)
    agree(X.gram(W.basis()), torch.eye(2).double(), ROUND_TRIP)
    assert W.basis().shape == (2, 4) and repr(W).startswith("Subspace(dim=2 of 4")


def test_a_span_has_the_rank_of_its_points() -> None:
    X = InducedSpace(Log((3,)))
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 9.0], [2.0, 2.0, 2.0]]).double()
    assert Subspace.span(X, x).dim == 2  # the second is the square of the first
    assert Subspace.span(X, torch.ones(4, 3).double()).dim == 0  # ones are the zero vector
    assert Subspace.span(X, x[:0]).dim == 0


@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 3), (3, 3), (0, 2)])
def test_principal_angles_are_those_of_scipy(k: int, m: int) -> None:
    X, A, B = EuclideanSpace(6), np.random.default_rng(0).normal(size=(6, k)), np.random.default_rng(1).normal(size=(6, m))
    V, W = (Subspace.span(X, torch.from_numpy(M.T.copy())) for M in (A, B))
    expected = np.sort(scipy.linalg.subspace_angles(A, B)) if k else np.zeros(0)
    agree(V.angles(W), torch.from_numpy(expected.copy()))
    agree(V.angles(V), torch.zeros(k).double())


def test_a_small_angle_keeps_its_digits() -> None:
    X = EuclideanSpace(2)
    V, W = Subspace.span(X, torch.tensor([[1.0, 0.0]]).double()), Subspace.span(X, torch.tensor([[1.0, 1e-10]]).double())
    assert float(V.angles(W)) == pytest.approx(1e-10, rel=1e-12)


def test_sums_and_intersections_of_coordinate_planes() -> None:
    X, E = EuclideanSpace(4), torch.eye(4).double()
    V, W = Subspace.span(X, E[:2]), Subspace.span(X, E[1:3])
    agree((V + W).projector().matrix(), torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0]).double()))
    agree((V & W).projector().matrix(), torch.diag(torch.tensor([0.0, 1.0, 0.0, 0.0]).double()))
    assert (V & Subspace.span(X, E[2:])).dim == 0
    assert (V & V).dim == V.dim


def test_membership_judges_relative_to_a_given_tolerance() -> None:
    W = Subspace.span(EuclideanSpace(2), torch.tensor([[1.0, 0.0]]).double())
    x = torch.tensor([1.0, 1e-3]).double()
    assert bool(W.contains(x, tolerance=1e-2)) and not bool(W.contains(x, tolerance=1e-4))
    assert W.contains(torch.zeros(0, 2).double()).shape == (0,)


# ------------------------------------------------------------------------------------------------------------- ProductSpace
def product() -> ProductSpace:
    return ProductSpace(flow(3), EuclideanSpace((2, 2)), InducedSpace(Sinh(())))


def test_a_product_is_a_hilbert_space() -> None:
    X = product()
    assert (X.shape, X.dim) == ((8,), 8)
    with torch.no_grad():
        require(check_space(X, torch.randn(5, 8).double()))


def test_operations_of_a_product_are_those_of_its_factors() -> None:
    X = product()
    x, y = torch.randn(4, 8).double(), torch.randn(4, 8).double()
    assert [p.shape for p in X.split(x)] == [(4, 3), (4, 2, 2), (4,)]
    agree(X.join(*X.split(x)), x)
    parts = [F.add(a, b) for F, a, b in zip(X.factors, X.split(x), X.split(y), strict=True)]
    agree(X.add(x, y), X.join(*parts))
    inner = sum(F.inner(a, b) for F, a, b in zip(X.factors, X.split(x), X.split(y), strict=True))
    agree(X.inner(x, y), inner)


def test_products_of_equal_factors_are_equal() -> None:
    F, E = flow(2), EuclideanSpace(2)
    assert ProductSpace(F, E) == ProductSpace(F, EuclideanSpace(2))
    assert hash(ProductSpace(F, E)) == hash(ProductSpace(F, E))
    assert ProductSpace(F, E) != ProductSpace(E, F)
    assert repr(ProductSpace(E, E)) == "ProductSpace(EuclideanSpace((2,)), EuclideanSpace((2,)))"


def test_the_rounding_of_a_product_sees_each_factor() -> None:
    bad = InducedSpace(Affine((1,), shift=-1e6) @ Affine((1,), shift=1e6))
    x = torch.ones(3, 2).double()
    assert ProductSpace(EuclideanSpace(1), bad).rounding(x)[0] > 1e5
    assert ProductSpace(EuclideanSpace(1), bad).rounding(x, torch.tensor([[1.0, 0.0]]).double())[1] < 10


# ------------------------------------------------------------------------------------------------------ principal components
@every_chart
def test_principal_components_are_those_of_the_coordinates(case: ChartCase) -> None:
    X, _ = space(case)
    g = X.chart
    x = case.points(g, (40,))  # type: ignore[arg-type]
    k = min(2, X.dim)
    found = principal_components(X, x, k)
    z = X.coords(x).numpy()
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T)))
    agree(found.variances, torch.from_numpy(values[::-1][:k].copy()), ROUND_TRIP)
    agree(X.coords(found.mean), torch.from_numpy(z.mean(0)), ROUND_TRIP)
    top = torch.from_numpy(vectors[:, ::-1][:, :k].copy())
    agree(found.subspace.Q @ found.subspace.Q.mT, top @ top.mT, ROUND_TRIP * 100)
    if k == X.dim:
        agree(X.coords(found.reconstruct(found.scores(x))), X.coords(x), ROUND_TRIP)


def test_no_other_direction_explains_more() -> None:
    X = flow(4)
    x = X.sample(30)
    best = principal_components(X, x, 1)
    error = X.distance(x, best.reconstruct(best.scores(x))).square().sum()
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


def test_components_of_few_points() -> None:
    X = InducedSpace(Log((3,)))
    one = principal_components(X, torch.ones(1, 3).double() * 2)
    assert one.variances.tolist() == [0.0]
    agree(one.mean, torch.full((3,), 2.0).double())
    assert "PrincipalComponents(1 of 3" in repr(one)
    assert principal_components(X, torch.rand(2, 3).double() + 0.5).subspace.dim == 1
