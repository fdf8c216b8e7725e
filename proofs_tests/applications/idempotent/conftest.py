"""A finished run of an idempotent generator."""

from pathlib import Path

import pytest

from applications.common.runs import Run
from applications.idempotent.train import train
from proofs_tests.applications.idempotent.models import config_of_a_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idempotent") / "run"
    train(config_of_a_run(), Run(folder), device="cpu")
    return folder
