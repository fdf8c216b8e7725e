"""torch.compile(fullgraph=True) of functions that build adjoints, inverses, exponentials and decompositions in their graph."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

from induced import InducedSpace, Linearizer
from induced.bijections import Sinh
from induced.operators import (
    LU,
    BlockDiagonal,
    Convolution,
    Dense,
    Diagonal,
    Householder,
    LinearOperator,
    LowRank,
    Permutation,
    Projection,
    RotationScaling,
    ScaledIdentityPlusLowRank,
    SkewExponential,
)

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]  # torch's own

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
N, RANK = 12, 3
F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)) / 3


def factored(seed: int = 0) -> tuple[Tensor, Tensor]:
    return drawn(N, 2, seed=seed), drawn(N, 2, seed=seed + 1)


def triangular() -> LU:
    return LU.of(2 * torch.eye(N, dtype=F64) + drawn(N, N))


CORES: dict[str, Callable[[], LinearOperator]] = {
    "Dense": lambda: Dense(torch.eye(N, dtype=F64) + drawn(N, N)),
    "Dense, trained": lambda: Dense(nn.Parameter(torch.eye(N, dtype=F64) + drawn(N, N))),
    "c I + U V^T": lambda: ScaledIdentityPlusLowRank(0.9, *factored()),
    "U V^T": lambda: LowRank(*factored()),
    "Diagonal": lambda: Diagonal(torch.linspace(0.5, 1.5, N, dtype=F64)),
    "BlockDiagonal": lambda: BlockDiagonal(torch.eye(4, dtype=F64) + drawn(3, 4, 4)),
    "BlockDiagonal, unequal": lambda: BlockDiagonal(2 * torch.eye(4, dtype=F64) + drawn(4, 4), drawn(8, 8)),
    "Householder": lambda: Householder(drawn(2, N)),
    "Convolution": lambda: Convolution(drawn(1, 1, 3), (1, N), mode="circular"),
    "LU": triangular,
    "Permutation": lambda: Permutation(list(range(N))[::-1], dtype=F64),
    "Projection": lambda: Projection((torch.arange(N) % 2).to(F64)),
    "RotationScaling": lambda: RotationScaling(
        torch.linspace(0.2, 1, N // 2, dtype=F64), torch.linspace(1, 0.5, N // 2, dtype=F64)
    ),
    "SkewExponential": lambda: SkewExponential(drawn(N, N)),
}
SINGULAR = {"U V^T", "Projection"}

FUNCTIONS: dict[str, Callable[[Linearizer, Tensor, int], Tensor]] = {
    "f(x)": lambda f, x, k: f(x),
    "f.H(x)": lambda f, x, k: f.H(x),
    "f.pinv()(x)": lambda f, x, k: f.pinv()(x),
    "f.svd(3).truncate(k)(x)": lambda f, x, k: f.svd(RANK).truncate(k)(x),
    "f.svd(3).values": lambda f, x, k: f.svd(RANK).values,
    "f.inv(x)": lambda f, x, k: f.inv(x),
    "f.exp()(x)": lambda f, x, k: f.exp()(x),
    "f.exp(t)(x)": lambda f, x, k: f.exp(x.mean())(x),
    "f.norm()": lambda f, x, k: f.norm(),
    "(f**3)(x)": lambda f, x, k: (f**3)(x),
    "f.solve(x)": lambda f, x, k: f.solve(x),
}


def gap(which: str) -> int:
    """The largest k <= 3 after which the singular values have a gap, 0 for none: elsewhere a truncation is one of many."""
    s = torch.linalg.svdvals(CORES[which]().matrix().detach())
    return max((k for k in range(1, RANK + 1) if s[k - 1] - s[k] > 1e-2), default=0)


def cells() -> list[ParameterSet]:
    """Each core with one function, in turn, for `make test`; all pairs for `make thorough`."""
    found = []
    for i, which in enumerate(CORES):
        names = [f for f in FUNCTIONS if (which not in SINGULAR or f != "f.inv(x)") and ("truncate" not in f or gap(which))]
        for name in names if THOROUGH else [names[(i + 2) % len(names)]]:
            found.append(pytest.param(which, name, id=f"{name} of {which}"))
    return found


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiles(which: str, name: str, backend: str) -> None:
    f = Linearizer(CORES[which](), InducedSpace(Sinh((N,))))
    x, k = drawn(3, N, seed=9), gap(which)
    with torch.no_grad():
        expected = FUNCTIONS[name](f, x, k)
        found = torch.compile(lambda x: FUNCTIONS[name](f, x, k), fullgraph=True, backend=backend)(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("which", "name"), cells())
def test_what_is_built_in_a_graph_is_what_eager_mode_gives(which: str, name: str) -> None:
    compiles(which, name, "eager")


@pytest.mark.parametrize("which", CORES if THOROUGH else ["c I + U V^T"])
@pytest.mark.parametrize("name", ["f.pinv()(x)", "f.exp()(x)"] if THOROUGH else ["f.pinv()(x)"])
def test_so_it_is_through_aot_autograd(which: str, name: str) -> None:
    compiles(which, name, "aot_eager")
