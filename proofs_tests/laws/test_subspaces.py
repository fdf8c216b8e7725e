"""Subspaces, orthonormal bases, metric and principal components; the oracle is linear algebra of coordinates in numpy."""

import copy
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, ProductSpace, Subspace
from induced.bijections import Affine, Arctanh, Log, Simplex, Sinh, real_nvp
from induced.checks import check_adjoint, check_linear, check_penrose, check_powers, check_space, check_svd, require
from induced.errors import LawViolation
from induced.operators import Dense, Diagonal, Householder
from induced.operators.bases import orthonormal_columns
from induced.strategies import points
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
    Q = orthonormal_columns(Z).Q
    assert Q.shape == (n, r)
    agree(Q.mT @ Q, torch.eye(r, dtype=dtype))
    agree(Q @ (Q.mT @ Z), Z)


def test_independent_columns_are_orthonormalized_in_their_order() -> None:
    Z = torch.randn(6, 4).double()
    Q = orthonormal_columns(Z).Q
    R = Q.mT @ Z
    agree(R.tril(-1), torch.zeros(4, 4).double())
    assert (R.diagonal() > 0).all()


def test_the_cutoff_of_a_basis_decides_what_is_dependent() -> None:
    Z = torch.tensor([[1.0, 1.0], [0.0, 1e-3]]).double()
    assert orthonormal_columns(Z).Q.shape[1] == 2
    assert orthonormal_columns(Z, rtol=1e-2).Q.shape[1] == 1


def test_a_column_that_depends_on_earlier_ones_does_not_turn_the_later_ones() -> None:
    Z = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]).double()
    Q = orthonormal_columns(Z).Q
    agree(Q.abs(), torch.eye(3).double()[:, [0, 2]])


@pytest.mark.parametrize("tall", [True, False])
def test_a_million_samples_in_float32_hide_no_direction(tall: bool) -> None:
    x = torch.randn(1_000_000, 3) * torch.tensor([1.0, 0.3, 0.05])
    Z = x if tall else x.mT
    Q = orthonormal_columns(Z).Q
    assert Q.shape == (len(Z), 3)
    agree((Q.double().mT @ Q.double()).float(), torch.eye(3))
    assert Subspace.span(EuclideanSpace(3), x).dim == 3
    # the counterexample: a cut-off of eps times the number of samples
    assert orthonormal_columns(Z, rtol=torch.finfo(x.dtype).eps * max(Z.shape)).Q.shape[1] < 3


def test_a_million_samples_of_a_plane_have_rank_2_in_float32() -> None:
    x = torch.randn(1_000_000, 2, dtype=torch.float64) @ torch.randn(2, 3, dtype=torch.float64)
    assert orthonormal_columns(x.float()).Q.shape[1] == Subspace.span(EuclideanSpace(3), x.float()).dim == 2
    assert orthonormal_columns(x).Q.shape[1] == Subspace.span(EuclideanSpace(3), x).dim == 2


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
    assert torch.autograd.gradcheck(lambda a: orthonormal_columns(a).Q, Z)


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
    agree(W.distance_to(x), (z - z @ P).norm(dim=-1), ROUND_TRIP)
    assert bool(W.contains(W.project(x)).all())
    assert bool(W.contains(x[0]))


@every_chart
def test_a_point_off_the_subspace_is_no_member(case: ChartCase) -> None:
    X, x = space(case)
    if X.dim > 2:
        W = Subspace.span(X, x[:2])
        assert W.contains(x).tolist() == [True, True, False, False, False]
        assert not W.complement().contains(x).any()


@pytest.mark.parametrize("size", [1.0, 1e5, 1e10])
def test_membership_does_not_depend_on_the_points_beside(size: float) -> None:
    W = Subspace.span(EuclideanSpace(2), torch.tensor([[1.0, 0.0]]))
    points = torch.tensor([[3.0, 0.3], [size, 0.0], [3e-8, 3e-9]])
    assert W.contains(points).tolist() == [W.contains(x).item() for x in points] == [False, True, False]


