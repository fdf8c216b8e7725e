"""Style transfer: the kernel of a new style, the objective, training and what is measured afterwards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import induced
from applications.common.kinds import export, export_model, load_model
from applications.common.perceptual import PyramidDistance
from applications.common.runs import Run
from applications.common.training import TrainingConfig
from applications.style_transfer.algebra import (
    remove,
)
from applications.style_transfer.config import Config, ObjectiveConfig, settings
from applications.style_transfer.model import StyleTransfer
from applications.style_transfer.new_style import fit_kernel, refine_kernel
from applications.style_transfer.objective import StyleObjective
from applications.style_transfer.pairs import Crops
from applications.style_transfer.train import objective_for, train
from experiments.stylised import Path as Walk
from experiments.stylised import fidelity, removal, walk
from induced import Linearizer
from induced.errors import DomainError, ShapeError
from induced.serialization import notes, register
from proofs_tests.applications import stylists
from proofs_tests.applications.style_transfer.models import TINY, made, pictures


# --------------------------------------------------------------------------------------------------------------- new styles
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", [2, 3])
def test_the_kernel_of_a_style_is_found_from_its_pictures(groups: int, kernel: int) -> None:
    model = made(replace(TINY, groups=groups, kernel=kernel))
    x = pictures(6, 40, 40)
    styles = model.at(40, 40)
    found = fit_kernel(model, x, styles["candy"](x), ridge=1e-12)
    assert torch.allclose(found, styles.kernels[1], atol=1e-6)
    heavy = fit_kernel(model, x, styles["candy"](x), ridge=1e9)
    assert torch.allclose(heavy, styles.kernels[0], atol=1e-6)
    extended = model.with_style("again", found)
    assert extended.config.names == (*model.config.names, "again")
    assert torch.allclose(extended.at(40, 40)["again"](x), styles["candy"](x), atol=1e-5)
    assert torch.equal(extended.at(40, 40)["udnie"](x), styles["udnie"](x))


def test_a_short_run_lowers_the_error_in_pixels_from_the_closed_form() -> None:
    model, x = made(), pictures(4, 24, 24)
    y = torch.tanh(1.5 * x.flip(1))
    start = fit_kernel(model, x, y)

    def error(kernel: Tensor) -> float:
        return float((model.at(24, 24).operator(kernel)(x) - y)[..., 3:-3, 3:-3].square().mean())

    refined = refine_kernel(model, start, x, y, steps=20, patch=24, learning_rate=1e-3)
    assert error(refined) < error(start)
    assert torch.equal(refined, refine_kernel(model, start, x, y, steps=20, patch=24, learning_rate=1e-3))


def test_a_short_run_lowers_a_distance_that_it_is_given() -> None:
    model, x = made(), pictures(4, 24, 24)
    y, distance = torch.tanh(1.5 * x.flip(1)), PyramidDistance()
    kernels: list[Tensor] = [model.cores.base]
    kernels += [
        refine_kernel(model, kernels[0], x, y, steps=40, patch=24, distance=distance, perceptual=w, learning_rate=1e-3)
        for w in (0.0, 10.0)
    ]
    start, without, near = (float(distance(model.at(24, 24).operator(k)(x), y).mean()) for k in kernels)
    assert near < without < start


def test_what_no_kernel_can_be_fitted_to_is_refused() -> None:
    model, x = made(), pictures(2, 16, 16)
    with pytest.raises(ShapeError, match="as many pictures"):
        fit_kernel(model, x, x[:1])
    with pytest.raises(DomainError, match="the ridge is positive, got 0"):
        fit_kernel(model, x, x, ridge=0)
    with pytest.raises(ShapeError, match="at least as large as the kernel, 6 pixels, got 4x4"):
        fit_kernel(model, x[..., :4, :4], x[..., :4, :4])
    with pytest.raises(DomainError, match="at least one step"):
        refine_kernel(model, model.cores.base, x, x, steps=0)
    with pytest.raises(ShapeError, match="the kernels of this model have shape"):
        model.with_style("new", torch.zeros(3))
    with pytest.raises(DomainError, match="names of their own"):
        model.with_style("candy", model.cores.base)


# ---------------------------------------------------------------------------------------------------------------- objective
class Recorder(nn.Module):
    """Keeps what it is given, and gives it back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        self.seen = x, style
        return x + self.weight


register(Recorder, name="tests.Recorder")


