"""Full precision: TF32, emulated, breaks the laws of bare charts; spaces, operators and checks hold them, and put flags back."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from induced import InducedSpace, Linearizer, checks, precision
from induced.bijections import AdditiveCoupling, AffineCoupling, Bijection, Reversible, glow, rounding, roundtrip
from induced.bijections.networks import MLP
from induced.checks import (
    check,
    check_adjoint,
    check_bijection,
    check_group,
    check_idempotent,
    check_linear,
    check_penrose,
    check_powers,
    check_space,
    check_svd,
)
from induced.operators import Convolution, Dense, LinearOperator, LowRank, pinv
from induced.precision import allow_tf32, full_precision
from proofs_tests.device import StandIn
from proofs_tests.registry import initialized, shaken
from proofs_tests.tf32 import EmulatedTF32, convolutions_allowed, products_allowed

if not hasattr(torch._C, "_get_fp32_precision_getter"):
    pytest.skip("this torch has one interface of its flags", allow_module_level=True)
read: Callable[[str, str], str] = getattr(torch._C, "_get_fp32_precision_getter")  # noqa: B009
write: Callable[[str, str, str], None] = getattr(torch._C, "_set_fp32_precision_setter")  # noqa: B009

SWITCHES = [("generic", "all"), *((b, kind) for b in ("cuda", "mkldnn") for kind in ("all", "conv", "rnn", "matmul"))]


def flags() -> list[object]:
    """Every switch of torch's, of its old interface and of its new one; 'mixed' where it refuses to say."""

    def asked(look: Callable[[], object]) -> object:
        try:
            return look()
        except RuntimeError:
            return "mixed"

    new = [read(*switch) for switch in SWITCHES]
    return [*new, asked(torch.get_float32_matmul_precision), asked(lambda: torch.backends.cudnn.allow_tf32)]


@pytest.fixture
def as_before() -> Iterator[None]:
    yield
    for switch in SWITCHES:
        write(*switch, "none")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("induced.precision._Once.given", False)


@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a GPU were in use, and its matrix products allowed to run in TF32."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    torch.set_float32_matmul_precision("high")


def convolutional() -> Bijection:
    return shaken(initialized(glow((2, 4, 4), 6, 8)), 0.1).requires_grad_(False)


def device_chart(gpu: StandIn) -> tuple[Bijection, Tensor]:
    """A chart of convolutions on the device, and points."""
    return convolutional().to(gpu.device), torch.randn(3, 2, 4, 4).to(gpu.device)


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# ------------------------------------------------------------------------------------------------------------------ laws
@pytest.mark.filterwarnings("ignore:a chart on gpu")
def test_a_bare_chart_loses_its_round_trip_in_tf32_and_its_space_keeps_it(gpu: StandIn) -> None:
    chart, x = device_chart(gpu)
    X = InducedSpace(chart)
    with EmulatedTF32():
        assert worst(chart.inverse(chart(x)), x) > 1e-4
        assert worst(X.point(X.coords(x)), x) < 1e-5
        with full_precision():
            assert worst(chart.inverse(chart(x)), x) < 1e-5
        with allow_tf32():
            assert worst(X.point(X.coords(x)), x) > 1e-4
            with full_precision():
                assert worst(X.point(X.coords(x)), x) < 1e-5


def test_the_checks_hold_laws_that_tf32_breaks() -> None:
    chart, x = convolutional(), torch.randn(2, 2, 4, 4)
    with EmulatedTF32():
        assert all(report.ok for report in check_bijection(chart, x))
    with EmulatedTF32(always=True):
        assert sum(not report.ok for report in check_bijection(chart, x)) >= 5


