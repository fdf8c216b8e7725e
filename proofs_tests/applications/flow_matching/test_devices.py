"""What `make demo` runs, on a machine whose accelerator lacks float64."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from applications.common.devices import say
from applications.common.runs import Run
from applications.common.training import TrainingResult
from applications.flow_matching import evaluate
from applications.flow_matching import tour as touring
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.sampling import noise
from induced.checks import Report, check_adjoint
from induced.serialization import save
from proofs_tests.applications.flow_matching.models import BRIEF, TINY, ready
from proofs_tests.device import StandIn


def one_law(model: FlowMatching, images: Tensor) -> dict[str, list[Report]]:
    return {str(images.device): check_adjoint(model.operator(1), noise(model, 1), images[:1])}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tour without the measurements, which have tests of their own."""
    monkeypatch.setattr(evaluate, "axioms", one_law)
    monkeypatch.setattr(evaluate, "one_step", lambda model: [evaluate.OneStep("float32", "rk4", 1, 0.0, 99.0, 1.0)])
    monkeypatch.setattr(evaluate, "convergence_order", lambda model, method: 1.0)
    monkeypatch.setattr(evaluate, "timing", lambda model: {"one step": 1.0})


@pytest.mark.usefixtures("brief")
def test_the_tour_shows_a_model_on_a_device(tmp_path: Path, gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but the training."""

    def train(config: Config, run: Run, *, device: str, **how: bool) -> TrainingResult:
        model = ready(replace(TINY, rest_std=0.5), torch.float32)
        save(model, run.folder)
        return TrainingResult(3, {"loss": 1.0}, 1.0, 1.0, model)

    monkeypatch.setattr(touring, "train", train)
    multi_step, operator = FlowMatching.multi_step, FlowMatching.operator
    monkeypatch.setattr(FlowMatching, "multi_step", lambda self, x, steps=4, method="rk4": multi_step(self, x, steps, method))
    monkeypatch.setattr(FlowMatching, "operator", lambda self, steps=4, method="rk4": operator(self, steps, method))
    report = touring.tour(tmp_path / "tour", device="gpu", say=lambda text: None)
    assert report["axioms"].keys() == {"gpu:0"}  # type: ignore[attr-defined]


@pytest.mark.usefixtures("brief")
def test_the_tour_takes_the_cpu_where_an_accelerator_lacks_float64_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say.cache_clear()
    config = Config(model=replace(TINY, rest_std=0.5), training=BRIEF, latent_steps=3, latent_batch=32)
    with StandIn(float64=False) as apple, apple.recording() as log:
        report = touring.tour(tmp_path / "tour", config=config)
    assert report["axioms"].keys() == {"cpu"} and not log.events  # type: ignore[attr-defined]
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: gpu cannot hold float64")]
    assert [note.endswith(": the CPU is taken") for note in notes] == [True]
