"""What a subclass is told that forgets `super().__init__`, or names what it holds as a method: classes that users derive from."""

from collections.abc import Callable

import torch
from torch import Tensor

from induced import EuclideanSpace, InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import Bijection, ConditionalBijection, Identity
from induced.errors import InducedError
from induced.operators import Dense, LinearOperator
from induced.propagators import OperatorFamily, propagator
from induced.spaces import HilbertSpace
from proofs_tests.units.case import Case


class Chart(Bijection):
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x

    def inverse(self, z: Tensor) -> Tensor:
        return z / self.scale


class Layered(Bijection):
    """Its layers have the name of a method, behind which torch would hide them."""

    def __init__(self, layers: object) -> None:
        super().__init__((2,))
        self.layers = layers  # type: ignore[assignment,method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, z: Tensor) -> Tensor:
        return z


class Conditional(ConditionalBijection):
    def __init__(self, n: int) -> None:
        self.n = n

    def bind(self, context: Tensor) -> Bijection:
        return Identity((self.n,))


class Space(HilbertSpace):
    def __init__(self, n: int) -> None:
        self.n = n

    def coords(self, x: Tensor) -> Tensor:
        return x

    def point(self, z: Tensor) -> Tensor:
        return z


class Doubling(LinearOperator):
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z

    def apply_adjoint(self, w: Tensor) -> Tensor:
        return self.factor * w


class Family(OperatorFamily):
    def __init__(self, n: int) -> None:
        self.n = n

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(torch.eye(self.n))


class Doubled(LinearizerOperator):
    """A map around an operator that was made without `super().__init__`, where the map itself has called it or not."""

    def __init__(self, first: bool) -> None:
        if first:
            super().__init__()
        self.n = 2

    @property
    def domain(self) -> HilbertSpace:
        return EuclideanSpace(self.n)

    @property
    def codomain(self) -> HilbertSpace:
        return EuclideanSpace(self.n)

    @property
    def core(self) -> LinearOperator:
        return Doubling(2.0)


def _forgets(name: str, call: str, act: Callable[[], object]) -> Case:
    return Case(InducedError, rf"{name}.__init__ has not called super\(\).__init__\({call}\) yet: make it the first", act)


x = torch.ones(2)
CASES = [
    _forgets("Chart", "shape", lambda: InducedSpace(Chart(2.0))),
    _forgets("Chart", "shape", lambda: Chart(2.0)(x)),
    _forgets("Conditional", "", lambda: Conditional(2).at(0.0)),
    _forgets("Space", "shape, dim", lambda: Linearizer(torch.eye(2), Space(2))),
    _forgets("Space", "shape, dim", lambda: Space(2) == EuclideanSpace(2)),
    _forgets("Space", "shape, dim", lambda: Space(2).point_roundings(x)),
    _forgets("Doubling", r"\(m, n\)", lambda: Doubling(2.0)(x)),
    _forgets("Doubling", r"\(m, n\)", lambda: Doubling(2.0).H),
    _forgets("Doubling", r"\(m, n\)", lambda: Linearizer(Doubling(2.0), EuclideanSpace(2))),
    _forgets("Family", "dim", lambda: propagator(Family(2))),
    _forgets("Family", "dim", lambda: Family(2).dtype),
    _forgets("Doubled", "", lambda: Doubled(False)(x)),
    # a property of the map, whose cause torch used to hide: "'Doubled' object has no attribute 'H'"
    _forgets("Doubling", r"\(m, n\)", lambda: Doubled(True).H),
    Case(
        InducedError,
        r"Layered.layers is a method of its class: give this ModuleList another name",
        lambda: Layered(torch.nn.ModuleList()),
    ),
    Case(InducedError, r"Layered.layers is a method of its class: give this list another name", lambda: Layered([])),
]
