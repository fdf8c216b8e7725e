"""What the benchmarks share: one pinned thread, interleaved forms, medians, and tables of ratios.

Times are CPU seconds of the one thread that all libraries are pinned to, so that other work changes them little; forms that
are compared take turns, so that a slow minute slows them all. A benchmark is run as `python benchmarks/bench_x.py` from
anywhere.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
if os.environ.get("OMP_NUM_THREADS") != "1":  # which libraries read when they load
    os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.argv])
torch.set_num_threads(1)

SHORTEST = 1e-2
"""Seconds that one timing lasts at least: quick forms are repeated within it."""


def seconds(forms: Mapping[str, Callable[[], object]], *, rounds: int = 5, budget: float = 3.0) -> dict[str, float]:
    """Median CPU seconds of each form, the forms taking turns; a first call of each is not counted.

    Arguments:
        forms: what to time.
        rounds: timings of each form.
        budget: seconds that the timings of one form may last; a slow form is timed fewer times, and once, the first time, where
            that is longer.
    """
    loops, turns = {}, {}
    found: dict[str, list[float]] = {name: [] for name in forms}
    for name, form in forms.items():
        once = _time(form, 1)
        if once > budget:
            found[name], turns[name] = [once], 0
            continue
        if once < 0.1:  # the first call also imports and allocates
            once = min(_time(form, 1) for _ in range(3))
        loops[name] = max(1, round(SHORTEST / max(once, 1e-7)))
        turns[name] = max(1, min(rounds, int(budget / max(once * loops[name], 1e-7))))
    for turn in range(max(turns.values())):
        for name, form in forms.items():
            if turn < turns[name]:
                found[name].append(_time(form, loops[name]))
    return {name: median(times) for name, times in found.items()}


def _time(form: Callable[[], object], loops: int) -> float:
    """Seconds a call. A quick form is called once before, since the form before it has emptied the caches."""
    if loops > 1:
        form()
    gc.disable()  # as timeit does: a collection would charge this form for the objects of all libraries
    start = time.thread_time()
    for _ in range(loops):
        form()
    spent = time.thread_time() - start
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
