"""Commands on a device say and draw what they do on the CPU; an accelerator without float64 is not taken."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from applications import cli
from applications.common import devices, parallel
from applications.common.devices import pick
from applications.common.parallel import accelerator_for
from applications.flow_matching.model import FlowMatching
from applications.style_transfer.config import Config, ObjectiveConfig
from applications.style_transfer.pairs import pairs
from induced.bijections import Affine
from induced.errors import DomainError
from induced.serialization import save
from proofs_tests import tf32
from proofs_tests.applications import stylists
from proofs_tests.applications.flow_matching import models as flow
from proofs_tests.applications.idempotent import models as projectors
from proofs_tests.applications.style_transfer import models as styles
from proofs_tests.applications.terminal import COMMANDS, command, refusal
from proofs_tests.device import StandIn

CASES = {
    "sample": ("flow", "--n 5 --integrator-steps 4"),
    "sample, of a class": ("mixture", "--n 2 --class 1 --temperature 0.8 --truncation 2"),
    "invert": ("flow", "--n 4"),
    "interpolate": ("flow", "--n 4"),
    "edit": ("flow", "--n 2"),
    "judge": ("flow", "--n 4 --likelihood 1"),
    "check": ("chart", "--n 1"),
    "project": ("projector", "--n 2 --kinds noisy letters"),
    "generate": ("projector", "--n 4 --data folder --data-dir PHOTOGRAPHS"),
    "generate, from noise": ("projector", "--n 4 --how noise"),
    "anomaly": ("projector", "--n 2 --data folder --data-dir PHOTOGRAPHS"),
    "style": ("styles", "PHOTOGRAPH --mix candy=0.5 udnie=0.5 --strength 1.3"),
    "style, taken off": ("styles", "PHOTOGRAPH --mix candy --remove --into udnie"),
    "styles": ("styles", "--side 32"),
    "add-style": ("styles", "--style late --crops 3 --side 24 --steps 2 --photographs PHOTOGRAPHS --data-dir DATA"),
}


def chart() -> Affine:
    return Affine((2,), torch.tensor([2.0, 3.0]))


def mixture() -> FlowMatching:
    model = flow.ready(replace(flow.SMALL, components=2), torch.float32)
    images = torch.arange(40 * 16).reshape(40, 1, 4, 4) % 251
    model.encode_leading(images.to(torch.uint8), torch.arange(40) % 2)
    return model


MADE: dict[str, Callable[[], nn.Module]] = {
    "flow": lambda: flow.ready(flow.TINY, torch.float32),
    "mixture": mixture,
    "chart": chart,
    "projector": lambda: projectors.made(projectors.config_of_a_run().model),
    "styles": lambda: styles.made().float(),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of teachers, photographs and a model of each application."""
    folder = stylists.fill(tmp_path_factory.mktemp("data"))
    for name, made in MADE.items():
        save(made(), folder / name)
    return folder


LEVEL = 1.01 / 255
"""Of a pixel: products of the CPU round as their operands happen to lie in memory."""
NUMBER = r"\d+\.\d+(?:e-?\d+)?"


def results(arguments: list[object], out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[float], list[np.ndarray]]:
    """What a command prints but for numbers; the numbers that are no roundings; and the pictures and weights that it writes."""
    command(*arguments, *([] if arguments[0] in ("judge", "check", "anomaly") else ["--out", out]))
    text = capsys.readouterr().out.replace(str(out), "OUT")
    numbers = [float(number) for number in re.findall(NUMBER, text) if "e-" not in number]
    files = [np.asarray(Image.open(out)) / 255] if out.is_file() else []
    files += load_file(out / "model.safetensors").values() if out.is_dir() else []
    return re.sub(NUMBER, "NUMBER", text), numbers, files


@pytest.mark.parametrize("case", CASES)
def test_a_command_does_on_a_device_what_it_does_on_the_cpu(
    case: str, data: Path, gpu: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, options = CASES[case]
    places = {"PHOTOGRAPHS": data / "photographs", "PHOTOGRAPH": "--picture " + str(data / "photographs" / "3.png"), "DATA": data}
    for name, place in places.items():
        options = options.replace(name, str(place))
    verb = case.partition(",")[0]
    suffix = "" if verb == "add-style" else ".png"
    arguments = [verb, "--run", data / model, *options.split()]
    with gpu.recording() as log:
        text, numbers, files = results([*arguments, "--device", "gpu"], tmp_path / f"gpu{suffix}", capsys)
    assert log.kernels > 50
    with gpu.recording() as log:
        expected = results([*arguments, "--device", "cpu"], tmp_path / f"cpu{suffix}", capsys)
    assert log.kernels == 0
    assert text == expected[0]
    np.testing.assert_allclose(numbers, expected[1], rtol=0.01)
    for one, other in zip(files, expected[2], strict=True):
        np.testing.assert_allclose(one, other, atol=LEVEL)


def test_every_command_that_computes_takes_a_device() -> None:
    verbs = {name.partition(" ")[0] for name in COMMANDS} - {"info", "export"}
    assert verbs == {case.partition(",")[0] for case in CASES} | {"train", "tour"}
    assert all(
        "device" in signature(COMMANDS[name]).parameters for name in COMMANDS if name.partition(" ")[0] in ("train", "tour")
    )


def test_an_object_of_ones_own_is_checked_where_it_is_or_where_it_is_asked_for(gpu: StandIn) -> None:
    with gpu.recording() as log:
        command("check", f"{__name__}:chart", "--n", 1)
    assert log.kernels == 0
    with gpu.recording() as log:
        command("check", f"{__name__}:chart", "--n", 1, "--device", "gpu")
    assert log.kernels > 50


def test_a_device_is_picked_by_name_and_an_accelerator_where_there_is_one(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name: str(pick(name)) for name in ("auto", "cpu", "gpu", "gpu:0")} == {
        "auto": "gpu:0",
        "cpu": "cpu",
        "gpu": "gpu:0",
        "gpu:0": "gpu:0",
    }
    for name in ("cuda", "gpu:1", "gpu:", "rubbish"):
        with pytest.raises(DomainError, match=f"there is no device '{name}' here, only cpu and gpu:0$"):
            pick(name)
    monkeypatch.setenv("LOCAL_RANK", "3")  # of four processes on a machine with one
    assert str(pick("auto")) == str(pick("gpu")) == "gpu:0"


def test_without_an_accelerator_there_is_the_cpu() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "is_available", lambda: False)
        assert str(pick("auto")) == str(pick("cpu")) == "cpu"
        with pytest.raises(DomainError, match="there is no device 'cuda' here, only cpu$"):
            pick("cuda")


