"""Powers, groups and idempotents: for each report, an operator that is broken in just that way."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, LinearizerOperator
from induced.bijections import real_nvp
from induced.checks import check_group, check_idempotent, check_powers, require
from induced.operators import Dense, LinearOperator
from proofs_tests.counterexamples.test_checks_reject import EMPTY, A, linear, points, rejected, verdicts
from proofs_tests.registry import DTYPES, shaken


class OneSpace(LinearizerOperator):
    """x -> A x, with its exponential or its powers replaced."""

    def __init__(
        self, *, exp: Callable[[float], LinearizerOperator] | None = None, powers: dict[int, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.replaced_exp, self.powers = exp, powers or {}
        self.space, self.operator = EuclideanSpace(3), Dense(A)

    @property
    def domain(self) -> HilbertSpace:
        return self.space

    @property
    def codomain(self) -> HilbertSpace:
        return self.space

    @property
    def core(self) -> LinearOperator:
        return self.operator

    def exp(self, t: float = 1.0) -> LinearizerOperator:  # type: ignore[override]
        return super().exp(t) if self.replaced_exp is None else self.replaced_exp(t)

    def __pow__(self, k: int) -> LinearizerOperator:
        return linear(self.powers[k]) if k in self.powers else super().__pow__(k)


class SignOfZero(OneSpace):
    """The identity, but for the sign of zeros."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.where(x == 0, -x, x)


EYE = torch.eye(3, dtype=torch.float64)
WRONG_POWERS = {
    "a zeroth power that is not the identity": ({0: 1.001 * EYE}, "f^0 = id"),
    "a first power that is another map": ({1: A.mT}, "f^1 = f"),
    "powers entry by entry": ({3: A**3}, "f^3 = f f f"),
    "a fifth power that is a fourth one": ({5: A @ A @ A @ A}, "f^2 f^3 = f^5"),
}


@pytest.mark.parametrize("broken", WRONG_POWERS)
def test_check_powers_rejects(broken: str) -> None:
    powers, law = WRONG_POWERS[broken]
    reports = check_powers(OneSpace(powers=powers), points())
    rejected(reports, law)
    assert sum(verdicts(reports).values()) == 3 if 3 not in powers else not verdicts(reports)["f^2 f^3 = f^5"]


def exponential(M: Tensor) -> LinearizerOperator:
    return linear(torch.linalg.matrix_exp(M))


WRONG_GROUPS: dict[str, tuple[Callable[[float], LinearizerOperator], str]] = {
    "a group that does not start at the identity": (lambda t: 1.001 * exponential(t * A), "exp(0) = id"),
    "an Euler step": (lambda t: linear(EYE + t * A), "exp(s f) exp(t f)"),
    "an exponential of |t|": (lambda t: exponential(abs(t) * A), "exp(-t f) exp(t f)"),
    "the group of another map": (lambda t: exponential(t * A.mT), "d/dt exp(t f)"),
}


@pytest.mark.parametrize("broken", WRONG_GROUPS)
def test_check_group_rejects(broken: str) -> None:
    exp, law = WRONG_GROUPS[broken]
    rejected(check_group(OneSpace(exp=exp), points()), law)


def test_the_derivative_of_a_group_tells_maps_apart_that_differ_little() -> None:
    near = lambda t: exponential(t * A * (1 + 1e-9))  # noqa: E731
    reports = check_group(OneSpace(exp=near), points())
    rejected(reports, "d/dt exp(t f)")
    assert sum(verdicts(reports).values()) == 3


NOT_IDEMPOTENT = {
    "a reflection": torch.diag(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)),
    "a projection that shrinks": torch.diag(torch.tensor([1.0, 1 - 1e-12, 0.0], dtype=torch.float64)),
    "a general map": A,
}


@pytest.mark.parametrize("broken", NOT_IDEMPOTENT)
def test_check_idempotent_rejects(broken: str) -> None:
    rejected(check_idempotent(linear(NOT_IDEMPOTENT[broken]), points()), "f(f(x)) = f(x)")


def test_exact_idempotency_is_judged_by_bits() -> None:
    mask = torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    x = points().abs() + 0.1
    require(check_idempotent(linear(mask), x, exact=True))
    q = torch.nn.functional.normalize(torch.ones(3, dtype=torch.float64), dim=0)
    oblique = linear(torch.outer(q, q))
    require(check_idempotent(oblique, x))
    rejected(check_idempotent(oblique, x, exact=True), "f(f(x)) = f(x), bit for bit")
    # -0 and +0 are equal numbers, and other bits
    rejected(check_idempotent(SignOfZero(), points(), exact=True), "f(f(x)) = f(x), bit for bit")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_checks_accept_the_same_maps_unbroken(dtype: torch.dtype) -> None:
    X = InducedSpace(shaken(real_nvp(3, 2, 8)).to(dtype))
    for space in (EuclideanSpace(3), X):
        x = points().to(dtype) * 0.3
        for M in (A, 0 * A, A / 10, EYE):
            f = Linearizer(M.to(dtype), space)
            require(check_powers(f / 3, x), check_group(f, x))
        q = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=dtype), dim=0)
        require(check_idempotent(Linearizer(torch.outer(q, q), space), x))


@pytest.mark.parametrize("check", [check_powers, check_group, check_idempotent])
def test_no_law_is_judged_without_samples(check: Callable[..., object]) -> None:
    with pytest.raises(Exception, match="a law needs at least one sample"):
        check(linear(A), EMPTY)
