"""`check` runs every law that applies, on whatever it is given, and rejects what changes during a run of checks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from induced import (
    EuclideanSpace,
    HilbertSpace,
    InducedSpace,
    Linearizer,
    LinearizerOperator,
    LinearOperator,
    ProductSpace,
    Subspace,
    check,
    require,
)
from induced.bijections import Affine, Bijection, Log, Simplex, real_nvp
from induced.checks.report import Reports
from induced.operators import Dense, Projection

X = InducedSpace(Log((3,)))
CORE = torch.tensor([[0.5, 0.2, 0.0], [0.0, 0.4, -0.1], [0.3, 0.0, 0.6]], dtype=torch.float64)
POWERS = {"powers of f", "exp(t f)", "f(f(x)) = f(x)"}


def parts(reports: Reports) -> list[str]:
    return list(dict.fromkeys(report.part for report in reports))


def laws(reports: Reports, verdict: str) -> set[str]:
    return {report.law for report in reports if report.verdict == verdict}


# ---------------------------------------------------------------------------------------------------------- right objects
THINGS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "chart": (lambda: Log((3,)), ["chart Log", "space InducedSpace(Log(3,))"]),
    "chart of parameters": (lambda: real_nvp(3, 1, 4), ["chart Composition", "space InducedSpace(Composition(3,))"]),
    "Euclidean space": (lambda: EuclideanSpace((2, 2)), ["space EuclideanSpace((2, 2))"]),
    "product": (
        lambda: ProductSpace(X, InducedSpace(Log((2,))), EuclideanSpace(2)),
        ["chart Log", "chart Log, 2", "space ProductSpace(InducedSpace(Log(3,)), InducedSpace(Log(2,)), EuclideanSpace((2,)))"],
    ),
    "subspace": (
        lambda: Subspace.span(X, torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 1.0]], dtype=torch.float64)),
        ["chart Log", "space Subspace(dim=2 of 3, InducedSpace(Log(3,)))"],
    ),
    "map within": (lambda: Linearizer(CORE, X), ["domain: chart Log", f"domain: space {X!r}", "map Linearizer"]),
    "map between": (
        lambda: Linearizer(CORE[:2], X, EuclideanSpace(2)),
        ["domain: chart Log", f"domain: space {X!r}", "codomain: space EuclideanSpace((2,))", "map Linearizer"],
    ),
    "core": (lambda: Dense(CORE[:2]), ["operator Dense"]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("make", "expected"), THINGS.values(), ids=list(THINGS))
def test_right_objects_pass_in_all_their_parts(make: Callable[[], object], expected: list[str], dtype: torch.dtype) -> None:
    reports = check(make(), samples=4, dtype=dtype)  # type: ignore[arg-type]
    require(reports)
    assert reports.ok and parts(reports) == expected
    assert all(report.worst is None or report.worst.dtype == dtype for report in reports)


def test_each_kind_of_law_is_there() -> None:
    found = laws(check(Linearizer(CORE, X), samples=4), "holds")
    assert {
        "g^-1(g(x)) = x",
        "identity: x + 0 = x",
        "f(a u + b v) = a f(u) + b f(v)",
        "<f(x), y> = <x, f*(y)>",
        "f f+ f = f",
        "f(v_i) = s_i u_i",
        "f^0 = id",
        "exp(0) = id",
        "g gives the same bits after all laws as before",
        "f* gives the same bits after all laws as before",
    } <= found


def test_what_does_not_apply_is_reported_with_its_reason() -> None:
    between = check(Linearizer(CORE[:2], X, EuclideanSpace(2)), samples=4)
    assert laws(between, "not applicable") >= POWERS
    assert all(report.note for report in between if report.verdict == "not applicable")
    within = check(Linearizer(CORE, X), samples=4)
    assert "f(f(x)) = f(x)" in laws(within, "not applicable") and not POWERS & laws(within, "violated")


@pytest.mark.parametrize(
    "core",
    [
        Projection(torch.tensor([1.0, 0.0, 1.0])),
        Dense(torch.eye(3)),
        Dense(torch.tensor([[1.0, 5.0, 0.0], [0.0] * 3, [0.0] * 3])),
    ],
    ids=["by its class", "identity", "oblique"],
)
def test_a_projection_is_put_under_the_law_of_idempotents(core: LinearOperator) -> None:
    assert "f(f(x)) = f(x)" in laws(check(Linearizer(core, EuclideanSpace(3)), samples=4), "holds")


def test_a_projection_whose_map_is_not_idempotent_is_rejected() -> None:
    class Shrinking(LinearizerOperator):
        domain = codomain = EuclideanSpace(3)
        core = Projection(torch.tensor([1.0, 0.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return 0.9 * self.core(x)

    assert "f(f(x)) = f(x)" in laws(check(Shrinking(), samples=4), "violated")


def test_up_to_sixteen_singular_triplets_are_looked_at() -> None:
    reports = check(Dense(torch.diag(torch.arange(30.0, 0.0, -1.0))), samples=2)
    (worst,) = (report.worst for report in reports if report.law == "f(v_i) = s_i u_i")
    assert worst is not None and 0 <= int(worst.abs().argmax()) < 16


# ----------------------------------------------------------------------------------------------------------------- samples
def test_the_points_given_are_those_that_are_looked_at() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0], [0.5, 1.5, 2.5]]])
    for thing in (Log((3,)), X, Linearizer(CORE.float(), X)):
        reports = check(thing, x)
        assert reports.ok
        found = [r.worst for r in reports if r.law in ("g^-1(g(x)) = x", "f(a u) = a f(u)", "<x, y> = <y, x>")]
        assert found and all(any(torch.equal(row, worst) for row in x[0]) for worst in found if worst is not None)
    assert {r.worst.dtype for r in check(Log((3,)), x, dtype=torch.float64) if r.worst is not None} == {torch.float64}


def test_the_seed_and_the_radius_choose_the_samples() -> None:
    g = Affine((3,), nn.Parameter(torch.tensor([2.0, 1.0, -1.0])))

    def worst(**options: float) -> list[list[float]]:
        return [report.worst.flatten().tolist() for report in check(g, **options) if report.worst is not None]  # type: ignore[arg-type]

    assert worst(seed=1) == worst(seed=1) != worst(seed=2)
    lengths = [report.worst.norm() for report in check(EuclideanSpace(3), samples=1, radius=0.5) if report.worst is not None]
    assert lengths and all(float(length) == pytest.approx(0.5) for length in lengths)


def test_samples_that_cannot_be_drawn_are_reports_and_not_an_end() -> None:
    reports = check(Linearizer(CORE, X), radius=1e5)
    assert not reports.ok and parts(reports) == ["domain: chart Log", f"domain: space {X!r}", "map Linearizer"]
    assert any("raised DomainError" in report.note for report in reports)
    assert "f(v_i) = s_i u_i" in laws(reports, "holds")


def test_the_dtype_is_that_of_the_parameters_or_of_the_points_or_float64() -> None:
    def dtype(reports: Reports) -> set[torch.dtype]:
        return {report.worst.dtype for report in reports if report.worst is not None}

    assert dtype(check(real_nvp(2, 1, 4), samples=2)) == {torch.float32}
    assert dtype(check(Log((2,)), samples=2)) == {torch.float64}
    assert dtype(check(Log((2,)), torch.ones(2, 2))) == {torch.float32}
    assert dtype(check(Dense(torch.eye(2)), samples=2)) == {torch.float32}
    assert dtype(check(Linearizer(torch.eye(2), EuclideanSpace(2)), samples=2, dtype=torch.float64)) == {torch.float64}


@pytest.mark.parametrize(
    "derive", [lambda f: f.H, lambda f: f.pinv(), lambda f: 2 * f, lambda f: f @ f], ids=["H", "pinv", "2f", "ff"]
)
def test_what_is_derived_from_a_map_that_trains_is_checked(derive: Callable[[LinearizerOperator], LinearizerOperator]) -> None:
    f = derive(Linearizer(nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), EuclideanSpace(2)))
    for dtype in (torch.float32, torch.float64):
        require(check(f, samples=3, dtype=dtype))


# ------------------------------------------------------------------------------------------------- spaces of the user's class
class Hyperbolic(HilbertSpace):
    """R^3 with the coordinates sinh x, or broken ones."""

    def __init__(self, coords: Callable[[Tensor], Tensor] = torch.sinh, point: Callable[[Tensor], Tensor] = torch.asinh) -> None:
        super().__init__((3,), 3)
        self.functions = coords, point

    def coords(self, x: Tensor) -> Tensor:
        return self.functions[0](x)

    def point(self, z: Tensor) -> Tensor:
        return self.functions[1](z)


OWN = {
    "not onto": (Hyperbolic(torch.atan, torch.tan), "far out: g(g^-1(z)) = z"),
    "a detached gradient": (Hyperbolic(lambda x: x + x.sinh().detach() - x.detach()), "gradients of g are its slopes"),
    "a batch mean": (Hyperbolic(lambda x: x.sinh() + x.mean(0)), "g of a sample is the same alone and in a batch"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("within", ["alone", "in a product", "in a subspace"])
def test_the_coordinates_of_a_space_of_another_class_are_put_under_the_laws_of_a_chart(within: str, dtype: torch.dtype) -> None:
    def wrapped(own: HilbertSpace) -> HilbertSpace:
        match within:
            case "in a product":
                return ProductSpace(EuclideanSpace(2), own)
            case "in a subspace":
                return Subspace(own, torch.eye(3, dtype=dtype)[:, :2])
        return own

    require(check(wrapped(Hyperbolic()), samples=4, dtype=dtype))
    for broken, law in OWN.values():
        assert law in laws(check(wrapped(broken), samples=4, dtype=dtype), "violated")


def test_the_operations_of_a_space_within_a_product_are_checked() -> None:
    class Averaging(Hyperbolic):
        def add(self, x: Tensor, y: Tensor) -> Tensor:
            return super().add(x, y) / 2

    reports = check(ProductSpace(EuclideanSpace(2), Averaging()), samples=4)
    (part,) = {report.part for report in reports if not report.ok}
    assert part.startswith("space Averaging")


# ------------------------------------------------------------------------------------------------------- drift and failures
class Tired(Bijection):
    """A shift that is another one from some call on, counted in both directions."""

    def __init__(self, calls: int) -> None:
        super().__init__((3,))
        self.calls = calls

    def _shift(self) -> float:
        self.calls -= 1
        return 1.0 if self.calls > 0 else 1.5

    def forward(self, x: Tensor) -> Tensor:
        return x + self._shift()

    def inverse(self, z: Tensor) -> Tensor:
        return z - self._shift()


def calls_of_a_run() -> int:
    g = Tired(10**6)
    check(g, samples=4)
    return 10**6 - g.calls


def test_a_chart_that_changes_after_some_calls_is_rejected() -> None:
    total = calls_of_a_run()
    for calls in (3, total // 3, total // 2, total - 3):
        assert {"g gives the same bits after all laws as before"} <= laws(check(Tired(calls), samples=4), "violated"), calls
    assert check(Tired(total + 1), samples=4).ok


def test_a_space_and_a_map_that_change_after_some_calls_are_rejected() -> None:
    class TiredSpace(HilbertSpace):
        def __init__(self, calls: int) -> None:
            super().__init__((3,), 3)
            self.calls = calls

        def coords(self, x: Tensor) -> Tensor:
            self.calls -= 1
            return x * (1.0 if self.calls > 0 else 2.0)

        def point(self, z: Tensor) -> Tensor:
            return z * 1.0

    class TiredCore(LinearOperator):
        def __init__(self, calls: int) -> None:
            super().__init__((3, 3))
            self.calls = calls

        def forward(self, z: Tensor) -> Tensor:
            self.calls -= 1
            return z * (2.0 if self.calls > 0 else 3.0)

        def apply_adjoint(self, w: Tensor) -> Tensor:
            return 2.0 * w

    for kind, law in ((TiredSpace, "g"), (TiredCore, "f")):
        thing = kind(10**6)
        check(thing, samples=2)
        total = 10**6 - thing.calls
        assert f"{law} gives the same bits after all laws as before" in laws(check(kind(total - 1), samples=2), "violated")


def test_what_raises_at_the_end_or_changes_its_shape_is_said() -> None:
    class Moody(Tired):
        def __init__(self, calls: int, end: Callable[[Tensor], Tensor]) -> None:
            super().__init__(calls)
            self.end = end

        def forward(self, x: Tensor) -> Tensor:
            self.calls -= 1
            return x if self.calls > 0 else self.end(x)

        def inverse(self, z: Tensor) -> Tensor:
            return z

    def fail(x: Tensor) -> Tensor:
        raise ValueError("tired")

    g = Moody(10**6, fail)
    check(g, samples=2)
    last = 10**6 - g.calls
    for end, note in ((fail, "raised ValueError: tired"), (lambda x: x[:1], "torch.float64 (1, 3) after the last law")):
        (report,) = (r for r in check(Moody(last, end), samples=2) if r.law.startswith("g gives the same"))
        assert not report.ok and note in report.note


def test_a_check_that_raises_is_one_report_and_the_others_go_on() -> None:
    class Broken(Bijection):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def inverse(self, z: Tensor) -> Tensor:
            if z.shape[0] == 4:
                raise ValueError("no\ninverse")
            return z

    f = Linearizer(CORE, InducedSpace(Broken((3,))))
    reports = check(f, samples=4)
    (report,) = (r for r in reports if r.law == "check_bijection")
    assert report.verdict == "violated" and report.note.startswith("raised ValueError: no inverse (line ")
    assert report.note.endswith(f" of {Path(__file__).name}, in inverse)")
    (again,) = (r for r in reports if r.law.startswith("g^-1 gives the same"))
    assert again.verdict == "not applicable" and again.note == "g^-1 raised before the first law, too: ValueError"
    assert "s_1 >= s_2 >= ... >= 0" in laws(reports, "holds")


def test_the_parts_of_a_map_are_told_apart() -> None:
    class Wrong(Bijection):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def inverse(self, z: Tensor) -> Tensor:
            return 1.1 * z

    reports = check(Linearizer(CORE, InducedSpace(Simplex(4)), InducedSpace(Wrong((3,)))), samples=4)
    wrong = {report.part for report in reports if not report.ok}
    assert "codomain: chart Wrong" in wrong and not any(part.startswith("domain:") for part in wrong)
