"""Every error that the library raises, once: it names what came and what was expected.

The cases are the lists `CASES` of the modules `cases_*.py` beside it.
"""

import ast
import importlib
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import induced
from induced import Linearizer
from induced.errors import (
    DtypeError,
    InducedError,
    ShapeError,
)
from induced.operators import Diagonal, svd
from proofs_tests.units.case import Case
from proofs_tests.units.cases_linearizer import POSITIVE, R2, SQUARE

ROOT = Path(induced.__file__).parent
CASES = list[Case]()
for _path in sorted(Path(__file__).parent.glob("cases_*.py")):
    CASES += importlib.import_module(f"proofs_tests.units.{_path.stem}").CASES


@pytest.mark.fast
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.error.__name__}: {case.message[:40]}")
def test_the_message_names_what_came_and_what_was_expected(case: Case) -> None:
    with pytest.raises(case.error, match=case.message) as raised:
        case.act()
    assert raised.type is case.error


def test_every_error_of_the_library_is_raised_above() -> None:
    raised: set[tuple[str, int]] = set()
    for case in CASES:
        with pytest.raises(case.error) as caught:
            case.act()
        error: BaseException | None = caught.value
        while error is not None:  # and what it was raised from
            last = traceback.extract_tb(error.__traceback__)[-1]
            raised.add((last.filename, last.lineno or 0))
            error = error.__cause__
    missed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and node.exc is not None  # what is raised again has its case where it arose
        and ast.unparse(node) != "raise NotImplementedError"  # a method that its subclasses have
        and not any(name == str(path) and node.lineno <= line <= (node.end_lineno or 0) for name, line in raised)
    ]
    assert not missed, f"no test raises {missed}"


def test_every_error_is_an_induced_error_and_an_ordinary_one() -> None:
    for error in InducedError.__subclasses__():
        assert len(error.__bases__) == 2 and issubclass(error, InducedError) and error.__doc__, error


@pytest.mark.parametrize(
    "operate",
    [
        lambda A: A + 1,
        lambda A: A - 1,
        lambda A: A @ 2,
        lambda A: A * None,
        lambda A: A / A,
        lambda A: 1 / A,
        lambda A: 2 + A,
        lambda A: 2**A,
    ],
)
@pytest.mark.parametrize("operand", [SQUARE, Linearizer(torch.eye(2), R2)], ids=["operator", "linearizer"])
def test_other_arithmetic_is_a_type_error_that_names_both_operands(
    operand: nn.Module, operate: Callable[[nn.Module], object]
) -> None:
    with pytest.raises(TypeError, match=re.compile("unsupported operand type.*(Dense|Linearizer)")):
        operate(operand)


def test_a_map_without_parameters_in_its_charts_names_a_wrong_dtype() -> None:
    with pytest.raises(DtypeError, match="float64"):
        Linearizer(torch.eye(2), POSITIVE)(torch.ones(2).double())


def test_a_diagonal_refuses_coordinates_of_another_length() -> None:
    with pytest.raises(ShapeError, match="2"):
        Diagonal(torch.ones(2))(torch.ones(4, 1))


def test_a_batch_of_diagonals_has_no_svd() -> None:
    with pytest.raises(ShapeError, match="svd takes one operator, not a batch"):
        svd(Diagonal(torch.ones(2, 3)))
