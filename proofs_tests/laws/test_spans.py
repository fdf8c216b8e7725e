"""Orthonormal bases, spans, principal angles, sums and intersections of subspaces."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, Subspace
from induced.bijections import Log, Simplex, Sinh, real_nvp
from induced.operators.bases import orthonormal_columns
from proofs_tests.laws.charted import ROUND_TRIP, every_chart, every_dtype, flow, space
from proofs_tests.registry import DTYPES, ChartCase, agree, shaken


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


# ------------------------------------------------------------------------------------------------------- maps of subspaces
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
