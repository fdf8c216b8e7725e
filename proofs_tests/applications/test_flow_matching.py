"""Flow matching: one step is many, the losses are their formulas, runs survive a kill, damaged files are refused."""

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import induced
from applications import cli
from applications.common.data import load, to_unit
from applications.common.kinds import export, load_model
from applications.common.metrics import psnr
from applications.common.options import ModelSource
from applications.common.perceptual import pyramid_distance
from applications.common.quality import quality
from applications.common.runs import Run
from applications.common.training import Objective, TrainingConfig
from applications.flow_matching import evaluate, load_pretrained
from applications.flow_matching.config import Config, ModelConfig, ObjectiveConfig
from applications.flow_matching.model import DATA, NOISE, EndPointRate, FlowMatching, at_a_time, build
from applications.flow_matching.objective import (
    FlowMatchingObjective,
    LatentObjective,
    end_point_loss,
    minus_log_density,
    perturb,
    velocity_loss,
)
from applications.flow_matching.record import APPLICATION
from applications.flow_matching.sampling import direction, encode, exact_times, interpolate, move, noise, sample
from applications.flow_matching.tour import tour
from applications.flow_matching.train import train, training_set
from applications.style_transfer.model import StyleTransfer
from induced import EuclideanSpace, Linearizer
from induced.bijections import Reversible
from induced.bijections.networks import UNet
from induced.checks import Report
from induced.errors import CheckpointError, DomainError, ShapeError
from induced.operators import Dense, LinearOperator, LowRank, ScaledIdentityPlusLowRank, svd
from induced.propagators import LowRankFamily, OperatorFamily, SharedBasisFamily, integrate, propagator
from induced.serialization import notes

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY = ModelConfig(blocks=3, widths=(4, 4, 4), dense_blocks=2, dense_width=8, density_blocks=2, density_width=8, rank=4)
SMALL = ModelConfig(
    shape=(1, 4, 4), blocks=1, widths=(4,), dense_blocks=2, dense_width=8, density_blocks=2, density_width=8, rank=4
)
BRIEF = TrainingConfig(steps=3, batch=16, warmup=2, log_every=1)
FLAGS = [
    *(
        "--blocks",
        "3",
        "--widths",
        "4",
        "4",
        "4",
        "--dense-blocks",
        "2",
        "--dense-width",
        "8",
        "--rank",
        "4",
        "--density-blocks",
        "2",
    ),
    *("--batch", "16", "--sample-every", "0", "--log-every", "1", "--latent-steps", "8", "--latent-batch", "32"),
]
LONG = [*FLAGS, "--steps", "40", "--checkpoint-every", "4", "--device", "cpu"]
ENDINGS = (".png", ".json", ".jsonl", "checkpoints/", "tensorboard/")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
SAMPLERS = pytest.mark.parametrize(
    ("method", "steps"), [(method, steps) for method in ("euler", "rk4") for steps in (1, 10, 100)]
)


@pytest.fixture(scope="module")
def pretrained() -> FlowMatching:
    return ModelSource(pretrained="mnist").load(FlowMatching)


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    """100 of the digits that mnist5k holds out, ten of each class."""
    return to_unit(load("mnist5k", "test").images[::5])


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps."""
    folder = tmp_path_factory.mktemp("flow") / "run"
    train(Config(model=TINY, training=BRIEF, latent_steps=2, latent_batch=16), Run(folder), device="cpu")
    return folder


def ready(config: ModelConfig, dtype: torch.dtype = torch.float64, *, stir: float = 0.02) -> FlowMatching:
    """An initialised model whose every parameter is moved away from its start, so that no part is trivial."""
    model = build(config).to(dtype)
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(8, *config.shape, generator=generator, dtype=dtype) * 2 - 1
    with torch.no_grad():
        model.chart_at(NOISE).initialize(torch.randn(8, *config.shape, generator=generator, dtype=dtype))
        model.chart_at(DATA).initialize(images)
        for parameter in model.parameters():
            parameter.add_(stir * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def batch_of(config: ModelConfig, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(n, *config.shape, generator=torch.Generator().manual_seed(17), dtype=dtype) * 2 - 1


def draws_of(objective: Objective, n: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The randomness of a step, but with a time of its own for each sample: a small batch would share one."""
    draws = {name: value.to(dtype) for name, value in objective.draw(n, torch.Generator().manual_seed(7)).items()}
    return draws | {"time": torch.linspace(0.02, 0.98, n, dtype=dtype)}


def command(*arguments: object) -> None:
    """The command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["induced", *map(str, arguments)])
        cli.main()


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of the newest checkpoint: its files are made from the states alone, so equal bytes are equal states."""
    return {path.name: path.read_bytes() for path in sorted(Run(folder).checkpoints()[-1].iterdir())}


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [{name: v for name, v in record.items() if name != "seconds"} for record in Run(folder).metrics()]


# ------------------------------------------------------------------------------------------------------- one step is many
def assert_one_step_is_many(model: FlowMatching, x0: Tensor, steps: int, method: Literal["euler", "rk4"]) -> None:
    """In coordinates, where no chart rounds, and as pictures."""
    with torch.no_grad():
        f = model.operator(steps, method)
        z0 = f.domain.coords(x0)
        once, many = f.core(z0), integrate(model.family, z0, steps=steps, method=method)
        pictures = psnr(f(x0), model.multi_step(x0, steps, method))
    assert float((once - many).norm()) <= TOLERANCE[x0.dtype] * float(many.norm())
    assert float(pictures.mean()) > 100


@DTYPES
@SAMPLERS
def test_one_step_is_many_steps(method: Literal["euler", "rk4"], steps: int, dtype: torch.dtype) -> None:
    model = ready(TINY, dtype)
    assert_one_step_is_many(model, noise(model, 6), steps, method)


@DTYPES
@SAMPLERS
def test_one_step_is_many_steps_on_the_pretrained_model_at_noise_and_at_the_encodings_of_digits(
    pretrained: FlowMatching, held_out: Tensor, method: Literal["euler", "rk4"], steps: int, dtype: torch.dtype
) -> None:
    model = evaluate.in_dtype(pretrained, dtype)
    encodings = encode(model.operator(20), held_out[:4].to(dtype))
    assert_one_step_is_many(model, torch.cat([noise(model, 4), encodings]), steps, method)


