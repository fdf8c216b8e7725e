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

    initialized: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.initialized.fill_(True)

    def inverse(self, z: Tensor) -> tuple[Tensor, float]:
        return Searched.apply(z), 0.0


ActNorm.__module__ = Transform.__module__ = "nflows.transforms"


class Adding(Search):
    """A transform of nflows that adds a context, if it gets one."""

    def __init__(self) -> None:
        super().__init__()
        self.context_layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, float]:
        return (x if context is None else x + self.context_layer(context)), 0.0

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, float]:
        return (z if context is None else z - self.context_layer(context)), 0.0


class InvertibleModule(nn.Module):
    """A module of FrEIA with two conditions."""

    dims_in, dims_c = (2,), ((1,), (1,))


Adding.__module__ = "nflows.transforms"
InvertibleModule.__module__ = "FrEIA.modules"


def waiting() -> Any:
    """A chart that waits for data; the class that nflows derives its transforms from is stood in for too."""
    kind = type("ActNorm", (ActNorm, type("Transform", (), {"__module__": "nflows.transforms"})), {})
    kind.__module__ = "nflows.transforms"
    return from_nflows(kind(), (2,))


def embedding() -> Any:
    """A flow of nflows that embeds its contexts of length 2."""
    flow = type("Flow", (nn.Module,), {"__module__": "nflows.flows"})()
    flow._transform, flow._embedding_net = Adding(), nn.Linear(2, 2)
    return flow


def unconditional() -> Any:
    kind = type("Flow", (nn.Module,), {"__module__": "normflows.flows"})
    return kind()


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
        r"AffineTransform\(\) caches its last value.*with_cache\(0\)",
        lambda: from_transform(T.AffineTransform(0.0, 2.0, cache_size=1), (2,)),
    ),
    Case(
        DomainError,
        r"the point of a Log chart must lie in the positive numbers, .* the first being -1",
        lambda: from_transform(T.ExpTransform().inv, (2,))(torch.tensor([1.0, -1.0])),
    ),
    Case(
        DomainError,
        r"the coordinates must lie in the interior of Simplex\(\), but 3 of 3 value\(s\) do not",
        lambda: from_transform(T.StickBreakingTransform().inv, (3,))(torch.tensor([0.0, 0.5, 0.5])),
    ),
    Case(
        DomainError,
        r"the values that are mapped must lie in the range in which torch does not clip, .* being 40; it is so large",
        lambda: from_transform(T.StickBreakingTransform().inv, (3,)).inverse(torch.tensor([40.0, 0.0])),
    ),
    Case(
        DomainError,
        r"the image of the point must lie in the interior of Interval.*keep it smaller",
        lambda: from_transform(T.CumulativeDistributionTransform(torch.distributions.Normal(0.0, 1.0)).inv).inverse(
            torch.tensor(20.0)
        ),
    ),
    Case(
        NotInvertible,
        r"AffineTransform\(\) does not map coordinates around 0 to points of shape \(2,\) and back: .* come back as \[nan, nan\]",
        lambda: from_transform(T.AffineTransform(0.0, 0.0), (2,)),
    ),
    Case(
        NotInvertible,
        r"ComposeTransform(.|\n)* to points of shape \(\) and back: NotImplementedError",
        lambda: from_transform(
            T.ComposeTransform([T.CumulativeDistributionTransform(torch.distributions.Gamma(2.0, 1.0)), T.SigmoidTransform().inv])
        ),
    ),
    Case(
        ShapeError,
        r"CatTransform\(\) takes points of shape \(8,\), got \(6,\)",
        lambda: from_transform(T.CatTransform([T.StickBreakingTransform().inv] * 2, -1, [4, 4]), (6,)),
    ),
    Case(
        ShapeError,
        r"CatTransform\(\) has dim=0, which is not an axis of a point of shape \(2,\): count it from the end, dim=-1",
        lambda: from_transform(T.CatTransform([T.AffineTransform(0.0, 2.0)] * 2), (2,)),
    ),
    Case(
        InducedError,
        r"Search computes in a way that torch\.func does not take, so that it has no amplification",
        lambda: rounding(from_nflows(Search(), (2,)), torch.ones(1, 2)),
    ),
    Case(
        NotInvertible,
        r"Adding depends on a context: pass context=k, the length of a context, .* or context=c",
        lambda: from_nflows(Adding(), (2,)),
    ),
    Case(
        ShapeError,
        r"this flow takes contexts of shape \(\*batch, 2\), got \(3,\)",
        lambda: from_nflows(Adding(), (2,), 2).at(torch.ones(3)),
    ),
    Case(
        ShapeError,
        r"contexts of shape \(4, 2\) do not fit a batch \(3,\) of points",
        lambda: from_nflows(Adding(), (2,), 2).at(torch.ones(4, 2))(torch.ones(3, 2)),
    ),
    Case(
        NotInvertible,
        r"the embedding of Flow does not take context=3: mat1 and mat2 shapes",
        lambda: from_nflows(embedding(), (2,), 3),
    ),
    Case(ShapeError, r"Flow takes no context, got context=2", lambda: from_normflows(unconditional(), (2,), 2)),
    Case(NotInvertible, r"InvertibleModule has more than one condition; .* join them", lambda: from_freia(InvertibleModule())),
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
    Case(
        NotInvertible,
        r"AffineTransform\(\) does not map coordinates around 0 .* and back",
        lambda: from_transform(T.AffineTransform(0.0, 1j), (2,)),  # type: ignore[arg-type]
    ),
]
