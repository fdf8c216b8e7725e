"""The shipped model of flow matching: its laws, inversion, edits and likelihood."""

import math
import os

import numpy as np
import pytest
import torch
from torch import Tensor

from applications.common.data import load, to_unit
from applications.common.quality import quality
from applications.flow_matching import evaluate
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.record import APPLICATION
from applications.flow_matching.sampling import direction, encode, exact_times, interpolate, move
from applications.flow_matching.train import training_set
from induced.checks import Report
from induced.errors import ShapeError
from induced.serialization import notes
from proofs_tests.applications.flow_matching.models import DTYPES, SMALL, batch_of, ready


# --------------------------------------------------------------------------------------------------- editing and likelihood
@torch.no_grad()
def test_an_edit_moves_by_a_multiple_of_a_difference_of_means() -> None:
    model, x = ready(SMALL), batch_of(SMALL, 6)
    X = model.codes()
    v = direction(X, x[:2], x[2:])
    torch.testing.assert_close(X.coords(v), X.coords(x[2:]).mean(0) - X.coords(x[:2]).mean(0), rtol=1e-9, atol=1e-9)
    moved = move(X, x[0], v, torch.tensor([0.0, 0.5, -1.0], dtype=torch.float64))
    torch.testing.assert_close(moved[0], x[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved[2], X.sub(x[:1], v[None])[0], rtol=1e-9, atol=1e-9)
    assert move(X, x[0], v, torch.zeros(0, dtype=torch.float64)).shape == (0, 1, 4, 4)
    with pytest.raises(ShapeError, match="difference of two means; got 0 and 6 images"):
        direction(X, x[:0], x)


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
    for point, found in zip(x, evaluate.log_likelihood(f, x).tolist(), strict=True):
        x0 = inverse(point[None])[0]
        with torch.enable_grad():
            J = torch.autograd.functional.jacobian(lambda p: inverse(p[None])[0].flatten(), point).reshape(16, 16)
        expected = float(torch.distributions.Normal(0.0, 1.0).log_prob(x0).sum() + torch.linalg.slogdet(J)[1])
        assert found == pytest.approx(expected, rel=1e-9)
    assert float(evaluate.log_likelihood(f, x).std()) > 0


@torch.no_grad()
def test_bits_per_dimension_count_a_byte_as_its_bin_of_pixels() -> None:
    """A density that is uniform over [-1, 1) costs 8 bits; the model's differs from it by its log-likelihood."""
    model = ready(SMALL)
    images = torch.randint(0, 256, (2, 1, 4, 4), dtype=torch.uint8)
    u, f = torch.rand(2, 1, 4, 4, dtype=torch.float64), model.operator()
    bits = evaluate.bits_per_dimension(f, images, u)
    excess = -(evaluate.log_likelihood(f, to_unit(images, u)) + 16 * math.log(2)) / 16 / math.log(2)
    torch.testing.assert_close(bits, 8 + excess, rtol=1e-9, atol=1e-9)


def test_quality_tells_digits_from_noise_and_asks_for_enough_real_images() -> None:
    real, other = load("mnist5k", "test"), to_unit(load("mnist5k", "train").images[::20])
    good, bad = quality(other, real), quality(torch.rand(225, 1, 32, 32) * 2 - 1, real)
    assert good.features == "digit classifier" and good.samples == 225
    assert good.frechet < 0.2 * bad.frechet and good.precision > 0.5 > bad.precision and good.recall > bad.recall
    assert good.confident > 0.9 and good.imbalance < bad.imbalance
    with pytest.raises(ShapeError, match="equal numbers: got 501 samples and 500 images of mnist5k"):
        quality(torch.zeros(501, 1, 32, 32), real)


# -------------------------------------------------------------------------------------------------------- the trained model
def test_the_pretrained_model_inverts_held_out_digits_to_60_db(pretrained: FlowMatching, held_out: Tensor) -> None:
    assert {p.dtype for p in pretrained.parameters()} == {torch.float32} and len(held_out) == 100
    f = pretrained.operator()
    found = evaluate.inversion(f, held_out)
    error = (f(f.pinv()(held_out)).double() - held_out.double()).numpy()
    by_hand = 10 * np.log10(4 / (error**2).mean((1, 2, 3)))
    assert by_hand.min() >= 60
    assert (found.psnr_min, found.psnr_mean) == pytest.approx((by_hand.min(), by_hand.mean()), rel=1e-9)
    assert found.count == 100 and found.encoding_std == pytest.approx(float(encode(f, held_out).std()))


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
    assert notes(APPLICATION.shipped()["mnist"])["data"] == {"name": kept.name, "rows": len(kept), "sha256": kept.fingerprint()}


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