def test_encodings_keep_what_the_cutoff_of_a_dense_matrix_of_that_size_would_drop() -> None:
    n, rest_std = 64 * 64 * 3, 1e-3  # n eps is 1/683
    U = torch.linalg.qr(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)))[0]
    X = EuclideanSpace(n)
    f = Linearizer(ScaledIdentityPlusLowRank(torch.tensor(rest_std), U, (1 - rest_std) * U), X)
    x0 = torch.randn(2, n, generator=torch.Generator().manual_seed(1))
    assert (encode(f, f(x0)) - x0).norm() < 1e-3 * x0.norm()
    assert (f.pinv(n * torch.finfo(x0.dtype).eps)(f(x0)) - x0).norm() > 0.9 * x0.norm()
    dropped = Linearizer(LowRank(U, U), X)  # what a B of low rank loses stays lost
    assert torch.allclose(encode(dropped, x0), x0 @ U @ U.mT, atol=1e-4)


def test_one_step_keeps_its_gradient() -> None:
    """d/dx of one step is that of many steps: the collapsed operator is no detached constant."""
    model, x0 = ready(SMALL), noise(ready(SMALL), 3)
    gradients = []
    for sampler in (lambda: model.operator(5)(x0), lambda: model.multi_step(x0, 5)):
        model.zero_grad()
        sampler().square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for once, many in zip(*gradients, strict=True):
        torch.testing.assert_close(once, many, rtol=1e-9, atol=1e-11)


# ------------------------------------------------------------------------------------------------------------- the losses
class Swing(OperatorFamily):
    """A_t = cos(t) M + sin(t) N, whose matrices the test makes by itself."""

    def __init__(self, M: Tensor, N: Tensor) -> None:
        super().__init__(len(M))
        self.M, self.N = M, N

    def at(self, t: float | Tensor) -> LinearOperator:
        return Dense(math.cos(float(t)) * self.M + math.sin(float(t)) * self.N)


def sample_by_sample(matrices: list[np.ndarray], z0: Tensor, z1: Tensor, t: Tensor) -> float:
    errors = []
    for A, a, b, s in zip(matrices, z0.numpy(), z1.numpy(), t.tolist(), strict=True):
        errors.append(np.mean((A @ ((1 - s) * a + s * b) - (b - a)) ** 2))
    return float(np.mean(errors))


@pytest.mark.parametrize("t", [[0.3] * 7, [0.0, 0.1, 0.1, 0.9, 0.1, 0.1, 1.0]], ids=["one time for all", "runs of equal times"])
@torch.no_grad()
def test_the_velocity_loss_is_its_formula_sample_by_sample(t: list[float]) -> None:
    z0, z1, M, N = torch.randn(4, 7, 7, dtype=torch.float64)
    times = torch.tensor(t, dtype=torch.float64)
    swing = [math.cos(s) * M.numpy() + math.sin(s) * N.numpy() for s in t]
    assert float(velocity_loss(Swing(M, N), z0, z1, times)) == pytest.approx(sample_by_sample(swing, z0, z1, times), rel=1e-12)
    for rest_std in (None, 0.2):
        family = LowRankFamily(7, 3, rest_std=rest_std).double()
        matrices = [family.at(s).matrix().detach().numpy() for s in t]
        assert float(velocity_loss(family, z0, z1, times)) == pytest.approx(sample_by_sample(matrices, z0, z1, times), rel=1e-12)


@torch.no_grad()
def test_the_end_point_loss_is_the_velocity_loss_weighted_by_the_square_of_the_time_left() -> None:
    z0, z1 = torch.randn(2, 6, 7, dtype=torch.float64)
    family, t = LowRankFamily(7, 3, rest_std=0.2).double(), torch.linspace(0, 1, 6, dtype=torch.float64)
    errors = [float(velocity_loss(family, z0[i : i + 1], z1[i : i + 1], t[i : i + 1])) for i in range(6)]
    expected = np.mean([(1 - s) ** 2 * error for s, error in zip(t.tolist(), errors, strict=True)])
    assert float(end_point_loss(family, z0, z1, t)) == pytest.approx(expected, rel=1e-12)


def test_perturbation_and_density_are_their_formulas() -> None:
    z, unit = torch.randn(5, 6).double(), torch.randn(5, 6).double()
    std = torch.tensor([1.0, 2.0, 0.5, 0.1, 0.1, 3.0], dtype=torch.float64)
    expected = -torch.distributions.Normal(torch.zeros_like(std), std).log_prob(z) - math.log(2 * math.pi) / 2
    torch.testing.assert_close(minus_log_density(z, std), expected, rtol=1e-12, atol=1e-12)
    noisy = perturb(z, unit, std, 0.2, 2)
    for i in range(5):
        for j in range(6):
            spread = float(std[j] * unit[i, j])
            assert float(noisy[i, j]) == pytest.approx(float(z[i, j]) + 0.2 * spread if j < 2 else spread, rel=1e-12)


