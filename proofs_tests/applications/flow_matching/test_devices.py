"""What `make demo` runs, on a machine whose accelerator lacks float64."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor

from applications.common.devices import say
from applications.flow_matching import evaluate
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.sampling import noise
from applications.flow_matching.tour import tour
from induced.checks import Report, check_adjoint
from proofs_tests.applications.flow_matching.models import BRIEF, TINY
from proofs_tests.device import StandIn


def one_law(model: FlowMatching, images: Tensor) -> dict[str, list[Report]]:
    return {str(images.device): check_adjoint(model.operator(2), noise(model, len(images)), images)}


def test_the_tour_takes_the_cpu_where_an_accelerator_lacks_float64_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "axioms", one_law)
    monkeypatch.setattr(evaluate, "one_step", partial(evaluate.one_step, counts=(2,), batch=2))
    monkeypatch.setattr(evaluate, "convergence_order", partial(evaluate.convergence_order, steps=(2, 4)))
    monkeypatch.setattr(evaluate, "timing", lambda model: {"one step": 1.0})
    say.cache_clear()
    config = Config(model=replace(TINY, rest_std=0.5), training=BRIEF, latent_steps=3, latent_batch=32)
    with StandIn(float64=False) as apple, apple.recording() as log:
        report = tour(tmp_path / "tour", config=config)
    assert report["axioms"].keys() == {"cpu"} and not log.events  # type: ignore[attr-defined]
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: gpu cannot hold float64")]
    assert [note.endswith(": the CPU is taken") for note in notes] == [True]
