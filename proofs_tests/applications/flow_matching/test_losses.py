"""The losses of flow matching are their formulas, drawn without global randomness; what cannot be meant is refused."""

import math
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from applications.common.data import to_unit
from applications.common.perceptual import PyramidDistance
from applications.common.randomness import Noise, rows_of
from applications.flow_matching.config import ObjectiveConfig
from applications.flow_matching.model import DATA, NOISE, EndPointRate, FlowMatching, build
from applications.flow_matching.objective import (
    FlowMatchingObjective,
    LatentObjective,
    end_point_loss,
    minus_log_density,
    perturb,
    times,
    velocity_loss,
)
from induced.errors import DomainError, ShapeError
from induced.operators import Dense, LinearOperator
from induced.propagators import LowRankFamily, OperatorFamily
from proofs_tests.applications.flow_matching.models import SMALL, TINY, batch_of, draws_of, ready


class Swing(OperatorFamily):
    """A_t = cos(t) M + sin(t) N, whose matrices the test makes by itself."""

    def __init__(self, M: Tensor, N: Tensor) -> None:
        super().__init__(len(M))
        self.M, self.N = M, N

    def at(self, t: float | Tensor) -> LinearOperator:
        t = torch.as_tensor(t)[..., None, None]
        return Dense(t.cos() * self.M + t.sin() * self.N)


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
    x0 = draws["noise"]
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
    noisy0 = z0 + weights.latent_noise * draws.get("noise_latent_noise", torch.zeros(()).double()).numpy()
    decoded1, decoded0 = (g.inverse(torch.from_numpy(z)).detach() for g, z in ((e, noisy1), (g0, noisy0)))
    others = std[kept:] * draws["latent_noise"].numpy()[:, kept:]
    drawn = torch.from_numpy(np.concatenate([noisy1[:, :kept], others], 1))
    z1 = c1 if h is None else np.concatenate([h(drawn).detach().numpy()[:, :kept], others], 1)
    matrices = [model.family.at(float(t)).matrix().detach().numpy() for t in draws["time"]]
    times, chosen = draws["time"], torch.from_numpy(z1[list(some)])
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
            "end_point_perceptual": float(PyramidDistance()(decoded, images[list(some)]).mean()),
            "reconstruction": float(((decoded1 - images) ** 2).mean()),
            "perceptual": float(PyramidDistance()(decoded1, images).mean()),
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


def test_draws_are_a_pure_function_of_the_generator_and_hold_what_is_used() -> None:
    objective = FlowMatchingObjective(build(SMALL), ObjectiveConfig())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = objective.draw(160, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = (objective.draw(160, torch.Generator().manual_seed(seed))["time"] for seed in (5, 6))
    assert first == {"noise": Noise((40, 1, 4, 4)), "latent_noise": Noise((160, 16)), "time": first["time"]}
    t = first["time"]
    assert isinstance(t, Tensor) and isinstance(second, Tensor) and isinstance(other, Tensor)
    assert torch.equal(t, second) and not torch.equal(t, other)
    assert torch.equal((8 * t).floor(), torch.arange(8.0))
    labelled = FlowMatchingObjective(build(replace(SMALL, noise_space="labelled")), ObjectiveConfig())
    assert labelled.draw(16, torch.Generator())["noise_latent_noise"] == Noise((4, 16))


@pytest.mark.parametrize(("n", "share", "groups"), [(4, 4, 1), (32, 4, 2), (36, 4, 1), (128, 4, 8), (512, 4, 8), (100, 1, 5)])
def test_pairs_share_a_time_evenly(n: int, share: int, groups: int) -> None:
    """At least 16 images a time, at most 8 times a batch, and as many pairs for each."""
    assert len(times(n, share, torch.Generator())) == groups


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
    parts = [range(n // 2), range(n // 2, n)]
    halves = [
        objective({"images": images[part.start : part.stop]}, {name: rows_of(value, part, n) for name, value in draws.items()})
        for part in parts
    ]
    for name, value in whole.items():
        assert float(value) == pytest.approx(float(halves[0][name] + halves[1][name]) / 2, rel=1e-9), name


@torch.no_grad()
def test_the_end_point_loss_of_a_family_of_end_points_is_the_distance_of_its_prediction() -> None:
    model = ready(replace(SMALL, prediction="end point", rest_std=None))
    z0, z1, t = *torch.randn(2, 4, model.dim, dtype=torch.float64), torch.linspace(0, 0.9, 4, dtype=torch.float64)
    states = (1 - t)[:, None] * z0 + t[:, None] * z1
    assert isinstance(model.family, EndPointRate)
    predictions = torch.stack([model.family.prediction.at(float(s)).matrix() @ z for s, z in zip(t, states, strict=True)])
    assert float(end_point_loss(model.family, z0, z1, t)) == pytest.approx(float(((predictions - z1) ** 2).mean()), rel=1e-9)


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
    path = model.family, draws["noise"].flatten(1), z1[::2], draws["time"]
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
