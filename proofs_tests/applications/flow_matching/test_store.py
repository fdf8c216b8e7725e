"""Models of flow matching on disk: exported and read back; files of other models are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import induced
from applications.common.kinds import export, load_model
from applications.common.runs import Run
from applications.flow_matching import load_pretrained
from applications.flow_matching.config import Config, ModelConfig
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.record import APPLICATION
from applications.flow_matching.sampling import noise
from applications.flow_matching.train import train
from applications.style_transfer.model import StyleTransfer
from induced import Linearizer
from induced.errors import CheckpointError
from induced.propagators import LowRankFamily
from induced.serialization import notes
from proofs_tests.applications.flow_matching.models import BRIEF, TINY


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps."""
    folder = tmp_path_factory.mktemp("flow") / "run"
    train(Config(model=TINY, training=BRIEF, latent_steps=2, latent_batch=16), Run(folder), device="cpu")
    return folder


@pytest.fixture
def exported(tiny_run: Path, tmp_path: Path) -> Path:
    return export(tiny_run, tmp_path / "models" / "tiny")


def test_an_exported_model_reads_back_as_its_half_precision(tiny_run: Path, exported: Path) -> None:
    written, second = load_file(exported / "model.safetensors"), Run(tiny_run / "latent").latest()
    average = second.average
    assert {name.partition(".")[0] for name in second.model} == {"density", "family"}, "what the second stage trains, alone"
    assert notes(exported) == {k: v for k, v in notes(tiny_run).items() if k != "model"}
    assert {value.dtype for value in written.values() if value.is_floating_point()} == {torch.float16}
    model = load_model(exported, FlowMatching)
    assert model.config == TINY and not model.training and not any(p.requires_grad for p in model.parameters())
    state = model.state_dict()
    assert state.keys() == average.keys() == written.keys()
    for name, value in average.items():
        expected = value.half().to(value.dtype) if value.is_floating_point() else value
        assert state[name].dtype == value.dtype and torch.equal(state[name], expected), name
    for name, value in load_model(tiny_run, FlowMatching).state_dict().items():
        assert torch.equal(value, average[name]), name


def test_the_pretrained_model_is_small_and_says_what_it_is(pretrained: FlowMatching) -> None:
    folder = APPLICATION.shipped()["mnist"]
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    assert notes(folder)["application"] == "flow_matching"
    assert pretrained.config == ModelConfig()


def test_a_weight_beyond_half_precision_is_not_exported(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    run = Run(folder / "latent")
    state, average = run.latest(), induced.load(folder)
    assert isinstance(average, FlowMatching) and isinstance(average.family, LowRankFamily)
    with torch.no_grad():
        average.family.offset.add_(1e6)
    run.save(99, state.model, average, state.optimizer)
    with pytest.raises(CheckpointError, match="family.offset holds 1e.06, and float16 ends at 6.55e.04"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_folder_of_flow_matching_opens_as_its_model_and_as_its_linearizer(tiny_run: Path, exported: Path) -> None:
    x = torch.randn(2, 1, 32, 32)
    for folder in (tiny_run, tiny_run / "latent", Run(tiny_run).checkpoints()[-1], exported, APPLICATION.shipped()["mnist"]):
        model = induced.load(folder)
        assert isinstance(model, FlowMatching)
        f = Linearizer.from_pretrained(folder)
        assert torch.equal(f(x), model.operator()(x))


def test_export_leaves_a_run_and_what_is_not_its_own_alone(tiny_run: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds what is exported, or a checkpoint, which an export would replace"):
        export(tiny_run, tiny_run)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="is not empty, and holds no model that induced saved"):
        export(tiny_run, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "bert"}
    export(tiny_run, exported)  # its own, once more


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    return config["objects"]["0"]["arguments"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["objects"]["0"].update({"class": "style_transfer.StyleTransfer"}),
            "settings are of another release: they lack",
        ),
        (
            lambda c: arguments(c).pop("rank"),
            r"they lack rank\. Open it with the release that saved it, or train it anew; CHANGELOG",
        ),
        (lambda c: arguments(c).update(depth=3), r"they have the unknown depth\. Open it"),
        (lambda c: arguments(c).update(rank=5), r"FlowMatching of these arguments, has .* as a .*, model.safetensors has a "),
    ],
    ids=["another application", "a field missing", "a field unknown", "another rank"],
)
def test_a_config_that_describes_another_model_is_refused(
    exported: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = exported / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tiny.*" + message):
        load_model(exported, FlowMatching)


def test_a_model_of_another_application_is_refused(exported: Path) -> None:
    with pytest.raises(CheckpointError, match="tiny: holds a FlowMatching, expected a StyleTransfer"):
        load_model(exported, StyleTransfer)


def test_load_pretrained_is_the_shipped_one_step_sampler(pretrained: FlowMatching) -> None:
    f, x = load_pretrained(), noise(pretrained, 2, seed=0)
    assert isinstance(f, Linearizer) and (f.domain.shape, f.codomain.shape) == ((1, 32, 32), (1, 32, 32))
    assert torch.equal(f(x), pretrained.operator()(x)) and not f(x).requires_grad
    with pytest.raises(CheckpointError, match="no model 'mnits' ships; there are: mnist"):
        load_pretrained("mnits")
