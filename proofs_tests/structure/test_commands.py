"""The commands of the house: `make fast` leaves no class out."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from applications.application import known
from proofs_tests.registry import CHARTS, CORES, SPACES

TESTS = Path(__file__).parents[1]
HOUSE = TESTS.parent


def fast() -> Iterator[pytest.Mark]:
    """The marks of the tests that `make fast` runs, in the files that it finds as here, by their text."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if "@pytest.mark.fast" in path.read_text(encoding="utf-8"):
            module = importlib.import_module(".".join(path.relative_to(HOUSE).with_suffix("").parts))
            marked = [getattr(test, "pytestmark", []) for name, test in vars(module).items() if name.startswith("test_")]
            yield from (mark for marks in marked if any(one.name == "fast" for one in marks) for mark in marks)


def test_make_fast_puts_each_registered_case_and_each_application_under_its_laws() -> None:
    given = [value for mark in fast() if mark.name == "parametrize" for value in mark.args[1]]
    assert {id(case) for case in (*CHARTS, *CORES, *SPACES)} <= {id(value) for value in given}
    assert {one.name for one in known()} <= {value for value in given if isinstance(value, str)}
    makefile = (HOUSE / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^fast:.*\n\t.* -m fast .*grep -rl --include='test_\*.py' '@pytest.mark.fast' proofs_tests", makefile, re.M)
