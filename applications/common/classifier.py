"""A small classifier of digits, trained deterministically: its features and scores judge generated digits.

The one in `pretrained/digits` ships with the package, so that figures of different machines compare. Any other is trained on
demand and kept in a cache folder. The pretrained one is made by

    python -m applications.common.classifier --data mnist --out applications/common/pretrained/digits
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from applications.common.data import ImageSet, load, to_unit, unit_shape, without_held_out
from applications.common.features import extract
from applications.common.kinds import load_model
from applications.common.locks import held
from applications.common.places import at_home, cache_folder
from applications.common.randomness import batch_indices, step_generator
from induced.errors import CheckpointError, DataError, DomainError, DtypeError, MissingExtra, ShapeError
from induced.serialization import register, save
from induced.serialization.disk import json_bytes, sha256

PRETRAINED: Final = Path(__file__).parent / "pretrained" / "digits"
FEATURES: Final = 64

_SIDE: Final = 32
_CLASSES: Final = 10
_BLACK: Final = -1 + 1 / 256
"""What `to_unit` makes of a pixel 0."""


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

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("steps", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise DomainError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("shift", "seed"):
            if getattr(self, name) < 0:
                raise DomainError(f"{name} must not be negative, got {getattr(self, name)}")


class DigitClassifier(nn.Module):
    """A convolutional net of 89,914 weights: logits of ten digits, and the 64 features before them."""

    def __init__(self) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()

        def block(channels: int, widened: int, side: int, stride: int, *pool: nn.Module) -> nn.Sequential:
            convolution = nn.Conv2d(channels, widened, side, stride, side // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(widened), nn.ReLU(), *pool)

        self.body = nn.Sequential(
            block(1, 16, 5, 2),
            block(16, 32, 3, 1, nn.MaxPool2d(2)),
            block(32, FEATURES, 3, 1, nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.Linear(16 * FEATURES, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Map images in [-1, 1) to the logits of their class.

        Arguments:
            images: float32, `(N, 1, 32, 32)` or `(N, 1, 28, 28)`; the latter get a black border.

        Returns:
            `(N, 10)`.

        Raises:
            DtypeError: images are of another dtype than the weights.
            ShapeError: images have another shape.
        """
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Map images to the 64 features before the logits, none negative, `(N, 64)`."""
        if images.dtype != self.head.weight.dtype:
            raise DtypeError(
                f"the classifier is of {self.head.weight.dtype} and got images of {images.dtype}; to_unit makes uint8 float"
            )
        if images.ndim != 4 or images.shape[1:] not in ((1, 28, 28), (1, _SIDE, _SIDE)):
            raise ShapeError(f"expected digits of shape (N, 1, 28, 28) or (N, 1, 32, 32), got {tuple(images.shape)}")
        border = (_SIDE - images.shape[-1]) // 2
        features: Tensor = self.body(F.pad(images, (border,) * 4, value=_BLACK))
        return features


register(DigitClassifier, name="classifier.DigitClassifier")


def digit_classifier(folder: str | os.PathLike[str] = PRETRAINED) -> DigitClassifier:
    """Load a classifier, by default the one that ships with the package, frozen and in evaluation mode.

    Arguments:
        folder: Holds `model.safetensors` and `config.json`.

    Returns:
        The classifier, float32; the stored weights are float16.

    Raises:
        CheckpointError: a file is missing, damaged, or of another kind.
    """
    return load_model(Path(folder), DigitClassifier)


def cached_classifier(
    data: ImageSet, config: ClassifierConfig | None = None, cache: str | os.PathLike[str] | None = None
) -> DigitClassifier:
    """Train a classifier, or load it if the same training on the same images was done before.

    One process trains it while others wait. One that is damaged is trained anew, and a line says so.

    Arguments:
        data: Digits to train on.
        config: Settings; the default ones if None.
        cache: Folder to keep it in; `cache_folder()` if None.

    Returns:
        The classifier, frozen and in evaluation mode; a trained and a loaded one are equal bit for bit.

    Raises:
        CheckpointError: the cache cannot be written.
        DataError, ShapeError: the images are no digits.
    """
    config = config or ClassifierConfig()
    record = {"training": asdict(config), "data": _described(data)}
    key = sha256(json_bytes(record))[:16]
    folder = cache_folder(cache) / f"digits-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_suffix(".lock"), lambda other: print(f"{other} makes {folder}: waiting for it", flush=True)):
        if (folder / "config.json").exists():
            try:
                return digit_classifier(folder)
            except CheckpointError as error:
                print(f"{error}; it is made anew", flush=True)
        save_classifier(train_classifier(data, config), folder, record, overwrite=True)
    return digit_classifier(folder)


def save_classifier(
    net: DigitClassifier, folder: str | os.PathLike[str], record: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Write a classifier in float16.

    Arguments:
        net: The classifier.
        folder: Where to.
        record: What `config.json` is to say besides: settings, data, accuracy.
        overwrite: As of `save`.
    """
    save(net, folder, overwrite=overwrite, dtype=torch.float16, notes=record)


