"""The closing table is complete: each pattern names tests that exist, and every statement has a symbolic proof."""

import ast
import re
from pathlib import Path

import pytest

from proofs_tests.statements import PAGE, ROOT, STATEMENTS, Statement, cell, matches, page, table

TESTS = ROOT / "proofs_tests"

every_statement = pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.number)


def names(file: Path) -> list[str]:
    return [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]


def exists(pattern: str) -> bool:
    """Whether a test begins with the pattern, as far as sources tell: parameters are strings there or in lists of cases."""
    file, _, test = pattern.partition("::")
    if not (TESTS / file).is_file():
        return False
    name, _, parameter = test.partition("[")
    sources = (TESTS / file, *(TESTS / file).parent.glob("cases_*.py"))
    tests = [f"{file}::{each}" for each in names(TESTS / file) if each.startswith("test_")]
    found = any(matches(f"{file}::{name}" if name else file, test) for test in tests)
    return found and any(parameter.rpartition(": ")[2] in source.read_text(encoding="utf-8") for source in sources)


@every_statement
def test_every_pattern_of_a_statement_names_a_test(statement: Statement) -> None:
    patterns = (*statement.proofs, *statement.laws, *statement.counterexamples)
    assert [pattern for pattern in patterns if not exists(pattern)] == []


@every_statement
def test_a_statement_has_a_proof_laws_counterexamples_and_a_page_that_links_to_them(statement: Statement) -> None:
    assert statement.proofs and statement.laws and statement.counterexamples
    text = (PAGE.parent / statement.page).read_text(encoding="utf-8")
    files = {pattern.partition("::")[0] for pattern in (*statement.proofs, *statement.laws)}
    assert sorted(file for file in files if f"](../../proofs_tests/{file})" not in text) == []
    assert "](../../induced/" in text


def test_every_proof_stands_for_a_statement() -> None:
    named = {pattern.partition("::")[0] for s in STATEMENTS for pattern in s.proofs}
    files = {f"proofs/{file.name}" for file in (TESTS / "proofs").glob("test_*.py")} - {"proofs/test_symbols.py"}
    assert files <= named


def test_every_numbered_statement_of_the_mathematics_is_in_the_table() -> None:
    numbers = {s.number for s in STATEMENTS}
    text = "".join(file.read_text(encoding="utf-8") for file in PAGE.parent.glob("*.md") if file != PAGE)
    assert set(re.findall(r"(?:Def|Prop|Lemma|Thm) \w+\.\d+", text)) <= numbers
    covered = {k for number in numbers for k in spread(number)}
    assert {k for number in re.findall(r"eqs?\. \d+(?:-\d+)?", text) for k in spread(number)} <= covered


def spread(number: str) -> range:
    """The equations that "eq. 4" or "eqs. 48-53" names."""
    ends = [int(k) for k in re.findall(r"\d+", number)] if number.startswith("eq") else []
    return range(ends[0], ends[-1] + 1) if ends else range(0)


def test_the_page_of_statements_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m proofs_tests.statements"


# -------------------------------------------------------------------------------------------------- the table tells what happened
def test_a_pattern_is_the_beginning_of_a_test() -> None:
    test = "proofs_tests/laws/test_spaces.py::test_the_zero[a b]"
    for pattern in ("laws/test_spaces.py", "laws/test_spaces.py::test_the", "laws/test_spaces.py::test_the_zero[a"):
        assert matches(pattern, test)
    for pattern in (
        "laws/test_space",
        "test_spaces.py",
        "laws/test_spaces.py::test_the_z",
        "laws/test_spaces.py::test_the_zero[b",
    ):
        assert not matches(pattern, test)


def test_one_failure_is_shown_and_what_did_not_run_is_not_called_passed() -> None:
    s = STATEMENTS[1]
    law, broken = f"proofs_tests/{s.laws[0]}[x]", f"proofs_tests/{s.laws[0]}[y]"
    assert cell(s.laws, {}) == "not run"
    assert cell(s.laws, {law: "passed"}) == "1 passed"
    assert cell(s.laws, {law: "passed", broken: "failed"}) == "1 FAILED"
    assert table({}) == []
    line = next(line for line in table({law: "passed", broken: "failed"}) if line.startswith(s.number))
    assert "1 FAILED" in line and "not run" in line
