"""A plugin of pytest: `pytest --induced module:object` puts objects under all laws (docs/guide/checks.md).

It stands beside the package, whose import takes torch: pytest loads this module at each start, and `induced` only when asked.
"""

import importlib

import pytest

LAWS = "induced.checks.items"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("induced").addoption(
        "--induced",
        action="append",
        default=[],
        metavar="MODULE:OBJECT",
        help="put a chart, space, operator or map under all laws, in float32 and float64; may be given several times",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--induced"):
        config.addinivalue_line("markers", "induced: the laws of the objects that --induced names")
        config.pluginmanager.register(
            importlib.import_module(LAWS), LAWS
        )  # import_plugin warns of modules that are there already
