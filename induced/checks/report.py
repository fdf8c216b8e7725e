"""What a law gives: a report, a table of them, and the error where one does not hold."""

import html
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, final

from torch import Tensor

from induced.errors import DtypeError, LawViolation

JUDGEABLE = 1e-2
VERDICTS = ("holds", "violated", "unjudgeable", "not applicable")


@final
@dataclass(frozen=True)
class Report:
    """What one law gave.

    Attributes:
        law: the equation.
        statement: its number in the paper, or the section that states it.
        residual: the largest normalised violation over the samples; nan where the law was not tried or raised.
        tolerance: what rounding explains.
        worst: the sample with the largest violation, where the law speaks of samples.
        note: what else there is to know: why the law does not apply, what it raised, how far it was tried.
        part: the part of the object that was looked at, where `check` looked at several.
        applies: False where the object lacks what the law speaks of.
    """

    law: str
    statement: str
    residual: float
    tolerance: float
    worst: Tensor | None = None
    note: str = ""
    part: str = ""
    applies: bool = True

    @property
    def verdict(self) -> str:
        """One of four.

        - "holds": the residual is at most the tolerance, and that at most 1e-2;
        - "unjudgeable": the residual is within a tolerance above 1e-2: the law is too ill-conditioned at this precision;
        - "not applicable": the object lacks what the law speaks of, and the note says what;
        - "violated": anything else, nan included.
        """
        if not self.applies:
            return "not applicable"
        if self.residual <= self.tolerance <= JUDGEABLE:
            return "holds"
        return "unjudgeable" if self.residual <= self.tolerance else "violated"

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the object: the law holds, or does not apply."""
        return self.verdict in ("holds", "not applicable")

    def to_dict(self) -> dict[str, Any]:
        """The report in plain values that JSON holds; numbers that are not finite are None."""
        texts = {"part": self.part, "law": self.law, "statement": self.statement, "verdict": self.verdict, "note": self.note}
        numbers = {"residual": _plain(self.residual), "tolerance": _plain(self.tolerance)}
        return {**texts, **numbers, "worst": None if self.worst is None else _plain(self.worst.tolist())}

    def __str__(self) -> str:
        return _listed([self])[0]


@final
class Reports(list[Report]):
    """A list of reports that prints as a table, and says how many laws were judged.

    Example:
        >>> import torch
        >>> from induced import EuclideanSpace
        >>> from induced.checks import check_space
        >>> check_space(EuclideanSpace(3), torch.randn(4, 3)).counts()["violated"]
        0
    """

    def counts(self) -> dict[str, int]:
        """How many laws hold, are violated, are unjudgeable, and are not applicable."""
        found = Counter(report.verdict for report in self)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def ok(self) -> bool:
        """Whether `require` would pass: every law that applies holds, and there is one."""
        counts = self.counts()
        return counts["holds"] > 0 and not counts["violated"] + counts["unjudgeable"]

    def summary(self) -> str:
        """The counts in one line."""
        counts = self.counts()
        judged = counts["holds"] + counts["violated"]
        rest = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("unjudgeable", "not applicable"))
        return f"{judged} laws judged: {counts['holds']} hold, {counts['violated']} violated; {rest}"

    def to_dict(self) -> dict[str, Any]:
        """Counts and reports in plain values that JSON holds."""
        return {"counts": self.counts(), "reports": [report.to_dict() for report in self]}

    def __str__(self) -> str:
        """A table for each part: law, statement, residual, tolerance, verdict, and what else there is to know; the counts below.

        The worst sample is shown where a law does not hold. Where there is no room beside the rows, details stand below them.
        """
        blocks = []
        for part, group in groupby(self, key=lambda report: report.part):
            reports = list(group)
            rows = [HEADINGS, *map(_row, reports)]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            details = ["", *map(_details, reports)]
            room = WIDTH - sum(widths) - 2 * len(widths)
            beside = max(map(len, details)) <= room
            lines = [part] if part else []
            for row, text in zip(rows, details, strict=True):
                line = "  ".join(map(str.ljust, row, widths))
                lines += [f"{line}  {text}".rstrip()] if beside else [line.rstrip(), *_indented(text)]
            blocks.append("\n".join(lines))
        return "\n\n".join([*blocks, self.summary()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as HTML, for notebooks."""
        tables = []
        for part, group in groupby(self, key=lambda report: report.part):
            head = "".join(_cell("th", name) for name in (*HEADINGS, "note"))
            body = "".join(_html_row(report) for report in group)
            title = _cell("caption", part, "font-weight: bold") if part else ""
            tables.append(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        return "".join(tables) + f"<p>{html.escape(self.summary())}</p>"


HEADINGS = ("law", "statement", "residual", "tolerance", "verdict")
WIDTH = 120
"""Characters in a line of a table."""


def require(*reports: Report | Iterable[Report]) -> None:
    """Raise LawViolation, listing every report that is not ok; also where no law was judged at all.

    Raises:
        DtypeError: what came is not reports.
        LawViolation: a law is violated or unjudgeable, or there is no report of a law that applies.
    """
    flat = [*chain.from_iterable([r] if isinstance(r, Report) or not isinstance(r, Iterable) else r for r in reports)]
    if others := [type(r).__name__ for r in flat if not isinstance(r, Report)]:
        raise DtypeError(f"require takes what checks return, as require(check(g)); got {others[0]}")
    applicable = [report for report in flat if report.verdict != "not applicable"]
    if not applicable:
        among = "\n".join([f" among {len(flat)}:", *_listed(flat)]) if flat else ""
        raise LawViolation(f"nothing was checked: there is no report of a law that applies{among}")
    failed = [report for report in applicable if not report.ok]
    if failed:
        raise LawViolation("\n".join([f"{len(failed)} of {len(applicable)} laws do not hold:", *_listed(failed)]))


def _row(report: Report) -> tuple[str, ...]:
    verdict = report.verdict.upper() if report.verdict == "violated" else report.verdict
    # a law that was not tried, or raised, has no residual to compare
    numbers = ["", ""] if math.isnan(report.residual) else [f"{x:.2e}" if x else "0" for x in (report.residual, report.tolerance)]
    return (report.law, report.statement, *numbers, verdict)


def _html_row(report: Report) -> str:
    """A law stays on one line, and a verdict that is not ok stands out."""
    law, statement, residual, tolerance, verdict = _row(report)
    short = [_cell("td", text, "white-space: nowrap") for text in (law, statement, residual, tolerance)]
    bold = "" if report.ok else "; font-weight: bold; color: #b00020"
    return f"<tr>{''.join(short)}{_cell('td', verdict, f'white-space: nowrap{bold}')}{_cell('td', _details(report))}</tr>"


def _cell(tag: str, text: str, style: str = "") -> str:
    """Notebooks would align it to the right."""
    return f'<{tag} style="{"; ".join(filter(None, ["text-align: left", style]))}">{html.escape(text)}</{tag}>'


def _listed(reports: Sequence[Report]) -> list[str]:
    """Each on one line: part, statement and law in columns, residual and tolerance where there are any, verdict, details."""
    rows = [(f"{report.part}:" if report.part else "", report.statement, report.law) for report in reports]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for report, *texts in zip(reports, *columns, strict=True):
        _, _, residual, tolerance, verdict = _row(report)
        numbers = [f"residual {residual:<8}", f"tolerance {tolerance:<8}"] if residual else []
        details = [f"({text})"] if (text := _details(report)) else []
        lines.append("  ".join([*map(str.ljust, texts, widths), *numbers, verdict, *details]))
    return lines


def _details(report: Report) -> str:
    """The note, and the worst sample of a law that does not hold."""
    sample = "" if report.ok or report.worst is None else f"at {_short(report.worst)}"
    return "; ".join(filter(None, [report.note, sample]))


def _indented(text: str) -> list[str]:
    """Lines of at most WIDTH characters, four columns in; none of no text."""
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)


def _short(x: Tensor, entries: int = 4) -> str:
    """The first entries of a sample, and its shape where there are more."""
    first = ", ".join(f"{value:.4g}" for value in x.flatten()[:entries].tolist())
    return f"[{first}]" if x.numel() <= entries else f"[{first}, ...] {tuple(x.shape)}"


def _plain(value: Any) -> Any:
    """Numbers, and lists of them, with None in the place of what JSON cannot hold."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value if math.isfinite(value) else None