def train_classifier(data: ImageSet, config: ClassifierConfig | None = None) -> DigitClassifier:
    """Train a classifier: cross entropy, AdamW, one cycle of the learning rate, images moved and dequantised at random.

    A function of the data and the config alone: torch's global generator is left as it was. Bits may differ between
    processors and versions of torch, which sum in another order.

    Arguments:
        data: Digits, grey, 28 x 28 or 32 x 32, of classes 0 to 9.
        config: Settings; the default ones if None.

    Returns:
        The classifier, frozen and in evaluation mode, weights rounded to float16 as they will be stored.

    Raises:
        DataError: there is no image, or a label is none of 0 to 9.
        ShapeError: the images are of another shape.
        DomainError: the training diverged.
    """
    config = config or ClassifierConfig()
    if len(data) == 0 or int(data.labels.min()) < 0 or int(data.labels.max()) >= _CLASSES:
        raise DataError(f"image set {data.name!r} of {len(data)} images cannot train a classifier of the digits 0 to 9")
    if unit_shape(data.images)[1:] != (1, _SIDE, _SIDE):
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
        noise = torch.rand((config.batch, 1, _SIDE, _SIDE), generator=generator)
        unit = F.pad(to_unit(data.images[chosen], noise), (config.shift,) * 4, value=_BLACK)
        places = torch.randint(2 * config.shift + 1, (config.batch, 2), generator=generator).tolist()
        moved = [image[:, top : top + _SIDE, left : left + _SIDE] for image, (top, left) in zip(unit, places, strict=True)]
        yield torch.stack(moved), data.labels[chosen]


def _described(data: ImageSet) -> dict[str, Any]:
    """Name, size and hash of a set."""
    content = hashlib.sha256(data.images.numpy().tobytes())
    content.update(data.labels.numpy().tobytes())
    return {"name": data.name, "images": len(data), "sha256": content.hexdigest()}


def main(arguments: list[str] | None = None) -> None:
    """Train a classifier into a folder (`--out`), or into the cache, and say how accurate it is."""
    try:
        import tyro
    except ImportError as error:
        raise MissingExtra(f"the command line needs tyro ({error}): install induced[apps]") from error

    def command(
        config: tyro.conf.OmitArgPrefixes[ClassifierConfig],
        data: str = "mnist",
        data_dir: Path | None = None,
        out: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Train a digit classifier; images that mnist5k holds out are left out.

        Args:
            config: How to train.
            data: "mnist" or "mnist5k", which is embedded.
            data_dir: Folder with data sets; beats $INDUCED_DATA.
            out: Folder to write to; the cache if absent.
            cache: Cache folder; the platform's if absent.
        """
        trained_on, test = load(data, "train", data_dir), load(data, "test", data_dir)
        if data != "mnist5k":
            trained_on = without_held_out(trained_on)
        net = cached_classifier(trained_on, config, cache)
        score = accuracy(net, test)
        print(f"{score:.2%} of {len(test):,} images right ({test.name}); trained on {len(trained_on):,} ({trained_on.name})")
        if out is not None:
            record = {"training": asdict(config), "data": _described(trained_on), "accuracy": {"data": test.name, "value": score}}
            save_classifier(net, out, record)
            print(f"written to {out}")

    tyro.cli(command, args=list(map(at_home, sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    main()
