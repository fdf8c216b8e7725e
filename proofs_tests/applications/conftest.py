"""A finished run of a small projector, made by the command line."""

from pathlib import Path

import pytest

from proofs_tests.applications.terminal import command


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("cli") / "projector"
    small = ("--blocks", 2, "--widths", 4, 4, "--rank", 12, "--batch", 8, "--steps", 2, "--log-every", 1, "--device", "cpu")
    command("train", "idempotent", *small, "--out", folder)
    return folder
