"""Errors of adapters; the flows are stand-ins that say they come from a library, so that none needs to be installed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import transforms as T

from induced.bijections import from_callables, from_freia, from_nflows, from_normflows, from_transform, from_zuko, rounding
from induced.errors import DomainError, DtypeError, InducedError, NotInvertible, ShapeError
from proofs_tests.units.case import Case


class ActNorm(nn.Module):
    """A transform of nflows that waits for data."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        return x, 0.0

    def inverse(self, z: Tensor) -> tuple[Tensor, float]:
        return z, 0.0


class Transform(ActNorm):
    """A transform of nflows without inverse that caches its matrix."""

    def __init__(self, using_cache: bool = False) -> None:
        super().__init__()
        self.using_cache = using_cache

    def inverse(self, z: Tensor) -> tuple[Tensor, float]:
        raise NotImplementedError("no way back")


class Searched(torch.autograd.Function):
    """A function in the old style, which torch.func does not take."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()


class Search(Transform):
    """A transform of nflows that computes its inverse by it."""

    def __init__(self) -> None:
        super().__init__()
        self.initialized.fill_(True)

    def inverse(self, z: Tensor) -> tuple[Tensor, float]:
        return Searched.apply(z), 0.0


ActNorm.__module__ = Transform.__module__ = "nflows.transforms"


def waiting() -> Any:
    """A chart that waits for data; the class that nflows derives its transforms from is stood in for too."""
    kind = type("ActNorm", (ActNorm, type("Transform", (), {"__module__": "nflows.transforms"})), {})
    kind.__module__ = "nflows.transforms"
    return from_nflows(kind(), (2,))


CASES = [
    Case(DtypeError, r"expected a torch\.distributions\.Transform, got function", lambda: from_transform(lambda x: x)),  # type: ignore[arg-type]
    Case(NotInvertible, r"AbsTransform\(\) is not bijective", lambda: from_transform(T.AbsTransform(), (2,))),
    Case(NotInvertible, r"SoftmaxTransform\(\) is not bijective", lambda: from_transform(T.SoftmaxTransform(), (2,))),
    Case(
        NotInvertible, r"LowerCholeskyTransform\(\) is not bijective", lambda: from_transform(T.LowerCholeskyTransform(), (2, 2))
    ),
    Case(
        DomainError,
        r"SigmoidTransform\(\) maps onto Interval.* not all of R\^n.*its inverse maps onto R\^n, use transform\.inv",
        lambda: from_transform(T.SigmoidTransform(), (2,)),
    ),
    Case(
        DomainError,
        r"ExpTransform\(\) maps onto GreaterThan\(lower_bound=0\.0\), which is not all of R\^n, so ComposeTransform(.|\n)* R\^n$",
        lambda: from_transform(T.ComposeTransform([T.ExpTransform(), T.AffineTransform(1.0, 2.0)])),
    ),
    Case(ShapeError, r"does not take points of shape \(\)", lambda: from_transform(T.StickBreakingTransform().inv)),
    Case(
        InducedError,
        r"ExpTransform\(\) caches its last value.*with_cache\(0\)",
        lambda: from_transform(T.ExpTransform(cache_size=1).inv, (2,)),
    ),
    Case(
        DomainError,
        r"the coordinates must lie in GreaterThan.*the first being -1",
        lambda: from_transform(T.ExpTransform().inv, (2,))(torch.tensor([1.0, -1.0])),
    ),
    Case(
        InducedError,
        r"Search computes in a way that torch\.func does not take, so that it has no certificate",
        lambda: rounding(from_nflows(Search(), (2,)), torch.ones(1, 2)),
    ),
    Case(DtypeError, r"expected a zuko Flow or LazyTransform, got Linear", lambda: from_zuko(nn.Linear(2, 2), (2,))),
    Case(DtypeError, r"expected a FrEIA InvertibleModule, got Linear", lambda: from_freia(nn.Linear(2, 2))),
    Case(DtypeError, r"expected a normflows NormalizingFlow or Flow, got Linear", lambda: from_normflows(nn.Linear(2, 2), (2,))),
    Case(DtypeError, r"expected an nflows Flow or Transform, got Linear", lambda: from_nflows(nn.Linear(2, 2), (2,))),
    Case(
        NotInvertible,
        r"Transform does not map points of shape \(2,\) there and back \(NotImplementedError: no way back\)",
        lambda: from_nflows(Transform(), (2,)),
    ),
    Case(
        InducedError,
        r"ActNorm sets itself from the first batch it sees: call chart\.initialize",
        lambda: waiting()(torch.ones(2)),
    ),
    Case(ShapeError, r"needs at least two points, got a batch \(1, 2\)", lambda: waiting().initialize(torch.ones(1, 2))),
    Case(
        InducedError, r"Transform caches its matrix.*use_cache\(False\)", lambda: from_nflows(Transform(using_cache=True), (2,))
    ),
    Case(
        InducedError,
        r"normalises by the statistics of each batch",
        lambda: from_callables(nn.BatchNorm1d(2, track_running_stats=False), nn.Identity(), (2,)),
    ),
]
