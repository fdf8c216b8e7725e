"""The model whose density is a mixture: fitted when training ends, of each class alone, and a density by classes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from applications.common.data import load, to_unit
from applications.common.kinds import load_model
from applications.common.runs import Run
from applications.flow_matching import evaluate
from applications.flow_matching.config import Config, ObjectiveConfig
from applications.flow_matching.mixture import GaussianMixture
from applications.flow_matching.model import DATA, FlowMatching, build
from applications.flow_matching.objective import FlowMatchingObjective
from applications.flow_matching.train import train
from induced.errors import DomainError, ShapeError
from proofs_tests.applications.flow_matching.models import BRIEF, SMALL, TINY, batch_of, draws_of, ready

MIXED = replace(SMALL, components=7, floor=0.02, rest_std=0.5)


def images_of(n: int) -> tuple[Tensor, Tensor]:
    """Dark, bright and half-bright 4 x 4 images, n of each class, uint8."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.zeros(3, 1, 4, 4)
    levels[1], levels[2, ..., :2] = 200, 200
    images = levels.repeat_interleave(n, 0) + 40 * torch.rand(3 * n, 1, 4, 4, generator=generator)
    return images.to(torch.uint8), torch.arange(3).repeat_interleave(n)


@pytest.fixture(scope="module")
def fitted() -> FlowMatching:
    model = ready(MIXED)
    model.family = build(MIXED).family.double()  # `ready` moved it away from the oracle
    model.encode_leading(*images_of(100))
    return model


def leading(model: FlowMatching, x: Tensor) -> Tensor:
    c: Tensor = model.chart_at(DATA, model.encoder)(x)[:, : MIXED.rank]
    return c


def test_the_fit_makes_leading_coordinates_gaussian(fitted: FlowMatching) -> None:
    images, _ = images_of(100)
    z = fitted.chart_at(DATA)(to_unit(images).double())[:, : MIXED.rank]
    assert z.mean(0).abs().max() < 0.1 and (z.T.cov() - torch.eye(MIXED.rank)).abs().max() < 0.25
    plain = ready(MIXED).chart_at(DATA)(to_unit(images).double())[:, : MIXED.rank]
    assert (plain.T.cov() - torch.eye(MIXED.rank)).abs().max() > 0.5  # before the fit


def test_all_laws_hold(fitted: FlowMatching) -> None:
    for reports in evaluate.axioms(fitted, to_unit(images_of(1)[0]).double()).values():
        assert all(report.ok for report in reports), [report for report in reports if not report.ok]


@torch.no_grad()
def test_a_class_is_drawn_alone(fitted: FlowMatching) -> None:
    images, labels = images_of(100)
    c = leading(fitted, to_unit(images).double())
    for kind in range(3):
        drawn = leading(fitted, fitted.sample(200, torch.Generator().manual_seed(kind), of_class=kind))
        real, scale = c[labels == kind], c.std(0)
        assert ((drawn.mean(0) - real.mean(0)).abs() < 0.1 * scale).all()
        assert torch.cdist(drawn / scale, c / scale).argmin(1).div(100, rounding_mode="floor").eq(kind).float().mean() > 0.9
    with pytest.raises(DomainError, match="no component serves the class 3; there are 0, 1, 2"):
        fitted.sample(1, of_class=3)
    with pytest.raises(DomainError, match="class 0 alone are drawn by a mixture, and the density of this model is none"):
        ready(SMALL).operator(of_class=0)


@torch.no_grad()
def test_the_density_is_the_sum_of_those_of_the_classes(fitted: FlowMatching) -> None:
    """p(x) = sum_k p(k) p(x | k); by Bayes the classes of images are recovered."""
    images, labels = images_of(20)
    x = to_unit(images).double()
    each = torch.stack([evaluate.log_likelihood(fitted.operator(of_class=k), x) for k in range(3)])
    whole = evaluate.log_likelihood(fitted.operator(), x)
    torch.testing.assert_close((each - torch.tensor(3.0).log()).logsumexp(0), whole, rtol=1e-6, atol=1e-6)
    assert each.argmax(0).eq(labels).float().mean() > 0.9


def test_training_leaves_the_family_at_the_oracle_and_the_mixture_to_the_end() -> None:
    objective = FlowMatchingObjective(build(MIXED), ObjectiveConfig())
    with torch.no_grad():
        objective.initialize({"images": batch_of(MIXED, 8, torch.float32)}, draws_of(objective, 8, torch.float32))
    losses = objective({"images": batch_of(MIXED, 8, torch.float32)}, draws_of(objective, 8, torch.float32))
    assert set(losses) == {"loss", "reconstruction", "perceptual", "prior", "residual"}
    losses["loss"].backward()
    trained = {name.split(".")[2] for name, p in objective.model.named_parameters() if p.grad is not None}
    assert trained == {str(k) for k, part in enumerate(objective.model.encoder) if [*part.parameters()]}
    oracle = torch.cat([torch.ones(MIXED.rank), torch.full((16 - MIXED.rank,), 0.5)]).diag()
    torch.testing.assert_close(objective.model.core().matrix(), oracle, rtol=1e-5, atol=1e-6)
    with pytest.raises(DomainError, match="that of a mixture stays at the Gaussian oracle: give components 0"):
        FlowMatchingObjective(ready(MIXED), ObjectiveConfig(end_point_image=1.0))


def test_a_run_fits_the_mixture_when_it_ends(tmp_path: Path) -> None:
    config = Config(model=replace(TINY, components=20), training=replace(BRIEF, checkpoint_every=2, keep=2))
    train(config, Run(tmp_path / "run"), device="cpu")
    assert not (tmp_path / "run" / "latent").exists()
    model = load_model(tmp_path / "run", FlowMatching)
    assert isinstance(model.mixture, GaussianMixture) and set(model.mixture.classes.tolist()) == set(range(10))
    assert model.sample(2, torch.Generator().manual_seed(0), of_class=7).shape == (2, 1, 32, 32)
    data = load("mnist5k", "train")
    z = model.leading_chart()(model.encode_leading(data.images, data.labels))
    again = load_model(tmp_path / "run", FlowMatching).leading_chart()
    torch.testing.assert_close(again(model.encode_leading(data.images, data.labels)), z, rtol=0, atol=1e-4)
    # killed after step 2 and resumed: the same bits
    killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    shutil.rmtree(Run(killed).checkpoints()[-1])
    train(config, Run(killed), device="cpu", resume=True)
    for name, value in Run(tmp_path / "run").latest().average.items():
        assert torch.equal(value, Run(killed).latest().average[name]), name


def test_few_points_take_few_components() -> None:
    g = GaussianMixture(2, 30)
    c = torch.randn(45, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0] * 40 + [1] * 4 + [5])
    g.fit(c, labels)
    counts = {kind: int((g.classes == kind).sum()) for kind in (0, 1, 5, -1)}
    assert counts == {0: 10, 1: 1, 5: 1, -1: 18}
    torch.testing.assert_close(g(g.inverse(c)).double(), c, rtol=0, atol=1e-6)
    with pytest.raises(ShapeError, match="got 45 points of 45 classes"):
        g.fit(c, torch.arange(45))
    with pytest.raises(DomainError, match="no component serves the class -1; there are 0, 1, 5"):
        g.of_class(-1)


@pytest.mark.parametrize("floor", [0.0, -0.1, float("nan"), float("inf")])
def test_a_floor_that_no_fit_takes_is_refused_before_the_first_stage(floor: float) -> None:
    with pytest.raises(DomainError, match="floor is a finite number above 0"):
        replace(MIXED, floor=floor)