@given(st.integers(1, 6), st.integers(0, 6))
def test_a_subspace_and_its_complement_make_the_space(n: int, k: int) -> None:
    X = flow(n)
    W = Subspace(X, torch.linalg.qr(torch.randn(n, n).double())[0][:, : min(k, n)])
    C = W.complement()
    assert W.dim + C.dim == n
    agree(W.Q @ W.Q.mT + C.Q @ C.Q.mT, torch.eye(n).double())
    x = X.sample(3)
    agree(X.coords(X.add(W.project(x), C.project(x))), X.coords(x), ROUND_TRIP)


def test_coordinates_and_points_of_a_subspace_are_inverse() -> None:
    X = flow(4)
    W = Subspace.span(X, X.sample(2))
    a = torch.randn(3, 2).double()
    agree(W.coords(W.point(a)), a, ROUND_TRIP)
    agree(X.gram(W.basis()), torch.eye(2).double(), ROUND_TRIP)
    assert W.basis().shape == (2, 4) and repr(W).startswith("Subspace(dim=2 of 4")
    x = X.sample(3)
    agree(W.coords(x), W.coords(W.project(x)), ROUND_TRIP)  # points off the subspace are projected


def test_a_subspace_is_itself_with_its_basis_and_its_space() -> None:
    X = flow(3)
    Q = torch.eye(3).double()[:, :2]
    W, V = Subspace(X, Q), Subspace(X, Q)
    assert W == W and hash(W) == hash(W) and W != V and W != X
    assert Subspace(X, W.frame) == W != Subspace(flow(3), W.frame)
    assert Linearizer(torch.eye(2).double(), W).domain == W
    again = copy.deepcopy(W)
    assert again == again != W
    agree(again.Q, Q)


def test_the_state_of_a_subspace_is_that_of_its_space_and_its_basis() -> None:
    X = flow(3)
    W = Subspace(X, torch.eye(3).double()[:, :2])
    state = W.state_dict()
    assert [key for key in state if not key.startswith("space.")] == ["frame.A"]
    assert {key.removeprefix("space.") for key in state} - {"frame.A"} == set(X.state_dict())
    assert len(list(W.parameters())) == len(list(X.parameters())) and not W.frame.A.requires_grad
    W.float()
    assert W.Q.dtype == W.zero().dtype == W.sample(2).dtype == torch.float32 and W.accuracy >= 1e-7


def test_the_image_of_a_map_with_trained_reflections_is_a_space() -> None:
    V = torch.nn.Parameter(torch.randn(2, 4).double())
    W = Linearizer(Householder(V) @ Dense(torch.randn(4, 2).double()), EuclideanSpace(2), EuclideanSpace(4)).image()
    U = Linearizer(Householder(V) @ Diagonal(torch.tensor([1.0, 0, 1, 0]).double()), EuclideanSpace(4)).image()
    with torch.no_grad():
        require(check_space(W, W.sample(4)), check_space(U, U.sample(4)))
        assert W.dim == U.dim == 2 and (U.complement() & U).dim == 0 and (U + U.complement()).dim == 4


def test_check_space_rejects_points_off_the_subspace() -> None:
    W = Subspace(EuclideanSpace(3), torch.eye(3).double()[:, :2])
    on, off = torch.eye(3).double()[:2], torch.ones(3, 3).double()
    require(check_space(W, on))
    with pytest.raises(LawViolation, match=r"1 of \d+ laws do not hold:\n.*scalar identity: 1 x = x"):
        require(check_space(W, off))


@given(st.data())
def test_points_of_a_subspace_lie_in_it(data: st.DataObject) -> None:
    X = flow(4)
    W = Subspace(X, torch.linalg.qr(torch.randn(4, 2).double())[0])
    x = data.draw(points(W))
    assert x.shape == (5, 4) and bool(W.contains(x).all())


def test_the_metric_and_the_geodesics_of_a_subspace_are_those_of_its_space() -> None:
    X = flow(4)
    W = Subspace(X, torch.linalg.qr(torch.randn(4, 2).double())[0])
    x = W.sample(5)
    # tangent vectors of W: velocities of its curves
    v = torch.func.jvp(W.point, (W.coords(x),), (torch.randn(5, 2).double(),))[1]
    G = W.metric(x)
    assert G.shape == (5, 4, 4) and (torch.linalg.matrix_rank(G) == 2).all()
    speed2 = torch.einsum("bi,bij,bj->b", v, G, v)
    agree(speed2, torch.einsum("bi,bij,bj->b", v, X.metric(x), v), ROUND_TRIP)
    agree(W.geodesic(x, v, 0.7), X.geodesic(x, v, 0.7), ROUND_TRIP)
    assert bool(W.contains(W.geodesic(x, v, 0.7)).all())


