"""Strategies: what they draw obeys its bounds, what is right passes, what is broken is found and shrunk. Oracle: numpy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, LinearOperator, ProductSpace, check, require
from induced.bijections import (
    Affine,
    Arctanh,
    Bijection,
    Log,
    PositiveDefinite,
    RationalQuadraticCoupling,
    Simplex,
    glow,
    real_nvp,
)
from induced.bijections.networks import MLP
from induced.checks import check_space
from induced.errors import LawViolation
from induced.operators import Dense, Diagonal, LowRank, Orthogonal, ScaledIdentityPlusLowRank
from induced.operators.base import Adjoint
from induced.strategies import coordinates, linearizers, matrices, operators, points, scalars

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "own_bijection.md"
few = settings(max_examples=15, deadline=None)
DTYPES = st.sampled_from((torch.float64, torch.float32))

found_with = settings(database=None, derandomize=True, deadline=None, max_examples=1000)
unshrunk = settings(found_with, phases=[Phase.generate])

SPACES = {
    "chart": lambda: InducedSpace(Simplex(4)),
    "matrices": lambda: InducedSpace(PositiveDefinite(2)),
    "product": lambda: ProductSpace(EuclideanSpace((2, 1)), InducedSpace(Log((2,)))),
    "many entries": lambda: InducedSpace(Affine((7, 7), 3.0, 1.0)),
    "numbers": lambda: EuclideanSpace(()),
    "bounded": lambda: InducedSpace(Arctanh((2,))),
}
every_space = pytest.mark.parametrize("make", SPACES.values(), ids=list(SPACES))


@given(scalars(0.3))
def test_scalars_are_bounded_and_vanish_in_no_square(a: float) -> None:
    assert a == 0 or 2.0**-20 <= abs(a) <= 0.3
    assert float(np.float32(a)) == a and (a == 0 or np.float32(a) ** 2 > np.finfo(np.float32).tiny)


@given(st.sampled_from([(1, 1), (3, 4), (40, 3), (5, 200)]), DTYPES, st.data())
def test_coordinates_lie_in_a_ball(sides: tuple[int, int], dtype: torch.dtype, data: st.DataObject) -> None:
    dim, count = sides
    z = data.draw(coordinates(dim, count=count, radius=1.25, dtype=dtype))
    assert z.shape == (count, dim) and z.dtype == dtype
    assert np.linalg.norm(z.double().numpy(), axis=-1).max() <= 1.25 * (1 + 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dim", [2, 100])
def test_coordinates_reach_the_radius_the_origin_and_every_direction(dim: int) -> None:
    drawn = coordinates(dim, count=2, radius=1.25)
    for what in (
        lambda z: z[0].norm() > 1.2,
        lambda z: bool((z != 0).all()),
        lambda z: bool((z == 0).all()),
        lambda z: z.min() < -0.1,
    ):
        find(drawn, what, settings=unshrunk)


@every_space
def test_points_have_norms_up_to_the_radius(make: Callable[[], HilbertSpace]) -> None:
    X = make()

    @few
    @given(points(X, count=3, radius=1.5, dtype=torch.float64))
    def bounded(x: Tensor) -> None:
        assert x.shape == (3, *X.shape) and x.dtype == torch.float64 and not x.requires_grad
        assert float(X.norm(x).max()) <= 1.5 + 1e-12
        require(check_space(X, x))

    bounded()


def test_points_take_the_dtype_of_the_parameters_or_float64() -> None:
    def dtype(space: HilbertSpace | Bijection, **options: Any) -> torch.dtype:
        return find(points(space, **options), lambda x: True, settings=unshrunk).dtype

    assert dtype(real_nvp(2, 1, 4)) == torch.float32
    assert dtype(InducedSpace(real_nvp(2, 1, 4).double())) == torch.float64
    assert dtype(Log((2,))) == torch.float64
    assert dtype(Log((2,)), dtype=torch.float32) == torch.float32


@given(st.sampled_from([(1, 1), (3, 3), (2, 4), (5, 2)]), st.integers(0, 3), DTYPES, st.data())
def test_matrices_have_the_rank_and_condition_asked_for(
    sides: tuple[int, int], rank: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    rank = min(rank, *sides)
    for A in (
        data.draw(matrices(*sides, rank=rank, condition=7.3, dtype=dtype)),
        data.draw(operators(*sides, rank=rank, condition=7.3, dtype=dtype)).matrix(),
    ):
        assert A.shape == sides and A.dtype == dtype
        s = np.linalg.svd(A.double().numpy(), compute_uv=False)
        rounding = 100 * torch.finfo(dtype).eps * 7.3
        assert (s[:rank] >= 1 - rounding).all() and (s[:rank] <= 7.3 + rounding).all() and (s[rank:] <= rounding).all()


@pytest.mark.parametrize("kind", [Dense, Adjoint, LowRank, Diagonal, Orthogonal, ScaledIdentityPlusLowRank])
def test_square_operators_have_every_structure(kind: type[LinearOperator]) -> None:
    moved = find(operators(3), lambda A: isinstance(A, kind) and bool((A.matrix() < -0.1).any()), settings=unshrunk)
    assert np.linalg.cond(moved.matrix().numpy()) <= 10 * (1 + 1e-12)


@pytest.mark.parametrize("rank", [None, 1])
def test_linearizers_obey_the_laws_of_maps(rank: int | None) -> None:
    X, Y = InducedSpace(Simplex(4)), InducedSpace(Log((2,)))

    @settings(max_examples=5, deadline=None)
    @given(linearizers(X, Y, rank=rank), points(X))
    def laws(f: Linearizer, x: Tensor) -> None:
        assert (f.domain, f.codomain) == (X, Y)
        require(check(f, x))

    laws()


def test_maps_of_one_space_take_its_dtype() -> None:
    X = InducedSpace(real_nvp(2, 1, 4))
    f = find(linearizers(X), lambda f: isinstance(f.core, Diagonal), settings=unshrunk)
    assert f.domain == f.codomain == X and f.core.matrix().dtype == torch.float32


# --------------------------------------------------------------------------------------------------------- shrinking and seeds
def test_points_shrink_to_few_coordinates() -> None:
    z = find(coordinates(4, count=3), lambda z: float(z.norm()) >= 1, settings=found_with)
    assert sorted(z.abs().flatten().tolist()) == [0.0] * 11 + [1.0]
    assert find(coordinates(100), lambda z: True, settings=found_with).abs().max() == 0


def test_matrices_shrink_to_the_identity() -> None:
    assert torch.equal(find(matrices(2, 3), lambda M: True, settings=found_with), torch.eye(2, 3, dtype=torch.float64))
    simplest = find(operators(3), lambda A: True, settings=found_with)
    assert isinstance(simplest, Dense) and torch.equal(simplest.matrix(), torch.eye(3, dtype=torch.float64))


def test_drawing_leaves_the_global_generator_alone_and_repeats() -> None:
    before = torch.get_rng_state()
    drawn: list[Tensor] = []

    @settings(database=None, derandomize=True, max_examples=10, deadline=None)
    @given(coordinates(100), matrices(3), operators(3))
    def draw(z: Tensor, M: Tensor, A: LinearOperator) -> None:
        drawn.extend((z, M, A.matrix()))

    draw()
    once = len(drawn)
    draw()
    assert torch.equal(torch.get_rng_state(), before)
    assert once >= 30
    assert all(torch.equal(first, second) for first, second in zip(drawn[:once], drawn[once:], strict=True))


# ---------------------------------------------------------------------------------------------------------------- the page
@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the blocks of the page define."""
    names: dict[str, Any] = {}
    profile = settings.get_current_profile_name()
    settings.register_profile("page", max_examples=10, derandomize=True, phases=[Phase.generate, Phase.shrink])
    settings.load_profile("page")
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    settings.load_profile(profile)
    return names


