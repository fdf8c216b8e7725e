"""The training loop: resumed is uninterrupted, many processes are one, and what goes wrong is said."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from torch import Tensor, nn

from applications.common.data import ImageSet
from applications.common.data.source import Batch
from applications.common.randomness import batch_indices, step_generator
from applications.common.runs import Run
from applications.common.training import TrainingConfig, fit, learning_rate, share
from induced.errors import CheckpointError, DataError, DomainError, ShapeError
from proofs_tests import tf32
from proofs_tests.applications import toy

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def in_process(folder: Path, death: str, *launcher: str) -> subprocess.CompletedProcess[str]:
    """Run the toy training in a process of its own."""
    command = [sys.executable, "-m", *launcher, "proofs_tests.applications.toy", str(folder), death]
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of the newest checkpoint: its files are made from the states alone, so equal bytes are equal states."""
    return {path.name: path.read_bytes() for path in sorted(Run(folder).checkpoints()[-1].iterdir())}


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl but for the wall time."""
    return [{name: v for name, v in record.items() if name != "seconds"} for record in Run(folder).metrics()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "whole"
    toy.train(folder)
    return folder


@pytest.mark.parametrize(("death", "last", "code"), [("step", 15, -9), ("write", 5, -9), ("asked", 17, 1)])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, uninterrupted: Path, death: str, last: int, code: int
) -> None:
    killed = in_process(tmp_path / "run", death)
    assert killed.returncode == code, killed.stderr
    assert ("KeyboardInterrupt: 15" in killed.stderr) == (death == "asked"), "SIGTERM leaves a checkpoint of its step"
    run = Run(tmp_path / "run")
    assert run.latest().step == last
    partial = list((run.folder / "checkpoints").glob(".partial-*"))
    assert len(partial) == (1 if death == "write" else 0)
    result = toy.train(run.folder, resume=True)
    (note,) = result.notes
    assert re.fullmatch(rf"resumed after step {last}, at a learning rate of [\d.e-]+, whose cosine ends at step 20", note)
    assert files_of(run.folder) == files_of(uninterrupted)
    assert metrics_of(run.folder) == metrics_of(uninterrupted)
    assert not list((run.folder / "checkpoints").glob(".partial-*"))


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint")
    both = in_process(tmp_path / "two", "none", *launcher, "localhost:0", "--module")
    assert both.returncode == 0, both.stderr[-3000:]
    one = toy.train(tmp_path / "one", config=replace(toy.CONFIG, steps=6))
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert two["processes"] == 2
    assert two["losses"] == pytest.approx(one.losses, rel=1e-5)
    a, b = Run(tmp_path / "one").latest(), Run(tmp_path / "two").latest()
    for key, value in a.average.items():
        if key != "last_mean":  # written from one process' part of the batch, by design of the toy
            torch.testing.assert_close(b.average[key], value, rtol=1e-4, atol=1e-6, msg=key)
    assert Run(tmp_path / "two").metrics()[-1]["gradient_norm"] == pytest.approx(
        Run(tmp_path / "one").metrics()[-1]["gradient_norm"], rel=1e-4
    )


def test_training_learns_and_initialises_once(uninterrupted: Path) -> None:
    records = Run(uninterrupted).metrics()
    assert [record["step"] for record in records] == [3, 6, 9, 12, 15, 18, 20]
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    assert records[-1]["half"] == pytest.approx(records[-1]["loss"] / 2)
    assert Run(uninterrupted).latest().model["initialized"] == 1


def test_a_damaged_checkpoint_is_refused_and_the_fallback_ends_the_same(tmp_path: Path, uninterrupted: Path) -> None:
    toy.train(tmp_path)
    newest = Run(tmp_path).checkpoints()[-1]
    (newest / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000020.*--fallback resumes from the one before, step-00000015"):
        toy.train(tmp_path, resume=True)
    result = toy.train(tmp_path, resume=True, fallback=True)
    assert "fell back to step-00000015" in result.notes[1]
    assert files_of(tmp_path) == files_of(uninterrupted)
    assert metrics_of(tmp_path) == metrics_of(uninterrupted)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = toy.train(tmp_path)
    before = files_of(tmp_path)
    again = toy.train(tmp_path, resume=True)
    assert again.losses == first.losses and again.steps == 20 and again.rows_per_second == 0
    assert files_of(tmp_path) == before
    for key, value in again.average.state_dict().items():
        assert torch.equal(value, first.average.state_dict()[key]), key


def test_a_run_is_not_overwritten_unasked_and_not_resumed_with_other_settings(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(CheckpointError, match="give --resume to go on; give --overwrite"):
        toy.train(uninterrupted)
    with pytest.raises(CheckpointError, match=r"training\.batch \(config\.json: 8, now: 4\)"):
        toy.train(uninterrupted, resume=True, config=replace(toy.CONFIG, batch=4))
    with pytest.raises(CheckpointError, match=r"model\.width \(config\.json: absent, now: 5\)"):
        toy.train(uninterrupted, resume=True, settings={"model": {"width": 5}})
    folder = tmp_path / "again"
    toy.train(folder, config=replace(toy.CONFIG, seed=9))
    toy.train(folder, overwrite=True)
    assert files_of(folder) == files_of(uninterrupted)


def test_a_model_that_could_not_be_saved_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    objective = toy.Denoise()
    objective.model = cast(toy.Autoencoder, nn.Bilinear(1, 1, 1))
    with pytest.raises(CheckpointError, match="a Bilinear cannot be saved: its class is not registered; call induced.serial"):
        toy.train(tmp_path / "run", objective=objective)
    assert not (tmp_path / "run").exists()


def test_samples_become_pictures_of_the_average(tmp_path: Path) -> None:
    seen = []

    def sample(model: torch.nn.Module, step: int) -> Tensor:
        assert isinstance(model, toy.Autoencoder)
        seen.append((step, model.training, torch.is_grad_enabled(), model.scale.clone()))
        return torch.full((1, 6, 7), step, dtype=torch.uint8)

    toy.train(tmp_path, config=replace(toy.CONFIG, sample_every=10), on_sample=sample)
    assert [entry[:3] for entry in seen] == [(10, False, False), (20, False, False)]
    assert torch.equal(seen[-1][3], Run(tmp_path).latest().average["scale"])
    picture = np.asarray(Image.open(tmp_path / "samples" / "step-00000020.png"))
    assert picture.shape == (6, 7) and (picture == 20).all()
    assert any((tmp_path / "tensorboard").iterdir())


def test_pictures_are_drawn_in_full_precision_and_steps_computed_in_what_torch_chooses(tmp_path: Path) -> None:
    seen = list[bool]()

    class Looks(toy.Denoise):
        def forward(self, batch: Batch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append(tf32.convolutions_allowed())
            return super().forward(batch, draws)

    def sample(model: torch.nn.Module, step: int) -> None:
        seen.append(tf32.convolutions_allowed())

    toy.train(tmp_path, objective=Looks(), config=replace(toy.CONFIG, steps=2), on_sample=sample)
    assert seen == [True, False, True, False]


def test_the_average_is_the_ramped_mean_of_the_weights(tmp_path: Path) -> None:
    """Against a loop in numpy over the weights after each step, which checkpoints of every step hold."""
    config = replace(toy.CONFIG, steps=6, checkpoint_every=1, keep=10, average_decay=0.25)
    toy.train(tmp_path, config=config)
    checkpoints = [json.loads((path / "state.json").read_text())["step"] for path in Run(tmp_path).checkpoints()]
    assert checkpoints == [1, 2, 3, 4, 5, 6]
    expected: np.ndarray | None = None
    for done, path in enumerate(Run(tmp_path).checkpoints()):
        model = load_file(path / "training.safetensors")["model.decoder.weight"]
        average = load_file(path / "model.safetensors")["decoder.weight"]
        decay = min(0.25, (1 + done) / (10 + done))
        expected = model if expected is None else decay * expected + (1 - decay) * model
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)


def test_bf16_trains_in_autocast_and_keeps_float32_weights(tmp_path: Path) -> None:
    result = toy.train(tmp_path, config=replace(toy.CONFIG, precision="bf16"))
    assert {parameter.dtype for parameter in result.average.parameters()} == {torch.float32}
    whole = toy.train(tmp_path / "float32")
    assert result.losses["loss"] == pytest.approx(whole.losses["loss"], rel=0.05)
    assert result.losses["loss"] != whole.losses["loss"]


def test_malformed_objectives_and_data_are_refused(tmp_path: Path) -> None:
    class Outside(toy.Denoise):
        def __init__(self) -> None:
            super().__init__()
            self.extra = torch.nn.Parameter(torch.zeros(1))

    class NoLoss(toy.Denoise):
        def forward(self, batch: Batch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"error": batch["images"].mean((1, 2, 3))}

    class FewDraws(toy.Denoise):
        def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
            return {"noise": torch.zeros(n - 1, 1, 8, 8)}

    with pytest.raises(DomainError, match="Outside has trainable parameters outside its model.*: extra; move them"):
        toy.train(tmp_path / "a", objective=Outside())
    with pytest.raises(ShapeError, match=r"one of them called 'loss'; got the shapes \{'error': \(8,\)\}"):
        toy.train(tmp_path / "b", objective=NoLoss())
    with pytest.raises(ShapeError, match=r"FewDraws.draw\(8, ...\) gave 'noise' of shape \(7, 1, 8, 8\)"):
        toy.train(tmp_path / "c", objective=FewDraws())
    with pytest.raises(DataError, match="'toy' holds no row to train on"):
        fit(toy.Denoise(), toy.images(0), toy.CONFIG, Run(tmp_path / "d"), device="cpu")
    with pytest.raises(ShapeError, match="batch of 8 does not divide among 3 processes: give a multiple of 3"):
        share(toy.CONFIG, toy.images(), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"micro_batch": -1}, "micro_batch must be at least 0, got -1"),
        ({"average_decay": 1.0}, r"average_decay and betas must lie in \[0, 1\), got 1.0"),
        ({"betas": (3.0, 0.9)}, r"average_decay and betas must lie in \[0, 1\), got 0.999 and \(3.0, 0.9\)"),
        ({"seed": 2**63}, r"seed lies in 0\.\.2\^63 - 1, got 9223372036854775808"),
        ({"clip": 0.0}, "clip must be positive, or None"),
        ({"precision": "fp8"}, "precision is 'no' or 'bf16', got 'fp8'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        TrainingConfig(**change)


def test_the_learning_rate_warms_up_then_falls_to_its_fraction() -> None:
    config = TrainingConfig(steps=110, warmup=10, learning_rate=2.0, final_fraction=0.1)
    rates = [learning_rate(config, step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0 and rates[60] == pytest.approx(1.1) and rates[110] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(rates[10:]))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**63), st.integers(1, 12))
def test_every_image_comes_once_an_epoch(size: int, batch: int, seed: int, steps: int) -> None:
    order = torch.cat([batch_indices(size, batch, seed, step) for step in range(steps)])
    assert len(order) == steps * batch
    for epoch in order.split(size):
        assert len(epoch.unique()) == len(epoch)
    assert order.max() < size


def test_randomness_is_a_function_of_seed_and_step() -> None:
    def first(seed: int, step: int) -> float:
        return float(torch.rand((), generator=step_generator(seed, step), dtype=torch.float64))

    assert first(1, 5) == first(1, 5)
    values = {first(seed, step) for seed in (0, 1, 2**32, 2**40) for step in range(500)}
    assert len(values) == 2000
    assert not torch.equal(batch_indices(50, 50, 0, 0), batch_indices(50, 50, 2**32, 0))
    assert not torch.equal(batch_indices(50, 50, 0, 0), batch_indices(50, 50, 0, 1))


def test_an_image_set_of_28_pixels_is_trained_at_32(tmp_path: Path) -> None:
    shapes = []

    class Look(toy.Denoise):
        def forward(self, batch: Batch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
            images = batch["images"]
            shapes.append(tuple(images.shape))
            assert images.dtype == torch.float32 and -1 <= images.min() and images.max() < 1
            return {"loss": torch.stack([parameter.square().sum() for parameter in self.model.parameters()]).sum()}

        def initialize(self, batch: Batch, draws: dict[str, Tensor]) -> None:
            shapes.append(tuple(batch["images"].shape))

    data = ImageSet("28", torch.zeros(5, 1, 28, 28, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    fit(Look(), data, replace(toy.CONFIG, steps=1), Run(tmp_path), device="cpu")
    assert shapes == [(8, 1, 32, 32), (8, 1, 32, 32)]