def test_a_step_compares_the_same_squares_of_photograph_and_teacher() -> None:
    crops = torch.randint(0, 256, (4, 3, 3, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    recorder = Recorder()
    objective = StyleObjective(recorder, ObjectiveConfig(pixels=2.0, perceptual=0.5, patch=8, margin=2), PyramidDistance())
    draws = {
        "top": torch.tensor([0.0, 0.99, 0.3, 0.5]),
        "left": torch.tensor([0.0, 0.5, 0.99, 0.1]),
        "style": torch.tensor([0.0, 0.4, 0.7, 0.99]),
    }
    batch = Crops("", crops, 8).randomised(torch.arange(4), draws)
    found = objective(batch, {})
    x, style = recorder.seen
    assert style.tolist() == [0, 1, 2, 2]
    corners = [(0, 0), (4, 2), (1, 4), (2, 0)]
    for i, (top, left) in enumerate(corners):
        square = crops[i, 0, :, top : top + 8, left : left + 8]
        assert torch.equal(x[i], (square.float() + 0.5) / 128 - 1)
    target = torch.stack([crops[i, s, :, t : t + 8, e : e + 8] for i, (s, (t, e)) in enumerate(zip(style, corners, strict=True))])
    target = ((target.float() + 0.5) / 128 - 1)[..., 2:6, 2:6]
    inner = x[..., 2:6, 2:6]
    assert torch.allclose(found["pixels"], ((inner - target) ** 2).mean())
    assert torch.allclose(found["perceptual"], PyramidDistance()(inner, target).mean())
    assert torch.allclose(found["loss"], 2 * found["pixels"] + 0.5 * found["perceptual"])
    assert "perceptual" not in StyleObjective(recorder, ObjectiveConfig(patch=8, margin=2))(batch, {})


def test_draws_cover_styles_and_places() -> None:
    crops = Crops("", torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(50, 6, 3, 10, 10), 8)
    batch = crops.randomised(torch.arange(50), crops.draw(50, torch.Generator().manual_seed(0)))
    assert set(batch["style"].tolist()) == set(range(6))
    assert batch["x"].shape == (50, 3, 8, 8) and torch.equal(batch["target"][:, 0, 0, 0].long(), batch["style"])
    assert crops.batch(torch.tensor([3]))["x"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ObjectiveConfig(pixels=-1), "pixels must be at least 0, got -1"),
        (lambda: ObjectiveConfig(patch=32, margin=16), "leaves nothing of a square of 32"),
        (lambda: Config(crops=0), "at least one crop"),
        (lambda: Config(side=64), "side=64, patch=128"),
        (lambda: Config(objective=ObjectiveConfig(patch=126)), "multiple of 4"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make: object, said: str) -> None:
    with pytest.raises(DomainError, match=said):
        make()  # type: ignore[operator]


# ----------------------------------------------------------------------------------------------------------------- training
@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stylists.fill(tmp_path_factory.mktemp("data"))


BRIEF = TrainingConfig(steps=4, batch=4, learning_rate=1e-2, warmup=1, log_every=1, checkpoint_every=2, sample_every=2)


def brief(folder: Path) -> Config:
    objective = ObjectiveConfig(patch=16, margin=2)
    return Config(str(folder / "photographs"), crops=6, side=24, model=TINY, objective=objective, training=BRIEF)


def test_a_resumed_run_ends_as_one_never_interrupted(weights: Path, tmp_path: Path) -> None:
    config, places = brief(weights), {"data_dir": weights, "cache_dir": tmp_path / "cache", "device": "cpu"}
    whole = train(config, Run(tmp_path / "a"), **places)  # type: ignore[arg-type]
    train(config, Run(tmp_path / "b"), **places)  # type: ignore[arg-type]
    last = Run(tmp_path / "b").checkpoints()[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    resumed = train(config, Run(tmp_path / "b"), resume=True, **places)  # type: ignore[arg-type]
    assert resumed.losses == whole.losses and resumed.steps == 4
    for p, q in zip(whole.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(p, q)
    record = notes(tmp_path / "a")
    assert {key: record[key] for key in ("application", "pairs")} == {k: settings(config)[k] for k in ("application", "pairs")}
    assert [path.name for path in sorted((tmp_path / "a" / "samples").iterdir())] == ["step-00000002.png", "step-00000004.png"]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1

    model = load_model(tmp_path / "a", StyleTransfer)
    assert model.config == TINY and not any(p.requires_grad for p in model.parameters())
    exported = load_model(export(tmp_path / "a", tmp_path / "small"), StyleTransfer)
    x = pictures(1).float()
    assert torch.allclose(exported.operator("candy", 16, 20)(x), model.operator("candy", 16, 20)(x), atol=2e-2)
    extended = model.with_style("late", model.cores.base)
    again = load_model(export_model(extended, tmp_path / "a", tmp_path / "more"), StyleTransfer)
    assert again.config.added == ("late",) and again.config.names[-1] == "late"
    x = torch.randn(1, 3, 256, 256)
    for folder in (tmp_path / "a", Run(tmp_path / "a").checkpoints()[-1], tmp_path / "small", tmp_path / "more"):
        opened = induced.load(folder)
        assert isinstance(opened, StyleTransfer)
        assert torch.equal(Linearizer.from_pretrained(folder)(x), opened.operator(TINY.styles[0])(x))


def test_training_lowers_the_loss_and_a_fallback_is_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(brief(weights), training=replace(BRIEF, steps=30, sample_every=0, checkpoint_every=15))
    run = Run(tmp_path / "run")
    train(config, run, data_dir=weights, cache_dir=tmp_path, device="cpu")
    losses = [record["loss"] for record in run.metrics()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    (run.checkpoints()[-1] / "model.safetensors").write_bytes(b"")
    capsys.readouterr()
    load_model(run.folder, StyleTransfer, fallback=True)
    assert "fell back to step-00000015" in capsys.readouterr().out


def test_training_in_bfloat16_is_near_that_in_float32(weights: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("no", "bf16"):
        config = replace(brief(weights), training=replace(BRIEF, precision=precision))
        losses.append(train(config, Run(tmp_path / precision), data_dir=weights, cache_dir=tmp_path, device="cpu").losses["loss"])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


def test_another_network_trains_in_the_place_of_the_model(weights: Path, tmp_path: Path) -> None:
    result = train(brief(weights), Run(tmp_path / "run"), model=Recorder(), data_dir=weights, cache_dir=tmp_path, device="cpu")
    assert isinstance(result.average, Recorder) and float(result.average.weight) != 0


def test_the_perceptual_loss_needs_its_weights(tmp_path: Path) -> None:
    config = Config(objective=ObjectiveConfig(perceptual=1.0))
    with pytest.raises(Exception, match="alex_shift_tolerant"):
        objective_for(config, Recorder(), tmp_path)
    assert objective_for(Config(), Recorder(), tmp_path).distance is None


# --------------------------------------------------------------------------------------------------------------- evaluation
def test_fidelity_is_a_mean_over_pictures() -> None:
    x = pictures(3, 16, 16)
    found = fidelity(lambda t: 0.5 * t, lambda t: 0.4 * t, x, PyramidDistance())
    mse = [float((0.1 * t).square().mean()) for t in x]
    assert abs(found.psnr - sum(10 * np.log10(4 / e) for e in mse) / 3) < 1e-6
    assert abs(found.content_psnr - sum(10 * np.log10(4 / (36 * e)) for e in mse) / 3) < 1e-6
    assert found.ratio == found.perceptual / found.content and abs(found.ratio - 1 / 6) < 1e-6
    perfect = fidelity(torch.neg, torch.neg, x, PyramidDistance())
    assert perfect.perceptual == 0 and perfect.psnr == float("inf") and abs(perfect.ssim - 1) < 1e-9


def test_a_walk_ends_at_both_styles_and_its_jumps_are_measured() -> None:
    model, x = made(), pictures(1, 16, 16)
    found, path = walk(model, x, "candy", "udnie", PyramidDistance(), count=5)
    styles = model.at(16, 16)
    assert torch.allclose(found[:1], styles["candy"](x).clamp(-1, 1)) and torch.allclose(
        found[-1:], styles["udnie"](x).clamp(-1, 1)
    )
    assert path.to_first[0] == path.to_second[-1] == 0 and len(path.steps) == 4
    assert Walk((0.0, 1.0, 2.0), (2.0, 1.0, 0.0), (1.0, 1.0)).monotone
    assert not Walk((0.0, 2.0, 1.0), (2.0, 1.0, 0.0), (1.0, 1.0)).monotone
    assert not Walk((0.0, 1.0, 2.0), (2.0, 2.5, 0.0), (1.0, 1.0)).monotone
    assert Walk((), (), (1.0, 1.0, 4.0)).largest_jump == 2.0
    with pytest.raises(DomainError, match="at least two pictures, got 1"):
        walk(model, x, "candy", "udnie", PyramidDistance(), count=1)


def test_a_large_picture_in_float32_loses_its_style_where_a_cutoff_of_dense_matrices_drops_directions() -> None:
    model, x = made().float(), pictures(1, 96, 96).float()
    with torch.no_grad():
        model.cores.base[0] *= 1e-3
    f = model.operator("candy", 96, 96)
    assert (remove(f)(f(x)) - x).abs().max() < 5 * float(f.cond()) * torch.finfo(torch.float32).eps
    assert (remove(f, x[0].numel() * torch.finfo(torch.float32).eps)(f(x)) - x).abs().max() > 0.1


def test_removal_is_exact_but_for_eight_bits() -> None:
    model, x = made(), pictures(2, 16, 16)
    found = removal(model, "candy", x)
    assert found.exact > 100 > found.rounded > 0
    singular = torch.linalg.svdvals(model.operator("candy", 16, 16).core.matrix())
    assert abs(found.cond / float(singular[0] / singular[-1]) - 1) < 1e-6
