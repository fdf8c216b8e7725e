"""A training that diverges stops, with step, learning rate and the checkpoint to go on from; no bad checkpoint is written."""

import math
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from applications.common.runs import Run
from applications.style_transfer.config import ModelConfig
from applications.style_transfer.model import build
from applications.style_transfer.new_style import refine_kernel
from induced.errors import DomainError
from proofs_tests.applications import toy

TINY = ModelConfig(styles=("candy", "udnie"), blocks=1, squeezes=1, width=6, kernel=3, features=3)
EVERY = replace(toy.CONFIG, checkpoint_every=1, keep=3)


def noise(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    return 1.8 * torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 0.9


class Changed(toy.Denoise):
    """The toy, with a change to its losses from a step on."""

    def __init__(self, from_step: int, change: Callable[["Changed", dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__()
        self.from_step, self.change, self.calls = from_step, change, 0

    def forward(self, *given: Any) -> dict[str, Any]:
        self.calls += 1
        losses = super().forward(*given)
        return self.change(self, losses) if self.calls >= self.from_step else losses


def times(factor: float) -> Callable[[Changed, dict[str, Any]], dict[str, Any]]:
    return lambda _, losses: {name: value * factor for name, value in losses.items()}


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in Run(folder).checkpoints()]


def finite(folder: Path) -> bool:
    found = Run(folder).latest()
    return all(bool(value.isfinite().all()) for value in (*found.model.values(), *found.average.values()))


def test_a_loss_that_is_no_number_stops_with_step_learning_rate_and_checkpoint(tmp_path: Path) -> None:
    message = (
        r"^training stopped at step 6 of 20, at a learning rate of 0\.00991: loss = inf, half = inf, gradient_norm = (inf|nan); "
        r"the last good checkpoint is .*step-00000005: go on from it with --resume --learning-rate 0\.003\. A longer warmup"
    )
    with pytest.raises(DomainError, match=message):
        toy.train(tmp_path / "run", objective=Changed(6, times(math.inf)), config=EVERY)
    assert steps(tmp_path / "run") == [3, 4, 5] and finite(tmp_path / "run")
    message = "there is no checkpoint yet: start anew with --learning-rate 0.0008"
    with pytest.raises(DomainError, match=message):
        toy.train(tmp_path / "new", objective=Changed(1, times(math.nan)), config=EVERY)


def test_a_diverged_loss_is_stopped_before_it_replaces_good_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(
        DomainError, match=r"stopped at step 6 of 20, .*: the loss is 5e\+14, it was \d\.\d+ at first; the last good"
    ):
        toy.train(tmp_path / "a", objective=Changed(6, lambda _, v: v | {"loss": 0 * v["loss"] + 5e14}), config=EVERY)
    assert steps(tmp_path / "a") == [3, 4, 5] and finite(tmp_path / "a")
    rare = replace(toy.CONFIG, checkpoint_every=20)  # far from a checkpoint, ten steps on end
    with pytest.raises(DomainError, match="stopped at step 15 of 20"):
        toy.train(tmp_path / "b", objective=Changed(6, times(1e6)), config=rare)


def test_a_spike_is_no_divergence(tmp_path: Path) -> None:
    spike = Changed(1, lambda self, losses: times(1e6 if self.calls == 7 else 1.0)(self, losses))
    assert toy.train(tmp_path, objective=spike).steps == 20


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """The loss of the step is finite, and so is the gradient; the weights that it leads to are not."""

    def poison(self: Changed, losses: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            self.model.last_mean.fill_(math.nan)
        return losses

    with pytest.raises(DomainError, match=r"stopped at step 6 .*: last_mean hold numbers that are not finite; the last good"):
        toy.train(tmp_path / "a", objective=Changed(6, poison), config=EVERY)
    assert steps(tmp_path / "a") == [3, 4, 5] and finite(tmp_path / "a")
    with pytest.raises(DomainError, match=r"stopped at step 1 .*: .* hold numbers that are not finite; there is no"):
        toy.train(tmp_path / "b", config=replace(EVERY, steps=1, warmup=0, learning_rate=math.inf))
    assert steps(tmp_path / "b") == []


def test_a_chart_that_refuses_a_diverged_value_is_a_training_that_stopped(tmp_path: Path) -> None:
    def refuse(self: Changed, losses: dict[str, Any]) -> dict[str, Any]:
        raise DomainError("the coordinates are so large that the point rounds to the edge: keep |z| smaller, or use float64")

    with pytest.raises(DomainError, match=r"stopped at step 6 .*: the coordinates are so large .* edge; the") as caught:
        toy.train(tmp_path / "a", objective=Changed(6, refuse), config=EVERY)
    assert "float64" not in str(caught.value) and "go on from it with --resume --learning-rate" in str(caught.value)
    with pytest.raises(DomainError, match="^the coordinates are so large"):  # at the first step nothing has diverged yet
        toy.train(tmp_path / "b", objective=Changed(1, refuse), config=EVERY)


def test_a_loss_that_is_read_a_step_late_is_named_by_its_step(tmp_path: Path) -> None:
    """Also where a chart refuses what the next step computes from it."""

    def diverge(self: Changed, losses: dict[str, Any]) -> dict[str, Any]:
        if self.calls > self.from_step:
            raise DomainError("the chart overflows")
        return {name: value * math.inf for name, value in losses.items()}

    rare = replace(toy.CONFIG, checkpoint_every=5, sample_every=0)
    with pytest.raises(DomainError, match=r"stopped at step 7 of 20, at a learning rate of 0\.00964: loss = inf"):
        toy.train(tmp_path / "a", objective=Changed(7, diverge), config=rare)
    assert steps(tmp_path / "a") == [5] and [record["step"] for record in Run(tmp_path / "a").metrics()] == [3, 6]
    overflows = Changed(7, lambda self, losses: diverge(self, losses) if self.calls > 7 else losses)
    with pytest.raises(DomainError, match=r"stopped at step 8 of 20, .*: the chart overflows"):
        toy.train(tmp_path / "b", objective=overflows, config=rare)


def test_a_signal_that_is_read_a_step_late_leaves_a_checkpoint_of_the_next_step(tmp_path: Path) -> None:
    def ask(self: Changed, losses: dict[str, Any]) -> dict[str, Any]:
        if self.calls == self.from_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    config = replace(toy.CONFIG, sample_every=0)
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path / "asked", objective=Changed(7, ask), config=config)
    assert steps(tmp_path / "asked") == [5, 8]
    toy.train(tmp_path / "asked", config=config, resume=True)
    toy.train(tmp_path / "whole", config=config)
    whole, resumed = (Run(tmp_path / name).latest() for name in ("whole", "asked"))
    assert all(torch.equal(resumed.average[name], value) for name, value in whole.average.items())


def test_what_fails_after_a_step_that_diverged_is_a_training_that_stopped(tmp_path: Path) -> None:
    """The losses of a step are read a step late: by then its weights may have broken a factorisation, or worse."""

    def diverge(self: Changed, losses: dict[str, Any]) -> dict[str, Any]:
        if self.calls == 7:
            torch.linalg.cholesky(self.model.decoder.weight.detach()[:5, :5] * math.nan)
        return {name: value * math.nan for name, value in losses.items()}

    def fail(self: Changed, losses: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError

    rare = replace(toy.CONFIG, checkpoint_every=20, sample_every=0)
    with pytest.raises(DomainError, match="stopped at step 6 of 20, .*: loss = nan"):
        toy.train(tmp_path / "a", objective=Changed(6, diverge), config=rare)
    with pytest.raises(ZeroDivisionError):
        toy.train(tmp_path / "b", objective=Changed(7, fail), config=rare)
    assert Run(tmp_path / "a").metrics()[-1]["step"] == 3 and Run(tmp_path / "b").metrics()[-1]["step"] == 6


def test_a_stopped_training_goes_on_with_a_smaller_learning_rate(tmp_path: Path) -> None:
    with pytest.raises(DomainError, match="stopped at step 6"):
        toy.train(tmp_path, objective=Changed(6, times(math.inf)), config=EVERY)
    result = toy.train(tmp_path, config=replace(EVERY, learning_rate=3e-3), resume=True)
    assert result.notes[0].startswith("resumed after step 5,") and result.steps == 20
    assert Run(tmp_path).metrics()[-1]["learning_rate"] < 3e-3


def test_an_added_style_that_diverges_says_so() -> None:
    torch.manual_seed(0)
    model = build(TINY)
    kernel, x, y = model.at(24, 24).kernels[1].detach(), noise(2, 24, 24), noise(2, 24, 24, seed=1)
    message = r"the fit of the style stopped at step \d+ of 20, at a learning rate of {}: .*; take a smaller learning_rate"
    for rate in ("1e+04", "1e+31"):
        with pytest.raises(DomainError, match=message.format(re.escape(rate))) as caught:
            refine_kernel(model, kernel, x, y, steps=20, patch=24, learning_rate=float(rate))
        assert "float64" not in str(caught.value)
