"""Training of flow matching survives a kill, resumes bit for bit, runs in two processes, and the tour shows it all."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.common.data import load, to_unit
from applications.common.kinds import load_model
from applications.common.runs import Run
from applications.flow_matching import evaluate
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.tour import tour
from applications.flow_matching.train import train
from induced.errors import CheckpointError
from proofs_tests.applications.flow_matching.models import BRIEF, SMALL, TINY, TOLERANCE
from proofs_tests.applications.terminal import command

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
NARROW = [
    *("--blocks", "3", "--widths", "4", "4", "4", "--dense-blocks", "2", "--dense-width", "8"),
    *("--rank", "4", "--density-blocks", "2", "--batch", "16"),
]
SHORT = ["--sample-every", "0", "--log-every", "1", "--latent-steps", "8", "--latent-batch", "32"]
FLAGS = [*NARROW, *SHORT, "--components", "0"]
LONG = [*FLAGS, "--steps", "40", "--checkpoint-every", "4", "--device", "cpu"]
ENDINGS = (".png", ".json", "run/")


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of the newest checkpoint: its files are made from the states alone, so equal bytes are equal states."""
    return {path.name: path.read_bytes() for path in sorted(Run(folder).checkpoints()[-1].iterdir())}


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [{name: v for name, v in record.items() if name != "seconds"} for record in Run(folder).metrics()]


