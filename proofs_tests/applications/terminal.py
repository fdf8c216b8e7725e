"""The command line in this process: what it prints, and how it refuses."""

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from applications import cli
from applications.application import known
from applications.commands import training

OURS = [one for one in known() if one.train.__module__.startswith("applications.")]
COMMANDS = {
    **cli.GENERAL,
    **{f"train {one.name}": training(one) for one in OURS},
    **{verb: command for one in OURS for verb, command in one.commands.items()},
}


TRAIN = [
    *("train", "flow-matching", "--blocks", "3", "--widths", "4", "4", "4", "--dense-blocks", "2", "--dense-width", "8"),
    *("--rank", "4", "--batch", "16", "--log-every", "1", "--latent-steps", "2", "--latent-batch", "16"),
]


def command(*arguments: object) -> None:
    """The command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["induced", *map(str, arguments)])
        cli.main()


def prose(text: str) -> str:
    """Text without boxes, line breaks and bullets."""
    return " ".join(re.sub(r"[│╭╮╰╯─•]", " ", text).split())


def refusal(*arguments: object) -> str:
    """What a command says that ends with exit code 1."""
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert isinstance(end.value.code, str), "a text ends a process with code 1 on stderr"
    return end.value.code


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size