# ------------------------------------------------------------------------------------------------------- maps of subspaces
def test_a_subspace_lies_in_its_space_and_the_space_is_projected_onto_it() -> None:
    X = flow(4)
    W = Subspace.span(X, X.sample(2))
    i = Linearizer.inclusion(W)
    x, w = X.sample(3), W.sample(3)
    agree(i(w), w, ROUND_TRIP)
    agree((i.H @ i).core.matrix(), torch.eye(2).double())
    agree((i @ i.H)(x), Linearizer.projection(W)(x), ROUND_TRIP)
    agree(i.H(x), W.project(x), ROUND_TRIP)
    require(check_adjoint(i, w, x), check_linear(i.H, x), check_penrose(i, w, x))


@pytest.mark.parametrize("held", ["basis", "complement"])
def test_a_map_is_restricted_to_its_dominant_eigenspace(held: str) -> None:
    X, n = flow(6), 6
    V = torch.linalg.qr(torch.randn(n, n).double())[0]
    values = torch.tensor([3.0, -2.0, 1.0, 0.5, 0.2, 0.1]).double()
    f = Linearizer(V @ torch.diag(values) @ V.mT, X)
    W = Subspace(X, V[:, :4]) if held == "basis" else Subspace(X, V[:, 4:]).complement()
    i = Linearizer.inclusion(W)
    r = i.H @ f @ i
    x = W.sample(3)
    assert r.domain == r.codomain == W and r.core.shape == (4, 4)
    agree(r(x), f(x), ROUND_TRIP)
    agree(r.spectrum().values.real.sort().values, torch.tensor([-2.0, 0.5, 1.0, 3.0]).double(), 100)
    agree((r.exp() @ r)(x), (f.exp() @ f)(x), ROUND_TRIP)
    require(check_linear(r, x), check_powers(r, x), check_svd(r))
    # the counterexample: another subspace is not mapped into itself, and has a compression only
    j = Linearizer.inclusion(Subspace(X, torch.linalg.qr(torch.randn(n, 4).double())[0]))
    y = j.domain.sample(3)
    assert X.distance((j.H @ f @ j)(y), f(y)).min() > 1e-2


def test_a_map_of_a_subspace_is_differentiated_compiled_mapped_and_exported() -> None:
    X = flow(4)
    f = Linearizer(torch.randn(2, 2).double(), Subspace(X, torch.linalg.qr(torch.randn(4, 2).double())[0]))
    x = f.domain.sample(3)
    expected = f(x)
    agree(torch.func.vmap(f)(x), expected)
    agree(torch.compile(f, fullgraph=True, backend="eager")(x), expected)
    agree(torch.export.export(f, (x,)).module()(x), expected)
    J = torch.func.jacrev(f)(x[0])
    agree(J @ torch.ones(4).double(), torch.func.jvp(f, (x[0],), (torch.ones(4).double(),))[1], ROUND_TRIP)
    assert torch.linalg.matrix_rank(J) == 2


@pytest.mark.parametrize("X", [EuclideanSpace(3), flow(3)])
def test_a_span_has_every_derivative_of_torch_func(X: HilbertSpace) -> None:
    p, x = torch.randn(2, 3).double(), torch.randn(3).double()

    def spanned(p: Tensor) -> Tensor:
        return X.coords(Subspace.span(X, p).project(x))

    def normal(p: Tensor) -> Tensor:
        Z = X.coords(p)
        return Z.mT @ torch.linalg.solve(Z @ Z.mT, Z @ X.coords(x))

    for derivative in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        agree(derivative(spanned)(p), derivative(normal)(p), 1e4)


