"""What an idempotent generator is for: projections, draws, anomalies, sums of ranges; and how it is measured."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from applications.common.data import load, to_unit
from applications.common.kinds import load_model
from applications.idempotent.evaluate import PrincipalProjection, bits, same_bits
from applications.idempotent.inputs import KINDS, inputs
from applications.idempotent.model import Idempotent
from applications.idempotent.sampling import RangeGaussian, anomaly, coordinates, noise, principal_range, project
from experiments.measure_idempotent import idempotency_error
from induced import InducedSpace, Linearizer
from induced.bijections import Flatten
from induced.errors import DomainError, ShapeError
from proofs_tests.applications.idempotent.models import TINY, images, made, mask_of


# ---------------------------------------------------------------------------------------------------------------------- use
@pytest.fixture(scope="module")
def projector(trained: Path) -> Linearizer:
    return load_model(trained, Idempotent).operator()


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return to_unit(load("mnist5k", "test").images[::5])


def test_the_anomaly_score_is_the_induced_distance_to_the_projection(projector: Linearizer, held_out: Tensor) -> None:
    x = held_out[:20]
    X = projector.domain
    assert torch.equal(anomaly(projector, x), X.distance(x, projector(x)))
    assert torch.allclose(anomaly(projector, x, batch=3), X.norm(X.sub(x, projector(x))), rtol=1e-6)
    assert torch.equal(anomaly(projector, projector(x)), torch.zeros(20))


def test_drawn_images_are_fixed_points_bit_for_bit(projector: Linearizer, held_out: Tensor) -> None:
    drawn = RangeGaussian(projector, held_out).sample(40, seed=1)
    assert same_bits(projector(drawn), drawn).all() and bits(projector, drawn).ok
    assert torch.equal(drawn, RangeGaussian(projector, held_out).sample(40, seed=1, batch=7))
    assert not torch.equal(drawn, RangeGaussian(projector, held_out).sample(40, seed=2))
    projected = project(projector, noise(projector, 30, seed=1))
    assert same_bits(projector(projected), projected).all()


def test_noise_takes_the_spectrum_of_images(projector: Linearizer, held_out: Tensor) -> None:
    white, alike = noise(projector, 2000, seed=1), noise(projector, 2000, seed=1, like=held_out)
    assert abs(float(white.std()) - 1) < 0.01 and not torch.equal(white, noise(projector, 2000, seed=2))
    mean = held_out.mean(0)
    assert (alike.mean(0) - mean).abs().max() < 5 * float(alike.std(0).max()) / 2000**0.5
    found, expected = (np.fft.fft2(x.double().numpy())[:, 0].var(0) for x in (alike, held_out))
    assert np.abs(found / (expected * 100 / 99) - 1).max() < 5 * (2 / 2000) ** 0.5


def test_drawn_coordinates_have_the_moments_of_the_images(projector: Linearizer, held_out: Tensor) -> None:
    mask = mask_of(projector)
    c = coordinates(projector, held_out)[:, mask].double().numpy()
    z = RangeGaussian(projector, held_out).coordinates(10000, seed=3)
    assert (z[:, ~mask] == 0).all()
    drawn, C = z[:, mask].numpy(), np.cov(c.T)
    sizes = np.sqrt(np.diag(C))
    # standard errors of means and covariances of 10000 draws
    assert (np.abs(drawn.mean(0) - c.mean(0)) < 5 * sizes / 100).all()
    assert (np.abs(np.cov(drawn.T) - C) < 5 * 2**0.5 * np.outer(sizes, sizes) / 100).all()


def test_classes_have_distributions_and_shares_of_their_own(projector: Linearizer, held_out: Tensor) -> None:
    x, labels = held_out[:40], torch.tensor([3] * 10 + [7] * 30)
    mask, gaussian = mask_of(projector), RangeGaussian(projector, x, labels)
    z = gaussian.coordinates(2000, temperature=0.0)[:, mask]
    means = [coordinates(projector, part)[:, mask].double().mean(0) for part in (x[:10], x[10:])]
    nearest = torch.cdist(z, torch.stack(means))
    assert nearest.min(1).values.max() < 1e-6 and gaussian.classes.tolist() == [3, 7]
    assert abs(float((nearest.argmin(1) == 0).double().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 2000)
    with pytest.raises(ShapeError, match=r"at least two images, got \[39, 1\] of the classes"):
        RangeGaussian(projector, x, torch.tensor([0] * 39 + [1]))
    with pytest.raises(ShapeError, match="at least two images, got"):
        RangeGaussian(projector, x[:0])


def test_ranges_of_classes_add_and_intersect_within_the_range(projector: Linearizer) -> None:
    known = load("mnist5k", "train")
    threes, eights = (to_unit(known.images[known.labels == k][:100]) for k in (3, 8))
    A, B, whole = principal_range(projector, threes, 20), principal_range(projector, eights, 20), projector.image()
    assert (A.dim, B.dim, (A + B).dim, (A & B).dim, whole.dim) == (20, 20, 30, 10, 30)
    P = whole.projector().matrix()
    for part in (A, B, A + B, A & B):
        assert torch.allclose(P @ part.Q, part.Q, atol=1e-5)
    own = (A.project(threes) - threes).square().mean(), (B.project(threes) - threes).square().mean()
    assert own[0] < own[1]
    c = coordinates(projector, threes)[:, mask_of(projector)].double().numpy()
    assert float(A.coords(threes).square().sum()) == pytest.approx(np.sum(np.linalg.svd(c)[1][:20] ** 2), rel=1e-4)
    for rank in (-1, 31):
        with pytest.raises(DomainError, match=f"100 images and a projector of rank 30 give 0..30 components, got {rank}"):
            principal_range(projector, threes, rank)


def test_a_core_that_is_no_projection_onto_coordinates_is_refused() -> None:
    f = Linearizer(torch.eye(64), InducedSpace(Flatten((1, 8, 8))))
    with pytest.raises(DomainError, match="known of a 0/1 projection, got the core Dense"):
        anomaly(f, torch.zeros(1, 1, 8, 8))


# --------------------------------------------------------------------------------------------------------------- evaluation
def test_bits_counts_what_differs() -> None:
    model, x = made(replace(TINY, exact=False)), to_unit(images(12))
    found = bits(model.operator(), x, sizes=(5,), compared=9)
    assert found.inputs == 12 and found.compared == {5: 9} and not found.ok
    assert found.idempotent == int(
        same_bits(project(model.operator(), x), project(model.operator(), project(model.operator(), x))).sum()
    )
    zero = torch.zeros(2, 3)
    assert same_bits(zero, torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.0, 0.0]])).tolist() == [True, False]


def test_the_error_of_idempotency_is_relative_and_zero_for_projectors() -> None:
    x = to_unit(images(10)).double()
    assert (idempotency_error(lambda y: y / 2, x, batch=3) == 0.5).all()
    assert (idempotency_error(lambda y: 0 * y, x) == 0).all()
    assert (idempotency_error(PrincipalProjection(x, 4), x) < 1e-14).all()
    assert (idempotency_error(made().operator(), x.float()) == 0).all()


def test_principal_components_are_the_nearest_linear_projector() -> None:
    x = to_unit(images(50)).double()
    flat = x.flatten(1).numpy()
    U, s, Vh = np.linalg.svd(flat, full_matrices=False)
    found = PrincipalProjection(x, 7)
    assert np.allclose(found(x).flatten(1).numpy(), U[:, :7] * s[:7] @ Vh[:7], atol=1e-12)
    assert float(found.distance(x).square().sum()) == pytest.approx(np.sum(s[7:] ** 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 8)], ids=str)
def test_inputs_are_of_the_shape_of_images_and_of_the_seed(kind: str, shape: tuple[int, int, int]) -> None:
    if kind == "rotated":
        shape = (shape[0], 8, 8)
    x = to_unit(images(7, shape))
    y = inputs(kind, x, seed=1)
    assert y.shape == x.shape and y.dtype == x.dtype and bool(torch.isfinite(y).all())
    assert torch.equal(y, inputs(kind, x, seed=1))
    assert torch.equal(x, to_unit(images(7, shape))), "the images stay as they are"
    assert torch.equal(y, x) == (kind == "as they are")


def test_an_unknown_kind_of_inputs_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DomainError, match="no kind of inputs is called 'cats'; there are as they are, scaled by 0.1, "):
        inputs("cats", torch.zeros(1, 1, 8, 8))
