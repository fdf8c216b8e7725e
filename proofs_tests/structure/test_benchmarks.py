"""The suites of benchmarks/ can be collected, and the report says what was measured, what was missing and what was wrong."""

import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Cell, Results, cell_of, duration, explained, exponent, faster, faults, main, page, read

ROOT = Path(__file__).parents[2]
SUITES = {path.name for path in (ROOT / "benchmarks").glob("bench_*.py")}
TEXTS: dict[str, Any] = {
    "intro": "Figures.",
    "suites": {"linalg": {"title": "Algebra", "text": "A."}, "growth": {"title": "Growth", "text": "B."}},
    "faster": [{"where": "functions / matvec / quick", "because": "It is small."}],
}


def entry(suite: str, form: str, times: list[float], **facts: Any) -> dict[str, Any]:
    """A benchmark as pytest-benchmark writes it."""
    known = {"table": "functions", "row": "matvec", "form": form, "loops": 10, "ours": []}
    return {"fullname": f"bench_{suite}.py::bench[{form}]", "stats": {"data": times}, "extra_info": known | facts}


OURS = entry("linalg", "induced", [1.0, 1.1, 0.9], error=1e-7, bound=1e-6)
SLOW = entry("linalg", "slow", [2.0, 4.0, 6.0], ours=[0.2, 0.1, 0.3], scale=16, note="a sixteenth")
QUICK = entry("linalg", "quick", [0.5], ours=[0.1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Results in which one peer is not installed and one row is too slow."""
    line = [entry("growth", "svd", [1e-3 * n], table="cost", row=f"n = {n}", x=n, axis="n", theory=1.0) for n in (1, 2, 4, 8)]
    written = {
        "benchmarks": [OURS, SLOW, QUICK, *line],
        "skipped": [{"row": "bench[512-cola]", "reason": "cola is not installed"}],
        "machine_info": {
            "cpu": {"brand_raw": "A processor"},
            "machine": "x86_64",
            "os": "Linux",
            "python_version": "3.11",
            "versions": {"torch": "2.13", "cola-ml": None},
        },
        "quick": False,
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(written))
    return path


def results(*entries: dict[str, Any]) -> Results:
    return Results([cell_of(one) for one in entries], [], {"versions": {}}, quick=False)


def cell(one: dict[str, Any]) -> Cell:
    return cell_of(one)


def test_the_ratio_is_that_of_the_medians_of_timings_that_took_turns() -> None:
    assert cell(SLOW).time == pytest.approx(4.0 * 16 / 10)
    assert cell(SLOW).ratio == pytest.approx(6.4 / 0.2)
    assert cell(OURS).ratio is None
    assert cell(OURS).spread == pytest.approx(0.05)
    assert cell(QUICK).spread is None


def test_the_exponent_is_that_of_the_upper_half_of_the_range() -> None:
    sizes = [2.0**k for k in range(11)]
    assert exponent(sizes, [5 * x**1.5 for x in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [max(x, 32.0) ** 2 for x in sizes]) == pytest.approx(2.0)  # flat below the middle
    assert exponent(sizes, [max(x, 64.0) ** 2 for x in sizes]) != pytest.approx(2.0, abs=0.05)
    assert exponent([1.0, 100.0], [1.0, 1.0]) is None  # one point is no line


def test_a_faster_peer_needs_an_explanation() -> None:
    assert [c.form for c in faster(results(OURS, SLOW, QUICK))] == ["quick"]
    assert explained(cell(QUICK), TEXTS["faster"]) == "It is small."
    assert faults(results(OURS, QUICK), TEXTS) == []
    assert faults(results(OURS, QUICK), TEXTS | {"faster": []}) == ["unexplained, 0.5 x: functions / matvec / quick"]
    level = entry("linalg", "level", [0.95], ours=[0.1])
    assert faults(results(OURS, level), TEXTS) == []
    bare = entry("linalg", "bare", [0.5], ours=[0.1], peer=False)
    assert faster(results(bare)) == []


@pytest.mark.parametrize("error", [1e-5, math.nan, math.inf])
def test_a_fast_and_wrong_row_is_refused(error: float) -> None:
    wrong = entry("linalg", "slow", [9.0], ours=[0.1], error=error, bound=1e-6)
    assert len(faults(results(wrong), TEXTS)) == 1


def test_the_page_says_what_was_measured_and_what_is_missing(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "page" / "benchmarks.md"
    text = page(read([file]), TEXTS, out.parent / "figures", out)
    assert "A processor" in text and "torch 2.13" in text
    assert "Not installed, and so missing below: cola-ml." in text
    assert "- cola is not installed: 512-cola" in text
    assert "2 comparisons: in 1 the library is faster, in 0 about equal (within a tenth), in 1 slower" in text
    assert "| matvec | 100 ms ± 5 %, 1e-07 | 6.4 s ± 25 %, **32 x** (a sixteenth) | 50 ms, **0.5 x** |" in text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "| 0.5 | functions | matvec | quick | It is small. |" in text
    assert "| cost | svd | n = 1 to 8 | 1.00 | 1.00 |  |  |" in text
    for picture in ("benchmarks-linalg.png", "benchmarks-growth.png"):
        assert f"(figures/{picture})" in text
        assert (out.parent / "figures" / picture).stat().st_size > 1000


def test_the_command_fails_on_what_is_not_explained(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "benchmarks.md"
    monkeypatch.setattr(sys, "argv", ["report.py", str(file), "--out", str(out)])
    assert main() == 1
    assert "unexplained" in out.read_text(encoding="utf-8")


def test_times_are_shown_in_the_unit_that_suits_them() -> None:
    assert [duration(t) for t in (12.345, 0.0123, 4.5e-6)] == ["12.3 s", "12.3 ms", "4.5 µs"]


def test_the_texts_of_the_page_are_about_the_suites_that_there_are() -> None:
    texts = tomllib.loads((ROOT / "benchmarks" / "explanations.toml").read_text(encoding="utf-8"))
    assert {f"bench_{suite}.py" for suite in texts["suites"]} == SUITES
    assert all(reason["where"].count(" / ") >= 1 and reason["because"] for reason in texts["faster"])


def test_the_suites_are_collected() -> None:
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q", "-W", "error"]
    # the worker that this test may run in is none of that process's
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {line.partition("::")[0].rpartition("/")[2] for line in done.stdout.splitlines() if "::" in line} == SUITES
