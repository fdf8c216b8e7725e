"""The measurement of a GPU leaves what it found, whatever fails."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from experiments.measure_gpu import Found, Measure, flags


def fails(measure: Measure) -> Found:
    raise RuntimeError("the card is gone")


def test_a_section_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measure, "laws", fails)
    monkeypatch.setattr(Measure, "lattice", lambda measure: {"inputs": 3})
    options = Namespace(device="cpu", out=str(tmp_path), brief=True, only=["laws", "bits"], seconds=60.0)
    assert Measure(options).run() == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["bits"]["inputs"] == 3
    assert found["laws"]["error"] == "RuntimeError: the card is gone"


def test_no_section_begins_after_the_time(tmp_path: Path) -> None:
    assert Measure(Namespace(device="cpu", out=str(tmp_path), brief=True, only=["laws"], seconds=-1.0)).run() == 0
    assert "left out" in json.loads((tmp_path / "gpu.json").read_text())["laws"]


def test_flags_are_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(ValueError, match="no"), flags(conv=not before):
        assert torch.backends.cudnn.allow_tf32 is not before
        raise ValueError("no")
    assert torch.backends.cudnn.allow_tf32 is before
