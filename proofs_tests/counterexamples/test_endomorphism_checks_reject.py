"""Powers, groups and idempotents: for each report, an operator that is broken in just that way."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from induced import EuclideanSpace, HilbertSpace, InducedSpace, Linearizer, LinearizerOperator, Report
from induced.bijections import Affine, Arctanh, Log, real_nvp
from induced.checks import check_group, check_idempotent, check_powers, require
from induced.errors import DomainError
from induced.operators import Dense, LinearOperator
from proofs_tests.counterexamples.dtypes import every_dtype
from proofs_tests.counterexamples.test_checks_reject import EMPTY, A, linear, points, rejected, verdicts
from proofs_tests.registry import shaken


class OneSpace(LinearizerOperator):
    """x -> A x, with its exponential or its powers replaced."""

    def __init__(
        self,
        *,
        exp: Callable[[float], LinearizerOperator] | None = None,
        powers: dict[int, Tensor] | None = None,
        raises: dict[int, Exception] | None = None,
        matrix: Tensor = A,
        space: HilbertSpace | None = None,
    ) -> None:
        super().__init__()
        self.replaced_exp, self.powers, self.raises = exp, powers or {}, raises or {}
        self.space, self.operator = space or EuclideanSpace(len(matrix)), Dense(matrix)

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

    def __pow__(self, k: int) -> LinearizerOperator:  # type: ignore[override]
        if k in self.raises:
            raise self.raises[k]
        return Linearizer(self.powers[k], self.space) if k in self.powers else super().__pow__(k)


class SignOfZero(OneSpace):
    """The identity, but for the sign of zeros."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.where(x == 0, -x, x)


def violated(reports: list[Report]) -> set[str]:
    return {report.law for report in reports if report.verdict == "violated"}


# ------------------------------------------------------------------------------------------------------------------------- powers
EYE = torch.eye(3, dtype=torch.float64)
INVERSE = torch.linalg.inv(A)
WRONG_POWERS = {
    "a zeroth power that is not the identity": ({0: 1.001 * EYE}, {"f^0 = id"}),
    "a first power that is another map": ({1: A.mT}, {"f^1 = f"}),
    "a second power that is another map": ({2: A.mT @ A.mT}, {"f^2 f^3 = f^5", "f^4 = f^2 f^2"}),
    "powers entry by entry": ({3: A**3}, {"f^3 = f f f", "f^2 f^3 = f^5", "f^6 = f^3 f^3"}),
    "a fourth power that grows": ({4: 1.001 * A @ A @ A @ A}, {"f^4 = f^2 f^2"}),
    "a fifth power that is a fourth one": ({5: A @ A @ A @ A}, {"f^2 f^3 = f^5"}),
    "a sixth power with another sign": ({6: -torch.linalg.matrix_power(A, 6)}, {"f^6 = f^3 f^3"}),
    "an adjoint as an inverse": ({-1: A.mT}, {"f^-1 f = id", "f^-2 = f^-1 f^-1"}),
    "an inverse of the square that shrinks": ({-2: 0.999 * INVERSE @ INVERSE}, {"f^-2 = f^-1 f^-1"}),
}


@every_dtype
@pytest.mark.parametrize("broken", WRONG_POWERS)
def test_check_powers_rejects(broken: str, dtype: torch.dtype) -> None:
    powers, laws = WRONG_POWERS[broken]
    f = OneSpace(powers={k: M.to(dtype) for k, M in powers.items()}, matrix=A.to(dtype))
    reports = check_powers(f, points().to(dtype))
    assert violated(reports) == laws
    assert all(report.ok for report in reports if report.law not in laws)


def test_every_report_of_check_powers_and_check_group_has_its_counterexample() -> None:
    rejected_laws = set.union(*(laws for _, laws in WRONG_POWERS.values()))
    assert set(verdicts(check_powers(OneSpace(), points()))) == rejected_laws
    starts = tuple(law for _, law in WRONG_GROUPS.values())
    assert all(law.startswith(starts) for law in verdicts(check_group(OneSpace(), points())))


