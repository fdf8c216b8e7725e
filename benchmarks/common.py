"""What the benchmarks share: one pinned thread, forms that take turns, medians, and errors that are judged.

Times are CPU seconds of the one thread that all libraries are pinned to, so that other work changes them little; forms that
are compared take turns, so that a slow minute slows them all. `bench_*.py` are suites of pytest-benchmark, which `make bench`
runs and `report.py` makes a page of; the experiments use its clocks too.
"""

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if os.environ.get("OMP_NUM_THREADS") != "1":  # which libraries read when they load
    if "PYTEST_VERSION" in os.environ:
        raise RuntimeError("benchmarks are timed on one thread: start pytest with OMP_NUM_THREADS=1, as `make bench` does")
    os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
torch.set_num_threads(1)

QUICK = os.environ.get("BENCHMARKS") == "quick"
"""Whether everything is run at small sizes and for a few rounds, to see that it works: its times mean little."""

SHORTEST = 2e-3 if QUICK else 1e-2
"""Seconds that one timing lasts at least: quick forms are repeated within it."""

ROUNDS, BUDGET = (2, 0.05) if QUICK else (7, 1.5)
"""Timings of each form in a suite, and the seconds that they may last; a slow form is timed fewer times."""

LIMIT = 0.5 if QUICK else 10.0
"""CPU seconds within which the first call of a peer that iterates must end."""

Form = Callable[[], Any]
Timer = Callable[[], float]


def pick(full: Any, quick: Any) -> Any:
    """A size of the benchmarks, and what stands for it in a quick run."""
    return quick if QUICK else full


def require(package: str) -> None:
    """Skip the row of a peer that is not installed; the report names it."""
    if not find_spec(package):
        pytest.skip(f"{package} is not installed")


def measure(
    benchmark: Any,
    form: Form,
    ours: Form | None = None,
    /,
    *,
    once: bool = False,
    timer: Timer = time.thread_time,
    budget: float = BUDGET,
    **facts: object,
) -> Any:
    """Time one form of one row by pytest-benchmark, in turns with the library's own form of that row.

    Arguments:
        benchmark: the fixture of pytest-benchmark.
        form: what to time.
        ours: what it is compared with: timed before each round, so that the ratio is that of turns in one process.
        once: a form so slow that its first call is the only one, and is timed.
        timer: which seconds; that of the fixture.
        budget: seconds that the rounds may last.
        facts: what the report reads: `table`, `row` and `form` name the cell (docstring of `report.py`).

    Returns:
        What the form returns.
    """
    loops, rounds = (1, 1) if once else _plan(form, ROUNDS, budget, timer)[1:]
    own_loops = 1 if ours is None else _plan(ours, 1, budget, timer)[1]
    turns: list[float] = []

    def turn() -> None:
        if ours is not None:
            turns.append(_time(ours, own_loops, timer))
        if loops > 1:
            form()  # fills the caches that the other form has emptied

    def looped() -> Any:
        for _ in range(loops):
            result = form()
        return result

    benchmark.extra_info.update(facts, loops=loops, ours=turns)
    return benchmark.pedantic(looped, setup=turn, rounds=rounds)


def judge(benchmark: Any, found: Tensor, exact: Tensor, bound: float) -> None:
    """Record the relative error against an oracle in float64, and refuse one beyond what rounding explains."""
    error = relative(found, exact)
    benchmark.extra_info.update(error=error, bound=bound)
    assert error <= bound, f"off by {error:.2e}, where rounding explains {bound:.2e}"


class _TooSlow(Exception):
    """A form did not end within its limit."""


@contextmanager
def limited(seconds: float = LIMIT) -> Iterator[None]:
    """Skip the row if this does not end within so many CPU seconds; a call into LAPACK is not interrupted."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise _TooSlow

    previous = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _TooSlow:
        pytest.skip(f"did not end within {seconds:g} s")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def resident() -> int:
    """KiB of memory that this process has held at most; ru_maxrss would count those of the process that started it."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def forget_peak() -> int:
    """KiB held now, from which a new peak counts (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def seconds(forms: Mapping[str, Callable[[], object]], *, rounds: int = 5, budget: float = 3.0) -> dict[str, float]:
    """Median CPU seconds of each form, the forms taking turns; a first call of each is not counted.

    Arguments:
        forms: what to time.
        rounds: timings of each form.
        budget: seconds that the timings of one form may last; a slow form is timed fewer times, and once, the first time, where
            that is longer.
    """
    plans = {name: _plan(form, rounds, budget) for name, form in forms.items()}
    found = {name: [once] if once > budget else [] for name, (once, _, _) in plans.items()}
    for turn in range(rounds):
        for name, form in forms.items():
            once, loops, turns = plans[name]
            if turn < turns and once <= budget:
                found[name].append(_time(form, loops))
    return {name: median(times) for name, times in found.items()}


def _plan(form: Form, rounds: int, budget: float, timer: Timer = time.thread_time) -> tuple[float, int, int]:
    """Seconds of one call, calls in a timing, and timings, of which there is at least one."""
    once = _time(form, 1, timer)
    if once < 0.1:  # the first call also imports and allocates
        once = min(_time(form, 1, timer) for _ in range(3))
    loops = max(1, math.ceil(SHORTEST / max(once, 1e-7)))
    return once, loops, max(1, min(rounds, int(budget / max(once * loops, 1e-7))))


def _time(form: Form, loops: int, timer: Timer = time.thread_time) -> float:
    """Seconds a call. A quick form is called once before, since the form before it has emptied the caches."""
    if loops > 1:
        form()
    gc.disable()  # as timeit does: a collection would charge this form for the objects of all libraries
    start = timer()
    for _ in range(loops):
        form()
    spent = timer() - start
    gc.enable()
    return spent / loops


def relative(found: Tensor, exact: Tensor) -> float:
    """Frobenius norm of the error, relative to that of the exact value; in float64."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def size(*tensors: Tensor) -> int:
    """Bytes that tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors)


def shown(value: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, factor in (("s ", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1 or unit == "us":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))

    print(f"\n{title}", line(header), "  ".join("-" * w for w in widths), *map(line, rows), sep="\n", flush=True)
