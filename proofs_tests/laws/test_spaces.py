"""Induced spaces: the axioms over the registry of spaces, and what each operation costs. Oracles: arithmetic of known charts."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, ProductSpace, Subspace
from induced._numerics import scaled_norm
from induced.bijections import Log, Logit, real_nvp
from induced.checks import check_space, require
from induced.errors import DtypeError, ShapeError
from induced.operators import Diagonal, exp_multiply
from proofs_tests.laws.counted import Counting
from proofs_tests.registry import DTYPES, SPACES, SpaceCase, agree, shaken

every_space = pytest.mark.parametrize("case", SPACES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
moderate = st.floats(-3, 3, allow_subnormal=False)
positive = st.floats(0.1, 10)


def coordinates(X: HilbertSpace, x: Tensor) -> Tensor:
    """The coordinates of points (k, *shape), from the chart itself."""
    if isinstance(X, ProductSpace):
        return torch.cat([coordinates(F, part) for F, part in zip(X.factors, X.split(x), strict=True)], -1)  # type: ignore[arg-type]
    if isinstance(X, Subspace):
        return torch.einsum("kn,nj->kj", coordinates(X.space, x), X.Q)
    return (X.chart(x) if isinstance(X, InducedSpace) else x).reshape(len(x), -1)


@pytest.mark.fast
@every_dtype
@every_space
def test_the_axioms_of_a_hilbert_space_hold(case: SpaceCase, dtype: torch.dtype) -> None:
    X = case.make(dtype)
    reports = check_space(X, case.points(X, (6,), dtype))
    require(reports)
    assert sum(report.statement != "contract" for report in reports) == 14


@every_space
def test_combine_is_add_and_scale(case: SpaceCase) -> None:
    X = case.make(torch.float64)
    x, y = case.points(X, (4,)), case.points(X, (4,))
    added = X.add(X.scale(0.3, x), X.scale(-0.6, y))
    agree(X.coords(X.combine((0.3, -0.6), (x, y))).detach(), X.coords(added).detach(), 100)
    agree(X.combine([1.0], [x]), x, 100)
    agree(X.combine(torch.tensor([0.5, 0.5]), torch.stack([x, y])), X.segment(x, y, 0.5), 100)
    agree(X.sub(x, y), X.combine((1, -1), (x, y)), 100)
    agree(X.neg(x), X.scale(-1.0, x), 100)


@every_space
def test_coordinates_are_vectors_for_every_batch(case: SpaceCase) -> None:
    X = case.make(torch.float64)
    for batch in ((), (1,), (0,), (3, 2)):
        x = case.points(X, batch)
        assert X.coords(x).shape == (*batch, X.dim)
        assert X.point(X.coords(x)).shape == x.shape
        assert X.norm(x).shape == X.inner(x, x).shape == X.distance(x, x).shape == batch
        assert X.zero(*batch, dtype=torch.float64).shape == x.shape


@every_space
def test_the_geometry_is_that_of_the_coordinates(case: SpaceCase) -> None:
    X = case.make(torch.float64)
    points = case.points(X, (5,))
    with torch.no_grad():
        z = coordinates(X, points).numpy()
        assert z.shape == (5, X.dim)
        agree(X.gram(points), torch.from_numpy(z @ z.T))
        agree(X.inner(points[1], points[2]), torch.tensor(float(z[1] @ z[2]), dtype=torch.float64))
        agree(X.norm(points), torch.from_numpy((z**2).sum(-1) ** 0.5))
        agree(X.distance(points[0], points[1]), torch.tensor(((z[0] - z[1]) ** 2).sum() ** 0.5, dtype=torch.float64))
        agree(X.coords(X.mean(points)), torch.from_numpy(z.mean(0)), 100)


@every_space
def test_the_rounding_of_a_point_does_not_depend_on_the_others(case: SpaceCase) -> None:
    X = case.make(torch.float64)
    x = case.points(X, (3,))
    for roundings in (X.roundings, X.point_roundings):
        together = roundings(x)
        agree(roundings(x[2]), together[2], 100)  # kernels differ with the size of a batch
        agree(roundings(x[:2].flip(0)), together[:2].flip(0), 100)
        assert together.shape == (3,) and roundings(x[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("dtype", "power"),
    [(torch.float32, e) for e in (-30, -24, -22, 20, 30)] + [(torch.float64, e) for e in (-200, -160, 160, 200)],
)
def test_lengths_and_angles_do_not_depend_on_the_scale(dtype: torch.dtype, power: int) -> None:
    X, size, eps = EuclideanSpace(3), 10.0**power, torch.finfo(dtype).eps
    unit = torch.tensor([[3.0, 4.0, 0.0], [1.0, -2.0, 2.0]]).to(dtype)
    x, y = unit * size
    assert float(X.norm(x)) == pytest.approx(5 * size, rel=4 * eps)
    assert float(X.distance(x, y)) == pytest.approx(math.sqrt(44) * size, rel=4 * eps)
    assert float(X.angle(x, y)) == pytest.approx(math.acos(-1 / 3), rel=4 * eps)
    assert float(X.angle(x, y / size)) == pytest.approx(math.acos(-1 / 3), rel=4 * eps)
    assert float(X(x).norm()) == float(X.norm(x))
    assert float(Subspace.span(X, y[None]).distance_to(x)) == pytest.approx(5 * math.sqrt(8) / 3 * size, rel=8 * eps)
    q = X.orthonormalize(torch.stack([x, y]))
    agree(q, X.orthonormalize(unit))
    x.requires_grad_()
    agree(torch.autograd.grad(X.norm(x), x)[0], unit[0] / 5)
    # the counterexample: squares overflow, underflow, or are left with few digits
    naive = float(x.detach().square().sum().sqrt())
    assert abs(naive - 5 * size) > 1e3 * eps * size


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_scaled_norm_is_right_from_the_smallest_to_the_largest_number(dtype: torch.dtype) -> None:
    for length in (torch.finfo(dtype).tiny * 64, 2.0 ** (math.frexp(torch.finfo(dtype).max)[1] - 4)):
        x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype) * length
        assert (scaled_norm(x, -1) / length).tolist() == [5.0, 0.0]
        assert (scaled_norm(x, (0, 1)) / length).item() == 5.0
    edge = torch.tensor([[math.inf, 1.0], [math.nan, 1.0], [1.0, 0.0]], dtype=dtype)
    assert scaled_norm(edge, -1).tolist()[::2] == [math.inf, 1.0] and math.isnan(scaled_norm(edge, -1)[1])
    assert scaled_norm(edge[:, :0], -1).tolist() == [0.0, 0.0, 0.0] and scaled_norm(edge[:0], -1).shape == (0,)


def test_a_scaled_norm_has_the_derivatives_of_a_norm_and_0_at_0() -> None:
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: scaled_norm(a, (0, 2)), x)
    assert torch.autograd.gradgradcheck(lambda a: scaled_norm(a, -1), x)
    zero = torch.zeros(3, requires_grad=True)
    assert torch.autograd.grad(scaled_norm(zero, 0), zero)[0].tolist() == [0.0, 0.0, 0.0]
    x = x.detach()
    expected = x.norm(dim=-1)
    agree(torch.func.vmap(lambda a: scaled_norm(a, -1))(x), expected)
    agree(torch.compile(lambda a: scaled_norm(a, -1), fullgraph=True, backend="eager")(x), expected)
    assert scaled_norm(x.to("meta"), (0, -1)).shape == (3,)


def test_points_of_two_dtypes_are_refused_by_every_operation_that_joins_them() -> None:
    X = EuclideanSpace(2)
    x, y = torch.ones(2), torch.ones(2).double()
    joins: list[Callable[[], object]] = [
        *(partial(join, x, y) for join in (X.add, X.sub, X.inner, X.distance, X.angle, X.geodesic)),
        lambda: X.segment(x, y, 0.5),
        lambda: X.combine((1, 2), (x, y)),
        lambda: X(x) + X(y),
        lambda: X(x) - X(y),
        lambda: X(x) @ X(y),
        lambda: ProductSpace(X, X).join(x, y),
    ]
    for join in joins:
        with pytest.raises(DtypeError, match=r"one dtype and device, got torch\.float32 on cpu and torch\.float64 on cpu"):
            join()
    with pytest.raises(DtypeError, match=r"must be a torch\.Tensor, got list"):
        X.add(x, [1.0, 2.0])  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- charts of known arithmetic
@given(st.lists(st.tuples(moderate, positive), min_size=1, max_size=5))
def test_combinations_of_positive_numbers_are_products_of_powers(terms: list[tuple[float, float]]) -> None:
    X = InducedSpace(Log((1,)))
    result = X.combine([a for a, _ in terms], [torch.tensor([x], dtype=torch.float64) for _, x in terms])
    # the sum of logarithms is off by eps times its terms, and the exponential turns that into a relative error
    size = 1 + sum(abs(a * math.log(x)) for a, x in terms)
    assert result.item() == pytest.approx(math.prod(x**a for a, x in terms), rel=1e-15 * 10 * size)


@given(positive, positive)
def test_the_mean_of_positive_numbers_is_geometric(x: float, y: float) -> None:
    X = InducedSpace(Log((1,)))
    assert X.mean(torch.tensor([[x], [y]], dtype=torch.float64)).item() == pytest.approx(math.sqrt(x * y), rel=1e-14)


def test_the_zero_of_positive_numbers_is_1_and_that_of_probabilities_a_half() -> None:
    assert torch.equal(InducedSpace(Log((2,))).zero(3), torch.ones(3, 2))
    assert torch.equal(InducedSpace(Logit((2,))).zero(), torch.full((2,), 0.5))


@given(st.floats(0, 1, allow_subnormal=False))
def test_a_segment_of_positive_numbers_is_a_weighted_geometric_mean(t: float) -> None:
    X = InducedSpace(Log((1,)))
    x, y = torch.tensor([2.0], dtype=torch.float64), torch.tensor([7.0], dtype=torch.float64)
    assert X.segment(x, y, t).item() == pytest.approx(2 ** (1 - t) * 7**t, rel=1e-14)


def test_segments_take_a_time_for_each_sample() -> None:
    X = InducedSpace(Log((1,)))
    x, y = torch.full((3, 1), 2.0).double(), torch.full((3, 1), 8.0).double()
    agree(X.segment(x, y, torch.tensor([0.0, 0.5, 1.0]).double()), torch.tensor([[2.0], [4.0], [8.0]]).double())


def test_scalars_may_differ_by_sample() -> None:
    X = InducedSpace(Log((2,)))
    x = torch.full((3, 2), 2.0).double()
    a = torch.tensor([0.0, 1.0, 3.0]).double()
    expected = torch.tensor([[1.0, 1.0], [2.0, 2.0], [8.0, 8.0]]).double()
    agree(X.scale(a, x), expected)
    agree(X.combine(a[None], x[None]), expected)
    agree((a * X(x)).point, expected)


TAKERS: dict[str, Callable[[InducedSpace, Tensor, Tensor, Tensor], Tensor]] = {
    "scale": lambda X, a, x, y: X.scale(a, x),
    "segment": lambda X, a, x, y: X.segment(x, y, a),
    "geodesic": lambda X, a, x, y: X.geodesic(x, x, a),
    "Vector *": lambda X, a, x, y: (a * X(x)).point,
    "Vector /": lambda X, a, x, y: (X(x) / a).point,
    "combine": lambda X, a, x, y: X.combine(torch.stack([a, 1 - a]), torch.stack([x, y])),
    "exp_multiply": lambda X, a, x, y: exp_multiply(Diagonal(torch.tensor([1.0, -1.0]).double()), x, a)[0],
}


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize(
    ("own", "batch"),
    [((3,), (3,)), ((), (3,)), ((3,), ()), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (2, 3)), ((2, 1), (1, 3)), ((3,), (1,))],
    ids=str,
)
def test_a_scalar_per_sample_is_that_of_its_sample(name: str, own: tuple[int, ...], batch: tuple[int, ...]) -> None:
    X, take = InducedSpace(Log((2,))), TAKERS[name]
    a = 0.5 + torch.rand(own).double()
    x, y = (0.5 + torch.rand(*batch, 2).double() for _ in range(2))
    found, shape = take(X, a, x, y), np.broadcast_shapes(own, batch)
    samples = [t.expand(*shape, 2).reshape(-1, 2) for t in (x, y)]
    each = [take(X, s, u, v) for s, u, v in zip(a.expand(shape).flatten(), *samples, strict=True)]
    agree(found, torch.stack(each).reshape(*shape, 2))


@pytest.mark.parametrize("name", TAKERS)
@pytest.mark.parametrize(
    ("own", "batch"), [((3, 1), (3,)), ((2, 1), (3,)), ((3,), (3, 1)), ((1, 1), (3,)), ((2,), (3,))], ids=str
)
def test_scalars_of_another_shape_do_not_multiply_the_samples(name: str, own: tuple[int, ...], batch: tuple[int, ...]) -> None:
    x = torch.ones(*batch, 2).double()
    with pytest.raises(ShapeError, match=r"has the shape \(\*batch,\), here"):
        TAKERS[name](InducedSpace(Log((2,))), torch.ones(own).double(), x, x)


def test_a_sum_of_vectors_starts_at_0() -> None:
    X = InducedSpace(Log((1,)))
    vectors = [X(torch.tensor([p]).double()) for p in (2.0, 3.0, 5.0)]
    assert sum(vectors).point.item() == pytest.approx(30.0)
    with pytest.raises(TypeError, match="unsupported"):
        1 + vectors[0]


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 1.0, math.pi / 2, math.pi - 1e-5, math.pi - 1e-9, math.pi])
def test_angles_keep_their_digits_near_0_and_pi(angle: float) -> None:
    X = EuclideanSpace(2)
    x = torch.tensor([3.0, 0.0], dtype=torch.float64)
    y = 0.5 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    assert X.angle(x, y).item() == pytest.approx(angle, abs=4 * 2.0**-52, rel=1e-12)


def test_the_angle_with_zero_is_nan() -> None:
    assert EuclideanSpace(2).angle(torch.zeros(2), torch.ones(2)).isnan()


@given(st.lists(moderate, min_size=2, max_size=2), st.lists(moderate, min_size=2, max_size=2))
def test_cauchy_schwarz_and_the_triangle_inequality(x: list[float], y: list[float]) -> None:
    g = shaken(real_nvp(2, 2, 4)).double()
    X = InducedSpace(g)
    with torch.no_grad():
        u, v = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
        bound = float(X.norm(u) * X.norm(v))
        assert abs(float(X.inner(u, v))) <= bound * (1 + 1e-12)
        assert float(X.norm(X.add(u, v))) <= float(X.norm(u) + X.norm(v)) * (1 + 1e-12) + 1e-12


# --------------------------------------------------------------------------------------------------------------- zero, sample
def test_zero_and_sample_take_the_dtype_asked_for_or_that_of_the_chart() -> None:
    X, Y = InducedSpace(Log((2,))), InducedSpace(real_nvp(2, 1, 4).double())
    assert X.zero().dtype == X.sample(2).dtype == torch.float32
    assert X.zero(dtype=torch.float64).dtype == X.sample(2, dtype=torch.float64).dtype == torch.float64
    assert Y.zero().dtype == Y.sample(2).dtype == torch.float64
    assert X.zero(0).shape == (0, 2) and X.zero(3, 4).shape == (3, 4, 2)


def test_the_zero_has_coordinates_0() -> None:
    X = InducedSpace(shaken(real_nvp(3, 2, 8)).double())
    agree(X.coords(X.zero(2)).detach(), torch.zeros(2, 3).double())


def test_samples_have_standard_normal_coordinates_and_repeat_with_their_generator() -> None:
    X = InducedSpace(Log((2,)))
    x = X.sample(4000, torch.Generator().manual_seed(0))
    z = X.coords(x)
    assert x.shape == (4000, 2)
    # five standard errors of a mean and of a standard deviation over 8000 values
    assert abs(float(z.mean())) < 5 / 8000**0.5
    assert abs(float(z.std()) - 1) < 5 / 16000**0.5
    assert torch.equal(x, X.sample(4000, torch.Generator().manual_seed(0)))
    assert not torch.equal(x, X.sample(4000, torch.Generator().manual_seed(1)))


# ------------------------------------------------------------------------------------------------------------------- equality
def test_spaces_are_equal_where_their_chart_is_the_same_one() -> None:
    g = Log((2,))
    assert InducedSpace(g) == InducedSpace(g) and hash(InducedSpace(g)) == hash(InducedSpace(g))
    assert InducedSpace(g) != InducedSpace(Log((2,)))
    assert InducedSpace(g.inv) == InducedSpace(g.inv) != InducedSpace(g)
    assert EuclideanSpace(2) == EuclideanSpace((2,)) and EuclideanSpace(2) != EuclideanSpace(3)
    assert EuclideanSpace((2, 3)) != EuclideanSpace(6)
    assert InducedSpace(g) != "a space"


# ----------------------------------------------------------------------------------------------------------------------- cost
def test_combine_calls_the_chart_once_each_way() -> None:
    g = Counting((2,))
    X = InducedSpace(g)
    points = [torch.ones(2) * k for k in range(10)]
    result = X.combine(range(10), points)
    assert g.calls() == (1, 1)
    assert torch.equal(result, torch.full((2,), 285.0))
    X.mean(torch.stack(points))
    assert g.calls() == (1, 1)
    X.gram(torch.stack(points))
    assert g.calls() == (1, 0)
    X.scale(2.0, points[1])
    assert g.calls() == (1, 1)
