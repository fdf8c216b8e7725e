"""Charts and spaces that break a promise besides the round trip, and the law that names it; right ones near the edges."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from induced import EuclideanSpace, HilbertSpace, InducedSpace
from induced.bijections import (
    Affine,
    Bijection,
    LatticeCoupling,
)
from induced.bijections.networks import MLP
from induced.checks import check_bijection, check_space, require
from induced.errors import DomainError
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.test_checks_reject import BROKEN_SPACES, Flat, points, rejected

N = 8


class Doubled(Bijection):
    """2 x: right, and broken below."""

    def __init__(self, n: int = N) -> None:
        super().__init__((n,))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def inverse(self, z: Tensor) -> Tensor:
        return z / 2


class BatchShift(Doubled):
    mean: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.mean = x.mean(0) if x.dim() > 1 else 0.0
        return x - self.mean

    def inverse(self, z: Tensor) -> Tensor:
        return z + self.mean


class BatchScale(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + x.shape[0]) if x.dim() > 1 else x * 2

    def inverse(self, z: Tensor) -> Tensor:
        return z / (1 + z.shape[0]) if z.dim() > 1 else z / 2


class Shifted(Doubled):
    """The second half is shifted by a function of the first one: a coupling."""

    def shift(self, a: Tensor) -> Tensor:
        return torch.sin(a)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a, b + self.shift(a)], -1)

    def inverse(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        return torch.cat([a, b - self.shift(a)], -1)


class Neighbours(Shifted):
    def shift(self, a: Tensor) -> Tensor:
        return torch.tanh(a.roll(1, 0))


class BatchMean(Shifted):
    def shift(self, a: Tensor) -> Tensor:
        return a.mean(0)


class Normalised(Shifted):
    def __init__(self, track: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(N // 2, track_running_stats=track, affine=track)

    def shift(self, a: Tensor) -> Tensor:
        return self.norm(a)


class Detached(Shifted):
    def shift(self, a: Tensor) -> Tensor:
        return torch.sin(a).detach()


class Halved(Shifted):
    """A shift in half precision: a bijection, in steps."""

    def shift(self, a: Tensor) -> Tensor:
        return torch.sin(3 * a).half().to(a.dtype)


class OnlyBatches(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        return z / 2 if z.dim() > 1 and z.shape[0] > 1 else z / 3


class OnlyOneDimension(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        return z / 2 if z.dim() == 2 else z / 3


class InPlace(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(2)
        return x

    def inverse(self, z: Tensor) -> Tensor:
        z.data.div_(2)
        return z


class Spoils(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        z = 2 * x
        x.data.mul_(1.5)
        return z


class SpoilsCoordinates(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        x = z / 2
        z.data.mul_(1.5)
        return x


class Drifts(Shifted):
    """Another chart after 20 calls, and a right one before and after."""

    calls = 0

    def shift(self, a: Tensor) -> Tensor:
        self.calls += 1
        return torch.full_like(a, 0.1 * (self.calls > 20))


class Dropped(Doubled):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def inverse(self, z: Tensor) -> Tensor:
        return self.dropout(z) / 2


class WrongFarOut(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        return torch.where(z.abs() < 20, z / 2, z / 2 + 0.1)


class NotOnto(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x)

    def inverse(self, z: Tensor) -> Tensor:
        return z + torch.log(-torch.expm1(-z))


class AnotherLattice(Doubled):
    lattice_step = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    def inverse(self, z: Tensor) -> Tensor:
        return z


class AnotherDtype(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).to(torch.float64 if x.dtype == torch.float32 else torch.float32)

    def inverse(self, z: Tensor) -> Tensor:
        return (z / 2).to(torch.float32 if z.dtype == torch.float64 else torch.float64)


class AnotherShape(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        return z[..., :-1] / 2


class WithoutGaps(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.as_strided(x.shape, torch.empty(x.shape).stride(), 0)


class NotThreeDimensions(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        return z / 2 if z.dim() < 4 else z / 3


class OtherInTraining(Doubled):
    """Shifted, and back, while gradients are asked for: all laws of one mode hold."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + 0.1 * torch.is_grad_enabled()

    def inverse(self, z: Tensor) -> Tensor:
        return (z - 0.1 * torch.is_grad_enabled()) / 2


