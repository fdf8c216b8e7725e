"""Subspaces of induced spaces, their projections, and maps restricted to them."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, Linearizer, Subspace
from induced.checks import check_adjoint, check_linear, check_penrose, check_powers, check_space, check_svd, require
from induced.errors import LawViolation
from induced.operators import Dense, Diagonal, Householder
from induced.strategies import points
from proofs_tests.laws.charted import ROUND_TRIP, every_chart, every_dtype, flow, space
from proofs_tests.registry import ChartCase, agree


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