def test_membership_and_roundings_are_mapped_and_compiled() -> None:
    W = Subspace(flow(4), torch.linalg.qr(torch.randn(4, 2).double())[0])
    x = torch.cat([W.sample(2), W.space.sample(2)])
    assert W.contains(x).tolist() == [True, True, False, False]
    assert torch.equal(torch.compile(W.contains, fullgraph=True, backend="eager")(x), W.contains(x))
    for of in (W.contains, W.roundings, W.point_roundings):
        torch.testing.assert_close(torch.func.vmap(of)(x), of(x), rtol=1e-6, atol=0)


def test_a_span_has_the_rank_of_its_points() -> None:
    X = InducedSpace(Log((3,)))
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 9.0], [2.0, 2.0, 2.0]]).double()
    assert Subspace.span(X, x).dim == 2  # the second is the square of the first
    assert Subspace.span(X, torch.ones(4, 3).double()).dim == 0  # ones are the zero vector
    assert Subspace.span(X, x[:0]).dim == 0


@pytest.mark.parametrize("outside", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 3), (3, 3), (0, 2), (5, 2), (2, 5), (5, 5), (6, 1)])
def test_principal_angles_are_those_of_scipy(k: int, m: int, outside: tuple[bool, bool]) -> None:
    X, A, B = EuclideanSpace(6), np.random.default_rng(0).normal(size=(6, k)), np.random.default_rng(1).normal(size=(6, m))
    V, W = (
        held(X, torch.linalg.qr(torch.from_numpy(M))[0], out, torch.float64, 0.0) for M, out in zip((A, B), outside, strict=True)
    )
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
    agree(sum([V, W, V]).projector().matrix(), (V + W).projector().matrix())  # type: ignore[union-attr]


def held(X: HilbertSpace, Q: Tensor, outside: bool, dtype: torch.dtype, mix: float) -> Subspace:
    """The span of orthonormal columns of condition 10^mix in a dtype, as itself or as a complement of the others."""
    Z = torch.linalg.qr(Q, mode="complete")[0][:, Q.shape[1] :] if outside else Q
    k = Z.shape[1]
    Z = Z @ (torch.linalg.qr(torch.randn(k, k).double())[0] * torch.logspace(0, -mix, k).double())
    Z = Z @ torch.linalg.qr(torch.randn(k, k).double())[0]
    W = Subspace.span(X, Z.mT.to(dtype))
    return W.complement() if outside else W


def gap(W: Subspace, Q: Tensor) -> float:
    """The sine of the largest angle between a subspace and the span of as many orthonormal columns, by numpy."""
    assert W.dim == Q.shape[1]
    P, B = np.linalg.qr(W.Q.double().numpy())[0], Q.numpy()
    return float(np.linalg.norm(P - B @ (B.T @ P), 2)) if W.dim else 0.0


@given(st.data())
def test_sums_and_intersections_are_those_of_the_true_subspaces(data: st.DataObject) -> None:
    dtype, mix = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from((0.0, 1.0, 3.0)))
    n = data.draw(st.sampled_from((3, 8, 30)))
    a, b, c = (data.draw(st.integers(0, n)) for _ in range(3))
    a, b, c = a % (n + 1), b % (n + 1 - a % (n + 1)), 0 if a + b >= n else c % (n - a - b + 1)
    own, other = data.draw(st.booleans()), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    # orthonormal vectors that W alone has, that V alone has, and that both have; V's own ones lean towards W by 60 degrees
    T = torch.linalg.qr(torch.randn(n, n).double())[0]
    A, B, C = T[:, :a], T[:, a : a + b], T[:, a + b : a + b + c]
    tilted, m = B.clone(), min(a, b)
    tilted[:, :m] = 0.5 * B[:, :m] + 0.75**0.5 * A[:, :m]
    X = EuclideanSpace(n)
    W = held(X, torch.cat([A, C], -1), own, dtype, mix)
    V = held(X, torch.cat([tilted, C], -1), other, dtype, mix)
    total, shared = W + V, W & V
    assert (W.dim, V.dim, total.dim, shared.dim) == (a + c, b + c, a + b + c, c)
    assert ((V + W).dim, (V & W).dim) == (a + b + c, c)
    # each is as near to the true one as it says, and does not say much more than rounding explains
    for found, true in ((W, [A, C]), (V, [tilted, C]), (total, [A, B, C]), (shared, [C])):
        Q = torch.cat(true, -1)
        assert gap(found, Q) <= found.accuracy <= 1000 * n * 10**mix * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_dimension_formula_holds_at_every_angle_and_cutoff(dtype: torch.dtype) -> None:
    n, k = 12, 5
    X, T = EuclideanSpace(n), torch.linalg.qr(torch.randn(12, 12).double())[0]
    for power in range(-18, 0, 3):
        sines = torch.full((k,), 10.0**power).double() * torch.rand(k).double()
        turned = T[:, :k] * (1 - sines**2).sqrt() + T[:, k : 2 * k] * sines
        W, V = Subspace(X, T[:, :k].to(dtype)), Subspace(X, torch.linalg.qr(turned)[0].to(dtype))
        for one, other in ((W, V), (W.complement(), V), (W, V.complement()), (W.complement(), V.complement())):
            for rtol in (None, max(1e-13, 10.0**power / 2)):
                assert one.sum(other, rtol).dim + one.intersection(other, rtol).dim == one.dim + other.dim
                assert other.sum(one, rtol).dim == one.sum(other, rtol).dim


