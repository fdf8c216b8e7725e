"""Reports: verdicts, tables, HTML, JSON, and what `require` lets pass."""

import json
import math
from html.parser import HTMLParser

import pytest
import torch

from induced import Report, require
from induced.bijections import Linear
from induced.checks import check_bijection
from induced.checks.report import Reports
from induced.errors import LawViolation
from induced.operators import Dense

HOLDS = Report("a good law", "Prop 1", 1e-9, 1e-8, torch.ones(2))
EXACT = Report("an exact law", "Prop 1", 0.0, 0.0)
VIOLATED = Report("a bad law", "Prop 2", 1e-3, 1e-8, torch.tensor([1.0, math.nan, 3.0, 4.0, 5.0]), part="map f")
RAISED = Report("a law that raised", "Prop 2", math.nan, 0.0, note="raised ValueError: <no>")
UNJUDGEABLE = Report("a law of large numbers", "Prop 3", 1e-3, 0.5, note="at the samples scaled by 0.111")
ABSENT = Report("a law of something else", "Prop 4", math.nan, math.nan, note="there is no determinant", applies=False)
VERDICTS = {"holds": [HOLDS, EXACT], "violated": [VIOLATED, RAISED], "unjudgeable": [UNJUDGEABLE], "not applicable": [ABSENT]}
ALL = Reports([HOLDS, EXACT, RAISED, UNJUDGEABLE, ABSENT, VIOLATED])


@pytest.mark.parametrize(("verdict", "report"), [(verdict, report) for verdict, found in VERDICTS.items() for report in found])
def test_a_report_has_one_of_four_verdicts(verdict: str, report: Report) -> None:
    assert report.verdict == verdict
    assert report.ok == (verdict in ("holds", "not applicable"))


@pytest.mark.parametrize("residual", [math.nan, math.inf, 1.0])
def test_a_residual_that_is_not_a_small_number_is_a_violation(residual: float) -> None:
    assert Report("law", "", residual, 1e-8).verdict == "violated"


@pytest.mark.parametrize("tolerance", [0.0101, 1.0, math.inf])
@pytest.mark.parametrize("residual", [0.0, 0.0101])
def test_a_wide_tolerance_judges_nothing(tolerance: float, residual: float) -> None:
    assert Report("law", "", residual, tolerance).verdict == "unjudgeable"
    assert Report("law", "", 0.01, 0.01).verdict == "holds"


