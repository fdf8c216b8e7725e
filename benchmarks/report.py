"""A page of what the suites measured: tables, pictures, exponents, and every row in which a peer is faster, explained.

    python -m benchmarks.report runs/benchmarks.json [MORE.json ...] [--out docs/benchmarks.md] [--figures docs/figures]

Reads what `pytest benchmarks --benchmark-json=...` wrote; several files are joined. A benchmark is a cell of a table: its
`extra_info` names `table`, `row` and `form` ("induced" is the library's own) and may hold

- `ours`: seconds of the library's own form of the row, timed in turns with this one: the ratio is that of the two medians;
- `loops`: calls in one timing; `scale`: what the time is multiplied by, where only a part was run; `note`: which part;
- `error`, `bound`: relative, against float64; `errors`: several by name; `bytes`: memory;
- `peer` false: a bound or a variant of the library's own, and no other way to the same result;
- `x`, `axis`, `theory`, `memory_theory`: the place in a series and the exponents expected of it.

The page is written in any case; the exit status is 1 if a peer is faster without an explanation in `explanations.toml`, or an
error is larger than its bound.
"""

import argparse
import json
import math
import os
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import linear_regression, median, quantiles
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

ROOT = Path(__file__).resolve().parents[1]
OURS = "induced"
FASTER = 1.0
"""Ratio below which a row is listed among those where others are faster."""
CLEARLY = 0.9
"""Ratio below which it must be explained; what lies between is about equal, within the noise of such timings."""
INACCURATE = 1e-3
"""Relative error from which a cell is marked."""
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass
class Cell:
    """One form of one row."""

    suite: str
    table: str
    row: str
    form: str
    times: list[float]
    ours: list[float] = field(default_factory=list)
    peer: bool = True
    note: str = ""
    error: float | None = None
    bound: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    bytes: float | None = None
    x: float | None = None
    axis: str = ""
    theory: float | None = None
    memory_theory: float | None = None

    @property
    def time(self) -> float:
        return median(self.times)

    @property
    def spread(self) -> float | None:
        """Half of the distance between the quartiles, of the median; None where fewer than three timings tell."""
        if len(self.times) < 3:
            return None
        low, _, high = quantiles(self.times, n=4, method="inclusive")
        return (high - low) / 2 / self.time

    @property
    def ratio(self) -> float | None:
        """How many times as long as the library's own form this one takes; None for that itself."""
        return self.time / median(self.ours) if self.ours else None

    @property
    def name(self) -> str:
        return f"{self.table} / {self.row} / {self.form}"

    @property
    def wrong(self) -> bool:
        """Whether the error is beyond what rounding explains, or no number."""
        return self.bound is not None and not (self.error is not None and self.error <= self.bound)


@dataclass
class Results:
    """What one or several runs found."""

    cells: list[Cell]
    skipped: list[tuple[str, str]]
    machine: dict[str, Any]
    quick: bool

    @property
    def missing(self) -> list[str]:
        """Peers that are not installed."""
        return sorted(name for name, version in self.machine["versions"].items() if version is None)

    def tables(self) -> dict[str, dict[str, list[Cell]]]:
        """Cells by suite and table, in the order in which they were measured."""
        found: dict[str, dict[str, list[Cell]]] = {}
        for cell in self.cells:
            found.setdefault(cell.suite, {}).setdefault(cell.table, []).append(cell)
        return found


def read(files: Iterable[Path]) -> Results:
    """The results in files of pytest-benchmark."""
    loaded = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    cells = [cell_of(entry) for one in loaded for entry in one["benchmarks"]]
    skipped = [(entry["row"], entry["reason"]) for one in loaded for entry in one["skipped"]]
    return Results(cells, skipped, loaded[0]["machine_info"], any(one["quick"] for one in loaded))