@pytest.mark.parametrize("name", ["test_my_chart", "test_my_maps"])
def test_ten_lines_put_objects_of_ones_own_under_all_laws(name: str, page: dict[str, Any]) -> None:
    (block,) = re.findall(r"```python\n(from hypothesis import.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 10
    page[name]()


def lines(text: str) -> set[str]:
    """The lines without their numbers, cut where the page leaves something out."""
    plain = [re.sub(r"\d\.\d\de[+-]\d\d|\d+", "#", line.split("...")[0]).rstrip() for line in text.splitlines()]
    return {re.sub(" +", " ", line) for line in plain} - {"", "..."}


def test_the_page_shows_what_is_printed(page: dict[str, Any]) -> None:
    (table,) = re.findall(r"```text\n(chart Shear\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert lines(table) <= lines(str(page["reports"])) and "VIOLATED" not in str(page["reports"])


def test_the_same_lines_reject_a_broken_chart_as_the_page_shows(page: dict[str, Any]) -> None:
    with pytest.raises(LawViolation) as raised:
        page["test_my_broken_chart"]()
    (shown,) = re.findall(r"```text\n(\d+ of \d+ laws do not hold:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    said = lines("\n".join([str(raised.value), *raised.value.__notes__]))
    missing = [line for line in lines(shown) if not any(other.startswith(line.rstrip(",")) for other in said)]
    assert missing == [] and "VIOLATED" in shown


def ready_glow() -> Bijection:
    g = glow((1, 4, 4), blocks=1)
    g.initialize(torch.randn(32, 1, 4, 4))
    return g


LEARNED: dict[str, Callable[[], Bijection]] = {
    "real_nvp": lambda: real_nvp(4),
    "spline": lambda: RationalQuadraticCoupling((4,), MLP(2, 23 * 2, 16)),
    "glow": ready_glow,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("make", LEARNED.values(), ids=list(LEARNED))
def test_learned_charts_pass_at_and_near_the_zero_vector(make: Callable[[], Bijection], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    X = InducedSpace(make().to(dtype))
    z = torch.linspace(-1, 1, 2 * X.dim, dtype=dtype).reshape(2, X.dim)
    for scale in (0.0, 1e-14, 1e-7, 1e-3):
        with torch.no_grad():
            require(check(X, X.point(scale * z)))


def test_some_draws_are_tiny_and_some_are_zero() -> None:
    for what in (lambda z: 0 < float(z.norm()) < 1e-9, lambda z: float(z.norm()) == 0, lambda z: float(z.norm()) > 1):
        find(coordinates(3, count=2), what, settings=unshrunk)


@pytest.mark.parametrize("wrong", [lambda z: 2 * z.sinh(), lambda z: z.sinh() + 1e-3, lambda z: z.abs().sinh()])
def test_a_broken_chart_is_found_where_only_some_points_show_it(wrong: Callable[[Tensor], Tensor]) -> None:
    class Broken(Bijection):
        def forward(self, x: Tensor) -> Tensor:
            return x.asinh()

        def inverse(self, z: Tensor) -> Tensor:
            return wrong(z)

    chart = Broken((3,))

    @settings(few, database=None, phases=[Phase.generate])
    @given(points(Affine((3,)), count=3))
    def laws(x: Tensor) -> None:
        require(check(chart, x))

    with pytest.raises(LawViolation):
        laws()