def parts_by_hand(model: FlowMatching, weights: ObjectiveConfig, images: Tensor, draws: dict[str, Tensor]) -> dict[str, float]:
    """Every part of the objective from the charts' maps, autograd Jacobians and dense matrices alone."""
    g0, g1, e = model.chart_at(NOISE), model.chart_at(DATA), model.chart_at(DATA, model.encoder)
    h = model.chart_at(DATA, model.density) if model.density else None
    n, dim, rest_std = len(images), model.dim, model.config.rest_std
    kept = dim if rest_std is None else model.config.rank
    std = np.array([1.0 if i < kept else rest_std for i in range(dim)])
    some = range(0, n, weights.noise_share)
    x0 = draws["noise_image"][list(some)]
    c1, z0 = e(images).detach().numpy(), g0(x0).detach().numpy()

    def log_det(g: torch.nn.Module, x: Tensor) -> float:
        J = torch.autograd.functional.jacobian(lambda point: g(point[None])[0], x).reshape(dim, dim)
        return float(np.linalg.slogdet(J.numpy())[1])

    def log_det_leading(c: Tensor) -> float:
        assert h is not None
        J = torch.autograd.functional.jacobian(lambda point: h(point[None])[0], c)
        return float(np.linalg.slogdet(J[:kept, :kept].numpy())[1])

    def minus_log(z: np.ndarray, s: np.ndarray) -> np.ndarray:
        return z**2 / (2 * s**2) + np.log(s)

    noisy1 = np.empty_like(c1)
    noisy1[:, :kept] = c1[:, :kept] + weights.latent_noise * std[:kept] * draws["latent_noise"].numpy()[:, :kept]
    noisy1[:, kept:] = std[kept:] * draws["latent_noise"].numpy()[:, kept:]
    noisy0 = z0 + weights.latent_noise * draws["noise_latent_noise"].numpy()[list(some)]
    decoded1, decoded0 = (g.inverse(torch.from_numpy(z)).detach() for g, z in ((e, noisy1), (g0, noisy0)))
    others = std[kept:] * draws["latent_noise"].numpy()[:, kept:]
    drawn = torch.from_numpy(np.concatenate([noisy1[:, :kept], others], 1))
    z1 = c1 if h is None else np.concatenate([h(drawn).detach().numpy()[:, :kept], others], 1)
    matrices = [model.family.at(float(t)).matrix().detach().numpy() for t in draws["time"][list(some)]]
    times, chosen = draws["time"][list(some)], torch.from_numpy(z1[list(some)])
    states = [(1 - t) * a + t * b for t, a, b in zip(times, torch.from_numpy(z0), chosen, strict=True)]
    predicted = torch.stack([z + (1 - t) * torch.from_numpy(A) @ z for t, z, A in zip(times, states, matrices, strict=True)])
    decoded = g1.inverse(predicted).detach()
    density = (
        {} if h is None else {"density": float(minus_log(z1, std)[:, :kept].sum() - sum(map(log_det_leading, drawn))) / n / dim}
    )
    noise_losses = {
        "noise_reconstruction": float(((decoded0 - x0) ** 2).mean()),
        "noise_likelihood": float(minus_log(z0, np.ones(dim)).mean() - np.mean([log_det(g0, x) for x in x0]) / dim),
    }
    return (
        density
        | (noise_losses if model.config.noise_space != "euclidean" else {})
        | {
            "velocity": sample_by_sample(matrices, torch.from_numpy(z0), torch.from_numpy(z1[list(some)]), times),
            "end_point": float(((predicted - chosen) ** 2).mean()),
            "end_point_image": float(((decoded - images[list(some)]) ** 2).mean()),
            "end_point_perceptual": float(pyramid_distance(decoded, images[list(some)]).mean()),
            "reconstruction": float(((decoded1 - images) ** 2).mean()),
            "perceptual": float(pyramid_distance(decoded1, images).mean()),
            "prior": float(minus_log(c1, std)[:, :kept].sum() / c1.size),
            "residual": float(minus_log(c1, std)[:, kept:].sum() / c1.size),
            "likelihood": float(minus_log(c1, std).mean() - np.mean([log_det(e, x) for x in images]) / dim),
        }
    )


@pytest.mark.parametrize("likelihood", [0.0, 0.7])
@pytest.mark.parametrize("rest_std", [0.1, None])
@pytest.mark.parametrize("noise_space", ["euclidean", "labelled", "shared"])
def test_the_loss_is_the_weighted_sum_of_its_parts_and_each_part_its_formula(
    noise_space: Literal["euclidean", "labelled", "shared"], rest_std: float | None, likelihood: float
) -> None:
    """The likelihood is minus log density minus log|det J|, by autograd's Jacobian, and is there only if it has a weight."""
    weights = ObjectiveConfig(
        velocity=1.3,
        end_point=0.3,
        end_point_image=0.9,
        end_point_perceptual=0.8,
        reconstruction=5.0,
        perceptual=1.1,
        prior=2.0,
        residual=0.6,
        density=1.7,
        likelihood=likelihood,
        noise_reconstruction=0.4,
        noise_share=2,
    )
    config = replace(SMALL, rest_std=rest_std, noise_space=noise_space)
    objective = FlowMatchingObjective(ready(config), weights)
    images, draws = batch_of(config, 6), draws_of(objective, 6)
    found = {name: float(value.detach()) for name, value in objective({"images": images}, draws).items()}
    expected = parts_by_hand(objective.model, weights, images, draws)
    if not likelihood:
        del expected["likelihood"]
    assert found == pytest.approx(expected | {"loss": sum(getattr(weights, k) * v for k, v in expected.items())}, rel=1e-9)


def test_an_objective_without_any_weight_is_refused() -> None:
    nothing: dict[str, Any] = {
        f.name: 0.0 for f in fields(ObjectiveConfig) if isinstance(f.default, float) and f.name != "latent_noise"
    }
    objective = FlowMatchingObjective(ready(SMALL), ObjectiveConfig(**nothing))
    with pytest.raises(DomainError, match=r"every loss of this stage has weight 0 \(velocity, end_point, "):
        objective({"images": batch_of(SMALL, 4)}, draws_of(objective, 4))