@every_dtype
def test_check_powers_rejects_wrong_powers_over_a_flow(dtype: torch.dtype) -> None:
    X = InducedSpace(shaken(real_nvp(8, 2, 8)).to(dtype))
    B = torch.randn(8, 8, dtype=dtype) / 4
    wrong = {k: 1.1 * torch.linalg.matrix_power(B, k) for k in (4, 6, -1, -2)}
    found = violated(check_powers(OneSpace(powers=wrong, matrix=B, space=X), torch.randn(6, 8, dtype=dtype)))
    assert {"f^4 = f^2 f^2", "f^6 = f^3 f^3", "f^-1 f = id"} <= found


def test_a_power_that_raises_breaks_its_law_alone() -> None:
    for error in (RuntimeError("no"), DomainError("outside of what the chart can hold")):
        reports = check_powers(OneSpace(raises={4: error}), points())
        assert violated(reports) == {"f^4 = f^2 f^2"}
        (report,) = (report for report in reports if not report.ok)
        assert report.note.startswith(f"raised {type(error).__name__}: {error}")


def test_powers_of_a_map_without_an_inverse_are_judged_but_for_the_inverse() -> None:
    counts = check_powers(linear(torch.diag(torch.tensor([2.0, 1.0, 0.0])).double()), points()).counts()
    assert counts == {"holds": 6, "violated": 0, "unjudgeable": 0, "not applicable": 2}
    by_law = {r.law: r for r in check_powers(linear(torch.diag(torch.tensor([1.0, 1.0, 1e-14])).double()), points())}
    assert by_law["f^-1 f = id"].note.startswith("f is so ill-conditioned that f^-1 is known to 0.")
    assert by_law["f^-2 = f^-1 f^-1"].note.startswith("f is so ill-conditioned that f^-2 is known to ")
    # the counterexample: an inverse that is off by more than its condition explains
    f = OneSpace(matrix=torch.diag(torch.tensor([1.0, 1.0, 1e-14])).double(), powers={-1: 3 * EYE})
    rejected(check_powers(f, points()), "f^-1 f = id")


def test_powers_that_leave_the_range_are_tried_at_shorter_samples() -> None:
    X = InducedSpace(Log((3,)))
    x = X.point(points())
    f = OneSpace(matrix=6 * A, space=X)
    reports = check_powers(f, x)
    require(reports)
    noted = {report.law: report.note for report in reports}
    assert noted["f^6 = f^3 f^3"].startswith("at the samples scaled by ") and noted["f^1 = f"] == ""
    f.powers = {6: torch.linalg.matrix_power(6 * A, 6) * 1.001}
    assert violated(check_powers(f, x)) == {"f^6 = f^3 f^3"}
    # tanh rounds points to the edge long before it reaches it
    Y = InducedSpace(Arctanh((3,)))
    reports = check_powers(Linearizer(1.6 * EYE, Y), Y.point(torch.ones(2, 3, dtype=torch.float64)))
    require(reports)
    assert {r.law for r in reports if r.note == "at the samples scaled by 0.333"} == {"f^6 = f^3 f^3"}
    # powers beyond the range of the dtype say nothing
    huge = check_powers(OneSpace(matrix=1e52 * A), points())
    require(huge)
    assert {r.law for r in huge if r.verdict == "not applicable"} == {"f^6 = f^3 f^3"}
    assert "f^6 overflows torch.float64" in str(huge)


def test_a_power_of_terms_that_cancel_is_compared_with_them() -> None:
    f = OneSpace(matrix=torch.tensor([[1.0, 1e13], [0.0, -1.0]], dtype=torch.float64))
    reports = {report.law: report for report in check_powers(f, torch.randn(4, 2, dtype=torch.float64))}
    assert reports["f^4 = f^2 f^2"].verdict == "holds"
    assert reports["f^4 = f^2 f^2"].note == "beside the terms that cancel"
    assert reports["f^0 = id"].note == ""


# -------------------------------------------------------------------------------------------------------------------------- flows
def exponential(M: Tensor) -> LinearizerOperator:
    return Linearizer(torch.linalg.matrix_exp(M), EuclideanSpace(len(M)))


