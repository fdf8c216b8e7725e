"""Flow matching: one step is many, for every family and chart, and where the oracle of two Gaussians is known."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from applications.common.metrics import psnr
from applications.flow_matching import evaluate
from applications.flow_matching.config import ModelConfig, ObjectiveConfig
from applications.flow_matching.model import DATA, NOISE, EndPointRate, FlowMatching, at_a_time, build
from applications.flow_matching.objective import (
    FlowMatchingObjective,
    velocity_loss,
)
from applications.flow_matching.sampling import encode, noise, sample
from induced import EuclideanSpace, Linearizer
from induced.bijections import Reversible
from induced.bijections.networks import UNet
from induced.errors import DomainError
from induced.operators import LowRank, ScaledIdentityPlusLowRank, svd
from induced.propagators import LowRankFamily, SharedBasisFamily, integrate, propagator
from proofs_tests.applications.flow_matching.models import DTYPES, SMALL, TINY, TOLERANCE, batch_of, draws_of, ready

SAMPLERS = pytest.mark.parametrize(
    ("method", "steps"), [(method, steps) for method in ("euler", "rk4") for steps in (1, 10, 100)]
)


# --------------------------------------------------------------------------------------------------------- one step is many
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


# --------------------------------------------------------------------------------------------------- a family of end points
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


def test_a_family_of_end_points_has_no_floor_and_no_velocity_loss() -> None:
    with pytest.raises(DomainError, match=r"of rank r: expected rest_std=None, got 0.03"):
        ModelConfig(prediction="end point")
    with pytest.raises(DomainError, match="singular at t = 1: train it with velocity 0, end_point > 0"):
        FlowMatchingObjective(build(replace(SMALL, prediction="end point", rest_std=None)), ObjectiveConfig())


# ------------------------------------------------------------------------------------------------------------- other charts
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
