"""The commands of the house: `make fast` leaves no class out, hosted checks and hooks run what make does, the wheel holds all."""

import importlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import induced
from applications.application import known
from proofs_tests.registry import CHARTS, CORES, SPACES

TESTS = Path(__file__).parents[1]
HOUSE = TESTS.parent
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (HOUSE / "Makefile").read_text(encoding="utf-8")


def parsed(name: str) -> Any:
    return yaml.safe_load((HOUSE / name).read_text(encoding="utf-8"))


def recipes() -> dict[str, list[str]]:
    """The commands of each target."""
    found = re.findall(r"^([a-z-]+):[^\n=]*##[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.M)
    return {target: [line.strip() for line in lines.splitlines()] for target, lines in found}


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
    assert re.search(r"^fast:.*\n\t.* -m fast .*grep -rl --include='test_\*.py' '@pytest.mark.fast' proofs_tests", MAKEFILE, re.M)


def test_hosted_checks_run_targets_of_make_on_every_python_and_system() -> None:
    ci = parsed(".github/workflows/ci.yml")
    jobs = ci["jobs"]
    assert ci["permissions"] == {"contents": "read"} and "cancel-in-progress" in ci["concurrency"]
    assert all("timeout-minutes" in job for job in jobs.values())
    matrix = jobs["test"]["strategy"]["matrix"]
    assert PROJECT["requires-python"] == ">=" + matrix["python"][0] and matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {"ubuntu-latest", "macos-latest"} == set(matrix["os"])
    assert [(one["os"], one["python"]) for one in matrix["include"]] == [("windows-latest", one) for one in matrix["python"]]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {match[1] for command in commands if (match := re.match(r"make ([a-z-]+) ", command))}
    targets |= {*matrix["target"], *(one["target"] for one in matrix["include"])}
    assert targets == {"lint", "docs", "test", "fast", "oldest"} and targets <= recipes().keys()
    given = {name for command in commands for name in re.findall(r"([A-Z]+)=", command)}
    assert given and all(re.search(rf"^{name} \?= ", MAKEFILE, re.M) for name in given)
    (torch,) = (need for need in PROJECT["dependencies"] if need.startswith("torch"))
    assert f"TORCH={torch.partition('>=')[2]}.0" in " ".join(commands)


def test_the_hooks_are_the_commands_of_make_lint() -> None:
    (local,) = parsed(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    assert local["repo"] == "local" and entries == [line.replace("$(BIN)", ".venv/bin") for line in recipes()["lint"]]


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = parsed("CITATION.cff")
    assert (citation["version"], citation["license"]) == (induced.__version__, PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"] and citation["keywords"] == PROJECT["keywords"]
    assert citation["references"][0]["url"] == PROJECT["urls"]["Paper"]
    assert PROJECT["urls"]["Paper"] in (HOUSE / "README.md").read_text(encoding="utf-8")


def test_the_newest_version_in_the_changelog_is_that_of_the_package() -> None:
    text = (HOUSE / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)", text, re.M)
    assert headings[:2] == ["Unreleased", f"{induced.__version__} - {parsed('CITATION.cff')['date-released']}"]


def test_the_templates_of_issues_ask_something() -> None:
    for name in ("wrong_result.yml", "wish.yml"):
        form = parsed(f".github/ISSUE_TEMPLATE/{name}")
        assert form["name"] and form["description"] and all(part["attributes"]["label"] for part in form["body"])


def test_wheel_and_sdist_hold_the_packages_their_models_and_types_and_no_tests(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed (extra `test`)")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)]
    built = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(HOUSE).as_posix() for room in ("induced", "applications") for path in (HOUSE / room).rglob("*.py")}
    shipped = {path.relative_to(HOUSE).as_posix() for path in (HOUSE / "applications").rglob("pretrained/*/*")}
    assert len(shipped) >= 6 and files | shipped | {"induced/py.typed", "pytest_induced.py"} <= held
    about = f"induced-{induced.__version__}.dist-info/"
    assert {about + "licenses/LICENSE", about + "entry_points.txt"} <= held
    assert {name.partition("/")[0] for name in held} == {"induced", "applications", "pytest_induced.py", about[:-1]}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    more = {"proofs_tests/registry.py", "docs/conf.py", "Makefile", "constraints.txt", "CHANGELOG.md", "CITATION.cff", "LICENSE"}
    assert files | shipped | more <= names and not any(name.startswith((".venv", "runs", "docs/_build")) for name in names)