def test_what_is_too_ill_conditioned_is_said_so_and_not_passed() -> None:
    g = Linear(Dense(torch.tensor([[1.0, 1.0], [1.0, 1.00001]])))
    reports = check_bijection(g, torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    assert reports[0].verdict == "unjudgeable" and not reports.ok
    with pytest.raises(LawViolation, match="unjudgeable"):
        require(reports)


# ------------------------------------------------------------------------------------------------------------------- require
def test_require_lists_what_fails_and_only_that() -> None:
    require(HOLDS, [HOLDS, EXACT, ABSENT])
    with pytest.raises(LawViolation, match="3 of 5 laws do not hold:") as raised:
        require(VIOLATED, [HOLDS, ABSENT, EXACT, UNJUDGEABLE, RAISED])
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("map f:  Prop 2") and "VIOLATED  (at [1, nan, 3, 4, ...] (5,))" in lines[1]
    assert len({line.index(report.law) for line, report in zip(lines[1:], (VIOLATED, UNJUDGEABLE, RAISED), strict=True)}) == 1
    assert "unjudgeable  (at the samples scaled by 0.111)" in lines[2]
    assert "VIOLATED  (raised ValueError: <no>)" in lines[3]


@pytest.mark.parametrize("nothing", [(), ([],), (Reports(),), (ABSENT,), ([ABSENT, ABSENT],)])
def test_require_of_nothing_raises(nothing: tuple[Report | list[Report], ...]) -> None:
    with pytest.raises(LawViolation, match="nothing was checked"):
        require(*nothing)


def test_reports_are_ok_exactly_where_require_passes() -> None:
    assert Reports([HOLDS, ABSENT]).ok and Reports([EXACT]).ok
    for reports in ([], [ABSENT], [HOLDS, VIOLATED], [HOLDS, UNJUDGEABLE]):
        assert not Reports(reports).ok


# ----------------------------------------------------------------------------------------------------------- tables and JSON
def test_the_counts_are_those_of_the_verdicts() -> None:
    assert ALL.counts() == {"holds": 2, "violated": 2, "unjudgeable": 1, "not applicable": 1}
    assert ALL.summary() == "4 laws judged: 2 hold, 2 violated; 1 unjudgeable, 1 not applicable"
    assert str(ALL).splitlines()[-1] == ALL.summary()
    assert Reports().summary() == str(Reports()) == "0 laws judged: 0 hold, 0 violated; 0 unjudgeable, 0 not applicable"


def test_a_table_has_a_row_for_each_law_below_the_name_of_its_part() -> None:
    first, second, _ = str(ALL).split("\n\n")
    assert repr(ALL) == str(ALL)
    rows = first.splitlines()
    assert rows[0].split() == ["law", "statement", "residual", "tolerance", "verdict"]
    assert [row.split("  ")[0] for row in rows[1:]] == [report.law for report in ALL[:-1]]
    assert rows[1].split() == ["a", "good", "law", "Prop", "1", "1.00e-09", "1.00e-08", "holds"]
    assert rows[2].split()[-3:] == ["0", "0", "holds"]
    assert rows[3].split("  ")[-1] == "raised ValueError: <no>"
    assert "not applicable  there is no determinant" in rows[5] and " nan" not in first
    columns = [rows[0].index(name) for name in ("statement", "residual", "verdict")]
    assert all(row[start - 2 : start] == "  " and row[start] != " " for row in rows[1:4] for start in (columns[0], columns[2]))
    assert second.splitlines()[0] == "map f"
    assert second.splitlines()[2].endswith("1.00e-03  1.00e-08   VIOLATED  at [1, nan, 3, 4, ...] (5,)")


def test_a_table_is_at_most_120_columns_wide() -> None:
    wordy = [
        Report("a law " * 10, "Lemma 4.1", 1.0, 1e-8, torch.ones(3, 3), note="raised " + "long words " * 30),
        Report("short", "section 7", 1.0, 1e-8, torch.ones(3, 3)),
    ]
    text = str(Reports(wordy))
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("long") == 30 and "at [1, 1, 1, 1, ...] (3, 3)" in text


def test_details_stand_beside_the_rows_where_there_is_room_for_the_longest() -> None:
    # the columns take 3 + 9 + 8 + 9 + 7 characters, and each is followed by two spaces
    beside, below = (str(Reports([Report("law", "Prop 1", 1e-9, 1e-8, note=length * "x")])).splitlines() for length in (74, 75))
    assert len(beside) == 4 and beside[1] == f"law  Prop 1     1.00e-09  1.00e-08   holds    {74 * 'x'}" and len(beside[1]) == 120
    assert below[1] == "law  Prop 1     1.00e-09  1.00e-08   holds" and below[2] == f"    {75 * 'x'}"


def test_a_report_prints_on_one_line() -> None:
    start = "Prop 1  law  "
    assert str(Report("law", "Prop 1", 1e-9, 0.0)) == f"{start}residual 1.00e-09  tolerance 0         VIOLATED"
    assert str(Report("law", "Prop 1", math.nan, 0.0, note="n")) == f"{start}VIOLATED  (n)"
    four, five = (Report("law", "Prop 1", 2.0, 0.5, torch.arange(k) + 0.12345) for k in (4, 5))
    assert str(four).endswith("VIOLATED  (at [0.1235, 1.123, 2.123, 3.123])")
    assert str(five).endswith("VIOLATED  (at [0.1235, 1.123, 2.123, 3.123, ...] (5,))")


def test_the_html_is_well_formed_and_says_the_same() -> None:
    texts: list[str] = []
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_data(self, data: str) -> None:
            texts.append(data)

    page = ALL._repr_html_()
    assert ">raised ValueError: &lt;no&gt;</td>" in page and 'bold; color: #b00020">VIOLATED</td>' in page
    assert '<caption style="text-align: left; font-weight: bold">map f</caption>' in page
    Reader().feed(ALL._repr_html_())
    assert open_tags == []
    assert {report.law for report in ALL} | {report.note for report in ALL if report.note} | {"map f", ALL.summary()} <= set(
        texts
    )


def test_a_dictionary_of_reports_is_json() -> None:
    found = ALL.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["counts"] == ALL.counts() and [row["law"] for row in found["reports"]] == [report.law for report in ALL]
    last = found["reports"][-1]
    assert last["worst"] == [1.0, None, 3.0, 4.0, 5.0] and last["part"] == "map f" and last["residual"] == 1e-3
    assert found["reports"][2]["residual"] is None and found["reports"][0]["verdict"] == "holds"
    matrix = Report("law", "", math.inf, 1e-8, torch.tensor([[1.0, math.inf]], dtype=torch.bfloat16)).to_dict()
    assert matrix["worst"] == [[1.0, None]] and matrix["residual"] is None
    number = Report("law", "", 1.0, 1e-8, torch.tensor(2.0)).to_dict()
    assert number["worst"] == 2.0
