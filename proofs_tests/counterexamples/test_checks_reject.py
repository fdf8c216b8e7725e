"""A law that cannot fail is a defect: for each report of each check, an object that is broken in just that way."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, Report
from induced.bijections import Affine, AffineCoupling, Bijection, Identity, Simplex, real_nvp
from induced.checks import (
    check_adjoint,
    check_bijection,
    check_linear,
    check_penrose,
    check_space,
    check_svd,
    require,
)
from induced.errors import ShapeError

SHAPE = (3,)


def points(k: int = 5) -> Tensor:
    """Samples of R^3 with both signs and a zero."""
    x = torch.randn(k, 3, dtype=torch.float64)
    x[0, 0] = 0.0
    return x


def verdicts(reports: list[Report]) -> dict[str, bool]:
    return {report.law: report.ok for report in reports}


def rejected(reports: list[Report], law: str) -> None:
    """Assert that the report of this law is there, and is not ok."""
    matching = [ok for name, ok in verdicts(reports).items() if name.startswith(law)]
    assert len(matching) == 1, f"{law!r} names {len(matching)} of {list(verdicts(reports))}"
    assert not matching[0]


# -------------------------------------------------------------------------------------------------------------------- charts
class Chart(Bijection):
    """A chart of two functions, with log|det J| where a third one is given."""

    def __init__(self, forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]) -> None:
        super().__init__(SHAPE)
        self.functions = (forward, inverse)

    def forward(self, x: Tensor) -> Tensor:
        return self.functions[0](x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.functions[1](z)


class WrongDeterminant(Bijection):
    """2 x, with the log-determinant of a single coordinate."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def inverse(self, z: Tensor) -> Tensor:
        return z / 2

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, torch.full_like(x[..., 0], 2.0).log()


