"""A small data folder of teachers and photographs."""

from pathlib import Path

import pytest

from proofs_tests.applications import stylists


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stylists.fill(tmp_path_factory.mktemp("data"))
