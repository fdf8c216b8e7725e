"""What a run of the suites tells the report besides the timings: the versions of the peers, and what was skipped and why."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
import torch

from benchmarks.common import QUICK

PACKAGES = ("torch", "numpy", "scipy", "cola-ml", "FrEIA", "linear_operator", "nflows", "normflows", "pylops", "zuko")
SKIPPED: list[dict[str, str]] = []


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        assert isinstance(report.longrepr, tuple)
        SKIPPED.append({"row": report.nodeid.rpartition("::")[2], "reason": report.longrepr[2].removeprefix("Skipped: ")})


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["versions"] = {name: _installed(name) for name in PACKAGES}
    machine_info["os"] = platform.platform(terse=True)
    del machine_info["node"]


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    output_json["skipped"] = SKIPPED
    output_json["quick"] = QUICK


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
