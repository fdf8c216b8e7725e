"""Errors of the hub; laws/test_hub.py holds what it refuses."""

import runpy
import sys
from unittest.mock import patch

from induced import hub
from induced.errors import CheckpointError, MissingExtra
from induced.hub import HubModel
from proofs_tests.units.case import Case


def load_without_the_hub() -> None:
    with patch.dict(sys.modules, {"huggingface_hub": None}):
        runpy.run_path(str(hub.__file__))


CASES = [
    Case(MissingExtra, r"the hub needs huggingface_hub \(.*\): install induced\[hub\]", load_without_the_hub),
    Case(
        CheckpointError,
        r"a/b/c: is no folder, and cannot be fetched from the Hugging Face hub: Repo id must",
        lambda: HubModel.from_pretrained("a/b/c"),
    ),
]