def cell_of(entry: dict[str, Any]) -> Cell:
    """A benchmark of the file."""
    facts = dict(entry["extra_info"])
    loops, scale = facts.pop("loops"), facts.pop("scale", 1)
    suite = entry["fullname"].partition("::")[0].rpartition("/")[2].removeprefix("bench_").removesuffix(".py")
    facts["note"] = facts.get("note") or ""
    return Cell(suite, times=[t * scale / loops for t in entry["stats"]["data"]], **facts)


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The power of x that y grows with, by least squares of the logarithms on the upper half of their range."""
    middle = math.sqrt(min(x) * max(x)) * (1 - 1e-9)
    upper = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True) if a >= middle and b > 0]
    return linear_regression(*zip(*upper, strict=True)).slope if len(upper) > 1 else None


def series(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """By form, the cells that lie along an axis."""
    found: dict[str, list[Cell]] = {}
    for cell in sorted((cell for cell in cells if cell.x is not None), key=lambda cell: cell.x or 0):
        found.setdefault(cell.form, []).append(cell)
    return {form: line for form, line in found.items() if len(line) > 1}


def faster(results: Results) -> list[Cell]:
    """The cells of peers that take less time than the library's own form, the fastest first."""
    cells = [cell for cell in results.cells if cell.peer and cell.ratio is not None and cell.ratio < FASTER]
    return sorted(cells, key=lambda cell: cell.ratio or 0)


def explained(cell: Cell, reasons: Sequence[dict[str, str]]) -> str | None:
    """The first reason whose pattern fits the name of the cell."""
    return next((reason["because"] for reason in reasons if fnmatchcase(cell.name, reason["where"])), None)


