"""How long imports take, each in a fresh interpreter: CPU seconds of the child process."""

import os
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import pytest

from benchmarks.common import ROOT, measure, pick, require

PEERS = ("zuko", "normflows", "cola", "linear_operator")
MODULES = ("induced", "torch", "applications.cli", *pick(PEERS, ()))


def of_children() -> float:
    """CPU seconds of the processes that have ended."""
    spent = getrusage(RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def imported(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {module}"], check=True, env=environment, cwd=ROOT)


@pytest.mark.benchmark(timer=of_children)
@pytest.mark.parametrize("module", MODULES)
def bench_import(benchmark: Any, module: str) -> None:
    require(module.partition(".")[0])
    facts: dict[str, Any] = {
        "table": "import in a fresh interpreter",
        "row": "import",
        "form": module,
        "peer": module != "applications.cli",
    }
    own = None if module == "induced" else lambda: imported("induced")
    measure(benchmark, lambda: imported(module), own, timer=of_children, budget=pick(5.0, 0.1), **facts)
