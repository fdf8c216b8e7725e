"""A training step on an accelerator: one copy there, one back, nothing that the host waits for, and the losses of the CPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from applications.common import training
from applications.common.batches import batches
from applications.common.randomness import Asked
from applications.common.runs import Run
from applications.common.training import TrainingConfig, fit
from proofs_tests.applications import toy
from proofs_tests.applications.steps import STEPS, Step
from proofs_tests.device import Log, StandIn

CONFIG = TrainingConfig(batch=16, warmup=2, log_every=1, checkpoint_every=100)
SHORT, LONG = 1, 2


class Alone:
    """What joins one process, as `accelerate` gives it on a device of its own."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_for_everyone(self) -> None: ...

    def prepare(self, module: nn.Module) -> nn.Module:
        return module

    def no_sync(self, module: nn.Module) -> Any:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def reduce(self, values: Tensor, how: str) -> Tensor:
        return values


class Arrived:
    """An event of the stand-in: how many kernels were queued between it and the wait for it."""

    log: Log
    between: list[int]

    def __init__(self, device: torch.device) -> None: ...

    def record(self) -> None:
        self.at = self.log.kernels

    def synchronize(self) -> None:
        self.between.append(self.log.kernels - self.at)


@pytest.fixture
def there(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Trainings run on the stand-in, where the data fit."""
    monkeypatch.setattr(training, "accelerator_for", lambda device: Alone(gpu.device))
    monkeypatch.setattr(torch.get_device_module("gpu"), "mem_get_info", lambda device: (2**40, 2**40), raising=False)
    monkeypatch.setattr(torch, "Event", Arrived)
    with gpu.recording() as log:
        Arrived.log, Arrived.between = log, []
        yield log


def trained(step: Step, folder: Path, steps: int = SHORT, **changes: Any) -> list[dict[str, float]]:
    objective, data = step
    fit(objective, data, replace(CONFIG, steps=steps, **changes), Run(folder), device="auto")
    return Run(folder).metrics()


def counted(make: Callable[[], Step], folder: Path, log: Log, **changes: Any) -> tuple[int, ...]:
    """Waits, copies to the host and copies to the device of LONG - SHORT steps, by which a training is longer than another."""
    found = []
    for steps in (SHORT, LONG):
        before = log.counts()
        trained(make(), folder / str(steps), steps, **changes)
        found.append([after - b for after, b in zip(log.counts(), before, strict=True)])
    return tuple(long - short for short, long in zip(*found, strict=True))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_one_copy_there_and_one_back_and_its_losses_are_those_of_the_cpu(
    name: str, there: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert counted(STEPS[name], tmp_path, there) == (0, LONG - SHORT, LONG - SHORT), str(there)
    monkeypatch.setattr(training, "accelerator_for", lambda device: Alone(torch.device("cpu")))
    for found, expected in zip(Run(tmp_path / str(LONG)).metrics(), trained(STEPS[name](), tmp_path / "here", LONG), strict=True):
        assert found == pytest.approx(expected | {"seconds": found["seconds"]}, rel=1e-4)


@pytest.mark.parametrize("name", ["latent", "style"])
def test_rows_that_do_not_fit_are_copied_with_the_randomness(
    name: str, there: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(STEPS[name](), tmp_path / "resident")
    small = max(event.size for event in there.to_device if "batches.py" in event.where)
    monkeypatch.setattr(torch.get_device_module("gpu"), "mem_get_info", lambda device: (0, 0))
    assert counted(STEPS[name], tmp_path, there) == (0, LONG - SHORT, LONG - SHORT), str(there)
    large = max(event.size for event in there.to_device if "batches.py" in event.where)
    assert large > small, "of data that lie there only indices are copied"
    if name == "style":  # squares alone, of one style: 16 x 2 x 3 x 16 x 16 bytes and 16 numbers of styles
        assert there.to_device[-1].size == 16 * 2 * 3 * 16 * 16 + 16 * 8


def with_fault(fault: Callable[[Tensor], object]) -> Callable[[], Step]:
    """The step of the second stage, with something that its loss is given to."""

    def made() -> Step:
        objective, data = STEPS["latent"]()
        forward = objective.forward

        def faulty(*given: Any) -> dict[str, Tensor]:
            losses = forward(*given)
            fault(losses["loss"])
            return losses

        objective.forward = faulty  # type: ignore[assignment,method-assign]
        return objective, data

    return made


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        (Tensor.item, (1, 0, 0)),
        (lambda loss: loss.detach().isfinite().all().item(), (1, 0, 0)),
        (lambda loss: loss.detach()[None].tolist(), (0, 1, 0)),
        (lambda loss: torch.linalg.inv(torch.eye(2, device=loss.device)), (1, 0, 0)),
        (lambda loss: loss.new_tensor([1.0, 2.0]), (0, 0, 1)),
    ],
    ids=["item", "a look at values", "a list", "an inverse that is checked", "a constant"],
)
def test_a_fault_breaks_the_budget(
    fault: Callable[[Tensor], object], more: tuple[int, int, int], there: Log, tmp_path: Path
) -> None:
    n = LONG - SHORT
    assert counted(with_fault(fault), tmp_path, there) == (n * more[0], n * (1 + more[1]), n * (1 + more[2]))


def test_losses_are_waited_for_when_the_next_step_is_queued(there: Log, tmp_path: Path) -> None:
    """The last one at once, since it is saved."""
    trained(STEPS["latent"](), tmp_path / "a", 4)
    *late, last = Arrived.between
    assert len(late) == 3 and min(late) > 5 * last, "forward and backward pass are queued, and not Adam and the average alone"
    Arrived.between = []
    trained(STEPS["latent"](), tmp_path / "b", 2, checkpoint_every=1)
    assert Arrived.between[-1] == last and Arrived.between[0] < min(late)  # the first step of Adam makes its moments


def test_batches_of_a_device_are_those_of_the_cpu(device: torch.device) -> None:
    objective, data = STEPS["flow"]()[0], toy.images()
    for source in (data, replace(data, images=data.images.to(device))):
        for part in (slice(None), slice(4, 12)):
            here = batches(objective.draw, data, 16, 0, range(3), part)
            there = batches(objective.draw, source, 16, 0, range(3), part, device)
            for a, b in zip(here, there, strict=True):
                for expected, found in zip(a, b, strict=True):
                    assert expected.keys() == found.keys()
                    assert all(torch.equal(found[name].cpu(), value) for name, value in expected.items())


def test_the_next_batch_is_made_while_a_step_computes(gpu: StandIn) -> None:
    objective, data = STEPS["latent"]()
    asked = list[int]()

    def draw(n: int, generator: torch.Generator) -> Asked:
        asked.append(threading.get_ident())
        return objective.draw(n, generator)

    with closing(batches(draw, data, 16, 0, range(3), device=gpu.device)) as rows:
        next(rows)
    assert len(asked) == 2 and threading.get_ident() not in asked, "a second one when the first is taken, by another thread"


def test_what_fails_while_a_batch_is_made_ahead_is_said(there: Log, tmp_path: Path) -> None:
    class Fails(toy.Denoise):
        calls = 0

        def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
            self.calls += 1
            if self.calls == 3:
                raise ZeroDivisionError("no numbers")
            return super().draw(n, generator)

    with pytest.raises(ZeroDivisionError, match="no numbers"):
        trained((Fails(), toy.images()), tmp_path, 6)
