"""The digit classifier: what the one that ships knows, that training is a function of its seed."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from applications.common.classifier import PRETRAINED, DigitClassifier, digit_classifier
from applications.common.data import ImageSet, load, to_unit
from applications.common.features import extract
from applications.common.metrics import class_balance, frechet_distance, precision_recall
from experiments.train_classifier import ClassifierConfig, accuracy, batches, main, train_classifier
from induced.errors import CheckpointError, DataError, DomainError, DtypeError, ShapeError
from induced.serialization import notes, save

real_data = pytest.mark.skipif(
    not os.environ.get("INDUCED_DATA"), reason="INDUCED_DATA is not set: the real MNIST files are elsewhere"
)
BRIEF = ClassifierConfig(steps=3, batch=8)


@pytest.fixture(scope="module")
def net() -> DigitClassifier:
    return digit_classifier()


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return load("mnist5k", "test")


@pytest.fixture(scope="module")
def known() -> ImageSet:
    return load("mnist5k", "train")


@pytest.fixture(scope="module")
def few(known: ImageSet) -> ImageSet:
    """32 digits of all classes."""
    return ImageSet("few", known.images[::140][:32], known.labels[::140][:32])


def test_the_classifier_that_ships_knows_digits_it_never_saw(net: DigitClassifier, held_out: ImageSet) -> None:
    assert accuracy(net, held_out) >= 0.985
    assert accuracy(net, ImageSet("blank", torch.zeros_like(held_out.images), held_out.labels)) == pytest.approx(0.1)


@real_data
def test_the_classifier_that_ships_is_as_accurate_on_mnists_test_set_as_it_records(net: DigitClassifier) -> None:
    found = accuracy(net, load("mnist", "test"))
    recorded = notes(PRETRAINED)["accuracy"]["value"]
    assert found >= 0.99
    # One image in 10,000 may change sides by rounding.
    assert found == pytest.approx(recorded, abs=1.5e-4)


def test_the_classifier_that_ships_is_small_and_frozen(net: DigitClassifier) -> None:
    assert (PRETRAINED / "model.safetensors").stat().st_size < 300_000
    assert sum(parameter.numel() for parameter in net.parameters()) == 89_914
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())


def test_the_classifier_sees_unpadded_digits_as_it_sees_padded_ones(net: DigitClassifier, held_out: ImageSet) -> None:
    small = (held_out.images[:20].float() + 0.5) / 128 - 1
    assert torch.equal(net(small), net(to_unit(held_out.images[:20])))


def test_the_classifier_has_features_before_its_logits(net: DigitClassifier, held_out: ImageSet) -> None:
    features = extract(net.features, held_out.images)
    assert features.shape == (500, 64) and (features >= 0).all()
    logits = features.float() @ net.head.weight.mT + net.head.bias
    assert torch.allclose(logits.double(), extract(net, held_out.images), atol=1e-4)


def test_the_classifier_does_not_mix_the_images_of_a_batch(net: DigitClassifier, held_out: ImageSet) -> None:
    few = held_out.images[:7]
    assert torch.allclose(extract(net, few, batch=2), extract(net, few), atol=1e-4)


def test_metrics_in_its_features_tell_good_digits_from_bad(net: DigitClassifier, known: ImageSet, held_out: ImageSet) -> None:
    real, good = known.images[::9], held_out.images
    noisy = (good.float() + 60 * torch.randn(good.shape)).clamp(0, 255).to(torch.uint8)
    zeros = good[held_out.labels == 0].repeat(10, 1, 1, 1)
    reference = extract(net.features, real)
    distances = [frechet_distance(reference, extract(net.features, x)) for x in (good, noisy, zeros)]
    assert distances[0] < 0.2 * min(distances[1:])
    assert min(precision_recall(reference, extract(net.features, good))) > 0.8
    assert precision_recall(reference, extract(net.features, noisy)).precision < 0.5
    assert precision_recall(reference, extract(net.features, zeros)).recall < 0.2
    balance, collapsed = (class_balance(extract(net, x), torch.ones(10)) for x in (good, zeros))
    assert balance.total_variation < 0.02 and balance.confident > 0.95
    assert collapsed.total_variation > 0.85


def test_the_classifier_refuses_what_are_no_digits(net: DigitClassifier) -> None:
    with pytest.raises(DtypeError, match="is of torch.float32 and got images of torch.uint8"):
        net(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=r"\(N, 1, 28, 28\) or \(N, 1, 32, 32\), got \(1, 3, 32, 32\)"):
        net(torch.zeros(1, 3, 32, 32))


def test_training_is_a_function_of_its_seed_and_leaves_torchs_generator_alone(few: ImageSet) -> None:
    before = torch.get_rng_state()
    first, other = train_classifier(few, BRIEF), train_classifier(few, ClassifierConfig(steps=3, batch=8, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    second = train_classifier(few, BRIEF)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)


def test_training_learns(few: ImageSet) -> None:
    net = train_classifier(few, ClassifierConfig(steps=40, batch=32, shift=0))
    assert accuracy(net, few) >= 0.9


def test_training_moves_images_by_every_shift_and_never_out_of_the_picture(few: ImageSet) -> None:
    one = ImageSet("one", few.images[:1], few.labels[:1])
    images, labels = next(batches(one, ClassifierConfig(steps=1, batch=64, shift=3)))
    assert images.shape == (64, 1, 32, 32) and labels.tolist() == [int(few.labels[0])] * 64
    # Between two pixel values, so that dequantisation cannot carry one across.
    ink, still = ((x >= 13 / 128 - 1).float() for x in (images, to_unit(one.images)))
    assert set(ink.sum((1, 2, 3)).tolist()) == {float(still.sum())}
    for dim in (2, 3):
        centres = [(x.sum((1, 5 - dim)) * torch.arange(32.0)).sum(1) / still.sum() for x in (ink, still)]
        assert set((centres[0] - centres[1]).round(decimals=3).tolist()) == {-3, -2, -1, 0, 1, 2, 3}


def test_a_training_that_diverged_gives_no_classifier(few: ImageSet) -> None:
    with pytest.raises(
        DomainError, match=r"diverged: after 3 steps at a learning rate of up to 1e\+30 its weights are not finite"
    ):
        train_classifier(few, replace(BRIEF, learning_rate=1e30))


def test_loading_refuses_what_is_missing_damaged_or_foreign(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json: cannot be read .No such file"):
        digit_classifier(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "other"}')
    with pytest.raises(CheckpointError, match="is JSON of another origin"):
        digit_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="is not empty, and holds no model that induced saved"):
        save(DigitClassifier(), tmp_path, dtype=torch.float16)
    (tmp_path / "config.json").unlink()
    save(DigitClassifier(), tmp_path, dtype=torch.float16)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="other bytes than config.json was saved with"):
        digit_classifier(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="model.safetensors: cannot be read"):
        digit_classifier(tmp_path)


def test_loading_refuses_another_net(tmp_path: Path) -> None:
    save(torch.nn.Linear(2, 2), tmp_path)
    with pytest.raises(CheckpointError, match="holds a Linear, expected a DigitClassifier"):
        digit_classifier(tmp_path)


def test_training_refuses_what_are_no_digits() -> None:
    images, labels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 10])
    with pytest.raises(DataError, match="image set 'x' of 3 images cannot train a classifier of the digits 0 to 9"):
        train_classifier(ImageSet("x", images, labels), BRIEF)
    with pytest.raises(DataError, match="of 0 images"):
        train_classifier(ImageSet("x", images[:0], labels[:0]), BRIEF)
    with pytest.raises(ShapeError, match=r"images of \(3, 64, 64\), expected \(1, 28, 28\)"):
        train_classifier(ImageSet("x", torch.zeros(1, 3, 64, 64, dtype=torch.uint8), labels[:1]), BRIEF)


def test_the_command_trains_reports_and_writes(held_out: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", "mnist5k", "--steps", "2", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "% of 500 images right (mnist5k test" in said and f"wrote {tmp_path / 'out'}" in said
    record = notes(tmp_path / "out")
    assert record["training"]["steps"] == 2 and record["data"]["images"] == 4500
    assert record["accuracy"]["value"] == accuracy(digit_classifier(tmp_path / "out"), held_out)


def write_idx(path: Path, values: Tensor) -> None:
    """Write uint8 as IDX."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.numpy().tobytes())


def test_the_command_leaves_out_the_digits_that_mnist5k_holds_out(
    known: ImageSet, held_out: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ImageSet(
        "both", torch.cat((held_out.images[:6], known.images[:4])), torch.cat((held_out.labels[:6], known.labels[:4]))
    )
    for stem in ("train", "t10k"):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", both.images[:, 0])
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", both.labels.to(torch.uint8))
    monkeypatch.setenv("INDUCED_DATA", str(tmp_path))
    main(["--steps", "1", "--out", str(tmp_path / "out")])
    assert "of 10 images right (mnist test); trained on 4 (mnist train without" in capsys.readouterr().out