class WrongNearZero(Doubled):
    def inverse(self, z: Tensor) -> Tensor:
        return torch.where(z.abs() < 1e-3, z, z / 2)


class OneDetached(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([2 * x[..., :1].detach(), 2 * x[..., 1:]], -1)


class NoSlope(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + 0 * (x - x.detach()).sum(-1, keepdim=True).sqrt()


ALONE, REARRANGED = "of a sample is the same alone and in a batch", "of a batch is the same in any order and shape"
BROKEN: dict[str, tuple[Callable[[], Bijection], str]] = {
    "the mean of the batch, remembered": (BatchShift, f"g {ALONE}"),
    "a scale by the size of the batch": (BatchScale, f"g {ALONE}"),
    "a scale by the size of the batch, rearranged": (BatchScale, f"g^-1 {REARRANGED}"),
    "a neighbour in the batch": (Neighbours, f"g {REARRANGED}"),
    "the mean of the batch in a coupling": (BatchMean, f"g^-1 {ALONE}"),
    "batch norm without running statistics": (lambda: Normalised(False), f"g {ALONE}"),
    "batch norm with running statistics": (lambda: Normalised(True).eval(), "g is deterministic in train and eval mode"),
    "an inverse for more than one sample": (OnlyBatches, f"g^-1 {ALONE}"),
    "an inverse for one batch dimension": (OnlyOneDimension, f"g^-1 {REARRANGED}"),
    "an inverse for up to two batch dimensions": (NotThreeDimensions, f"g^-1 {REARRANGED}"),
    "a chart that reads past its view": (WithoutGaps, f"g {REARRANGED}"),
    "a chart that is another one in training": (OtherInTraining, "g is the same where gradients are asked for"),
    "an inverse that is another one in training": (OtherInTraining, "g^-1 is the same where gradients are asked for"),
    "an inverse that is wrong near zero": (WrongNearZero, "near zero: g(g^-1(z)) = z"),
    "a chart that works in place": (InPlace, "g leaves its input as it is"),
    "an inverse that works in place": (InPlace, "g^-1 leaves its input as it is"),
    "a chart that spoils what it was given": (Spoils, "g leaves its input as it is"),
    "an inverse that spoils what it was given": (SpoilsCoordinates, "g^-1 leaves its input as it is"),
    "a chart that changes after some calls": (Drifts, "g is deterministic in train and eval mode"),
    "an inverse that changes after some calls": (Drifts, "g^-1 is deterministic in train and eval mode"),
    "dropout in the inverse": (Dropped, "g^-1 is deterministic in train and eval mode"),
    "dropout in the inverse, in eval mode": (lambda: Dropped().eval(), "g^-1 is deterministic in train and eval mode"),
    "an inverse that is wrong far out": (WrongFarOut, "far out: g(g^-1(z)) = z"),
    "a chart that is not onto": (NotOnto, "far out: g(g^-1(z)) = z"),
    "a detached gradient": (Detached, "gradients of g are its slopes"),
    "a detached gradient of the inverse": (Detached, "gradients of g^-1 are its slopes"),
    "a conditioner in half precision": (Halved, "gradients of g are its slopes"),
    "a lattice of another step": (AnotherLattice, "g gives multiples of its lattice step"),
    "another dtype": (AnotherDtype, "g is finite, of its dtype and shape"),
    "another shape": (AnotherShape, "g^-1 is finite, of its dtype and shape"),
    "a slope that is not finite": (NoSlope, "gradients are finite"),
}


@every_dtype
@pytest.mark.parametrize("broken", BROKEN)
def test_check_bijection_names_the_broken_promise(broken: str, dtype: torch.dtype) -> None:
    make, law = BROKEN[broken]
    rejected(check_bijection(make().to(dtype), 2 * torch.randn(6, N, dtype=dtype)), law)


@every_dtype
def test_one_detached_coordinate_of_784_is_seen(dtype: torch.dtype) -> None:
    """A step so short that rounding hides the fault does not outweigh those that show it."""
    rejected(check_bijection(OneDetached(784), torch.randn(4, 784, dtype=dtype)), "gradients of g are its slopes")


def test_every_promise_of_a_chart_has_its_counterexample() -> None:
    found = check_bijection(LatticeCoupling((N,), MLP(4, 4, 8).double(), bits=20), torch.randn(6, N, dtype=torch.float64))
    prefixes = [law for _, law in BROKEN.values()]
    elsewhere = ("g^-1(g(x)) = x", "g(g^-1(z)) = z", "log|det J|")  # test_checks_reject.py, test_volume_checks_reject.py
    assert found.counts()["violated"] == 0
    assert not [r.law for r in found if not r.law.startswith((*prefixes, *elsewhere)) and "det" not in r.law]


@every_dtype
@pytest.mark.parametrize("make", [Doubled, Shifted], ids=["doubled", "shifted"])
def test_the_same_charts_unbroken_pass(make: Callable[[], Bijection], dtype: torch.dtype) -> None:
    for count in (1, 2, 6):
        require(check_bijection(make(), 2 * torch.randn(count, N, dtype=dtype)))


@every_dtype
def test_a_chart_that_leaves_its_lattice_by_a_later_layer_passes(dtype: torch.dtype) -> None:
    lattice = LatticeCoupling((N,), MLP(4, 4, 8).to(dtype), bits=14 if dtype == torch.float32 else 40)
    require(check_bijection(Affine((N,), 1.5) @ lattice, torch.randn(6, N, dtype=dtype)))


# ------------------------------------------------------------------------------------------------------------------- spaces
SPACES: dict[str, tuple[Callable[[], HilbertSpace], str]] = {
    "the mean of the batch, remembered": (lambda: InducedSpace(BatchShift()), f"coords {ALONE}"),
    "a scale by the size of the batch": (lambda: InducedSpace(BatchScale()), f"coords {REARRANGED}"),
    "a neighbour in the batch": (lambda: InducedSpace(Neighbours()), f"coords {REARRANGED}"),
    "the mean of the batch in a coupling": (lambda: InducedSpace(BatchMean()), f"point {ALONE}"),
    "batch norm without running statistics": (lambda: InducedSpace(Normalised(False)), f"coords {ALONE}"),
    "batch norm with running statistics": (lambda: InducedSpace(Normalised(True).eval()), f"coords {ALONE}"),
    "an inverse for more than one sample": (lambda: InducedSpace(OnlyBatches()), f"point {ALONE}"),
    "an inverse for one batch dimension": (lambda: InducedSpace(OnlyOneDimension()), f"point {REARRANGED}"),
    "a chart that works in place": (lambda: InducedSpace(InPlace()), "coords leaves its input as it is"),
    "an inverse that spoils what it was given": (lambda: InducedSpace(SpoilsCoordinates()), "point leaves its input as it is"),
    "a chart that changes after some calls": (lambda: InducedSpace(Drifts()), "coords is deterministic in train and eval mode"),
    "an inverse that changes": (lambda: InducedSpace(Drifts()), "point is deterministic in train and eval mode"),
    "another chart in training": (lambda: InducedSpace(OtherInTraining()), "coords is the same where gradients are asked for"),
    "another inverse in training": (lambda: InducedSpace(OtherInTraining()), "point is the same where gradients are asked for"),
    "dropout in the inverse": (lambda: InducedSpace(Dropped().eval()), "point is deterministic in train and eval mode"),
}


@every_dtype
@pytest.mark.parametrize("broken", SPACES)
def test_check_space_names_the_broken_promise(broken: str, dtype: torch.dtype) -> None:
    make, law = SPACES[broken]
    rejected(check_space(make().to(dtype), 2 * torch.randn(6, N, dtype=dtype)), law)


def test_every_report_of_check_space_has_its_counterexample() -> None:
    found = check_space(Flat(), points())
    assert found.counts()["holds"] == len(found)
    prefixes = [law for _, law in (*BROKEN_SPACES.values(), *SPACES.values())]
    assert not [r.law for r in found if not r.law.startswith(tuple(prefixes))]


def test_a_space_that_holds_no_multiple_of_its_samples_says_so() -> None:
    class Refuses(EuclideanSpace):  # type: ignore[misc]
        def point(self, z: Tensor) -> Tensor:
            raise DomainError("no point has these coordinates")

    with pytest.raises(DomainError, match="no point"):
        check_space(Refuses(3), points())
