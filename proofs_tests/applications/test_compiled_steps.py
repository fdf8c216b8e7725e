"""`--compile`: losses and gradients of each objective are one graph, and those of eager mode."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from applications.common.batches import batches
from applications.common.runs import Run
from applications.common.training import Objective, TrainingConfig
from induced.errors import CheckpointError, DomainError
from proofs_tests.applications import toy
from proofs_tests.applications.steps import STEPS

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "DeprecationWarning")]  # torch's own


THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
BACKENDS = {} if THOROUGH else {"flow": "eager", "style": "eager"}
"""Tracing alone for `make test` where a backward pass takes long to compile."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def losses_and_gradients(objective: Objective, call: Any, batch: Any, draws: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    objective.zero_grad()
    losses = call(batch, draws)
    losses["loss"].backward()
    return losses, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_one_graph_with_the_losses_and_gradients_of_eager_mode(name: str) -> None:
    """fullgraph: what cannot be compiled raises. The projector has two graphs, one of which looks at the isometry."""
    objective, data = STEPS[name]()
    compiled = torch.compile(objective, backend=BACKENDS.get(name, "aot_eager"), fullgraph=True)
    made = batches(objective.draw, data, 16, 0, range(3))
    for step, (batch, draws) in enumerate(made):
        if not step:
            with torch.no_grad():
                objective.initialize(batch, draws)
        objective.begin(step)
        found, gradients = losses_and_gradients(objective, compiled, batch, draws)
        expected, eager = losses_and_gradients(objective, objective, batch, draws)
        assert found.keys() == expected.keys() and gradients.keys() == eager.keys() and eager
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7)
        for key, value in eager.items():
            assert (gradients[key] - value).norm() <= 1e-5 * value.norm() + 1e-8, key
    assert counters["stats"]["unique_graphs"] == (2 if name == "projector" else 1)


def test_a_training_compiles_if_asked_to_and_records_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: asked.append({"of": type(module), **options}))
    short = replace(toy.CONFIG, steps=2, sample_every=0)
    toy.train(tmp_path / "plain", config=short)
    assert not asked
    toy.train(tmp_path / "compiled", config=replace(short, compile=True))
    assert asked == [{"of": toy.Denoise, "fullgraph": True, "options": {"inplace_buffers": False}}]
    assert Run(tmp_path / "compiled").config()["training"]["compile"] is True
    with pytest.raises(CheckpointError, match=r"training\.compile \(config\.json: true, now: false\)"):
        toy.train(tmp_path / "compiled", config=short, resume=True)


def test_a_compiled_graph_and_shards_exclude_each_other() -> None:
    with pytest.raises(DomainError, match="give --compile or --shard, not both"):
        TrainingConfig(compile=True, shard=True)
