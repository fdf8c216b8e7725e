"""Charts and spaces whose reports are recorded, right and broken."""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from induced import EuclideanSpace, InducedSpace, Report, Subspace
from induced.bijections import (
    Affine,
    Arctanh,
    Bijection,
    Composition,
    InverseSoftplus,
    LatticeCoupling,
    Linear,
    PositiveDefinite,
    Simplex,
    Sinh,
    real_nvp,
)
from induced.bijections.networks import MLP
from induced.checks import (
    check_bijection,
    check_space,
)
from induced.errors import DomainError
from induced.operators import Dense, Diagonal
from proofs_tests.counterexamples.test_chart_checks_reject import AnotherLattice, Doubled, NotOnto, Shifted
from proofs_tests.counterexamples.test_checks_reject import BROKEN_SPACES
from proofs_tests.counterexamples.test_volume_checks_reject import Misjudged, Scaled

Reported = list[Report]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that are the same on every machine."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Filled = TypeVar("Filled", bound=nn.Module)


def filled(module: Filled, size: float = 0.3) -> Filled:
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p.copy_(size * normal(*p.shape, seed=k))
    return module


def learned(n: int, dtype: torch.dtype, size: float = 0.3) -> Bijection:
    return filled(real_nvp(n, 2, 8), size).to(dtype)


SHIFT = Affine((4,), 1.0, 1000.0)
SHIFTED = InducedSpace(Affine((3,), 1.0, 1000.0))


def graded(n: int, condition: float) -> Tensor:
    """A matrix of this condition, one that no rotation makes diagonal."""
    U, V = (torch.linalg.qr(normal(n, n, seed=seed))[0] for seed in (1, 2))
    return (U * condition ** -torch.linspace(0, 1, n, dtype=torch.float64)) @ V.mT


class Within(Doubled):
    """2 x inside of a ball."""

    def __init__(self, radius: float) -> None:
        super().__init__(4)
        self.radius = radius

    def inverse(self, z: Tensor) -> Tensor:
        if bool((z.norm(dim=-1) > self.radius).any()):
            raise DomainError("too far out")
        return z / 2


class Kinked(Doubled):
    """2 x where that is positive, else x."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, 2 * x, x)

    def inverse(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, z / 2, z)


class Off(Doubled):
    """2 x, and wrong by a share that grows with the first entry."""

    def __init__(self, share: float) -> None:
        super().__init__(4)
        self.share = share

    def inverse(self, z: Tensor) -> Tensor:
        return z / 2 * (1 + self.share * z[..., :1].square())


class HalfSlope(Shifted):
    def shift(self, a: Tensor) -> Tensor:
        return torch.sin(a) / 2 + torch.sin(a).detach() / 2


class Sheared(Scaled):
    """The second half is moved by a share of the first one, which is no diagonal Jacobian."""

    def __init__(self, n: int, share: float) -> None:
        super().__init__(n)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a, b + self.share * a], -1)

    def inverse(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        return torch.cat([a, b - self.share * a], -1)

    def volume(self, x: Tensor) -> Tensor:
        return self._batch_zeros(x)


class Overflows(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.finfo(x.dtype).max ** 0.25


class FarAndNear(Doubled):
    """Wrong beyond a size, and below one."""

    def inverse(self, z: Tensor) -> Tensor:
        size = z.norm(dim=-1, keepdim=True)
        return z / 2 * (1 + 0.01 * (size > 20) + 0.02 * (size < 0.01))


class OfTheBatch(Doubled):
    """Wrong by a share that depends on how many samples there are, and on the dimensions of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x * (1 + 1e-3 * (x.shape[0] - 6 if x.dim() == 2 else x.dim()))


