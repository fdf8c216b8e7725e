"""The help of the command line: every command by application, every option and every setting with its words."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

import induced
from applications import cli
from applications.application import known
from applications.commands import summary
from applications.common.training import TrainingConfig
from applications.flow_matching.config import Config, ModelConfig, ObjectiveConfig
from applications.idempotent import config as idempotent
from applications.style_transfer import config as style_transfer
from proofs_tests.applications.terminal import COMMANDS, command, prose

ROOT = Path(__file__).resolve().parents[2]


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        command(*arguments, "--help")
    assert end.value.code == 0
    return prose(capsys.readouterr().out)


def explanations(function: Callable[..., None]) -> dict[str, str]:
    """The sentences of a Google docstring's Args section by parameter."""
    section = (inspect.getdoc(function) or "").partition("Args:\n")[2]
    return {name: prose(text) for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.M)}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_the_command_and_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    function, shown = COMMANDS[name], help_of(name.split(), capsys)
    assert prose(summary(function)) in shown
    told, parameters = explanations(function), inspect.signature(function).parameters.keys()
    assert told.keys() | ({"source", "images_from"} & parameters) == parameters  # these two explain their own options
    options = {
        "target": "[MODULE:OBJECT]",
        "folder": "[FOLDER]",
        "of_class": "--class",
        "config": "--batch",
        "source": "--run",
        "images_from": "--data",
    }
    for parameter, text in told.items():
        assert options.get(parameter, f"--{parameter.replace('_', '-')}") in shown, parameter
        assert parameter in ("config", "source", "images_from") or text in shown, (parameter, text)
    if "source" in parameters:
        assert prose("Name of a shipped model, where no folder is given.") in shown and "--fallback" in shown and "--run" in shown
    if "images_from" in parameters:
        assert prose("Leave out pictures of celeba and folder that cannot be decoded.") in shown and "--data" in shown


SETTINGS = {
    "flow-matching": [Config, ModelConfig, ObjectiveConfig, TrainingConfig],
    "idempotent": [idempotent.Config, idempotent.ModelConfig, idempotent.ObjectiveConfig, TrainingConfig],
    "style-transfer": [style_transfer.Config, style_transfer.ModelConfig, style_transfer.ObjectiveConfig, TrainingConfig],
}


@pytest.mark.parametrize(("name", "config"), [(name, config) for name, configs in SETTINGS.items() for config in configs])
def test_help_of_training_explains_every_setting(name: str, config: type, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(["train", name], capsys)
    (definition,) = ast.parse(inspect.getsource(config)).body
    assert isinstance(definition, ast.ClassDef)
    told = {
        ast.unparse(line.target): str(ast.literal_eval(after.value))
        for line, after in pairwise(definition.body)
        if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr)
    }
    plain = {field.name for field in fields(config)} - {"model", "objective", "training"}
    assert told.keys() == plain
    for name, text in told.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert prose(text) in shown, name
        assert all(line.strip()[0].isalpha() for line in text.splitlines()[1:]), f"{name}: help breaks a line before a sign"


def test_help_lists_all_commands_by_application(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command("--help")
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.rstrip() != line for line in lines)
    blocks = {block[0]: block[1:] for block in map(str.splitlines, "\n".join(lines).split("\n\n")[2:])}
    verbs = {title: [re.split(r"  +", row.strip())[0] for row in rows] for title, rows in blocks.items()}
    assert verbs.pop("the models of all applications") == list(cli.GENERAL)
    assert verbs == {one.name: [f"train {one.name}", *one.commands] for one in known()}
    shown = prose(" ".join(lines))
    assert all(prose(summary(function)) in shown for name, function in COMMANDS.items() if not name.startswith("train "))
    with pytest.raises(SystemExit) as end:
        command()
    assert (end.value.code, capsys.readouterr().out.splitlines()) == (2, lines)


def test_the_version_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    command("--version")
    assert capsys.readouterr().out == f"induced {induced.__version__}\n"


def test_what_few_commands_need_is_not_imported_by_all() -> None:
    slow = ["torch.distributed.fsdp", "torch.distributed.tensor", "sympy", "sklearn", "skimage"]
    code = f"import sys, applications.cli; print([name for name in {slow} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True, cwd=ROOT)
    assert told.stdout == "[]\n"