def test_sines_tell_directions_apart_that_cosines_do_not() -> None:
    X = EuclideanSpace(2)
    W, V = (Subspace(X, torch.tensor([[1.0], [s]]).double()) for s in (0.0, 1e-9))
    assert ((W & V).dim, (W + V).dim) == (0, 2)
    assert ((W.intersection(V, rtol=1e-8)).dim, (W.sum(V, rtol=1e-8)).dim) == (1, 1)
    # the counterexample: the cosine of 1e-9 is 1
    assert float(W.Q.mT @ V.Q) == 1.0


def test_a_basis_known_to_few_digits_merges_what_it_cannot_tell_apart() -> None:
    X = EuclideanSpace(3)
    W, V = (Subspace.span(X, torch.tensor([[1.0, s, 0.0]]).double()) for s in (0.0, 1e-6))
    U = Subspace(X, V.frame, accuracy=1e-5)
    assert (W & V).dim == 0 and (W & U).dim == 1 and U.complement().accuracy == 1e-5
    assert bool(U.contains(W.basis()).all()) and not bool(V.contains(W.basis()).any())
    # orthogonal directions stay apart even where nothing is known
    blind = Subspace(X, torch.eye(3).double()[:, 1:2], accuracy=1.0)
    assert (blind & W).dim == 0 and (blind + W).dim == 2


def test_kernels_of_equivalent_maps_are_the_same_whatever_their_condition() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        A = torch.randn(5, 8).double()
        B = torch.linalg.qr(torch.randn(5, 5).double())[0] * torch.logspace(0, -6, 5).double()
        f, h = (
            Linearizer(M, EuclideanSpace(8)) if len(M) == 8 else Linearizer(M, EuclideanSpace(8), EuclideanSpace(5))
            for M in (A, B @ A)
        )
        assert (f.kernel() & h.kernel()).dim == (f.kernel() + h.kernel()).dim == 3
        assert (f.H.image() & h.H.image()).dim == (f.H.image() + h.H.image()).dim == 5
        # the counterexample: bases taken to be exact
        exact = [Subspace(g.domain, g.kernel().frame) for g in (f, h)]
        assert (exact[0] & exact[1]).dim < 3


SPANNED = {
    "R^8": lambda: EuclideanSpace(8),
    "Log": lambda: InducedSpace(Log((8,))),
    "Sinh": lambda: InducedSpace(Sinh((8,))),
    "Simplex": lambda: InducedSpace(Simplex(9)),
    "flow": lambda: InducedSpace(shaken(real_nvp(8, 4, 16))),
}