WRONG_GROUPS: dict[str, tuple[Callable[[float, Tensor], LinearizerOperator], str]] = {
    "a group that does not start at the identity": (lambda t, B: exponential(t * B) * 1.001, "exp(0) = id"),
    "an Euler step": (lambda t, B: Linearizer(torch.eye(3).to(B) + t * B, EuclideanSpace(3)), "exp(s f) exp(t f)"),
    "an exponential of |t|": (lambda t, B: exponential(abs(t) * B), "exp(-t f) exp(t f)"),
    "the group of another map": (lambda t, B: exponential(t * B.mT), "d/dt exp(t f)"),
    "a group that is wrong late": (lambda t, B: exponential(t * B) * (1.1 if t > 2 else 1.0), "exp(2 t f) = exp(t f)^2, t > 0"),
    "a group that was wrong early": (
        lambda t, B: exponential(t * B) * (1.1 if t < -2 else 1.0),
        "exp(2 t f) = exp(t f)^2, t < 0",
    ),
}


@every_dtype
@pytest.mark.parametrize("broken", WRONG_GROUPS)
def test_check_group_rejects(broken: str, dtype: torch.dtype) -> None:
    exp, law = WRONG_GROUPS[broken]
    B = A.to(dtype)
    rejected(check_group(OneSpace(exp=lambda t: exp(t, B), matrix=B), points().to(dtype)), law)


def test_the_derivative_of_a_group_tells_maps_apart_that_differ_little() -> None:
    near = lambda t: exponential(t * A * (1 + 1e-9))  # noqa: E731
    assert violated(check_group(OneSpace(exp=near), points())) == {"d/dt exp(t f) = f at t = 0"}


@every_dtype
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("norm", [0.1, 1.3, 10.0])
def test_check_group_rejects_what_is_wrong_far_from_zero(norm: float, sign: int, dtype: torch.dtype) -> None:
    B = torch.randn(8, 8, dtype=torch.float64)
    B = (norm * B / torch.linalg.matrix_norm(B, 2)).to(dtype)
    wrong = lambda t: exponential(t * B) * (1.1 if sign * t > 2 else 1.0)  # noqa: E731
    x = torch.randn(6, 8, dtype=dtype)
    require(check_group(Linearizer(B, EuclideanSpace(8)), x))
    assert violated(check_group(OneSpace(exp=wrong, matrix=B), x))
    if norm < 10:
        X = InducedSpace(shaken(real_nvp(8, 2, 8)).to(dtype))
        over = lambda t: Linearizer(wrong(t).core, X)  # noqa: E731
        require(check_group(Linearizer(B, X), x))
        assert violated(check_group(OneSpace(exp=over, matrix=B, space=X), x))


def test_a_flow_that_raises_breaks_its_laws() -> None:
    def late(t: float) -> LinearizerOperator:
        if t < 0:
            raise RuntimeError("time runs forward")
        return exponential(t * A)

    found = violated(check_group(OneSpace(exp=late), points()))
    assert found == {"exp(-t f) exp(t f) = id", "d/dt exp(t f) = f at t = 0", "exp(2 t f) = exp(t f)^2, t < 0"}


def test_the_times_of_a_group_may_be_given() -> None:
    x = points()
    require(check_group(linear(A), x, 1.0, -0.4), check_group(linear(A), x, -0.5, 0.5))
    late = lambda t: exponential(t * A) * (1.1 if abs(t - 1.7) < 1e-9 else 1.0)  # noqa: E731
    require(check_group(OneSpace(exp=late), x))
    assert violated(check_group(OneSpace(exp=late), x, 0.7, 1.0)) == {"exp(s f) exp(t f) = exp((s + t) f)"}
    assert check_group(linear(A / 100), x, 4e4, 4e4).counts()["violated"] == 0
    # at a time so long that rounding explains everything, nothing is judged
    assert check_group(linear(A), x, 40.0, 40.0).counts()["unjudgeable"] == 2


def test_a_flow_that_leaves_the_chart_at_once_is_judged_near_the_zero_vector() -> None:
    X = InducedSpace(Log((3,)))
    x = torch.full((4, 3), 1e300, dtype=torch.float64)
    reports = check_group(Linearizer(A, X), x)
    require(reports)
    assert reports[1].note.startswith("at the samples scaled by ")