class WrongDeterminantBack(Bijection):
    """2 x, whose inverse has the log-determinant of the chart."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def inverse(self, z: Tensor) -> Tensor:
        return z / 2

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x.shape[-1] * torch.full_like(x[..., 0], 2.0).log()

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z / 2, self.forward_and_log_abs_det(z)[1]


def cube_root(z: Tensor) -> Tensor:
    return z.sign() * z.abs() ** (1 / 3)


BROKEN_CHARTS: dict[str, tuple[Callable[[], Bijection], str]] = {
    "a wrong inverse": (lambda: Chart(lambda x: 2 * x, lambda z: z / 2 + 1e-6), "g^-1(g(x)) = x"),
    "a wrong inverse, seen in coordinates": (lambda: Chart(lambda x: 2 * x, lambda z: z / 2.001), "g(g^-1(z)) = z"),
    "the square, which is not injective": (lambda: Chart(torch.square, torch.sqrt), "g^-1(g(x)) = x"),
    "dropout in a conditioner": (
        lambda: AffineCoupling(SHAPE, nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 4)).double()),
        "g is deterministic in train and eval mode",
    ),
    "a wrong log-determinant": (lambda: WrongDeterminant(SHAPE), "log|det J|"),
    "a wrong log-determinant of the inverse": (lambda: WrongDeterminantBack(SHAPE), "log|det J|"),
    "the cube, whose inverse has no slope at 0": (lambda: Chart(lambda x: x**3, cube_root), "gradients are finite"),
}


@pytest.mark.parametrize("broken", BROKEN_CHARTS)
def test_check_bijection_rejects(broken: str) -> None:
    make, law = BROKEN_CHARTS[broken]
    rejected(check_bijection(make(), points()), law)


class NegatedDeterminant(Bijection):
    """The chart of 4-part compositions, with the logarithm of its inverse's volume in place of its own."""

    def __init__(self) -> None:
        super().__init__((4,), (3,))
        self.chart = Simplex(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.chart(x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.chart.inverse(z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.chart(x), -self.chart.log_abs_det(x)


def test_check_bijection_judges_the_volume_of_a_constrained_set_along_its_tangents() -> None:
    x = torch.randn(5, 4, dtype=torch.float64).softmax(-1)
    require(check_bijection(Simplex(4), x))
    rejected(check_bijection(NegatedDeterminant(), x), "log|det J|")


def test_check_bijection_accepts_the_same_charts_unbroken() -> None:
    require(check_bijection(Chart(lambda x: 2 * x, lambda z: z / 2), points()))
    require(check_bijection(AffineCoupling(SHAPE, nn.Linear(1, 4).double()), points()))


# -------------------------------------------------------------------------------------------------------------------- spaces
class Flat(HilbertSpace):
    """R^3 with some of its operations replaced."""

    def __init__(self, **replaced: Callable[..., Tensor]) -> None:
        super().__init__(SHAPE, 3)
        for name, function in replaced.items():
            object.__setattr__(self, name, function)

    def coords(self, x: Tensor) -> Tensor:
        return x

    def point(self, z: Tensor) -> Tensor:
        return z


SKEW = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
BROKEN_SPACES: dict[str, tuple[HilbertSpace, str]] = {
    "a sum that leaves a remainder": (Flat(add=lambda x, y: x + y + 0.1), "closure"),
    "the mean as a sum": (Flat(add=lambda x, y: (x + y) / 2), "associativity"),
    "a sum that prefers one side": (Flat(add=lambda x, y: x + 2 * y), "commutativity"),
    "a zero that is not neutral": (
        Flat(zero=lambda *batch, dtype, device: torch.ones(*batch, 3, dtype=dtype)),
        "identity: x + 0",
    ),
    "a negative that is no negative": (Flat(neg=lambda x: x), "inverse"),
    "multiples that do not multiply": (Flat(scale=lambda a, x: (a + a * a) / 2 * x), "compatibility"),
    "multiples that vanish": (Flat(scale=lambda a, x: 0 * x), "scalar identity"),
    "multiples of shifted points": (Flat(scale=lambda a, x: a * x + (a - 1) * 0.1), "distributivity: a (x + y)"),
    "multiples that ignore the sign": (Flat(scale=lambda a, x: abs(a) * x), "distributivity: (a + b) x"),
    "an inner product of lengths": (Flat(inner=lambda x, y: x.norm(dim=-1) * y.norm(dim=-1)), "<a x + y, w>"),
    "an inner product that is not symmetric": (
        Flat(inner=lambda x, y: (x * (y @ SKEW)).sum(-1), norm=lambda x: (x * (x @ SKEW)).sum(-1).abs().sqrt()),
        "<x, y> = <y, x>",
    ),
    "a difference of another order": (Flat(sub=lambda x, y: y - x), "x - y, a x + b y and means are such sums"),
    "a combination that averages": (Flat(combine=lambda a, x: (x[0] + x[1]) / 2), "x - y, a x + b y and means are such sums"),
    "a mean of twice the size": (Flat(mean=lambda x: x.sum(0)), "x - y, a x + b y and means are such sums"),
    "a distance that is a length": (Flat(distance=lambda x, y: x.norm(dim=-1)), "d(x, y) = ||x - y||"),
    "a norm of another kind": (Flat(norm=lambda x: x.abs().sum(-1)), "<x, x> = ||x||^2"),
}


@pytest.mark.parametrize("broken", BROKEN_SPACES)
def test_check_space_rejects(broken: str) -> None:
    X, law = BROKEN_SPACES[broken]
    rejected(check_space(X, points()), law)


def test_check_space_rejects_a_chart_that_is_not_injective() -> None:
    rejected(check_space(InducedSpace(Chart(lambda x: x**2 + 1, lambda z: (z - 1).abs().sqrt())), points()), "scalar identity")


# ---------------------------------------------------------------------------------------------------------------------- maps
A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, -1.0]], dtype=torch.float64)


def linear(M: Tensor) -> Linearizer:
    return Linearizer(M, EuclideanSpace(3))