# -------------------------------------------------------------------------------------------------- killed, resumed, shared
@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "whole"
    command("train", "flow-matching", *LONG, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `kill -9` ended soon after its second checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    arguments = [sys.executable, "-m", "applications.cli", "train", "flow-matching", *LONG, "--out", str(folder)]
    with (folder.parent / "output").open("wb") as output:
        process = subprocess.Popen(arguments, env=ENVIRONMENT, cwd=ROOT, stdout=output, stderr=output)
        deadline = time.monotonic() + 600
        while process.poll() is None and not (folder / "checkpoints" / "step-00000008").exists():
            assert time.monotonic() < deadline, (folder.parent / "output").read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (folder.parent / "output").read_text()
    return folder


def test_a_killed_training_resumes_to_the_uninterrupted_end_bit_for_bit(
    killed: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(killed, tmp_path / "run")
    last = Run(folder).latest().step
    assert 8 <= last < 40
    command("train", "flow-matching", *LONG, "--out", folder, "--resume")
    assert f"resumed after step {last}" in capsys.readouterr().out
    files = files_of(folder)
    assert {"model.safetensors", "training.safetensors"} < files.keys()
    for stage in (".", "latent"):
        assert files_of(folder / stage) == files_of(uninterrupted / stage)
        assert metrics_of(folder / stage) == metrics_of(uninterrupted / stage)


@pytest.mark.parametrize("left", [1, 0], ids=["in the second stage", "before its first checkpoint"])
def test_the_second_stage_resumes_as_well(
    left: int, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    kept = Run(folder / "latent").checkpoints()
    assert [path.name for path in kept] == ["step-00000004", "step-00000008"]
    for path in kept[left:]:
        shutil.rmtree(path)
    command("train", "flow-matching", *LONG, "--out", folder, "--resume")
    said = capsys.readouterr().out
    assert " 0 images/s" not in said  # the first stage was finished, and has no speed
    assert re.search(r"^steps +40 of 40; .*^latent +8 of 8; ", said, re.M | re.S), "the last lines report every stage"
    assert files_of(folder / "latent") == files_of(uninterrupted / "latent")
    assert metrics_of(folder / "latent") == metrics_of(uninterrupted / "latent")


def test_a_chart_that_both_ends_share_has_no_second_stage(tmp_path: Path) -> None:
    model = replace(SMALL, shape=(1, 32, 32), noise_space="labelled")
    train(
        Config(model=model, training=replace(BRIEF, steps=1), latent_steps=2, latent_batch=16),
        Run(tmp_path / "run"),
        device="cpu",
    )
    assert not (tmp_path / "run" / "latent").exists()


def test_the_second_stage_leaves_the_encoder_as_the_first_one_left_it(uninterrupted: Path) -> None:
    first, last = Run(uninterrupted).latest().average, Run(uninterrupted / "latent").latest().average
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved and all(name.startswith(("chart.parts.3.", "family.")) for name in moved)
    loaded = load_model(uninterrupted, FlowMatching).state_dict()
    assert all(torch.equal(loaded[name], last[name]) for name in last)


def test_a_run_that_starts_anew_leaves_no_second_stage_of_the_old_one(uninterrupted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    changes = "--steps", "2", "--latent-steps", "0"
    command("train", "flow-matching", *FLAGS, *changes, "--out", folder, "--overwrite")
    assert not (folder / "latent").exists() and Run(folder).latest().step == 2


def test_a_damaged_newest_checkpoint_is_refused_and_the_fallback_ends_the_same(
    killed: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(killed, tmp_path / "run")
    before, newest = Run(folder).checkpoints()[-2:]
    path = newest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit) as refusal:
        command("train", "flow-matching", *LONG, "--out", folder, "--resume")
    message = str(refusal.value)
    assert message.startswith(f"induced: {path}: other bytes than config.json was saved with: cut short")
    assert f"--fallback resumes from the one before, {before.name}" in message and "\n" not in message
    command("train", "flow-matching", *LONG, "--out", folder, "--resume", "--fallback")
    assert f"fell back to {before.name}" in capsys.readouterr().out
    for stage in (".", "latent"):
        assert files_of(folder / stage) == files_of(uninterrupted / stage)
        assert metrics_of(folder / stage) == metrics_of(uninterrupted / stage)


@pytest.mark.parametrize("components", [0, 20], ids=["couplings", "mixture"])
def test_two_processes_train_as_one(components: int, tmp_path: Path) -> None:
    few = [*NARROW, *SHORT, "--components", str(components), "--steps", "5", "--device", "cpu"]
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    train_two = ["--module", "applications.cli", "train", "flow-matching", *few, "--out", str(tmp_path / "two")]
    both = subprocess.run(
        [sys.executable, "-m", *launcher, *train_two],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert both.returncode == 0, both.stderr[-3000:]
    command("train", "flow-matching", *few, "--out", tmp_path / "one")
    stages = (".",) if components else (".", "latent")
    one, two = ([record for stage in stages for record in metrics_of(tmp_path / name / stage)] for name in ("one", "two"))
    assert len(one) == len(two) == (5 if components else 5 + 8)
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)
    digits = to_unit(load("mnist5k", "test").images[:100])
    volume = [evaluate.log_likelihood(load_model(tmp_path / name, FlowMatching).operator(), digits) for name in ("one", "two")]
    torch.testing.assert_close(volume[1].mean(), volume[0].mean(), rtol=1e-2, atol=0)


# --------------------------------------------------------------------------------------------------------------------- tour
def test_the_tour_writes_what_it_names_and_is_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a high `rest_std`: three steps leave latents of the data end far above a low one, and its laws beyond float32."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name, fewer in (
        ("convergence_order", {"steps": (10, 20)}),
        ("one_step", {"counts": (1, 5), "batch": 4}),
        ("timing", {"batch": 4, "repeats": 1}),
    ):
        monkeypatch.setattr(evaluate, name, functools.partial(getattr(evaluate, name), **fewer))
    said: list[str] = []
    config = Config(model=replace(TINY, rest_std=0.5), training=BRIEF, latent_steps=3, latent_batch=32)
    report = tour(tmp_path / "tour", config=config, say=said.append)
    text = "\n".join(said)
    named = {word.rstrip(",/") for word in text[text.index("Everything lies in") :].split() if word.rstrip(",").endswith(ENDINGS)}
    assert len(named) == 8
    for name in named:
        assert (tmp_path / "tour" / name).exists(), name
    for path in (tmp_path / "tour").glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 0, path
    read = json.loads((tmp_path / "tour" / "report.json").read_text())
    assert list(read) == list(report) == ["training", "axioms", "one_step", "inversion", "spectrum", "timing", "pretrained"]
    assert read["training"]["steps"] == 3 and len(read["spectrum"]["values"]) == 1024
    assert all(row["ok"] for rows in read["axioms"].values() for row in rows)
    for row in read["one_step"]["rows"]:
        assert row["latent_error"] <= TOLERANCE[getattr(torch, row["dtype"])], row
    with pytest.raises(CheckpointError, match="already holds .* of an earlier run; .*--overwrite"):
        tour(tmp_path / "tour", config=config, say=said.append)
