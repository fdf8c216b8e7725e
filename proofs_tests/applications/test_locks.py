"""Exports write over no run and no strangers' files, and two processes do not write to one run."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import induced
from applications import cli
from applications.common.data import Tensors
from applications.common.runs import Run
from applications.common.training import fit
from applications.flow_matching import train as train_module
from induced.errors import CheckpointError
from proofs_tests.applications import toy
from proofs_tests.applications.kept import listing, pixels, strangers, train


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "training_set", lambda *_: pixels())


def test_an_export_hides_no_run_and_no_strangers_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "run")
    strangers(tmp_path / "mine")
    held = listing(tmp_path)
    for out, message in (("run", "holds what is exported"), ("mine", "holds no model that")):
        monkeypatch.setattr(sys, "argv", ["induced", "export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / out)])
        with pytest.raises(SystemExit, match=message):
            cli.main()
    assert listing(tmp_path) == held


def test_an_export_replaces_neither_a_checkpoint_nor_the_model_itself(tmp_path: Path) -> None:
    train(tmp_path / "run")
    induced.serialization.save(induced.load(tmp_path / "run"), tmp_path / "whole")
    held = listing(tmp_path)
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step-00000004")
    for source, out in (
        (str(tmp_path / "run"), checkpoint),
        (str(tmp_path / "whole"), str(tmp_path / "run" / ".." / "whole")),
    ):
        with pytest.raises(
            SystemExit,
            match="holds what is exported, or a checkpoint, which an export would replace: choose another folder with --out",
        ):
            cli.main(["export", "--run", source, "--out", out])
    assert listing(tmp_path) == held


def hold(run: Path, there: Path) -> None:
    """Train in a folder, and stay at the eighth step."""

    def wait(_: object, step: int) -> None:
        if step == 8:
            there.touch()
            time.sleep(600)

    toy.train(run, on_sample=wait)


def test_two_trainings_in_one_folder_are_one_and_a_clear_line(tmp_path: Path) -> None:
    there = tmp_path / "there"
    # not a fork, which may not compute gradients where this process has: autograd's threads are not in it
    other = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "run", there))
    other.start()
    while not there.exists():
        assert other.is_alive()
        time.sleep(0.01)
    held = listing(tmp_path / "run")
    asked: tuple[dict[str, Any], ...] = ({"resume": True}, {"overwrite": True}, {})
    for options in asked:
        message = (
            f"run: process {other.pid} on .* trains in this folder; wait for it, end it, or choose another folder with --out$"
        )
        with pytest.raises(CheckpointError, match=message):
            toy.train(tmp_path / "run", **options)
    assert listing(tmp_path / "run") == held
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join(600)
    assert (tmp_path / "run" / ".lock").exists()  # the file is there, the lock is not
    assert toy.train(tmp_path / "run", resume=True).notes[0].startswith("resumed after step 5,")
    assert not (tmp_path / "run" / ".lock").exists()


def test_both_stages_are_under_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def between(*_: object) -> Any:
        with pytest.raises(CheckpointError, match="trains in this folder"):
            train(tmp_path / "run", resume=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "LatentObjective", between)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")


def test_tensors_are_told_apart_on_resume(tmp_path: Path) -> None:
    """Any source has a fingerprint that a resumed run compares."""

    class Squared(toy.Denoise):
        def forward(self, batch: dict[str, Tensor], draws: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": (self.model(batch["images"]) ** 2).mean()}

    def go(seed: int, name: str = "rows", **options: Any) -> None:
        rows = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        fit(Squared(), Tensors(name, {"images": rows}), toy.CONFIG, Run(tmp_path), device="cpu", **options)

    go(0)
    with pytest.raises(CheckpointError, match=r"data\.sha256 .*; the data are not those that it was trained on"):
        go(1, resume=True)
    go(0, resume=True, name="rows elsewhere")  # a file that was moved holds what it held
