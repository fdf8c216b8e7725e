"""Which functions of which structures form an n x n matrix: a spy counts, and docs/guide/cores.md says the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from induced.errors import DomainError, SingularOperator
from induced.operators import (
    LU,
    BlockCirculant,
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
    cond,
    det,
    eigenvalues,
    exp,
    function,
    image,
    inverse,
    kernel,
    log,
    norm,
    pinv,
    polar,
    power,
    rank,
    resolvent,
    singular_values,
    slogdet,
    solve,
    sqrt,
    svd,
    trace,
)
from induced.operators.base import Adjoint, Product, Scaled
from induced.operators.linalg import Inverse

n = 300
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "cores.md"
HEADING, NEXT = "## What is formed\n", "\n## "


def near_identity() -> LinearOperator:
    return ScaledIdentityPlusLowRank(2.0, *(torch.randn(n, 4, dtype=torch.float64) / n**0.5 for _ in range(2)))


def reflections() -> LinearOperator:
    return Householder(torch.randn(2, n, dtype=torch.float64))


def positive(k: int) -> Tensor:
    return torch.eye(k, dtype=torch.float64) + 0.1 * torch.randn(k, k, dtype=torch.float64) / k**0.5


def factors() -> tuple[Tensor, Tensor]:
    U = torch.randn(n, 4, dtype=torch.float64)
    return U, U + 0.1 * torch.randn(n, 4, dtype=torch.float64)


STRUCTURES: dict[str, Callable[[], LinearOperator]] = {
    "Diagonal": lambda: Diagonal(torch.linspace(1, 2, n, dtype=torch.float64)),
    "Projection": lambda: Projection((torch.arange(n) % 2).double()),
    "RotationScaling": lambda: RotationScaling(*(torch.linspace(1, 2, n // 2, dtype=torch.float64) for _ in range(2))),
    "BlockDiagonal": lambda: BlockDiagonal(*map(positive, (20, 30, 50, 20, 30, 50, 20, 30, 50))),
    "LowRank": lambda: LowRank(*factors()),
    "c I + U Vᵀ": near_identity,
    "Householder": reflections,
    "Permutation": lambda: Permutation(
        (torch.arange(n).reshape(-1, 3)[:, [1, 2, 0]]).flatten(),
        dtype=torch.float64,  # cycles of three: -1 is no eigenvalue
    ),
    "LU": lambda: LU.of(positive(n)),
    "Convolution, circular": lambda: Convolution(torch.tensor([[[0.2, 1.0, 0.1]]], dtype=torch.float64), (1, n), mode="circular"),
    "BlockCirculant": lambda: BlockCirculant.of(
        torch.cat([2 * torch.eye(2, dtype=torch.float64)[..., None], 0.3 * torch.randn(2, 2, 149, dtype=torch.float64) / 12], -1),
        1,
    ),
    "Scaled(Householder)": lambda: Scaled(2.5, reflections()),
    "Adjoint(Householder)": lambda: Adjoint(reflections()),
    "Inverse(c I + U Vᵀ)": lambda: Inverse(near_identity()),
    "Householder @ (c I + U Vᵀ)": lambda: Product(reflections(), near_identity()),
}
FUNCTIONS: dict[str, Callable[[LinearOperator], Any]] = {
    "svd": lambda A: svd(A, 3),
    "pinv": pinv,
    "inverse": inverse,
    "polar": polar,
    "solve": lambda A: solve(A, torch.ones(n, dtype=torch.float64)),
    "rank": rank,
    "kernel": kernel,
    "image": image,
    "cond": cond,
    "det": det,
    "slogdet": slogdet,
    "norm": norm,
    "frobenius": lambda A: norm(A, "frobenius"),
    "nuclear": lambda A: norm(A, "nuclear"),
    "singular_values": singular_values,
    "trace": trace,
    "exp": exp,
    "log": log,
    "sqrt": sqrt,
    "power 3": lambda A: power(A, 3),
    "power -1": lambda A: power(A, -1),
    "function": lambda A: function(A, torch.sin),
    "resolvent": lambda A: resolvent(A, 20.0),
    "eigenvalues": eigenvalues,
}
MOST = 40

# why a structure has no other form of a function
PRODUCT = "the factors have different frames"
TRIANGLES = "a product of triangles has no simpler form for it, and holds n² numbers anyway"
WAVES = "the basis of the whole space is its n waves"
CYCLES = "its cycles are not followed"
LIKE_EXP = ("exp", "log", "sqrt", "function", "resolvent", "eigenvalues")
REASONS: dict[str, dict[str, str]] = {
    "Permutation": dict.fromkeys(("trace", *LIKE_EXP), CYCLES),
    "LU": dict.fromkeys(FUNCTIONS, TRIANGLES),
    "Convolution, circular": {"image": WAVES},
    "BlockCirculant": {"image": WAVES},
    "Householder @ (c I + U Vᵀ)": dict.fromkeys(LIKE_EXP, PRODUCT),
}


class Formed(BaseException):
    """An n x n matrix was made: nothing more is asked."""


class Large(TorchDispatchMode):
    """Raises where an operation makes a tensor of n^2 numbers or more."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.untyped_storage().nbytes() >= 8 * n * n for x in tree_leaves(out)):
            raise Formed(str(func))
        return out