def tolerances(M: Tensor, x: Tensor, y: Tensor) -> list[float]:
    f, X = linear(M), EuclideanSpace(SHAPE)
    reports = [check_linear(f, x), check_adjoint(f, x, y), check_penrose(f, x, y), check_svd(f), check_space(X, x)]
    return [report.tolerance for law in (*reports, check_bijection(Affine(SHAPE, scale=2.0), x)) for report in law]


@pytest.mark.parametrize("scales", [(1, 2.0**10, 1), (1, 1, 2.0**-7), (2.0**5, 1, 1), (2.0**-17, 2.0**10, 2.0**-7)], ids=str)
def test_tolerances_do_not_depend_on_the_size_of_the_map_and_of_either_set_of_samples(scales: tuple[float, ...]) -> None:
    M, x, y = torch.randn(3, 3, dtype=torch.float64), points(), points()
    scaled = [c * values for c, values in zip(scales, (M, x, y), strict=True)]
    assert tolerances(*scaled) == pytest.approx(tolerances(M, x, y), rel=1e-9, abs=0)


def test_tolerances_do_not_grow_with_the_number_of_samples() -> None:
    M, x, y = torch.randn(3, 3, dtype=torch.float64), points(), points()
    assert tolerances(M, x.repeat(4, 1), y.repeat(4, 1)) == pytest.approx(tolerances(M, x, y), rel=0.2, abs=0)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_wrong_log_determinant_is_off_by_its_share_of_a_coordinate(k: int) -> None:
    (report,) = (r for r in check_bijection(WrongDeterminant(SHAPE), points(k)) if r.law == "log|det J|")
    assert report.residual == pytest.approx(2 / 3 * math.log(2))


# ------------------------------------------------------------------------------------------------------------ the worst sample
def test_a_report_names_the_worst_sample() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0], [1.0, -2.0, 1.0], [1.0, -1.0, 1.0]], dtype=torch.float64)
    report = check_bijection(Chart(torch.square, torch.sqrt), x)[0]
    assert report.worst is not None and torch.equal(report.worst, x[1])


def test_a_law_without_rounding_names_the_sample_that_breaks_it() -> None:
    def spoil(x: Tensor) -> Tensor:
        return x.relu_().log1p()

    x = torch.tensor([[1.0, 1.0, 1.0], [1.0, -0.5, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    (report,) = (r for r in check_bijection(Chart(spoil, torch.expm1), x) if r.law == "g leaves its input as it is")
    assert report.verdict == "violated" and report.residual == 1.0
    assert report.worst is not None and torch.equal(report.worst, x[1])


def test_a_check_of_a_chart_leaves_its_mode_as_it_was() -> None:
    g = real_nvp(3, 1, 4).double().eval()
    check_bijection(g, points())
    assert not g.training and not any(module.training for module in g.modules())


# --------------------------------------------------------------------------------------------------------------- no samples
EMPTY = torch.zeros(0, 3, dtype=torch.float64)
WITHOUT_SAMPLES: dict[str, Callable[[Tensor], object]] = {
    "check_bijection": lambda x: check_bijection(Identity(SHAPE), x),
    "check_space": lambda x: check_space(EuclideanSpace(SHAPE), x),
    "check_linear": lambda x: check_linear(linear(A), x),
    "check_adjoint": lambda x: check_adjoint(linear(A), x, points()),
    "check_adjoint, second samples": lambda x: check_adjoint(linear(A), points(), x),
    "check_penrose": lambda x: check_penrose(linear(A), x, points()),
    "check_penrose, second samples": lambda x: check_penrose(linear(A), points(), x),
}


@pytest.mark.parametrize("check", WITHOUT_SAMPLES)
@pytest.mark.parametrize("samples", [EMPTY, EMPTY.new_zeros(3)], ids=["empty", "one point without a batch"])
def test_no_law_is_judged_without_samples(check: str, samples: Tensor) -> None:
    with pytest.raises(ShapeError, match="a law needs at least one sample.*with k >= 1; got"):
        WITHOUT_SAMPLES[check](samples)