def test_draws_are_a_pure_function_of_the_generator() -> None:
    objective = FlowMatchingObjective(build(SMALL), ObjectiveConfig())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = objective.draw(40, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = (objective.draw(40, torch.Generator().manual_seed(seed)) for seed in (5, 6))
    assert {name: tuple(value.shape) for name, value in first.items()} == {
        "noise_image": (40, 1, 4, 4),
        "latent_noise": (40, 16),
        "noise_latent_noise": (40, 16),
        "time": (40,),
    }
    for name, value in first.items():
        assert torch.equal(value, second[name]) and not torch.equal(value, other[name]), name
    groups = first["time"][[0, 16, 32]]
    assert torch.equal(first["time"], groups.repeat_interleave(16)[:40])
    assert torch.equal((3 * groups).floor(), torch.tensor([0.0, 1.0, 2.0]))


def test_the_objective_uses_no_global_randomness() -> None:
    objective = FlowMatchingObjective(ready(SMALL), ObjectiveConfig())
    images, draws = batch_of(SMALL, 8), draws_of(objective, 8)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(objective({"images": images}, draws))
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.parametrize("noise_space", ["euclidean", "labelled"])
@pytest.mark.parametrize("rest_std", [0.03, None])
def test_gradients_reach_every_parameter_and_are_finite(
    rest_std: float | None, noise_space: Literal["euclidean", "labelled"]
) -> None:
    config = replace(TINY, rest_std=rest_std, noise_space=noise_space)
    objective = FlowMatchingObjective(ready(config, torch.float32), ObjectiveConfig())
    objective({"images": batch_of(config, 8, torch.float32)}, draws_of(objective, 8, torch.float32))["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()) and float(parameter.grad.abs().max()) > 0, name


def test_a_part_of_a_batch_that_would_pair_other_images_is_refused() -> None:
    objective = FlowMatchingObjective(ready(SMALL), ObjectiveConfig(noise_share=4))
    with pytest.raises(ShapeError, match="here 10 rows, must be a multiple of noise_share=4"):
        objective({"images": batch_of(SMALL, 10)}, draws_of(objective, 10))
    second = LatentObjective(objective.model, ObjectiveConfig(noise_share=4))
    with pytest.raises(ShapeError, match="here 10 rows, must be a multiple of noise_share=4"):
        second({"coordinates": torch.zeros(10, SMALL.rank)}, draws_of(second, 10))


@torch.no_grad()
def test_the_losses_of_a_batch_are_the_means_of_those_of_its_halves() -> None:
    """What makes two processes train as one."""
    n = 32
    objective = FlowMatchingObjective(ready(SMALL), ObjectiveConfig(noise_share=4))
    images, draws = batch_of(SMALL, n), draws_of(objective, n)
    whole = objective({"images": images}, draws)
    parts = [slice(n // 2), slice(n // 2, n)]
    halves = [objective({"images": images[part]}, {name: value[part] for name, value in draws.items()}) for part in parts]
    for name, value in whole.items():
        assert float(value) == pytest.approx(float(halves[0][name] + halves[1][name]) / 2, rel=1e-9), name


# ------------------------------------------------------------------------------------------------ a family of end points
@pytest.mark.parametrize("family", ["low rank", "shared basis"])
@torch.no_grad()
def test_a_family_of_end_points_takes_its_last_step_to_the_prediction_and_is_of_rank_r(
    family: Literal["low rank", "shared basis"],
) -> None:
    """By hand: Euler steps of (A_t z - z) / (1 - t); the last of them, at 1 - h, lands on the prediction."""
    model, steps = ready(replace(SMALL, prediction="end point", rest_std=None, family=family)), 5
    z = torch.randn(3, model.dim, dtype=torch.float64)
    state = z
    for k in range(steps):
        assert isinstance(model.family, EndPointRate)
        t, A = k / steps, model.family.prediction.at(k / steps).matrix()
        state = state + (state @ A.mT - state) / (1 - t) / steps
    torch.testing.assert_close(model.core(steps, "euler")(z), state, rtol=1e-9, atol=1e-12)
    for method in ("euler", "rk4", "magnus4"):
        for count in (1, 2, 20):
            B = model.core(count, method)
            torch.testing.assert_close(model.transport(z, count, method), B(z), rtol=1e-9, atol=1e-12)
            assert int(torch.linalg.matrix_rank(B.matrix())) == model.config.rank


@torch.no_grad()
def test_a_family_of_end_points_collapses_in_the_one_basis_of_its_prediction() -> None:
    model, times = (
        ready(replace(SMALL, prediction="end point", rest_std=None, family="shared basis")),
        torch.tensor([0.0, 0.5, 0.9]),
    )
    restricted = model.family.restricted(times, model.dim)
    assert restricted is not None and model.family.restricted(times, SMALL.rank - 1) is None
    (Q, core), eye = restricted, torch.eye(model.dim).double()
    for t, c, X, Y in zip(times, *core(times), strict=True):
        torch.testing.assert_close(c * eye + Q @ X @ Y.mT @ Q.mT, model.family.at(t).matrix(), rtol=1e-9, atol=1e-12)


def test_a_model_of_one_shared_basis_has_the_losses_of_its_family_and_one_step_is_many() -> None:
    model = ready(replace(SMALL, family="shared basis"))
    objective, images = FlowMatchingObjective(model, ObjectiveConfig()), batch_of(SMALL, 4)
    objective({"images": images}, draws_of(objective, 4))["loss"].backward()
    assert isinstance(model.family, SharedBasisFamily) and model.family.directions.grad is not None
    assert_one_step_is_many(model, torch.randn(4, 1, 4, 4, dtype=torch.float64), 10, "rk4")


@torch.no_grad()
def test_the_end_point_loss_of_a_family_of_end_points_is_the_distance_of_its_prediction() -> None:
    model = ready(replace(SMALL, prediction="end point", rest_std=None))
    z0, z1, t = *torch.randn(2, 4, model.dim, dtype=torch.float64), torch.linspace(0, 0.9, 4, dtype=torch.float64)
    states = (1 - t)[:, None] * z0 + t[:, None] * z1
    assert isinstance(model.family, EndPointRate)
    predictions = torch.stack([model.family.prediction.at(float(s)).matrix() @ z for s, z in zip(t, states, strict=True)])
    assert float(end_point_loss(model.family, z0, z1, t)) == pytest.approx(float(((predictions - z1) ** 2).mean()), rel=1e-9)


def test_a_family_of_end_points_has_no_floor_and_no_velocity_loss() -> None:
    with pytest.raises(DomainError, match=r"of rank r: expected rest_std=None, got 0.03"):
        ModelConfig(prediction="end point")
    with pytest.raises(DomainError, match="singular at t = 1: train it with velocity 0, end_point > 0"):
        FlowMatchingObjective(build(replace(SMALL, prediction="end point", rest_std=None)), ObjectiveConfig())


# -------------------------------------------------------------------------------------------------------- other charts
@pytest.mark.parametrize("change", [{"chart": "identity"}, {"chart": "linear"}, {}], ids=["identity", "linear", "glow"])
def test_charts_to_compare_with_train_and_sample(change: dict[str, Any]) -> None:
    model = ready(replace(SMALL, noise_space="shared", **change))
    x = batch_of(SMALL, 4)
    assert torch.equal(model.chart_at(NOISE)(x), model.chart_at(DATA)(x))
    objective = FlowMatchingObjective(model, ObjectiveConfig())
    objective({"images": x}, draws_of(objective, 4))["loss"].backward()
    assert_one_step_is_many(model, torch.randn(4, 1, 4, 4, dtype=torch.float64), 10, "rk4")
    shift = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    linear = torch.allclose(model.chart_at(DATA)(x + shift), model.chart_at(DATA)(x) + model.chart_at(DATA)(shift))
    assert linear == ("chart" in change)


def test_a_reversible_model_of_u_nets_has_the_losses_and_gradients_of_the_plain_one() -> None:
    model = ready(replace(SMALL, conditioner="unet"))
    assert any(isinstance(part, UNet) for part in model.modules())
    reversible = build(replace(SMALL, conditioner="unet", reversible=True)).double()
    reversible.load_state_dict(model.state_dict())
    found = []
    for m in (model, reversible):
        objective = FlowMatchingObjective(m, ObjectiveConfig(likelihood=0.5))
        losses = objective({"images": batch_of(SMALL, 4)}, draws_of(objective, 4))
        losses["loss"].backward()
        found.append(({k: float(v.detach()) for k, v in losses.items()}, [p.grad for p in m.parameters()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)
    assert isinstance(reversible.chart_at(DATA), Reversible) and reversible.space(DATA) == reversible.space(DATA)


@torch.no_grad()
def test_dense_couplings_may_be_left_out() -> None:
    model, x = ready(replace(SMALL, dense_blocks=0)), batch_of(SMALL, 3)
    assert len(model.encoder) == 2 and len(ready(SMALL).encoder) == 3
    torch.testing.assert_close(model.chart_at(DATA).inverse(model.chart_at(DATA)(x)), x, rtol=0, atol=1e-9)
    assert_one_step_is_many(model, torch.randn(4, 1, 4, 4, dtype=torch.float64), 10, "rk4")


@torch.no_grad()
def test_samples_do_not_depend_on_how_many_are_drawn_at_a_time() -> None:
    model = ready(SMALL)
    f, x0 = model.operator(), noise(model, 5)
    torch.testing.assert_close(sample(f, x0, batch=2), f(x0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sample(f, x0), f(x0), rtol=1e-9, atol=1e-12)
    assert sample(f, x0[:0]).shape == (0, *SMALL.shape)
    assert [at_a_time(dim) for dim in (1024, 3 * 64 * 64, 2**20)] == [512, 42, 1]


@torch.no_grad()
def test_the_chart_of_the_data_end_is_the_density_after_the_encoder() -> None:
    model, x = ready(SMALL), batch_of(SMALL, 3)
    c = model.chart_at(DATA, model.encoder)(x)
    torch.testing.assert_close(model.chart_at(DATA, model.density)(c), model.chart_at(DATA)(x), rtol=0, atol=0)
    assert not ready(replace(SMALL, density_blocks=0)).density
    assert torch.equal(model.chart_at(NOISE)(x), x.flatten(1))  # the noise space is R^n
    assert model.space(DATA) == model.space(DATA) and model.operator().codomain == model.operator().codomain


def test_the_encoder_does_not_learn_from_the_density_of_its_coordinates() -> None:
    """Or it would shrink them: the density of fixed coordinates cannot collapse."""
    weights: dict[str, Any] = {
        f.name: 0.0 for f in fields(ObjectiveConfig) if isinstance(f.default, float) and f.name != "latent_noise"
    }
    model = ready(SMALL)
    objective = FlowMatchingObjective(model, ObjectiveConfig(**weights | {"density": 1.0}))
    objective({"images": batch_of(SMALL, 4)}, draws_of(objective, 4))["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    assert trained and all(name.startswith("chart.parts.3.") for name in trained)


@torch.no_grad()
def test_the_second_stage_is_the_density_and_velocity_of_the_leading_coordinates() -> None:
    """By the whole chart at the coordinates that are drawn, and its autograd Jacobian."""
    model, images = ready(SMALL), torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    leading, std, r = model.encode_leading(images, batch=3), model.latent_std(), SMALL.rank
    c = model.chart_at(DATA, model.encoder)(to_unit(images).double())
    torch.testing.assert_close(leading, c[:, :r], rtol=1e-9, atol=1e-12)
    z = model.chart_at(DATA, model.density)(c)
    assert float(z[:, r:].square().mean().sqrt()) == pytest.approx(SMALL.rest_std, rel=1e-9)
    weights = ObjectiveConfig(velocity=0.7, end_point=0.5, density=3.0, noise_share=2)
    objective = LatentObjective(model, weights)
    draws = draws_of(objective, 8)
    found = objective({"coordinates": leading}, draws)
    others = std[r:] * draws["latent_noise"][:, r:]
    h = model.chart_at(DATA, model.density)
    drawn = torch.cat([leading + weights.latent_noise * draws["latent_noise"][:, :r], others], -1)
    z1 = torch.cat([h(drawn)[:, :r], others], -1)
    path = model.family, draws["noise_image"][::2].flatten(1), z1[::2], draws["time"][::2]
    with torch.enable_grad():
        volumes = [torch.linalg.slogdet(torch.autograd.functional.jacobian(h, row)[:r, :r])[1] for row in drawn]
    expected = {
        "velocity": float(velocity_loss(*path)),
        "end_point": float(end_point_loss(*path)),
        "density": float((z1[:, :r].square().sum(1) / 2 - torch.stack(volumes)).mean() / model.dim),
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        expected | {"loss": 0.7 * expected["velocity"] + 0.5 * expected["end_point"] + 3.0 * expected["density"]}, rel=1e-9
    )


# ------------------------------------------------------------------------------------------------- editing and likelihood
@torch.no_grad()
def test_an_edit_moves_by_a_multiple_of_a_difference_of_means() -> None:
    model, x = ready(SMALL), batch_of(SMALL, 6)
    f, X = model.operator(), model.space(DATA)
    v = direction(f, x[:2], x[2:])
    torch.testing.assert_close(X.coords(v), X.coords(x[2:]).mean(0) - X.coords(x[:2]).mean(0), rtol=1e-9, atol=1e-9)
    moved = move(f, x[0], v, torch.tensor([0.0, 0.5, -1.0], dtype=torch.float64))
    torch.testing.assert_close(moved[0], x[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved[2], X.sub(x[:1], v[None])[0], rtol=1e-9, atol=1e-9)
    assert move(f, x[0], v, torch.zeros(0, dtype=torch.float64)).shape == (0, 1, 4, 4)
    with pytest.raises(ShapeError, match="difference of two means; got 0 and 6 images"):
        direction(f, x[:0], x)


@torch.no_grad()
def test_the_exact_times_reach_the_exact_propagator() -> None:
    model = ready(SMALL)
    fine = model.core(2000, "rk4").matrix()
    torch.testing.assert_close(model.core(exact_times(model, 1e-7), "magnus4").matrix(), fine, rtol=0, atol=1e-6)
    assert (model.core(2, "rk4").matrix() - fine).abs().max() > 1e-4
    times = exact_times(model)
    assert exact_times(model.float()) == pytest.approx(times, abs=1e-3)  # a tolerance below the rounding of float32
    torch.testing.assert_close(model.core(times, "magnus4").matrix(), fine.float(), rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_likelihood_is_that_of_the_change_of_variables() -> None:
    """log N(x_0) + log|det| of the Jacobian of the inverse map, by autograd alone."""
    model, x = ready(SMALL), batch_of(SMALL, 3)
    f = model.operator()
    inverse = f.pinv()
    for point, found in zip(x, evaluate.log_likelihood(model, f, x).tolist(), strict=True):
        x0 = inverse(point[None])[0]
        with torch.enable_grad():
            J = torch.autograd.functional.jacobian(lambda p: inverse(p[None])[0].flatten(), point).reshape(16, 16)
        expected = float(torch.distributions.Normal(0.0, 1.0).log_prob(x0).sum() + torch.linalg.slogdet(J)[1])
        assert found == pytest.approx(expected, rel=1e-9)
    assert float(evaluate.log_likelihood(model, f, x).std()) > 0


@torch.no_grad()
def test_bits_per_dimension_count_a_byte_as_its_bin_of_pixels() -> None:
    """A density that is uniform over [-1, 1) costs 8 bits; the model's differs from it by its log-likelihood."""
    model = ready(SMALL)
    images = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    u, f = torch.rand(2, 1, 4, 4, dtype=torch.float64), model.operator()
    bits = evaluate.bits_per_dimension(model, f, images, u)
    excess = -(evaluate.log_likelihood(model, f, to_unit(images, u)) + 16 * math.log(2)) / 16 / math.log(2)
    torch.testing.assert_close(bits, 8 + excess, rtol=1e-9, atol=1e-9)


def test_quality_tells_digits_from_noise_and_asks_for_enough_real_images() -> None:
    real, other = load("mnist5k", "test"), to_unit(load("mnist5k", "train").images[::20])
    good, bad = quality(other, real), quality(torch.rand(225, 1, 32, 32) * 2 - 1, real)
    assert good.features == "digit classifier" and good.samples == 225
    assert good.frechet < 0.2 * bad.frechet and good.precision > 0.5 > bad.precision and good.recall > bad.recall
    assert good.confident > 0.9 and good.imbalance < bad.imbalance
    with pytest.raises(ShapeError, match="equal numbers: got 501 samples and 500 images of mnist5k"):
        quality(torch.zeros(501, 1, 32, 32), real)


# ------------------------------------------------------------------------------------------------------ the Gaussian oracle
RANK, DIM, FLOOR = 4, 12, 0.1


def oracle_family(seed: int = 0, *, untrained: bool = False, perturbed: float = 0.0) -> LowRankFamily:
    """The family at its start; without `untrained`, less the small random part that its network of t adds."""
    torch.manual_seed(seed)
    family = LowRankFamily(DIM, RANK, rest_std=FLOOR).double()
    with torch.no_grad():
        if not untrained:
            family.factors.zero_()
        family.offset.add_(perturbed * torch.randn(family.offset.shape, dtype=torch.float64))
    return family


def test_the_velocity_loss_is_least_at_the_gaussian_oracle() -> None:
    """Its least value is the mean variance of z_1 - z_0 given z_t, s^2 / ((1-t)^2 + t^2 s^2) for each coordinate."""
    generator = torch.Generator().manual_seed(1)
    std = torch.tensor([1.0] * RANK + [FLOOR] * (DIM - RANK), dtype=torch.float64)
    z0, unit = torch.randn(2, 40_000, DIM, generator=generator, dtype=torch.float64)
    t = ((torch.arange(400, dtype=torch.float64) + 0.5) / 400).repeat_interleave(100)

    def loss(family: LowRankFamily) -> float:
        with torch.no_grad():
            return float(velocity_loss(family, z0, std * unit, t))

    least = loss(oracle_family())
    variance = std**2 / ((1 - t[:, None]) ** 2 + (t[:, None] * std) ** 2)
    # squares of Gaussians of these variances have the variances 2 variance^2
    standard_error = float((2 * variance**2).sum().sqrt()) / z0.numel()
    assert abs(least - float(variance.mean())) < 4 * standard_error
    for seed in range(3):
        start = loss(oracle_family(seed, untrained=True))
        assert least < start
        for size in (0.1, 0.3):
            assert start < loss(oracle_family(seed, untrained=True, perturbed=size)), (seed, size)
            assert least < loss(oracle_family(seed, perturbed=size)), (seed, size)


def test_the_propagator_of_the_gaussian_oracle_has_its_standard_deviations_as_singular_values() -> None:
    def scalar_rk4(s: float, steps: int) -> float:
        """d/dt log sqrt((1-t)^2 + t^2 s^2), integrated in plain floats."""

        def a(t: float) -> float:
            return (t * s * s - (1 - t)) / ((1 - t) ** 2 + t * t * s * s)

        z, h = 1.0, 1 / steps
        for k in range(steps):
            t = k * h
            k1 = a(t) * z
            k2 = a(t + h / 2) * (z + h / 2 * k1)
            k3 = a(t + h / 2) * (z + h / 2 * k2)
            k4 = a(t + h) * (z + h * k3)
            z += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z

    errors = []
    with torch.no_grad():
        for steps in (100, 200):
            values = svd(propagator(oracle_family(), steps=steps)).values
            expected = sorted([scalar_rk4(1.0, steps)] * RANK + [scalar_rk4(FLOOR, steps)] * (DIM - RANK), reverse=True)
            torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=0)
            exact = torch.tensor([1.0] * RANK + [FLOOR] * (DIM - RANK), dtype=torch.float64)
            errors.append(float((values / exact - 1).abs().max()))
    assert errors[0] < 1e-4 and 12 < errors[0] / errors[1] < 20


# -------------------------------------------------------------------------------------------------------- the trained model
def test_the_pretrained_model_inverts_held_out_digits_to_60_db(pretrained: FlowMatching, held_out: Tensor) -> None:
    assert {p.dtype for p in pretrained.parameters()} == {torch.float32} and len(held_out) == 100
    f = pretrained.operator()
    found = evaluate.inversion(f, held_out)
    error = (f(f.pinv()(held_out)).double() - held_out.double()).numpy()
    by_hand = 10 * np.log10(4 / (error**2).mean((1, 2, 3)))
    assert by_hand.min() >= 60
    assert (found.psnr_min, found.psnr_mean) == pytest.approx((by_hand.min(), by_hand.mean()), rel=1e-9)
    assert found.images == 100 and found.encoding_std == pytest.approx(float(encode(f, held_out).std()))


def contents(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_embedded_digits_are_split_disjointly() -> None:
    kept, left = (contents(load("mnist5k", split).images) for split in ("train", "test"))
    assert (len(load("mnist5k", "train")), len(load("mnist5k", "test"))) == (4500, 500)
    assert not kept & left
    assert contents(training_set(Config()).images) == kept


@pytest.mark.skipif(not os.environ.get("INDUCED_DATA"), reason="MNIST's files are needed: set INDUCED_DATA")
def test_the_digits_that_judge_a_model_are_left_out_of_full_mnist() -> None:
    left = contents(load("mnist5k", "test").images)
    everything = training_set(Config(data="mnist", leave_out=False))
    assert len(everything) == 60_000 and left < contents(everything.images)
    kept = training_set(Config(data="mnist"))
    assert not left & contents(kept.images)
    assert notes(APPLICATION.shipped()["mnist"])["data"] == {"name": kept.name, "images": len(kept)}


@DTYPES
def test_every_law_holds_for_the_pretrained_model(
    pretrained: FlowMatching, held_out: Tensor, dtype: torch.dtype, laws: dict[str, list[Report]]
) -> None:
    reports = laws[str(dtype).removeprefix("torch.")]
    assert len(reports) >= 47
    failed = [str(report) for report in reports if not report.ok]
    assert not failed, "\n".join(failed)


@pytest.fixture(scope="module")
def laws(pretrained: FlowMatching, held_out: Tensor) -> dict[str, list[Report]]:
    return evaluate.axioms(pretrained, held_out[::25])


def test_the_integrators_converge_at_their_order_on_the_pretrained_family(pretrained: FlowMatching) -> None:
    assert evaluate.convergence_order(pretrained, "rk4", (100, 200)) == pytest.approx(4, abs=0.3)
    assert evaluate.convergence_order(pretrained, "euler", (100, 200)) == pytest.approx(1, abs=0.1)


def test_interpolation_ends_at_the_images_and_is_the_induced_segment(pretrained: FlowMatching, held_out: Tensor) -> None:
    model, images = evaluate.in_dtype(pretrained, torch.float64), held_out[[3, 42]].double()
    f = model.operator()
    strip = interpolate(f, images[0], images[1], 5)
    assert strip.shape == (5, 1, 32, 32)
    torch.testing.assert_close(strip[[0, 4]], images, rtol=0, atol=1e-9)
    codes = encode(f, images)
    for step, t in ((2, 0.5), (3, 0.75)):
        torch.testing.assert_close(strip[step], f(f.domain.segment(codes[0], codes[1], t)), rtol=0, atol=1e-9)
        torch.testing.assert_close(strip[step], f.codomain.segment(images[0], images[1], t), rtol=0, atol=1e-9)
    single = interpolate(pretrained.operator(), held_out[3], held_out[42], 3)
    assert float(((single[[0, 2]] - held_out[[3, 42]]) ** 2).mean()) < 4 / 10**6  # 60 dB


# -------------------------------------------------------------------------------------------------------------------- store
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
    with pytest.raises(CheckpointError, match="is the folder of a run, whose settings a model would hide"):
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
        (lambda c: c["objects"]["0"].update({"class": "style_transfer.StyleTransfer"}), "settings of another release: lacking"),
        (lambda c: arguments(c).pop("rank"), r"settings of another release: lacking \['rank'\], unknown \[\]"),
        (lambda c: arguments(c).update(depth=3), r"settings of another release: lacking \[\], unknown \['depth'\]"),
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


# -------------------------------------------------------------------------------------------------- killed, resumed, shared
@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "whole"
    command("train", "flow-matching", *LONG, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `kill -9` ended soon after its second checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    arguments = [sys.executable, "-m", "applications.cli", "train", "flow-matching", *LONG, "--out", str(folder)]
    with (folder.parent / "output").open("wb") as output:
        process = subprocess.Popen(arguments, env=ENVIRONMENT, cwd=ROOT, stdout=output, stderr=output)
        deadline = time.monotonic() + 600
        while process.poll() is None and not (folder / "checkpoints" / "step-00000008").exists():
            assert time.monotonic() < deadline, (folder.parent / "output").read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (folder.parent / "output").read_text()
    return folder


def test_a_killed_training_resumes_to_the_uninterrupted_end_bit_for_bit(
    killed: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(killed, tmp_path / "run")
    last = Run(folder).latest().step
    assert 8 <= last < 40
    command("train", "flow-matching", *LONG, "--out", folder, "--resume")
    assert f"resumed after step {last}" in capsys.readouterr().out
    files = files_of(folder)
    assert {"model.safetensors", "training.safetensors", "optimizer.safetensors"} < files.keys()
    for stage in (".", "latent"):
        assert files_of(folder / stage) == files_of(uninterrupted / stage)
        assert metrics_of(folder / stage) == metrics_of(uninterrupted / stage)


@pytest.mark.parametrize("left", [1, 0], ids=["in the second stage", "before its first checkpoint"])
def test_the_second_stage_resumes_as_well(
    left: int, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    kept = Run(folder / "latent").checkpoints()
    assert [path.name for path in kept] == ["step-00000004", "step-00000008"]
    for path in kept[left:]:
        shutil.rmtree(path)
    command("train", "flow-matching", *LONG, "--out", folder, "--resume")
    assert " 0 images/s" not in capsys.readouterr().out  # the first stage was finished, and has no speed
    assert files_of(folder / "latent") == files_of(uninterrupted / "latent")
    assert metrics_of(folder / "latent") == metrics_of(uninterrupted / "latent")


def test_a_chart_that_both_ends_share_has_no_second_stage(tmp_path: Path) -> None:
    model = replace(SMALL, shape=(1, 32, 32), noise_space="labelled")
    train(
        Config(model=model, training=replace(BRIEF, steps=1), latent_steps=2, latent_batch=16),
        Run(tmp_path / "run"),
        device="cpu",
    )
    assert not (tmp_path / "run" / "latent").exists()


def test_the_second_stage_leaves_the_encoder_as_the_first_one_left_it(uninterrupted: Path) -> None:
    first, last = Run(uninterrupted).latest().average, Run(uninterrupted / "latent").latest().average
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved and all(name.startswith(("chart.parts.3.", "family.")) for name in moved)
    loaded = load_model(uninterrupted, FlowMatching).state_dict()
    assert all(torch.equal(loaded[name], last[name]) for name in last)


def test_a_run_that_starts_anew_leaves_no_second_stage_of_the_old_one(uninterrupted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    command("train", "flow-matching", *FLAGS, "--steps", "2", "--latent-steps", "0", "--out", folder, "--overwrite")
    assert not (folder / "latent").exists() and Run(folder).latest().step == 2


def test_a_damaged_newest_checkpoint_is_refused_and_the_fallback_ends_the_same(
    killed: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(killed, tmp_path / "run")
    before, newest = Run(folder).checkpoints()[-2:]
    path = newest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit) as refusal:
        command("train", "flow-matching", *LONG, "--out", folder, "--resume")
    message = str(refusal.value)
    assert message.startswith(f"induced: {path}: other bytes than config.json was saved with: cut short")
    assert f"--fallback resumes from the one before, {before.name}" in message and "\n" not in message
    command("train", "flow-matching", *LONG, "--out", folder, "--resume", "--fallback")
    assert f"fell back to {before.name}" in capsys.readouterr().out
    for stage in (".", "latent"):
        assert files_of(folder / stage) == files_of(uninterrupted / stage)
        assert metrics_of(folder / stage) == metrics_of(uninterrupted / stage)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    few = [*FLAGS, "--steps", "5", "--device", "cpu"]
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    train_two = ["--module", "applications.cli", "train", "flow-matching", *few, "--out", str(tmp_path / "two")]
    both = subprocess.run(
        [sys.executable, "-m", *launcher, *train_two],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert both.returncode == 0, both.stderr[-3000:]
    command("train", "flow-matching", *few, "--out", tmp_path / "one")
    one, two = ([*metrics_of(tmp_path / name), *metrics_of(tmp_path / name / "latent")] for name in ("one", "two"))
    assert len(one) == len(two) == 5 + 8
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)


# --------------------------------------------------------------------------------------------------------------------- tour
def test_the_tour_writes_what_it_names_and_is_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a high `rest_std`: three steps leave latents of the data end far above a low one, and its laws beyond float32."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for name, fewer in (
        ("convergence_order", {"steps": (10, 20)}),
        ("one_step", {"counts": (1, 5), "batch": 4}),
        ("timing", {"batch": 4, "repeats": 1}),
    ):
        monkeypatch.setattr(evaluate, name, functools.partial(getattr(evaluate, name), **fewer))
    said: list[str] = []
    config = Config(model=replace(TINY, rest_std=0.5), training=BRIEF, latent_steps=3, latent_batch=32)
    report = tour(tmp_path / "tour", config=config, say=said.append)
    text = "\n".join(said)
    named = {word.rstrip(",/") for word in text[text.index("Everything lies in") :].split() if word.rstrip(",").endswith(ENDINGS)}
    assert len(named) == 10
    for name in named:
        assert (tmp_path / "tour" / name).exists(), name
    for path in (tmp_path / "tour").glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 0, path
    read = json.loads((tmp_path / "tour" / "report.json").read_text())
    assert list(read) == list(report) == ["training", "axioms", "one_step", "inversion", "spectrum", "timing", "pretrained"]
    assert read["training"]["steps"] == 3 and len(read["spectrum"]["values"]) == 1024
    assert all(row["ok"] for rows in read["axioms"].values() for row in rows)
    for row in read["one_step"]["rows"]:
        assert row["latent_error"] <= TOLERANCE[getattr(torch, row["dtype"])], row
    with pytest.raises(CheckpointError, match="already holds .*report.json of an earlier run; .*--overwrite"):
        tour(tmp_path / "tour", config=config, say=said.append)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_share": 0}, "noise_share must be at least 1, got 0"),
        ({"latent_noise": -0.1}, "latent_noise must be at least 0, got -0.1"),
        ({"velocity": math.nan}, "velocity must be at least 0, got nan"),
    ],
)
def test_objective_settings_that_cannot_be_meant_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DomainError, match=message):
        ObjectiveConfig(**change)
