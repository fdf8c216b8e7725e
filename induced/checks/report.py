"""What a law gives: a report, a table of them, and the error where one does not hold."""

import html
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, final

from torch import Tensor

from induced.errors import LawViolation

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
        - "not applicable": the object lacks what the law speaks of; `note` says what;
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
        numbers = {name: value if math.isfinite(value) else None for name, value in self._numbers().items()}
        worst = None if self.worst is None else self.worst.tolist()
        texts = {"part": self.part, "law": self.law, "statement": self.statement, "verdict": self.verdict, "note": self.note}
        return {**texts, **numbers, "worst": worst}

    def _numbers(self) -> dict[str, float]:
        return {"residual": self.residual, "tolerance": self.tolerance}

    def __str__(self) -> str:
        note = f"  ({self.note})" if self.note else ""
        shown = {"violated": "VIOLATED", "unjudgeable": "too ill-conditioned to judge"}.get(self.verdict, self.verdict)
        if self.verdict == "not applicable":
            return f"{self.statement:<12} {self.law:<44} {shown}{note}"
        numbers = f"residual {self.residual:8.2e}  tolerance {self.tolerance:8.2e}"
        return f"{self.statement:<12} {self.law:<44} {numbers}  {shown}{note}"


@final
class Reports(list[Report]):
    """A list of reports that prints as a table and says how many laws hold.

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

    def summary(self) -> str:
        """The counts as a sentence."""
        counts = self.counts()
        hold, of = counts["holds"], len(self) - counts["not applicable"]
        text = f"{hold} of {of} laws hold"
        rest = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS[1:] if counts[verdict]]
        return "; ".join([text, *rest])

    def to_dict(self) -> dict[str, Any]:
        """Counts and reports in plain values that JSON holds."""
        return {"counts": self.counts(), "reports": [report.to_dict() for report in self]}

    def __str__(self) -> str:
        """A table for each part: law, statement, residual, tolerance, verdict, note or worst sample; the counts below."""
        blocks = []
        for part, group in groupby(self, key=lambda report: report.part):
            rows = [_row(report) for report in group]
            widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
            lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (HEADINGS, *rows)]
            blocks.append("\n".join([part, *lines] if part else lines))
        return "\n\n".join([*blocks, self.summary()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as HTML, for notebooks."""
        tables = []
        for part, group in groupby(self, key=lambda report: report.part):
            head = "".join(f"<th>{name}</th>" for name in HEADINGS)
            body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _row(report))}</tr>" for report in group)
            title = f"<caption>{html.escape(part)}</caption>" if part else ""
            tables.append(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        return "".join(tables) + f"<p>{html.escape(self.summary())}</p>"


HEADINGS = ("law", "statement", "residual", "tolerance", "verdict", "worst sample, note")


def require(*reports: Report | Iterable[Report]) -> None:
    """Raise LawViolation, listing every report that is not ok; also where no law was judged at all.

    Raises:
        LawViolation: a law is violated or unjudgeable, or there is no report of a law that applies.
    """
    flat = list(chain.from_iterable([r] if isinstance(r, Report) else r for r in reports))
    applicable = [report for report in flat if report.verdict != "not applicable"]
    if not applicable:
        others = "".join(f"\n{report}" for report in flat)
        raise LawViolation(f"nothing was checked: require got no report of a law that applies, of {len(flat)} reports{others}")
    failed = [report for report in applicable if not report.ok]
    if failed:
        listed = [f"{report.part + ': ' if report.part else ''}{report}" for report in failed]
        raise LawViolation("\n".join([f"{len(failed)} of {len(applicable)} laws do not hold:", *listed]))


def _row(report: Report) -> tuple[str, ...]:
    numbers = [f"{x:.2e}" for x in (report.residual, report.tolerance)]
    if report.verdict == "not applicable":
        numbers = ["", ""]
    verdict = report.verdict.upper() if report.verdict == "violated" else report.verdict
    return (report.law, report.statement, *numbers, verdict, report.note or _short(report.worst))


def _short(x: Tensor | None, entries: int = 4) -> str:
    """The first entries of a sample, and its shape where there are more."""
    if x is None:
        return ""
    first = ", ".join(f"{value:.4g}" for value in x.flatten()[:entries].tolist())
    return f"[{first}]" if x.numel() <= entries else f"[{first}, ...] {tuple(x.shape)}"
