"""Constrained sets and their classical geometries. Oracles: scikit-bio, pyriemann, scipy, mpmath and closed formulas."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyriemann.geometry.base import logm
from pyriemann.geometry.distance import distance_logeuclid
from pyriemann.geometry.mean import mean_logeuclid
from skbio.stats import composition
from torch import Tensor

from induced import InducedSpace
from induced.bijections import Arctanh, Bijection, InverseSoftplus, Log, Logit, PositiveDefinite, Simplex
from induced.checks import check_bijection, require
from induced.errors import LawViolation
from proofs_tests.registry import DTYPES, agree

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
positive = st.floats(0.05, 20)
probability = st.floats(0.02, 0.98)
velocity = st.floats(-0.95, 0.95, allow_subnormal=False)


def number(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


def compositions(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.rand(shape, dtype=torch.float64) + 0.05
    return (x / x.sum(-1, keepdim=True)).to(dtype)


def definite(*batch: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    A = torch.randn(*batch, n, 2 * n, dtype=torch.float64)
    return (A @ A.mT / n).to(dtype)


# ---------------------------------------------------------------------------------------------------------------- elementwise
@given(positive, positive, st.floats(-3, 3, allow_subnormal=False))
def test_positive_numbers_multiply(x: float, y: float, a: float) -> None:
    X = InducedSpace(Log((1,)))
    assert X.add(number(x), number(y)).item() == pytest.approx(x * y, rel=1e-14)
    assert X.scale(a, number(x)).item() == pytest.approx(x**a, rel=1e-13)
    assert X.distance(number(x), number(y)).item() == pytest.approx(abs(math.log(x / y)), abs=1e-14)


@given(st.lists(positive, min_size=1, max_size=6))
def test_the_mean_of_positive_numbers_is_their_geometric_mean(xs: list[float]) -> None:
    mean = InducedSpace(Log((1,))).mean(torch.tensor(xs, dtype=torch.float64)[:, None])
    assert mean.item() == pytest.approx(float(scipy.stats.gmean(xs)), rel=1e-14)


@given(probability, probability)
def test_probabilities_multiply_their_odds(x: float, y: float) -> None:
    X = InducedSpace(Logit((1,)))
    total = X.add(number(x), number(y)).item()
    assert total / (1 - total) == pytest.approx(x / (1 - x) * (y / (1 - y)), rel=1e-11)
    assert total == pytest.approx(x * y / (x * y + (1 - x) * (1 - y)), rel=1e-13)


@given(velocity, velocity)
def test_collinear_velocities_add_as_in_relativity(x: float, y: float) -> None:
    X = InducedSpace(Arctanh((1,)))
    assert X.add(number(x), number(y)).item() == pytest.approx((x + y) / (1 + x * y), abs=1e-14)


def einstein(u: Tensor, v: Tensor) -> Tensor:
    """The relativistic sum of velocities in the ball."""
    gamma = 1 / (1 - u @ u).sqrt()
    return (u + v / gamma + gamma / (1 + gamma) * (u @ v) * u) / (1 + u @ v)


def test_velocities_of_several_dimensions_are_independent_copies_and_not_the_ball_of_einstein() -> None:
    X = InducedSpace(Arctanh((3,)))
    u, v = torch.tensor([[0.6, 0.1, 0.0], [0.2, 0.5, -0.3]]).double()
    agree(X.add(u, v), (u + v) / (1 + u * v))
    assert (X.add(u, v) - einstein(u, v)).norm() > 0.05
    # the two agree along an axis, and only Einstein's depends on the order
    first = torch.tensor([1.0, 0.0, 0.0]).double()
    agree(X.add(0.6 * first, 0.5 * first), einstein(0.6 * first, 0.5 * first))
    assert (einstein(u, v) - einstein(v, u)).norm() > 0.01
    agree(X.add(u, v), X.add(v, u))


@given(st.floats(1e-6, 700))
def test_log_expm1_is_its_formula(x: float) -> None:
    g = InverseSoftplus((1,))
    with mpmath.workdps(50):
        z = mpmath.log(mpmath.expm1(x))
        slope = mpmath.log(1 / (1 - mpmath.exp(-mpmath.mpf(x))))
    assert g(number(x)).item() == pytest.approx(float(z), rel=1e-14, abs=1e-15)
    assert g.log_abs_det(number(x)).item() == pytest.approx(float(slope), rel=1e-14, abs=1e-15)
    assert g.inverse(number(float(z))).item() == pytest.approx(x, rel=1e-13)


def test_log_expm1_has_gradients_in_both_branches() -> None:
    x = torch.tensor([1e-3, 0.9, 1.0, 1.1, 50.0, 800.0]).double().requires_grad_()
    (slope,) = torch.autograd.grad(InverseSoftplus((6,))(x).sum(), x)
    agree(slope, -1 / torch.expm1(-x.detach()))


# -------------------------------------------------------------------------------------------------------------------- simplex
@pytest.mark.parametrize("parts", [2, 3, 7, 50])
def test_the_coordinates_of_compositions_are_scikit_bios_ilr(parts: int) -> None:
    g, x = Simplex(parts), compositions(4, parts)
    agree(g(x), torch.from_numpy(composition.ilr(x.numpy())), 10)
    agree(g.inverse(g(x)), torch.from_numpy(composition.ilr_inv(composition.ilr(x.numpy()))), 10)
    agree(g(x).norm(dim=-1), torch.from_numpy(np.linalg.norm(composition.clr(x.numpy()), axis=-1)), 10)


@pytest.mark.parametrize("parts", [2, 5])
def test_the_space_of_compositions_is_aitchisons(parts: int) -> None:
    X, (x, y) = InducedSpace(Simplex(parts)), compositions(2, parts)
    agree(X.add(x, y), torch.from_numpy(composition.perturb(x.numpy(), y.numpy())), 10)
    agree(X.sub(x, y), torch.from_numpy(composition.perturb_inv(x.numpy(), y.numpy())), 10)
    agree(X.scale(-1.7, x), torch.from_numpy(composition.power(x.numpy(), -1.7)), 10)
    agree(X.inner(x, y), torch.tensor(float(composition.inner(x.numpy(), y.numpy())), dtype=torch.float64), 10)
    agree(X.zero(dtype=torch.float64), torch.full((parts,), 1 / parts, dtype=torch.float64))
    agree(X.add(x, y), x * y / (x * y).sum(), 10)


def test_the_distance_of_compositions_does_not_depend_on_the_order_of_parts() -> None:
    X, (x, y), order = InducedSpace(Simplex(6)), compositions(2, 6), torch.randperm(6)
    agree(X.distance(x, y), X.distance(x[order], y[order]), 10)


@every_dtype
def test_compositions_keep_parts_near_the_smallest_float(dtype: torch.dtype) -> None:
    g = Simplex(3)
    x = torch.tensor([1e-37, 1e-20, 1.0], dtype=dtype)
    back = g.inverse(g(x))
    # log x is known to eps |log x|, and that is the relative error of a part
    assert float((back / x - 1).abs().max()) <= 4 * torch.finfo(dtype).eps * 86


@pytest.mark.parametrize("parts", [2, 4])
def test_the_determinant_for_lebesgue_measure_is_off_by_the_root_of_the_parts(parts: int) -> None:
    g, x = Simplex(parts), compositions(parts)
    J = torch.autograd.functional.jacobian(lambda z: g.inverse(z)[:-1], g(x))
    agree(g.log_abs_det(x) + math.log(parts) / 2, -torch.linalg.slogdet(J)[1], 10)


# ------------------------------------------------------------------------------------------------------------------- matrices
@pytest.mark.parametrize("n", [1, 2, 5])
def test_coordinates_of_matrices_are_their_logarithm(n: int) -> None:
    g, x = PositiveDefinite(n), definite(n=n)
    L = torch.from_numpy(scipy.linalg.logm(x.numpy()).reshape(n, n).astype(float))
    rows, columns = np.triu_indices(n)
    expected = torch.stack([(1 if i == j else math.sqrt(2)) * L[i, j] for i, j in zip(rows, columns, strict=True)])
    condition = float(torch.linalg.cond(x))
    agree(g(x), expected, condition)
    agree(g(x).norm(), L.norm(), condition)
    agree(g.inverse(expected), x, condition)


def test_the_space_of_definite_matrices_is_log_euclidean() -> None:
    X, points = InducedSpace(PositiveDefinite(4)), definite(6, n=4)
    condition = float(torch.linalg.cond(points).max())
    agree(X.mean(points), torch.from_numpy(mean_logeuclid(points.numpy())), condition)
    agree(
        X.distance(points[0], points[1]),
        torch.tensor(float(distance_logeuclid(points[0].numpy(), points[1].numpy())), dtype=torch.float64),
        condition,
    )
    sums = logm(points[0].numpy()) + logm(points[1].numpy())
    agree(X.add(points[0], points[1]), torch.from_numpy(scipy.linalg.expm(sums)), condition**2)
    agree(X.zero(dtype=torch.float64), torch.eye(4).double())


def test_matrices_that_commute_multiply() -> None:
    X, x = InducedSpace(PositiveDefinite(3)), definite(n=3)
    y = x @ x + 2 * torch.eye(3).double()
    agree(X.add(x, (y + y.mT) / 2), x @ y, 1e4)
    agree(X.scale(2.0, x), x @ x, 1e4)


def test_the_log_euclidean_distance_knows_rotations_and_scalings_but_not_congruences() -> None:
    X, (x, y) = InducedSpace(PositiveDefinite(3)), definite(2, n=3)
    Q = torch.linalg.qr(torch.randn(3, 3).double())[0]
    G = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]).double()

    def moved(M: Tensor) -> float:
        a, b = M @ x @ M.mT, M @ y @ M.mT
        return float(X.distance((a + a.mT) / 2, (b + b.mT) / 2))

    d = float(X.distance(x, y))
    assert moved(Q) == pytest.approx(d, rel=1e-10) == moved(2 * torch.eye(3).double())
    assert X.distance(torch.linalg.inv(x), torch.linalg.inv(y)).item() == pytest.approx(d, rel=1e-10)
    assert abs(moved(G) - d) > 0.01


def test_the_determinant_for_lebesgue_measure_counts_the_root_of_2_for_each_entry_off_the_diagonal() -> None:
    n = 3
    g, x = PositiveDefinite(n), definite(n=n)
    rows, columns = torch.triu_indices(n, n)
    J = torch.autograd.functional.jacobian(lambda z: g.inverse(z)[rows, columns], g(x))
    agree(g.log_abs_det(x) + n * (n - 1) / 4 * math.log(2), -torch.linalg.slogdet(J)[1], 1e4)


REPEATED = {
    "simple": torch.diag(torch.tensor([0.5, 1.5, 4.0])).double(),
    "the identity": torch.eye(3).double(),
    "a pair": torch.diag(torch.tensor([2.0, 2.0, 0.3])).double(),
    "nearly a pair": torch.diag(torch.tensor([2.0, 2.0 + 1e-12, 0.3]).double()),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_the_logarithm_has_two_derivatives_where_eigenvalues_repeat(kind: str) -> None:
    g = PositiveDefinite(3)
    Q = torch.linalg.qr(torch.randn(3, 3).double())[0]
    A = (Q @ REPEATED[kind] @ Q.mT).requires_grad_()

    def coordinates(A: Tensor) -> Tensor:
        return g((A + A.mT) / 2)

    assert torch.autograd.gradcheck(coordinates, A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(coordinates, A)
    assert torch.autograd.gradcheck(lambda A: g.log_abs_det((A + A.mT) / 2), A, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(g.inverse, coordinates(A).detach().requires_grad_())


@every_dtype
def test_the_derivative_at_the_identity_is_that_of_the_entries(dtype: torch.dtype) -> None:
    g, eye = PositiveDefinite(3), torch.eye(3, dtype=dtype)
    E = torch.randn(3, 3, dtype=dtype)
    E = E + E.mT
    # in forward mode without a graph, as the amplification takes it
    with torch.no_grad():
        tangent = torch.func.jvp(g, (eye,), (E,))[1]
    agree(tangent, torch.stack([E[i, j] * (1 if i == j else math.sqrt(2)) for i in range(3) for j in range(i, 3)]))


def test_two_forward_derivatives_need_no_graph() -> None:
    g, x = PositiveDefinite(1), torch.tensor([[2.0]]).double()
    one = torch.ones(1, 1).double()
    with torch.no_grad():
        second = torch.func.jvp(lambda y: torch.func.jvp(g, (y,), (one,))[1], (x,), (one,))[1]
    assert second.item() == pytest.approx(-1 / 4)


@every_dtype
def test_the_error_of_the_logarithm_is_eps_times_the_condition(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    Q = torch.linalg.qr(torch.randn(4, 4).double())[0]
    x = Q @ torch.diag(torch.tensor([1.0, 0.1, 1e-2, 1e-3]).double()) @ Q.mT
    x = ((x + x.mT) / 2).to(dtype)
    expected = torch.from_numpy(scipy.linalg.logm(x.double().numpy()).astype(float))
    z = PositiveDefinite(4)(x).double()
    assert abs(float(z.norm()) - float(expected.norm())) <= 100 * eps * 1e3


@pytest.mark.parametrize("g", [Simplex(4), PositiveDefinite(3), InverseSoftplus((3,))], ids=lambda g: type(g).__name__)
def test_charts_of_constrained_sets_work_under_torchs_transforms(g: Bijection) -> None:
    z = torch.randn(5, *g.coord_shape) / 2
    x = g.inverse(z)
    for f, points in ((g, x), (g.inv, z), (g.log_abs_det, x)):
        expected = f(points)
        agree(torch.func.vmap(f)(points), expected, 10)
        torch._dynamo.reset()
        agree(torch.compile(f, fullgraph=True, backend="aot_eager")(points), expected, 10)
    for module, points in ((g, x), (g.inv, z)):
        agree(torch.export.export(module, (points,)).module()(points), module(points), 10)


class Lebesgue(Bijection):
    """A simplex that gives its determinant for another measure than its surface: what the check must see."""

    def __init__(self) -> None:
        super().__init__((3,), (2,))
        self.chart = Simplex(3)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.chart(x)
        return z

    def inverse(self, z: Tensor) -> Tensor:
        return self.chart.inverse(z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.chart.forward_and_log_abs_det(x)
        return z, log_det + math.log(3) / 2


def test_a_determinant_for_another_measure_is_rejected() -> None:
    with pytest.raises(LawViolation, match=r"1 of \d+ laws do not hold:\nJacobian"):
        require(check_bijection(Lebesgue(), compositions(4, 3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compositions_whose_parts_leave_the_normal_numbers_far_out_are_not_accused(dtype: torch.dtype) -> None:
    for seed in range(20):
        logs = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = torch.softmax((1 + seed % 5) * logs, -1).to(dtype)
        require(check_bijection(Simplex(4), x / x.sum(-1, keepdim=True)))