CHECKS: dict[str, Callable[[Linearizer, Bijection, Tensor], object]] = {
    "check": lambda f, g, x: check(g, x),
    "check_adjoint": lambda f, g, x: check_adjoint(f, x, x),
    "check_bijection": lambda f, g, x: check_bijection(g, x),
    "check_group": lambda f, g, x: check_group(f, x),
    "check_idempotent": lambda f, g, x: check_idempotent(f, x),
    "check_linear": lambda f, g, x: check_linear(f, x),
    "check_penrose": lambda f, g, x: check_penrose(f, x, x),
    "check_powers": lambda f, g, x: check_powers(f, x),
    "check_space": lambda f, g, x: check_space(f.domain, x),
    "check_svd": lambda f, g, x: check_svd(f),
    "roundtrip": lambda f, g, x: roundtrip(g, x),
    "rounding": lambda f, g, x: rounding(g, x),
}


@pytest.mark.parametrize("name", CHECKS)
def test_all_that_a_check_computes_it_computes_in_full_precision(name: str) -> None:
    """Bare charts, their derivatives, spaces and cores alike; on a CPU spaces and cores touch no flag themselves."""
    seen = list[bool]()

    def noted(*given: object) -> None:
        seen.append(convolutions_allowed())

    chart = AffineCoupling((2,), MLP(1, 2, 4))
    chart.conditioner.register_forward_pre_hook(noted)
    CHECKS[name](Linearizer(Dense(torch.eye(2)), InducedSpace(chart)), chart, torch.randn(2, 2))
    assert seen and not any(seen)


def test_there_is_a_case_for_each_check() -> None:
    assert {name for name in checks.__all__ if name.startswith("check")} < CHECKS.keys()


def test_the_roundings_of_a_chart_are_those_of_full_precision(gpu: StandIn) -> None:
    chart, x = device_chart(gpu)
    X, exact = InducedSpace(chart), InducedSpace(chart).roundings(x)
    with EmulatedTF32():
        assert torch.equal(X.roundings(x), exact)


@pytest.mark.parametrize(
    "core",
    [lambda: Convolution(torch.randn(2, 2, 3, 3), (2, 4, 4), padding=1), lambda: Dense(torch.randn(32, 32))],
    ids=["Convolution", "Dense"],
)
@pytest.mark.usefixtures("as_before")
def test_a_product_with_a_core_is_that_of_full_precision(core: Callable[[], LinearOperator], gpu: StandIn) -> None:
    A, z = core(), torch.randn(3, 32)
    expected = A(z)
    there = A.to(gpu.device)
    torch.set_float32_matmul_precision("high")
    with EmulatedTF32():
        assert torch.equal(there(z.to(gpu.device)).cpu(), expected)
        assert not torch.equal(there.forward(z.to(gpu.device)).cpu(), expected)


@pytest.mark.usefixtures("as_before", "in_use")
def test_linear_algebra_runs_in_full_precision_where_a_gpu_is_in_use() -> None:
    A = LowRank(torch.randn(20, 3), torch.randn(20, 3))
    with full_precision():
        expected = pinv(A).matrix()
    with EmulatedTF32():
        assert torch.equal(pinv(A).matrix(), expected)
        with allow_tf32():
            assert not torch.equal(pinv(A).matrix(), expected)


def test_a_backward_pass_that_computes_again_does_so_in_the_precision_of_its_forward_pass(gpu: StandIn) -> None:
    """It runs in a thread of its own, where nobody has allowed anything."""
    chart, x = device_chart(gpu)

    def gradient(g: Bijection) -> Tensor:
        there = x.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(InducedSpace(g).coords(there).square().sum(), there)
        return found

    expected = gradient(chart)
    with EmulatedTF32():
        assert worst(gradient(chart), expected) > 1e-4, "flags are those of the time"
        assert worst(gradient(Reversible(chart)), expected) < 1e-5
        with allow_tf32():
            assert worst(gradient(Reversible(chart)), expected) > 1e-4
    assert convolutions_allowed()


# ----------------------------------------------------------------------------------------------------------- the warning
@pytest.mark.usefixtures("unwarned")
def test_a_bare_chart_of_convolutions_warns_once_a_process(gpu: StandIn) -> None:
    chart, x = device_chart(gpu)
    with pytest.warns(UserWarning, match=r"full_precision\(\)") as found:
        chart(x)
        chart.inverse(x.reshape(3, *chart.coord_shape))
    assert len(found) == 1