@every_dtype
@pytest.mark.parametrize("kind", SPANNED)
def test_combinations_of_points_span_what_the_points_span(kind: str, dtype: torch.dtype) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        X = SPANNED[kind]().to(dtype).requires_grad_(False)
        p = X.sample(3, dtype=dtype)
        q = torch.stack([X.combine(torch.nn.functional.normalize(torch.randn(3, dtype=dtype), dim=0), p) for _ in range(3)])
        W, V = Subspace.span(X, p), Subspace.span(X, q)
        assert [U.dim for U in (W, V, W + V, W & V, Subspace.span(X, torch.cat([p, q])))] == [3] * 5
        assert bool(W.contains(q).all()) and bool(V.contains(W.basis()).all())
        assert not bool(W.contains(X.sample(3, dtype=dtype)).any())


def test_gradients_of_a_sum_are_those_at_its_dimension() -> None:
    X, z = EuclideanSpace(6), torch.randn(4, 6).double().requires_grad_()

    def projector(z: Tensor) -> Tensor:
        W, V = Subspace.span(X, z[:2]), Subspace.span(X, torch.stack([z[0] + z[1], z[2], z[3]]))
        assert (W + V).dim == 4
        return (W + V).projector().matrix()

    assert torch.autograd.gradcheck(projector, z, atol=1e-5)


def test_membership_judges_relative_to_a_given_tolerance() -> None:
    W = Subspace.span(EuclideanSpace(2), torch.tensor([[1.0, 0.0]]).double())
    x = torch.tensor([1.0, 1e-3]).double()
    assert bool(W.contains(x, tolerance=1e-2)) and not bool(W.contains(x, tolerance=1e-4))
    assert W.contains(torch.zeros(0, 2).double()).shape == (0,)
    assert W.roundings(x, torch.zeros(0, 1).double()) == 0


@every_dtype
def test_membership_of_a_point_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    for X in (EuclideanSpace(3), InducedSpace(shaken(real_nvp(3, 4, 8)).to(dtype).requires_grad_(False))):
        W = Subspace(X, torch.linalg.qr(torch.randn(3, 2).double())[0].to(dtype))
        # from clearly inside to clearly outside, of all sizes
        z = W.Q.mT.repeat(20, 1) * torch.logspace(-3, 0.5, 40, dtype=dtype)[:, None]
        z = z + torch.logspace(-18, 0, 40, dtype=dtype)[:, None] * W.complement().Q.mT
        x = X.point(z)
        together, order = W.contains(x), torch.randperm(40)
        assert together.any() and not together.all()
        assert torch.equal(W.contains(x[order]), together[order])
        assert W.contains(x.reshape(8, 5, 3)).flatten().tolist() == together.tolist() == [bool(W.contains(p)) for p in x]
    # the counterexample: the largest point of a batch set the scale for all
    E, p = Subspace(EuclideanSpace(2), torch.tensor([[1.0], [0.0]], dtype=dtype)), torch.tensor([[3.0, 0.3]], dtype=dtype)
    assert not any(E.contains(torch.cat([p, p.new_tensor([[10.0**k, 0.0]])]))[0] for k in range(0, 20, 2))


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
    factors = [F for F in X.factors if isinstance(F, HilbertSpace)]
    parts = [F.add(a, b) for F, a, b in zip(factors, X.split(x), X.split(y), strict=True)]
    agree(X.add(x, y), X.join(*parts))
    inner = (F.inner(a, b) for F, a, b in zip(factors, X.split(x), X.split(y), strict=True))
    agree(X.inner(x, y), sum(inner, torch.zeros(()).double()))


def test_products_of_equal_factors_are_equal() -> None:
    F, E = flow(2), EuclideanSpace(2)
    assert ProductSpace(F, E) == ProductSpace(F, EuclideanSpace(2))
    assert hash(ProductSpace(F, E)) == hash(ProductSpace(F, E))
    assert ProductSpace(F, E) != ProductSpace(E, F)
    assert repr(ProductSpace(E, E)) == "ProductSpace(EuclideanSpace((2,)), EuclideanSpace((2,)))"


def test_the_rounding_of_a_product_sees_each_factor() -> None:
    bad = InducedSpace(Affine((1,), shift=-1e6) @ Affine((1,), shift=1e6))
    x = torch.ones(3, 2).double()
    assert ProductSpace(EuclideanSpace(1), bad).point_roundings(x).min() > 1e5
    assert ProductSpace(EuclideanSpace(1), bad).roundings(x, torch.tensor([[1.0, 0.0]]).double()).max() < 10


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
