"""Idempotent generators: the mask and the losses are their formulas; training, resuming, and models on disk."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import induced
from applications.common.data import load, to_unit
from applications.common.kinds import export, load_model
from applications.common.metrics import psnr
from applications.common.randomness import drawn
from applications.common.runs import Run
from applications.idempotent.config import Config, ModelConfig, ObjectiveConfig
from applications.idempotent.evaluate import PrincipalProjection, bits
from applications.idempotent.model import Idempotent
from applications.idempotent.objective import IdempotentObjective, isometry
from applications.idempotent.sampling import project
from applications.idempotent.train import start, train
from induced import Linearizer
from induced.bijections import AdditiveCoupling, Linear
from induced.errors import CheckpointError, DomainError, ShapeError
from induced.operators import Dense, Householder
from induced.serialization import notes
from proofs_tests.applications.idempotent.models import TINY, config_of_a_run, images, made, mask_of

PLAIN = replace(TINY, basis="coordinates")
FREE = replace(PLAIN, rank=None, hardening=10)


# --------------------------------------------------------------------------------------------------------------------- mask
@pytest.mark.parametrize("rank", [0, 1, 4, 5, 16, 64])
def test_a_rank_is_met_by_pixels_from_the_coarsest_grid_on(rank: int) -> None:
    model = made(replace(PLAIN, rank=rank))
    mask = model.projection.mask().reshape(8, 8)
    assert model.rank == rank == mask.sum()
    side = math.isqrt(rank)
    if side**2 == rank > 0:
        assert mask[:: 8 // side, :: 8 // side].all()
    assert not any(p is model.projection.p for p in model.parameters())


def test_a_rotated_basis_keeps_its_first_vectors_and_a_free_choice_starts_with_all() -> None:
    assert made().projection.mask().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    free = made(FREE)
    assert free.rank == 64 and isinstance(free.projection.p, nn.Parameter)


def test_dropped_coordinates_fade_until_the_projection_is_hard() -> None:
    model = made(replace(PLAIN, hardening=10))
    mask = model.projection.mask()
    for step, dropped in ((0, 1.0), (4, 0.6), (10, 0.0), (11, 0.0)):
        model.step.fill_(step)
        weights = model.weights()
        assert (weights[mask] == 1).all() and torch.allclose(weights[~mask], torch.tensor(dropped))
    assert torch.equal(made(PLAIN).weights(), made(PLAIN).projection.mask().float())


def test_a_free_choice_goes_from_p_to_its_rounding_with_the_gradient_of_p() -> None:
    model, p = made(FREE), torch.linspace(-0.2, 1.2, 64)
    with torch.no_grad():
        model.projection.p.copy_(p)
    soft, hard = p.clamp(0, 1), (p > 0.5).float()
    for step, h in ((0, 0.0), (3, 0.3), (10, 1.0)):
        model.step.fill_(step)
        weights = model.weights()
        assert torch.allclose(weights, h * hard + (1 - h) * soft, atol=1e-6)
        (gradient,) = torch.autograd.grad(weights.sum(), model.projection.p)
        assert torch.equal(gradient, ((p >= 0) & (p <= 1)).float())
    assert model.operator().core.p.requires_grad is False


# ------------------------------------------------------------------------------------------------------------------- losses
def test_the_isometry_loss_is_the_frobenius_norm_of_the_jacobian_on_average() -> None:
    torch.manual_seed(1)
    W = torch.randn(6, 6)
    x, v = torch.randn(2, 40000, 6)
    expected = float((W @ W.mT).trace() / 6 - 1)
    # the mean of 40000 draws, each spread by less than the largest squared singular value
    spread = float(torch.linalg.matrix_norm(W, 2)) ** 2 / math.sqrt(40000)
    assert abs(float(isometry(Linear(Dense(W)), x, v)) - expected) < 5 * spread
    assert abs(float(isometry(Linear(Householder(torch.randn(2, 6))), x, v))) < 1e-5
    shear = AdditiveCoupling((6,), nn.Linear(3, 3)).requires_grad_(False)
    assert float(isometry(shear, x, v)) > 0


def test_losses_are_their_formulas() -> None:
    objective = IdempotentObjective(made(FREE), ObjectiveConfig(kept=0.5, isometry=0.1, isometry_every=1)).eval()
    with torch.no_grad():
        objective.model.projection.p.copy_(torch.rand(64))
    objective.begin(10)
    x, draws = to_unit(images(8)), draws_of(objective, 8)
    found = {name: float(value.detach()) for name, value in objective({"images": x}, draws).items()}
    f = objective.model.operator(exact=False)
    assert found["reconstruction"] == pytest.approx(np.mean((f(x) - x).detach().numpy() ** 2), rel=1e-5)
    assert found["kept"] == pytest.approx(mask_of(f).double().mean().item())
    g = functools.partial(objective.model.chart)
    lengths = [
        (torch.autograd.functional.jacobian(g, x[k]).reshape(64, 64) @ v.flatten()).square().sum() / v.square().sum()
        for k, v in zip((0, 4), draws["direction"], strict=True)
    ]
    assert found["isometry"] == pytest.approx(float(sum(lengths)) / 2 - 1, rel=1e-4)
    total = found["reconstruction"] + 0.5 * found["kept"] + 0.1 * found["isometry"]
    assert found["loss"] == pytest.approx(total, rel=1e-6)


def test_a_loss_without_weight_or_at_another_step_is_left_out() -> None:
    x, draws, found = to_unit(images(4)), {"direction": torch.randn(1, 1, 8, 8)}, []
    objective = IdempotentObjective(made(), ObjectiveConfig(isometry_every=2))
    for step in range(3):
        objective.begin(step)
        found += [set(objective({"images": x}, draws)) for _ in range(2)][:1]  # a step in pieces is one step
    assert found == [
        {"loss", "reconstruction"},
        {"loss", "reconstruction", "isometry"},
        {"loss", "reconstruction"},
    ]
    assert objective.model.step == 2
    plain = IdempotentObjective(made(FREE), ObjectiveConfig(isometry=0, kept=0))
    assert set(plain({"images": x}, draws)) == {"loss", "reconstruction"}


def draws_of(objective: IdempotentObjective, n: int) -> dict[str, Tensor]:
    return drawn([objective.draw(n, torch.Generator())], n, seed=0, step=0)[0]


@pytest.mark.parametrize(
    "config", [TINY, PLAIN, FREE, replace(TINY, shape=(3, 8, 16))], ids=["rotated", "plain", "free", "colour"]
)
def test_gradients_reach_every_parameter(config: ModelConfig) -> None:
    model = made(config)
    objective = IdempotentObjective(model, ObjectiveConfig(isometry_every=1))
    if config.rank is None:
        with torch.no_grad():
            model.projection.p[::2] = 0.3
    x = to_unit(images(16, config.shape))
    objective({"images": x}, draws_of(objective, 16))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name


# ----------------------------------------------------------------------------------------------------------------- training
def test_a_model_starts_as_the_projection_onto_principal_components() -> None:
    x = to_unit(load("mnist5k", "train").images[::30])
    config = replace(TINY, shape=(1, 32, 32), rank=20)
    objective = start(Config(model=config), load("mnist5k", "train"))
    induced = float(psnr(project(objective.model.operator(), x), x).mean())
    linear = PrincipalProjection(x, 20)
    assert abs(induced - float(-10 * torch.log10(((linear(x) - x) ** 2).flatten(1).mean(1) / 4).mean())) < 1
    random = float(psnr(project(made(config).operator(), x), x).mean())
    assert induced > random + 5


def test_a_basis_is_aligned_with_fewer_images_than_its_rank() -> None:
    model, x = made(), to_unit(images(3))
    model.align(x)
    last: Any = model.chart.parts[-1]
    Q = last.operator.matrix()
    assert torch.allclose(Q @ Q.mT, torch.eye(64), atol=1e-5)
    assert (model.operator(exact=False)(x) - x).abs().max() < 0.2
    made(PLAIN).align(x)


def after(steps: int, config: ModelConfig, weights: ObjectiveConfig) -> tuple[Idempotent, list[float]]:
    """A model after some steps on the same images, and its losses."""
    objective = IdempotentObjective(made(config), weights)
    optimizer, x = torch.optim.Adam(objective.parameters(), 2e-2), to_unit(images(32))
    draws, losses = draws_of(objective, 32), []
    for step in range(steps):
        objective.begin(step)
        optimizer.zero_grad()
        loss = objective({"images": x}, draws)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return objective.model.eval().requires_grad_(False), losses


def test_training_lowers_the_loss_and_keeps_the_rank() -> None:
    model, losses = after(40, TINY, ObjectiveConfig())
    assert model.rank == 5 and losses[-1] < 0.7 * losses[0]
    assert bits(model.operator(), to_unit(images(32))).ok


def test_a_penalty_lowers_the_rank() -> None:
    ranks = [after(60, replace(FREE, hardening=20), ObjectiveConfig(kept=weight))[0].rank for weight in (0.0, 0.5)]
    assert 0 < ranks[1] < 50 < ranks[0] == 64


def test_a_resumed_run_is_one_never_interrupted_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    config = config_of_a_run()
    first = Run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IdempotentObjective, "forward", dying_after(4, IdempotentObjective.forward))
        with pytest.raises(KeyboardInterrupt):
            train(config, first, device="cpu")
    result = train(config, first, resume=True, device="cpu")
    assert result.steps == 6 and result.notes[0].startswith("resumed after step 3,")
    states = [Run(folder).latest() for folder in (trained, tmp_path / "run")]
    for part in ("model", "average"):
        a, b = (getattr(state, part) for state in states)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert states[0].model["step"] == 5


def dying_after(steps: int, forward: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    def dying(objective: IdempotentObjective, *arguments: Tensor) -> dict[str, Tensor]:
        if int(objective.model.step) >= steps:
            raise KeyboardInterrupt
        return forward(objective, *arguments)

    return dying


def test_a_run_shows_images_above_their_projections(trained: Path) -> None:
    assert sorted(path.name for path in (trained / "samples").iterdir()) == ["step-00000003.png", "step-00000006.png"]
    assert notes(trained)["application"] == "idempotent"


def test_images_of_another_shape_are_refused_before_a_run_begins(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"the model takes images of shape \(1, 8, 8\), got \(1, 32, 32\) from mnist5k"):
        train(Config(model=TINY), Run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------------------- store
def test_a_run_and_its_export_load_as_the_averaged_model(trained: Path, tmp_path: Path) -> None:
    model = load_model(trained, Idempotent)
    average = Run(trained).latest().average
    assert model.config == config_of_a_run().model and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items())
    exported = load_model(export(trained, tmp_path / "small"), Idempotent)
    for name, value in exported.state_dict().items():
        assert torch.equal(value, average[name].half().to(value.dtype) if value.is_floating_point() else average[name]), name
    assert bits(exported.operator(), to_unit(load("mnist5k", "test").images[:20]), compared=3).ok


def test_a_damaged_checkpoint_is_refused_or_passed_over(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, state = Run(tmp_path / "run"), Run(trained).latest()
    run.begin(Run(trained).config())
    for step in (3, 6):
        path = run.save(step, state.model, induced.load(trained), state.optimizer) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="other bytes than config.json"):
        load_model(tmp_path / "run", Idempotent)
    load_model(tmp_path / "run", Idempotent, fallback=True)
    assert "fell back to step-00000003" in capsys.readouterr().out


def test_the_folders_of_a_projector_open_as_its_model_and_as_its_linearizer(trained: Path, tmp_path: Path) -> None:
    x = to_unit(load("mnist5k", "test").images[:3])
    for folder in (trained, Run(trained).checkpoints()[-1], export(trained, tmp_path / "small")):
        model = induced.load(folder)
        assert isinstance(model, Idempotent)
        assert torch.equal(Linearizer.from_pretrained(folder)(x), model.operator()(x))


# ------------------------------------------------------------------------------------------------------------------- config
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 65}, r"a rank is None or lies in 0..64, the dimension for shape \(1, 8, 8\); got 65"),
        ({"rank": 0}, "a rotated basis needs a rank of at least 1, got 0"),
        ({"rank": None}, "a rotated basis needs a rank of at least 1, got None"),
        ({"widths": (4, 4, 4)}, "sides divisible by 16 are needed, got 2 blocks and sides 8, 8"),
        ({"widths": ()}, "at least one width"),
        ({"blocks": 0}, "one block and sides divisible by 8 are needed, got 0 blocks"),
        ({"bits": 24}, r"bits lies in 1..23, got 24"),
        ({"weight_bits": 0}, r"weight_bits lies in 1..30, got 0"),
        ({"hardening": -1}, "hardening must be at least 0, got -1"),
    ],
)
def test_a_model_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize("name", [f.name for f in fields(ObjectiveConfig)])
def test_weights_that_cannot_be_meant_are_refused(name: str) -> None:
    least = 1 if name == "isometry_every" else 0
    with pytest.raises(DomainError, match=f"{name} must be at least {least}, got {least - 1}"):
        ObjectiveConfig(**{name: least - 1})


def test_the_record_of_a_run_is_the_config(trained: Path) -> None:
    record, config = Run(trained).config(), config_of_a_run()
    assert record["model"] == json.loads(json.dumps(asdict(config.model)))
    assert record["objective"] == asdict(config.objective)
