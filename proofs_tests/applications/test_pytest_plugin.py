"""`pytest --induced module:object`: an item a part and precision, beside the tests of files or without any."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "objects_of_a_project"
SOURCE = """
from induced import EuclideanSpace, Linearizer
from induced.bijections import Affine, Bijection

class Right(Bijection):
    def __init__(self):
        super().__init__((2,))

    def forward(self, x):
        return 2 * x

    def inverse(self, z):
        return z / 2

class Wrong(Right):
    def inverse(self, z):
        return z / 3

halved = Linearizer(0.5 * __import__("torch").eye(2), EuclideanSpace(2))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of a project in it and no test, as the current directory."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop(MODULE, None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of pytest within this process, where torch is there already."""
    options = ["-p", "pytest_induced", "-p", "no:cacheprovider", "--rootdir", ".", "--color=no", "-W", "error"]
    code = pytest.main([*options, *arguments])
    output = capsys.readouterr()
    return int(code), output.out + output.err


def test_each_part_is_an_item_and_a_failure_is_the_line_of_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "--induced", f"{MODULE}:Right", "--induced", f"{MODULE}:Wrong")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "collected 8 items" in said and "4 failed, 4 passed" in said
    assert f"FAILED {MODULE}:Wrong::float32: chart Wrong" in said and f"FAILED {MODULE}:Right" not in said
    assert re.search(r"^Def 2.2 +g\^-1\(g\(x\)\) = x +residual \S+  tolerance \S+  VIOLATED  \(at \[.*\]\)$", said, re.MULTILINE)
    assert "Traceback" not in said and "def runtest" not in said


def test_items_stand_beside_tests_and_are_chosen_and_listed_as_they_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "test_other.py").write_text("def test_other():\n    pass\n")
    asked = ("--induced", f"{MODULE}:halved", "--induced", f"{MODULE}:Right", "--induced", f"{MODULE}:halved")
    listed = run(capsys, *asked, "--collect-only", "-q")[1].splitlines()
    expected = [f"{MODULE}:halved::{dtype}: {part}" for dtype in ("float32", "float64") for part in ("domain: space", "map")]
    found = [line for line in listed if "halved" in line]
    assert listed[0] == "test_other.py::test_other" and len(found) == 4
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))
    assert "6 passed, 3 deselected" in run(capsys, *asked, "-m", "induced", "-k", "not float64 or Right")[1]
    assert "1 passed, 8 deselected" in run(capsys, *asked, "-k", "float32 and map")[1]
    assert "1 passed in" in run(capsys)[1]


@pytest.mark.parametrize("name", ["gone:Right", f"{MODULE}:gone", "nonsense"])
def test_a_wrong_name_is_an_error_of_usage_of_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "--induced", name)
    assert code == pytest.ExitCode.USAGE_ERROR
    (line,) = filter(None, said.splitlines())
    assert line.startswith(f"ERROR: --induced {name}: ")


STARTED = """
import sys, pytest
pytest.main(["-p", "pytest_induced", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--collect-only", "-q"])
print([name for name in ("torch", "induced", "numpy") if name in sys.modules], "pytest_induced" in sys.modules)
"""


def test_pytest_starts_without_torch_unless_asked(here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", STARTED], env=environment, cwd=here, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout.splitlines()[-1] == "[] True", done.stderr


def test_the_plugin_is_an_entry_point_and_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["entry-points"]["pytest11"] == {"pytest_induced": "pytest_induced"}
    assert "pytest_induced.py" in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