@cache
def chart_cases(dtype: torch.dtype) -> dict[str, Callable[[], Reported]]:
    x = normal(6, 4).to(dtype)
    eight = normal(6, 8).to(dtype)
    shears = Composition(Sheared(1026, 0.2), Sheared(1026, 0.18))
    decades = Linear(Diagonal(torch.logspace(-3, 4, 1100, dtype=dtype)))
    sizes = torch.tensor([[0.1], [1.0]], dtype=dtype)
    weights = torch.linspace(0.5, 2, 1100, dtype=torch.float64)
    estimated = Composition(Sinh((1100,)), Linear(Diagonal(weights)))
    return {
        "coupling": lambda: check_bijection(learned(4, dtype), x),
        "near the zero vector of a shift": lambda: check_bijection(SHIFT, SHIFT.inverse(0.07 * x)),
        "matrix of condition 1000": lambda: check_bijection(Linear(Dense(graded(5, 1e3).to(dtype))), normal(6, 5).to(dtype)),
        "saturating": lambda: check_bijection(Arctanh((4,)), torch.tanh(1.3 * x)),
        "near the edge": lambda: check_bijection(InverseSoftplus((4,)), (4 * x).exp()),
        "simplex": lambda: check_bijection(Simplex(5), normal(6, 5).softmax(-1).to(dtype)),
        "definite": lambda: check_bijection(PositiveDefinite(2), PositiveDefinite(2).inverse(normal(3, 3).to(dtype))),
        "lattice": lambda: check_bijection(LatticeCoupling((4,), filled(MLP(2, 2, 4)).to(dtype), bits=8), x),
        "refuses": lambda: check_bijection(Within(20.0), x),
        "refuses a little farther": lambda: check_bijection(Within(7.5), x),
        "kinked": lambda: check_bijection(Kinked(4), x),
        "volume of 70": lambda: check_bijection(Scaled(70), normal(2, 70).to(dtype)),
        "estimated volume": lambda: check_bijection(estimated.to(dtype), normal(2, 1100).to(dtype)),
        "wrong estimated volume": lambda: check_bijection(Misjudged(estimated.to(dtype), 0.9), normal(1, 1100).to(dtype)),
        "volume of several rounds": lambda: check_bijection(shears, normal(1, 1026).to(dtype)),
        "volume of too many rounds": lambda: check_bijection(Sheared(1026, 1.0).to(dtype), normal(1, 1026).to(dtype)),
        "volume of many decades": lambda: check_bijection(decades, normal(1, 1100).to(dtype)),
        "wrong volume of the second sample": lambda: check_bijection(Misjudged(Scaled(64), 0.9), sizes * normal(2, 64).to(dtype)),
        "images": lambda: check_bijection(Sinh((2, 1, 3)), normal(3, 2, 2, 1, 3).to(dtype) / 2),
        "not onto": lambda: check_bijection(NotOnto(4), x),
        "another lattice": lambda: check_bijection(AnotherLattice(4), x),
        "overflows": lambda: check_bijection(Overflows(4), x * torch.finfo(dtype).max ** 0.8),
        "wrong": lambda: check_bijection(Off(0.01), x),
        "wrong far and near": lambda: check_bijection(FarAndNear(4), x),
        "half a slope": lambda: check_bijection(HalfSlope(8), eight),
        "of the batch": lambda: check_bijection(OfTheBatch(4), x),
        "wrong volume": lambda: check_bijection(Misjudged(Scaled(), 0.9), eight),
        "one sample": lambda: check_bijection(learned(4, dtype), x[:1]),
    }


@cache
def space_cases(dtype: torch.dtype) -> dict[str, Callable[[], Reported]]:
    x = normal(5, 3).to(dtype)
    X = InducedSpace(learned(3, dtype))
    cases: dict[str, Callable[[], Reported]] = {
        "learned space": lambda: check_space(X, x),
        "subspace": lambda: check_space(Subspace.span(X, x[:2]), X.combine((0.5, 1.5), (x[:2], x[1:3]))),
        "space that holds little": lambda: check_space(InducedSpace(Within(6.0)), normal(3, 4).to(dtype)),
        "large points": lambda: check_space(EuclideanSpace(3), 1e19 * x),
        "zero points": lambda: check_space(SHIFTED, SHIFTED.zero(2, dtype=dtype)),
        "points near zero": lambda: check_space(SHIFTED, SHIFTED.point(0.03 * x)),
    }
    if dtype == torch.float64:
        # two samples would be the worst of these
        others = [name for name in BROKEN_SPACES if name not in ("a sum that leaves a remainder", "multiples of shifted points")]
        cases |= {name: lambda name=name: [r for r in check_space(BROKEN_SPACES[name][0], x) if not r.ok] for name in others}  # type: ignore[misc]
    return cases
