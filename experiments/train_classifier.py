"""The training of the digit classifier that ships: deterministic, and independent of the machine but for its rounding.

    INDUCED_DATA=... python -m experiments.train_classifier --data mnist --out applications/common/pretrained/digits

With --data mnist5k, on the embedded digits; images that mnist5k holds out are left out of any.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from applications.common.classifier import BLACK, CLASSES, SIDE, DigitClassifier
from applications.common.data import ImageSet, load, to_unit
from applications.common.data.pixels import unit_shape
from applications.common.data.sets import without_held_out
from applications.common.features import extract
from applications.common.randomness import batch_indices, step_generator
from induced.errors import DataError, DomainError, ShapeError
from induced.serialization import save


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of one training."""

    steps: int = 1400
    """Optimiser steps: 1400 of 128 images are three epochs of MNIST."""
    batch: int = 128
    """Images a step."""
    learning_rate: float = 8e-3
    """Largest learning rate of AdamW, reached by one cycle's rise and left by its fall."""
    shift: int = 2
    """Pixels by which an image is moved at most, along each side, at random."""
    seed: int = 0
    """Seed of the weights, of the order of images and of all noise."""


def train_classifier(data: ImageSet, config: ClassifierConfig) -> DigitClassifier:
    """Train a classifier: cross entropy, AdamW, one cycle of the learning rate, images moved and dequantised at random.

    A function of the data and the config alone: torch's global generator is left as it was. Bits may differ between
    processors and versions of torch, which sum in another order.

    Arguments:
        data: Digits, grey, 28 x 28 or 32 x 32, of classes 0 to 9.
        config: Settings.

    Returns:
        The classifier, frozen and in evaluation mode, weights rounded to float16 as they will be stored.

    Raises:
        DataError: there is no image, or a label is none of 0 to 9.
        ShapeError: the images are of another shape.
        DomainError: the training diverged.
    """
    if len(data) == 0 or int(data.labels.min()) < 0 or int(data.labels.max()) >= CLASSES:
        raise DataError(f"image set {data.name!r} of {len(data)} images cannot train a classifier of the digits 0 to 9")
    if unit_shape(data.images)[1:] != (1, SIDE, SIDE):
        raise ShapeError(
            f"image set {data.name!r} holds images of {tuple(data.images.shape[1:])}, expected (1, 28, 28) or (1, 32, 32)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = DigitClassifier().train()
    optimizer = torch.optim.AdamW(net.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=max(config.steps, 2))
    for images, labels in batches(data, config):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    net = net.half().float()
    if not all(bool(value.isfinite().all()) for value in net.state_dict().values()):
        raise DomainError(
            f"the classifier's training diverged: after {config.steps} steps at a learning rate of up to "
            f"{config.learning_rate:.3g} its weights are not finite; take a smaller learning_rate"
        )
    return net.eval().requires_grad_(False)


def accuracy(net: nn.Module, data: ImageSet, batch: int = 500) -> float:
    """Share of images whose largest logit is that of their class.

    Arguments:
        net: Maps images in [-1, 1) to logits.
        data: Images with their classes.
        batch: Images at a time.

    Returns:
        A number in [0, 1].
    """
    return float((extract(net, data.images, batch).argmax(1) == data.labels).double().mean())


def batches(data: ImageSet, config: ClassifierConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw each step's images, moved and dequantised, with their classes."""
    for step in range(config.steps):
        generator = step_generator(config.seed, step)
        chosen = batch_indices(len(data), config.batch, config.seed, step)
        noise = torch.rand((config.batch, 1, SIDE, SIDE), generator=generator)
        unit = F.pad(to_unit(data.images[chosen], noise), (config.shift,) * 4, value=BLACK)
        places = torch.randint(2 * config.shift + 1, (config.batch, 2), generator=generator).tolist()
        moved = [image[:, top : top + SIDE, left : left + SIDE] for image, (top, left) in zip(unit, places, strict=True)]
        yield torch.stack(moved), data.labels[chosen]


def main(arguments: list[str] | None = None) -> None:
    """Train a classifier into a folder, in float16, and say how accurate it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("mnist", "mnist5k"), default="mnist")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--steps", type=int, default=ClassifierConfig.steps)
    parser.add_argument("--seed", type=int, default=ClassifierConfig.seed)
    options = parser.parse_args(arguments)
    config = ClassifierConfig(steps=options.steps, seed=options.seed)
    known, test = without_held_out(load(options.data, "train")), load(options.data, "test")
    net = train_classifier(known, config)
    score = accuracy(net, test)
    print(f"{score:.2%} of {len(test):,} images right ({test.name}); trained on {len(known):,} ({known.name})")
    content = hashlib.sha256(known.images.numpy().tobytes() + known.labels.numpy().tobytes()).hexdigest()
    data = {"name": known.name, "images": len(known), "sha256": content}
    record = {"training": asdict(config), "data": data, "accuracy": {"data": test.name, "value": score}}
    print(f"wrote {save(net, options.out, overwrite=True, dtype=torch.float16, notes=record)}")


if __name__ == "__main__":
    main()