@pytest.mark.usefixtures("unwarned")
def test_there_is_no_warning_where_the_precision_is_decided(gpu: StandIn) -> None:
    chart, x = device_chart(gpu)
    InducedSpace(chart).coords(x)
    with full_precision():
        chart(x)
    with allow_tf32():
        chart(x)
        Reversible(chart)(x.detach().requires_grad_()).sum().backward()  # couplings compute again in another thread
    chart.double()(x.double())
    AdditiveCoupling((4,), MLP(2, 2, 8)).to(gpu.device)(torch.randn(3, 4).to(gpu.device))


@pytest.mark.usefixtures("unwarned", "as_before")
def test_a_chart_of_matrix_products_warns_where_their_flag_allows_tf32(gpu: StandIn) -> None:
    torch.set_float32_matmul_precision("high")
    with pytest.warns(UserWarning, match="computes in TF32"):
        AdditiveCoupling((4,), MLP(2, 2, 8)).to(gpu.device)(torch.randn(3, 4).to(gpu.device))


# ------------------------------------------------------------------------------------------------------------- the flags
SETTINGS: dict[str, Callable[[], object]] = {
    "torch's own": lambda: None,
    "allow_tf32 of matmul": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32 of cuDNN": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "fp32_precision of matmul": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "fp32_precision of all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "ieee for all": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "ieee for convolutions": lambda: write("cuda", "conv", "ieee"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.usefixtures("as_before")
def test_flags_of_either_interface_are_put_back(setting: str) -> None:
    SETTINGS[setting]()
    before = flags()
    with full_precision():
        assert not convolutions_allowed() and not products_allowed()
        with full_precision():
            assert not convolutions_allowed() and not products_allowed()
        assert not convolutions_allowed() and not products_allowed()
    assert flags() == before


@pytest.mark.usefixtures("as_before")
def test_flags_of_an_older_torch_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_FINE", False)
    torch.set_float32_matmul_precision("high")
    before = flags()
    with full_precision():
        assert not convolutions_allowed() and not products_allowed()
    assert flags() == before


def test_flags_are_put_back_after_an_exception() -> None:
    before = flags()

    @full_precision()
    def fails() -> None:
        assert not convolutions_allowed()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert flags() == before


INHERITS = """
import torch
from induced.precision import full_precision
with full_precision():
    pass
torch.backends.fp32_precision = "ieee"
print(torch.backends.cudnn.conv.fp32_precision)
"""


def test_a_switch_that_nobody_set_still_follows_its_parent_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", INHERITS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ieee"


def test_the_last_thread_out_puts_the_flags_back() -> None:
    before, entered, leave = flags(), threading.Event(), threading.Event()
    inside: list[bool] = []

    def other() -> None:
        with full_precision():
            entered.set()
            leave.wait()
            inside.append(convolutions_allowed())

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        entered.wait()
    assert not convolutions_allowed(), "another thread is still inside"
    leave.set()
    thread.join()
    assert inside == [False]
    assert flags() == before


def test_what_one_thread_allows_another_does_not(gpu: StandIn) -> None:
    x, seen = torch.zeros(1).to(gpu.device), dict[str, bool]()

    def look(name: str) -> None:
        def asked(x: Tensor) -> Tensor:
            seen[name] = convolutions_allowed()
            return x

        precision.exactly(asked, x)

    with allow_tf32():
        look("here")
        thread = threading.Thread(target=look, args=("there",))
        thread.start()
        thread.join()
    look("after")
    assert seen == {"here": True, "there": False, "after": False}


# --------------------------------------------------------------------------------------------------------------- the cost
def test_on_the_cpu_a_map_touches_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    chart, x = convolutional(), torch.randn(3, 2, 4, 4)
    f = Linearizer(Dense(torch.randn(32, 32)), InducedSpace(chart))

    def refuse() -> None:
        raise AssertionError("a flag was touched")

    monkeypatch.setattr("induced.precision._flags.enter", refuse)
    f(x)
    f.pinv()(x)
    f.domain.mean(x)
    with pytest.raises(AssertionError, match="touched"), full_precision():
        pass
