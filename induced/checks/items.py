"""The laws of objects as test items of pytest (`pytest --induced module:object`; pytest_induced.py)."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, cast, final

import pytest
import torch

from induced.checks.loading import load_object
from induced.checks.report import Report, require
from induced.checks.run import Checkable, check, parts
from induced.errors import InducedError, LawViolation

DTYPES = (torch.float32, torch.float64)
THINGS = pytest.StashKey[dict[str, Checkable]]()


def pytest_configure(config: pytest.Config) -> None:
    """Load the objects now: a wrong name is an error of usage, of one line."""
    things = config.stash.setdefault(THINGS, {})
    for name in config.getoption("--induced"):
        try:
            things[name] = load_object(name)
        except InducedError as error:
            raise pytest.UsageError(f"--induced {name}: {error}") from error


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Put the objects behind the folders and files of a session; there need not be any."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        things = collector.config.stash[THINGS].items()
        objects = [Object.from_parent(collector, name=name, nodeid=name, thing=thing) for name, thing in things]
        report.result = [*(report.result or []), *objects]
    return report


@final
class Object(pytest.Collector):
    """An object that --induced names; its laws are tried once in each precision, when the first item asks."""

    def __init__(self, thing: Checkable, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.thing = thing
        self.found: dict[torch.dtype, list[Report]] = {}

    def collect(self) -> Iterator["Laws"]:
        for dtype in DTYPES:
            for part in parts(self.thing):
                title = f"{str(dtype).removeprefix('torch.')}: {part.name}"
                yield Laws.from_parent(self, name=title, dtype=dtype, part=part.name)

    def reports(self, dtype: torch.dtype) -> list[Report]:
        if dtype not in self.found:
            self.found[dtype] = check(self.thing, dtype=dtype)
        return self.found[dtype]


@final
class Laws(pytest.Item):
    """The laws of one part of an object in one precision."""

    def __init__(self, dtype: torch.dtype, part: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.dtype, self.part = dtype, part
        self.add_marker("induced")
        # torch warns of a call of its own, at the first derivative
        self.add_marker(pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"))

    def runtest(self) -> None:
        reports = cast(Object, self.parent).reports(self.dtype)
        require([replace(report, part="") for report in reports if report.part == self.part])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The lines of the reports alone, where a law does not hold."""
        return str(excinfo.value) if isinstance(excinfo.value, LawViolation) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        assert self.parent is not None
        return self.parent.name, None, f"{self.parent.name} {self.name}"
