"""The command line in this process: what it prints, and how it refuses."""

import re
import sys

import pytest

from applications import cli
from applications.application import known
from applications.commands import training

OURS = [one for one in known() if one.train.__module__.startswith("applications.")]
COMMANDS = {
    **cli.GENERAL,
    **{f"train {one.name}": training(one) for one in OURS},
    **{verb: command for one in OURS for verb, command in one.commands.items()},
}


def command(*arguments: object) -> None:
    """The command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["induced", *map(str, arguments)])
        cli.main()


def prose(text: str) -> str:
    """Text without boxes, line breaks and bullets."""
    return " ".join(re.sub(r"[│╭╮╰╯─•]", " ", text).split())
