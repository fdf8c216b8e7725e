"""Charts with a wrong log|det J|, of every size, and the law that names what is wrong; right ones of every size."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from induced import Report
from induced.bijections import ActNorm, Bijection, Composition, Simplex, glow, real_nvp
from induced.checks import check_bijection, require
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.test_chart_checks_reject import ALONE, REARRANGED, Doubled
from proofs_tests.counterexamples.test_checks_reject import rejected
from proofs_tests.registry import DTYPES, shaken

N = 8


class Volume(Doubled):
    """2 x with its log|det J| of each sample: right, and broken below."""

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, self.volume(x)

    def volume(self, x: Tensor) -> Tensor:
        return self._batch_zeros(x) + self.shape[0] * math.log(2)


class Zero(Volume):
    def volume(self, x: Tensor) -> Tensor:
        return self._batch_zeros(x)


class AnotherPoint(Volume):
    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 3 * x, self.volume(x)


class AnotherPointBack(Volume):
    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z / 3, -self.volume(z)


class Wider(Volume):
    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x).to(torch.float64 if x.dtype == torch.float32 else torch.float32)


class WiderPoint(Volume):
    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (2 * x).to(torch.float64 if x.dtype == torch.float32 else torch.float32), self.volume(x)


class OfABatch(Volume):
    """One number for each batch in place of each sample."""

    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x).mean()


class OfAnEntry(Volume):
    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x).unsqueeze(-1)


class Raises(Volume):
    def volume(self, x: Tensor) -> Tensor:
        raise ValueError("no volume today")


class NotFinite(Volume):
    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x) * math.nan


class Spoils(Volume):
    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = 2 * x
        x.data.mul_(1.5)
        return z, self.volume(z)


class SpoilsBack(Volume):
    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = z / 2
        z.data.mul_(1.5)
        return x, -self.volume(x)


class OnlyBatches(Volume):
    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x) + (0.0 if x.dim() > 1 and x.shape[0] > 1 else 0.1)


class OnlyOneDimension(Volume):
    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x) + (0.0 if x.dim() <= 2 else 0.1)


class Scaled(Volume):
    """The second half is scaled by a function of the first one: log|det J| depends on the point."""

    def scale(self, a: Tensor) -> Tensor:
        return torch.sin(a)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a, b * self.scale(a).exp()], -1)

    def inverse(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        return torch.cat([a, b * (-self.scale(a)).exp()], -1)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self.volume(x)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(z), -self.volume(z)

    def volume(self, x: Tensor) -> Tensor:
        return self.scale(x.chunk(2, -1)[0]).sum(-1)


class Detached(Scaled):
    def volume(self, x: Tensor) -> Tensor:
        return super().volume(x).detach()


class HalfDetached(Scaled):
    def volume(self, x: Tensor) -> Tensor:
        value = super().volume(x)
        return value / 2 + value.detach() / 2


class Neighbours(Scaled):
    """The volume of the sample before, where that is asked of a batch."""

    def volume(self, x: Tensor) -> Tensor:
        value = super().volume(x)
        return value.roll(1, 0) if value.dim() else value


BROKEN: dict[str, tuple[Callable[[], Bijection], str]] = {
    "zero": (Zero, "log|det J|"),
    "nan": (NotFinite, "log|det J|"),
    "nan, where it is looked at": (NotFinite, "g has one finite log|det J| a sample, of its dtype"),
    "raises": (Raises, "g has one finite log|det J| a sample, of its dtype"),
    "another point": (AnotherPoint, "g is the same with and without log|det J|"),
    "another point of the inverse": (AnotherPointBack, "g^-1 is the same with and without log|det J|"),
    "another dtype": (Wider, "g has one finite log|det J| a sample, of its dtype"),
    "another dtype of the inverse": (Wider, "g^-1 has one finite log|det J| a sample, of its dtype"),
    "another dtype of the coordinates": (WiderPoint, "g has one finite log|det J| a sample, of its dtype"),
    "one for a batch": (OfABatch, "g has one finite log|det J| a sample, of its dtype"),
    "one for an entry": (OfAnEntry, "g has one finite log|det J| a sample, of its dtype"),
    "spoils its input": (Spoils, "g's log|det J| leaves its input as it is"),
    "spoils its input, inverse": (SpoilsBack, "g^-1's log|det J| leaves its input as it is"),
    "a single sample": (OnlyBatches, f"g's log|det J| {ALONE}"),
    "a single sample, inverse": (OnlyBatches, f"g^-1's log|det J| {ALONE}"),
    "another batch dimension": (OnlyOneDimension, f"g's log|det J| {REARRANGED}"),
    "another batch dimension, inverse": (OnlyOneDimension, f"g^-1's log|det J| {REARRANGED}"),
    "that of the neighbour": (Neighbours, "log|det J|"),
    "that of the neighbour, rearranged": (Neighbours, f"g's log|det J| {REARRANGED}"),
    "a detached gradient": (Detached, "gradients of g's log|det J| are its slopes"),
    "a detached gradient of the inverse": (Detached, "gradients of g^-1's log|det J| are its slopes"),
    "half a gradient": (HalfDetached, "gradients of g's log|det J| are its slopes"),
}


def judged(reports: list[Report]) -> Report:
    """The report of the law of log|det J| itself."""
    (found,) = (r for r in reports if r.law == "log|det J|")
    return found


@every_dtype
@pytest.mark.parametrize("broken", BROKEN)
def test_check_bijection_names_what_is_wrong_with_a_volume(broken: str, dtype: torch.dtype) -> None:
    make, law = BROKEN[broken]
    rejected(check_bijection(make(), torch.randn(6, N, dtype=dtype)), law)


@every_dtype
def test_a_volume_that_is_nan_at_points_that_a_chart_knows_well_is_violated(dtype: torch.dtype) -> None:
    found = {r.law: r.verdict for r in check_bijection(NotFinite(), torch.randn(6, N, dtype=dtype))}
    assert [found[f"{side} has one finite log|det J| a sample, of its dtype"] for side in ("g", "g^-1")] == ["violated"] * 2


def test_every_law_of_a_volume_has_its_counterexample() -> None:
    found = check_bijection(Scaled(), torch.randn(6, N, dtype=torch.float64))
    require(found)
    named = {law for _, law in BROKEN.values()} | {"gradients of g^-1's log|det J| are its slopes"}
    asked_for_gradients = {f"{side}'s log|det J| is the same where gradients are asked for" for side in ("g", "g^-1")}
    assert {r.law for r in found if "log|det J|" in r.law} == named | asked_for_gradients


@every_dtype
@pytest.mark.parametrize("make", [Volume, Scaled], ids=["doubled", "scaled"])
def test_the_same_volumes_unbroken_pass(make: Callable[[], Bijection], dtype: torch.dtype) -> None:
    for count in (1, 2, 6):
        require(check_bijection(make(), torch.randn(count, N, dtype=dtype)))


# ---------------------------------------------------------------------------------------------------------------- every size
SIZES = {64: "the Jacobian at all samples", 65: "the Jacobian at the first", 784: "the Jacobian at the first", 3072: "estimated"}


@every_dtype
@pytest.mark.parametrize("n", SIZES)
def test_a_volume_is_judged_at_every_size(n: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, n, dtype=dtype)
    right, wrong = judged(check_bijection(Volume(n), x)), judged(check_bijection(Zero(n), x))
    assert right.verdict == "holds" and right.note.startswith(SIZES[n])
    assert right.tolerance <= 1e-4
    assert wrong.verdict == "violated" and wrong.residual > 0.5


class Misjudged(Bijection):
    """A chart with a log|det J| that is off by a share of itself."""

    def __init__(self, chart: Bijection, factor: float) -> None:
        super().__init__(chart.shape, chart.coord_shape)
        self.chart, self.factor = chart, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.chart(x)

    def inverse(self, z: Tensor) -> Tensor:
        return self.chart.inverse(z)

    def layers(self) -> tuple[Bijection, ...]:
        return self.chart.layers()

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.chart.forward_and_log_abs_det(x)
        return z, self.factor * log_det


def trained(*shape: int, dtype: torch.dtype) -> tuple[Bijection, Tensor]:
    """A chart that makes data of deviation 1/4 standard normal, as training would, and samples."""
    data = torch.randn(32, *shape, dtype=torch.float64) / 4
    if len(shape) == 3:
        chart: Bijection = shaken(glow(shape, blocks=2, width=8), 0.02)
    else:
        chart = Composition(ActNorm(shape), shaken(real_nvp(shape[0], blocks=4), 0.02))
    chart = chart.double()
    chart.initialize(data)
    return chart.to(dtype), data[:2].to(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((784,), torch.float32), ((1, 28, 28), torch.float32), *(((3072,), d) for d in DTYPES)], ids=str
)
def test_a_twentieth_of_a_trained_volume_shows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    chart, x = trained(*shape, dtype=dtype)
    require(judged(check_bijection(chart, x)))
    found = judged(check_bijection(Misjudged(chart, 0.95), x))
    assert found.verdict == "violated" and found.tolerance < 1e-2


@every_dtype
@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_right_volumes_of_random_weights_are_never_accused(factor: float, dtype: torch.dtype) -> None:
    chart = real_nvp(2000).to(dtype)
    with torch.no_grad():
        for p in chart.parameters():
            p.mul_(factor)
    found = check_bijection(chart, torch.randn(2, 2000, dtype=dtype))
    assert found.counts()["violated"] == 0
    assert judged(found).verdict == "holds" or "too wide" in judged(found).note


def test_a_volume_that_no_estimate_can_judge_says_how_wide_it_is() -> None:
    chart = real_nvp(2000)
    with torch.no_grad():
        for p in chart.parameters():
            p.mul_(4)
    found = judged(check_bijection(chart, torch.randn(1, 2000)))
    assert found.verdict == "not applicable" and "off by" in found.note and "too wide for 2000 coordinates" in found.note


def test_the_volume_of_a_large_constrained_set_says_that_it_is_not_checked() -> None:
    found = judged(check_bijection(Simplex(1100), torch.randn(1, 1100, dtype=torch.float64).softmax(-1)))
    assert found.verdict == "not applicable" and "not checked above 1024 coordinates" in found.note


class Once(torch.autograd.Function):
    """2 x with a backward pass that has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class OnceDifferentiable(Volume):
    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = Once.apply(x)
        return image


def test_a_large_chart_without_second_derivatives_is_not_accused() -> None:
    reports = check_bijection(OnceDifferentiable(1025), torch.randn(3, 1025))
    require(reports)
    (report,) = (r for r in reports if r.law == "log|det J|")
    assert report.verdict == "not applicable" and "second derivatives" in report.note


def test_a_chart_without_a_volume_says_so() -> None:
    found = judged(check_bijection(Doubled(), torch.randn(3, N)))
    assert found.verdict == "not applicable" and "has no log|det J|" in found.note