# -------------------------------------------------------------------------------------------------------------------- idempotents
NOT_IDEMPOTENT = {
    "a reflection": torch.diag(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)),
    "a projection that shrinks": torch.diag(torch.tensor([1.0, 1 - 1e-12, 0.0], dtype=torch.float64)),
    "a general map": A,
}


@pytest.mark.parametrize("broken", NOT_IDEMPOTENT)
def test_check_idempotent_rejects(broken: str) -> None:
    rejected(check_idempotent(linear(NOT_IDEMPOTENT[broken]), points()), "f(f(x)) = f(x)")


@every_dtype
def test_check_idempotent_rejects_projections_that_shrink_a_little(dtype: torch.dtype) -> None:
    Q = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64))[0]
    x = torch.randn(6, 8, dtype=dtype)
    X = InducedSpace(shaken(real_nvp(8, 2, 8)).to(dtype))
    for space, off in ((EuclideanSpace(8), 1e-5), (X, 1e-4)):
        require(check_idempotent(Linearizer((Q @ Q.mT).to(dtype), space), x))
        rejected(check_idempotent(Linearizer(((1 - off) * Q @ Q.mT).to(dtype), space), x), "f(f(x)) = f(x)")
    # one direction of a hundred
    Q = torch.linalg.qr(torch.randn(784, 100, dtype=torch.float64))[0]
    s = torch.ones(100, dtype=torch.float64)
    s[0] = 0.998
    space, x = EuclideanSpace(784), torch.randn(5, 784, dtype=dtype)
    require(check_idempotent(Linearizer((Q @ Q.mT).to(dtype), space), x))
    rejected(check_idempotent(Linearizer(((Q * s) @ Q.mT).to(dtype), space), x), "f(f(x)) = f(x)")


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


# ---------------------------------------------------------------------------------------------------------------------- the rest
@every_dtype
def test_the_checks_accept_the_same_maps_unbroken(dtype: torch.dtype) -> None:
    X = InducedSpace(shaken(real_nvp(3, 2, 8)).to(dtype))
    for space in (EuclideanSpace(3), X):
        x = points().to(dtype) * 0.3
        for M in (A, 0 * A, A / 10, EYE):
            f = Linearizer(M.to(dtype), space)
            require(check_powers(f / 3, x), check_group(f, x))
        q = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=dtype), dim=0)
        require(check_idempotent(Linearizer(torch.outer(q, q), space), x))


@every_dtype
def test_zero_samples_and_single_ones_are_judged(dtype: torch.dtype) -> None:
    X = InducedSpace(shaken(real_nvp(3, 2, 8)).to(dtype))
    for space in (EuclideanSpace(3), X):
        f, p = Linearizer(A.to(dtype), space), Linearizer(torch.diag(torch.tensor([1.0, 0.0, 1.0])).to(dtype), space)
        for x in (space.zero(4, dtype=dtype), space.zero(1, dtype=dtype), space.sample(1, dtype=dtype)):
            require(check_powers(f, x), check_group(f, x), check_idempotent(p, x))
    # the random directions, not the samples, tell the scale: zero samples see a constant
    shifted = Linearizer(A.to(dtype), InducedSpace(Affine((3,), 1.0, 0.5)))
    require(check_group(shifted, shifted.domain.zero(2, dtype=dtype)))


class Counted(OneSpace):
    """A map that counts its calls in a buffer, and spoils what it is given."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__(matrix=torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        self.calls += 1
        y = super().forward(x.clone())
        x.zero_()
        assert isinstance(y, Tensor)
        return y


@pytest.mark.parametrize("check", [check_powers, check_group, check_idempotent])
def test_a_check_leaves_map_and_samples_as_they_were(check: Callable[..., list[Report]]) -> None:
    f, x = Counted(), points()
    before = x.clone()
    require(check(f, x))
    assert f.calls == 0 and f.training and torch.equal(x, before)
    assert str(check(f, x)) == str(check(f, x.unsqueeze(1)))


@pytest.mark.parametrize("check", [check_powers, check_group, check_idempotent])
def test_no_law_is_judged_without_samples(check: Callable[..., object]) -> None:
    with pytest.raises(Exception, match="a law needs at least one sample"):
        check(linear(A), EMPTY)