def classes(cls: type) -> Iterator[type]:
    yield cls
    each: type
    for each in cls.__subclasses__():
        yield from classes(each)


@contextmanager
def spied() -> Iterator[None]:
    """Raises where a matrix of n x n entries is made: by `matrix`, or as a `Dense`."""
    with pytest.MonkeyPatch.context() as patch:
        for cls in set(classes(LinearOperator)):
            if "matrix" in vars(cls):
                known_matrix = vars(cls)["matrix"]

                def matrix(self: LinearOperator, *args: Any, _known: Any = known_matrix, **kwargs: Any) -> Tensor:
                    if self.shape == (n, n):
                        raise Formed(f"{type(self).__name__}.matrix")
                    found: Tensor = _known(self, *args, **kwargs)
                    return found

                patch.setattr(cls, "matrix", matrix)
        known = Dense.__init__

        def init(self: Dense, A: Tensor) -> None:
            if tuple(A.shape[-2:]) == (n, n):
                raise Formed("Dense")
            known(self, A)

        patch.setattr(Dense, "__init__", init)
        yield


def formed(name: str, what: str) -> bool:
    """Whether a matrix of n x n entries is made by the function, or where what it returns is applied."""
    torch.manual_seed(0)
    A, z = STRUCTURES[name](), torch.ones(n, dtype=torch.float64)
    # the parameters of LU are n x n: what it forms is told by `matrix` and `Dense` alone
    with spied(), nullcontext() if name == "LU" else Large(), torch.no_grad():
        try:
            found = FUNCTIONS[what](A)
            for B in found if isinstance(found, tuple) else (found,):
                if isinstance(B, LinearOperator):
                    B.apply_adjoint(z)
        except (DomainError, SingularOperator):
            return False
        except Formed:
            return True
    return False


def section(table: dict[str, list[str]]) -> str:
    """What the guide says of it."""
    count, cells = sum(map(len, table.values())), len(STRUCTURES) * len(FUNCTIONS)
    rows = []
    for name, functions in table.items():
        for reason in dict.fromkeys(REASONS[name][what] for what in functions):
            listed = ", ".join(what for what in functions if REASONS[name][what] == reason)
            rows.append(f"| {name} | {listed} | {reason} |")
    free = ", ".join(name for name, functions in table.items() if not functions)
    return "\n".join(
        [
            f"{HEADING}",
            f"{len(STRUCTURES)} structures and {len(FUNCTIONS)} functions make {cells} pairs. {count} of them "
            "form an n × n matrix:",
            "",
            "| structure | functions | why |",
            "|---|---|---|",
            *rows,
            "",
            f"No function forms one of: {free}.",
            "",
            f"The functions are: {', '.join(FUNCTIONS)}. Those that have no value (the inverse of U Vᵀ) form nothing.",
            "A [test](../../proofs_tests/structure/test_materialised.py) counts the pairs and compares them with this table.",
            "",
        ]
    )


def parts() -> tuple[str, str, str]:
    """The page before the section, the section, and what follows."""
    before, heading, after = PAGE.read_text(encoding="utf-8").partition(HEADING)
    text, following, rest = after.partition(NEXT)
    return before, heading + text, following + rest


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    return {name: [what for what in FUNCTIONS if formed(name, what)] for name in STRUCTURES}


def test_few_functions_form_a_matrix(table: dict[str, list[str]]) -> None:
    assert len(STRUCTURES) == 15 and len(FUNCTIONS) == 24
    assert sum(map(len, table.values())) <= MOST, table


def test_each_pair_that_forms_a_matrix_has_a_reason_in_the_guide(table: dict[str, list[str]]) -> None:
    unexplained = [(name, what) for name, functions in table.items() for what in functions if what not in REASONS.get(name, {})]
    assert not unexplained
    assert parts()[1] == section(table), f"write this section of {PAGE.name}:\n{section(table)}"


def test_the_spy_sees_matrices_of_any_origin() -> None:
    assert formed("LU", "exp") and formed("Permutation", "eigenvalues")
    for make in (lambda: Dense(torch.zeros(n, n)), lambda: near_identity().matrix(), lambda: torch.zeros(n, n).double()):
        with pytest.raises(Formed), spied(), Large():
            make()
