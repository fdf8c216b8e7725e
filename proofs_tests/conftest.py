"""Settings of every test: one thread, fixed seeds, and how many examples a property test draws."""

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, settings

from proofs_tests.device import StandIn, register
from proofs_tests.statements import table

settings.register_profile("dev", max_examples=10, deadline=None)
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Start each test from the same state of torch's global generator, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def gpu() -> Iterator[StandIn]:
    """The stand-in device, entered: `gpu.device`, and `with gpu.recording() as log`."""
    try:
        stand_in = StandIn()
    except NotImplementedError as error:
        pytest.skip(str(error))
    with stand_in:
        yield stand_in


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of --device, or the stand-in, entered."""
    name: str | None = request.config.getoption("--device")
    if name is not None:
        return torch.device(name)
    stand_in: StandIn = request.getfixturevalue("gpu")
    return stand_in.device


ENOUGH = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", help="run the tests of devices on this one, as cuda; by default on a stand-in (device.py)")
    parser.addoption("--statements", action="store_true", help="end with the table of statements, however few tests ran")


def pytest_configure(config: pytest.Config) -> None:
    """Name the stand-in now: the first backward pass of a process starts the threads of all devices that it will ever know."""
    if config.getoption("--device") is None:
        with suppress(NotImplementedError):
            register()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Statement -> proof, laws, counterexamples, passed or not; after a few tests only if asked for."""
    outcomes: dict[str, str] = {}
    for outcome, kinds in {"passed": ("passed",), "failed": ("failed", "error")}.items():
        outcomes |= {report.nodeid: outcome for kind in kinds for report in terminalreporter.stats.get(kind, ())}
    lines = table(outcomes) if config.getoption("--statements") or len(outcomes) > ENOUGH else []
    if lines:
        terminalreporter.section("statements")
        for line in lines:
            terminalreporter.write_line(line)