def short(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    unit, factor = next((u for u in (("s", 1.0), ("ms", 1e3)) if seconds * u[1] >= 1), ("µs", 1e6))
    return f"{short(seconds * factor)} {unit}"


def memory(count: float) -> str:
    """Bytes in the unit that suits them."""
    unit, factor = next((u for u in (("GB", 1e9), ("MB", 1e6)) if count >= u[1]), ("kB", 1e3))
    return f"{short(count / factor)} {unit}"


def shown(cell: Cell) -> str:
    """What stands in the table for a cell."""
    parts = [duration(cell.time) + ("" if cell.spread is None else f" ± {100 * cell.spread:.0f} %")]
    if cell.ratio is not None:
        parts.append(f"**{short(cell.ratio)} x**")
    if cell.error is not None:
        parts.append(f"{cell.error:.0e}" + (" (!)" if cell.wrong or cell.error > INACCURATE else ""))
    if cell.bytes is not None:
        parts.append(memory(cell.bytes))
    whole = ", ".join(part.replace(" ", NO_BREAK) for part in parts)
    return whole + (f" ({cell.note})" if cell.note else "")


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return ["", *("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)), ""]


def by_row(cells: Sequence[Cell]) -> list[str]:
    """A row of the table for each row of the benchmark, a column for each form that some row has."""
    forms = list(dict.fromkeys(cell.form for cell in sorted(cells, key=lambda cell: not cell.form.startswith(OURS))))
    found = {(cell.row, cell.form): shown(cell) for cell in cells}
    rows = dict.fromkeys(cell.row for cell in cells)
    text = grid(["", *forms], [[row, *(found.get((row, form), "-") for form in forms)] for row in rows])
    judged = [cell for cell in cells if cell.errors]
    if judged:
        names = list(judged[0].errors)
        text += grid(
            ["worst error", *names], [[f"{c.form}, {c.row}", *(f"{c.errors[name]:.0e}" for name in names)] for c in judged]
        )
    return text


def growth(tables: dict[str, list[Cell]]) -> list[str]:
    """The fitted exponents beside those of theory."""
    rows = []
    for title, cells in tables.items():
        for form, line in series(cells).items():
            sizes, last = [cell.x or 0 for cell in line], line[-1]
            held = [cell.bytes for cell in line if cell.bytes is not None]
            fits = [(exponent(sizes, [cell.time for cell in line]), last.theory)]
            fits.append((exponent(sizes, held) if len(held) == len(line) else None, last.memory_theory))
            ends = f"{last.axis} = {short(sizes[0])} to {short(sizes[-1])}"
            rows.append([title, form, ends, *(text for fit in fits for text in map(power, fit))])
    return grid(["", "form", "range", "time", "theory", "memory", "theory"], rows) if rows else []


def power(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def draw_ratios(tables: dict[str, list[Cell]], path: Path) -> bool:
    """A panel for each table: how many times as long as the library each form takes, on a logarithmic axis."""
    panels = {
        title: (rows, compared)
        for title, cells in tables.items()
        if (compared := [cell for cell in cells if cell.ratio is not None])
        and (rows := list(dict.fromkeys(cell.row for cell in compared))[::-1])
    }
    if not panels:
        return False
    forms = list(dict.fromkeys(cell.form for _, compared in panels.values() for cell in compared))
    heights = [len(rows) + 1.5 for rows, _ in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(9, 0.24 * sum(heights) + 0.8),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (title, (rows, compared)) in zip(axes[:, 0], panels.items(), strict=True):
        for k, form in enumerate(forms):
            mine = [cell for cell in compared if cell.form == form]
            ratios, places = [cell.ratio for cell in mine], [rows.index(cell.row) for cell in mine]
            axis.plot(ratios, places, "osD^vPX*<>"[k % 10], color=f"C{k % 10}", label=form, markersize=5)
        axis.axvline(1, color="gray", linewidth=1)
        axis.set(xscale="log", yticks=range(len(rows)), yticklabels=rows, ylim=(-0.7, len(rows) - 0.3))
        axis.set_title(title, fontsize=9, loc="left")
        plain(axis)
    axes[-1, 0].set_xlabel("CPU time as a multiple of the library's: it is faster to the right of 1")
    handles = [Line2D([], [], linestyle="", marker="osD^vPX*<>"[k % 10], color=f"C{k % 10}") for k in range(len(forms))]
    figure.legend(handles, forms, loc="outside upper center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def draw_growth(tables: dict[str, list[Cell]], path: Path) -> None:
    """A panel for the time and one for the memory of each table with series, on logarithmic axes, with the exponents."""
    panels: dict[tuple[str, str, str], list[tuple[str, list[float], list[float]]]] = {}
    for title, cells in tables.items():
        for form, line in series(cells).items():
            for quantity, scale, unit, theory in (("time", 1.0, "CPU seconds", "theory"), ("bytes", 1e-6, "MB", "memory_theory")):
                if all(getattr(cell, quantity) is not None for cell in line):
                    x, y = [cell.x or 0 for cell in line], [scale * getattr(cell, quantity) for cell in line]
                    label = f"{form}: {power(exponent(x, y))} (theory {power(getattr(line[-1], theory))})"
                    panels.setdefault((title, line[-1].axis, unit), []).append((label, x, y))
    rows = math.ceil(len(panels) / 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11, 3.4 * rows), squeeze=False, layout="constrained")
    for axis, ((title, along, unit), lines) in zip(axes.flat, panels.items(), strict=False):
        for k, (label, x, y) in enumerate(lines):
            axis.plot(x, y, "o-", color=f"C{k % 10}", markersize=3, linewidth=1, label=label)
        axis.set(xscale="log", yscale="log", xlabel=along, ylabel=unit)
        axis.set_title(title, fontsize=8)
        plain(axis)
        axis.legend(fontsize=6, framealpha=0.9)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def plain(axis: Any) -> None:
    """Small labels: at powers of ten where there are enough of them, else at 1, 2 and 5."""
    axis.tick_params(which="both", labelsize=7)
    axis.grid(which="both", alpha=0.2)
    for side in (axis.xaxis, axis.yaxis):
        low, high = side.get_view_interval()
        if side.get_scale() == "log":
            side.set_minor_formatter(NullFormatter())
            if high <= 30 * low:
                side.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 4 * low else range(1, 10)))
                side.set_major_formatter(StrMethodFormatter("{x:g}"))


def page(results: Results, texts: dict[str, Any], figures: Path, out: Path) -> str:
    """The whole page; its pictures are written on the way."""
    figures.mkdir(parents=True, exist_ok=True)
    tables = results.tables()
    compared = [cell.ratio for cell in results.cells if cell.peer and cell.ratio is not None]
    equal = sum(CLEARLY <= ratio <= 1 / CLEARLY for ratio in compared)
    slower = sum(ratio < CLEARLY for ratio in compared)
    machine, versions = results.machine, results.machine["versions"]
    text = ["# Benchmarks", ""]
    if results.quick:
        text += ["**A quick run: small sizes and few timings, to see that everything works. These figures mean nothing.**", ""]
    text += [
        texts["intro"].strip(),
        "",
        f"{len(compared)} comparisons: in {len(compared) - equal - slower} the library is faster, in {equal} about equal (within "
        f'a tenth), in {slower} slower: all of these stand, with the reasons, under "Where others are faster".',
        "",
        f"Machine: {machine['cpu'].get('brand_raw', machine['machine'])}, one thread; {machine['os']}, "
        f"Python {machine['python_version']}; {', '.join(f'{name} {v}' for name, v in versions.items() if v)}.",
        "",
        f"Not installed, and so missing below: {', '.join(results.missing)}." if results.missing else "All peers were installed.",
        "",
    ]
    for suite, section in texts["suites"].items():
        if suite not in tables:
            continue
        found = tables[suite]
        text += [f"## {section['title']}", "", section["text"].strip(), ""]
        if suite != "growth":
            picture = figures / f"benchmarks-{suite}.png"
            if draw_ratios(found, picture):
                text += [f"![Ratios: {section['title']}]({relative(picture, out)})", ""]
            for title, cells in found.items():
                text += [f"### {title}", *by_row(cells)]
        lines = growth(found)
        if lines:
            picture = figures / ("benchmarks-growth.png" if suite == "growth" else f"benchmarks-{suite}-growth.png")
            draw_growth(found, picture)
            text += ["Exponents fitted on the upper half of each range, in logarithms:", *lines]
            text += [f"![Growth: {section['title']}]({relative(picture, out)})", ""]
    text += ["## Where others are faster", ""]
    rows = []
    for cell in faster(results):
        why = explained(cell, texts["faster"]) or ("unexplained" if (cell.ratio or 0) < CLEARLY else "about equal")
        rows.append([short(cell.ratio or 0), cell.table, cell.row, cell.form, why])
    text += grid(["ratio", "", "row", "who", "why"], rows) if rows else ["Nowhere in this run.", ""]
    text += ["## What was not measured", ""]
    reasons: dict[str, list[str]] = {}
    for row, reason in results.skipped:
        reasons.setdefault(reason, []).append(row.partition("[")[2].removesuffix("]") or row)
    text += [f"- {reason}: {'; '.join(rows)}" for reason, rows in reasons.items()] or ["Every row was."]
    return "\n".join(text).replace("\n\n\n", "\n\n").rstrip() + "\n"


def relative(picture: Path, out: Path) -> str:
    """The link from the page to a picture."""
    return Path(os.path.relpath(picture, out.parent)).as_posix()


def faults(results: Results, texts: dict[str, Any]) -> list[str]:
    """What must not stand on the page: a faster peer without an explanation, an error beyond its bound."""
    silent = [cell for cell in faster(results) if (cell.ratio or 0) < CLEARLY and not explained(cell, texts["faster"])]
    silent = [] if results.quick else silent  # whose times mean little
    found = [f"unexplained, {short(cell.ratio or 0)} x: {cell.name}" for cell in silent]
    return found + [f"error {cell.error} beyond {cell.bound}: {cell.name}" for cell in results.cells if cell.wrong]


def main() -> int:
    """Write the page and name what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks.md")
    parser.add_argument("--figures", type=Path, default=None, help="folder of the pictures; figures beside the page by default")
    options = parser.parse_args()
    texts = tomllib.loads((Path(__file__).parent / "explanations.toml").read_text(encoding="utf-8"))
    results = read(options.results)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    written = page(results, texts, options.figures or options.out.parent / "figures", options.out)
    options.out.write_text(written, encoding="utf-8")
    wrong = faults(results, texts)
    print(f"wrote {options.out}", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