@pytest.fixture
def apple() -> Iterator[StandIn]:
    """The accelerator of this process, without float64."""
    with StandIn(float64=False) as stand_in:
        yield stand_in


def test_an_accelerator_without_float64_is_passed_over_and_refused_by_name(
    apple: StandIn, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices.say.cache_clear()
    with apple.recording() as log:
        command("sample", "--run", data / "flow", "--n", 2, "--out", tmp_path / "auto.png")
        command("sample", "--run", data / "flow", "--n", 2, "--out", tmp_path / "auto.png")
    said = capsys.readouterr().out
    assert log.kernels == 2, "each asks for float64 once"
    assert said.count("note: gpu cannot hold float64") == 1 and ": the CPU is taken\n" in said
    found = refusal("sample", "--run", data / "flow", "--out", tmp_path / "named.png", "--device", "gpu")
    assert found.startswith("induced: gpu cannot hold float64") and found.endswith("take the CPU, --device cpu")
    assert "\n" not in found and not (tmp_path / "named.png").exists()


def test_a_training_takes_the_device_that_is_asked_for_whatever_one_took_before(
    gpu: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, taken in (("gpu", "gpu:0"), ("cpu", "cpu"), ("auto", "gpu:0"), ("cpu", "cpu")):
        assert str(accelerator_for(name).device) == taken
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # accelerate launch --cpu
    assert str(accelerator_for("cpu").device) == "cpu"
    with pytest.raises(DomainError, match="asks for the CPU .*ACCELERATE_USE_CPU=true.*; unset it, or give --device cpu"):
        accelerator_for("auto")


@pytest.mark.parametrize(("verb", "convolutions"), [("sample", False), ("train flow-matching", True)])
def test_a_command_computes_in_full_precision_and_training_in_what_torch_and_no_variable_chooses(
    verb: str, convolutions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training may use TF32 in convolutions, as cuDNN does; TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 is "high" when torch starts."""
    found = list[tuple[bool, bool]]()

    def asked() -> None:
        found.append((tf32.convolutions_allowed(), tf32.products_allowed()))

    monkeypatch.setattr(cli, "chosen", lambda arguments: (verb, asked, []))
    torch.set_float32_matmul_precision("high")
    try:
        command(verb)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert found == [(convolutions, False)]


def test_each_process_takes_the_device_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype, device: SimpleNamespace(device=device))
    places = {}
    for rank in (None, 0, 3, 5):
        monkeypatch.delenv("LOCAL_RANK", raising=False) if rank is None else monkeypatch.setenv("LOCAL_RANK", str(rank))
        places[rank] = str(pick("auto")), str(pick("cuda")), str(pick("cpu"))
    ranks = {rank: f"cuda:{rank % 4}" for rank in (0, 3, 5)}
    assert places == {None: ("cuda", "cuda", "cpu")} | {rank: (place, place, "cpu") for rank, place in ranks.items()}


def test_several_processes_do_not_share_one_device(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PartialState", lambda cpu: SimpleNamespace(num_processes=2))
    with pytest.raises(DomainError, match="2 processes take one accelerator each, by their ranks; got 'gpu:0' for all"):
        accelerator_for("gpu:0")


def test_teachers_work_on_the_device_and_fill_the_cache_with_the_same_pictures(data: Path, gpu: StandIn, tmp_path: Path) -> None:
    small = ObjectiveConfig(patch=16, margin=2)
    config = Config(crops=3, side=24, photographs=str(data / "photographs"), model=styles.TINY, objective=small)
    found = {}
    for device in ("cpu", gpu.device):
        with gpu.recording() as log:
            found[str(device)] = pairs(config, data, cache_dir=tmp_path / str(device), device=device).crops
        assert (log.kernels > 50) == (device != "cpu")
    assert (found["cpu"].int() - found["gpu:0"].int()).abs().max() <= 1
