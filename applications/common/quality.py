"""Generated images judged by as many real ones, in the features of a network."""

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from applications.common.classifier import digit_classifier
from applications.common.data import ImageSet, to_uint8
from applications.common.features import extract, squeezenet
from applications.common.inception import inception
from applications.common.metrics import class_balance, frechet_distance, precision_recall
from applications.common.places import Folder
from induced.errors import ShapeError


@dataclass(frozen=True)
class Quality:
    """How samples compare with as many real images, in the features of a network.

    Attributes:
        samples: how many of either.
        numbers: how many features an image has; of fewer samples than that the Frechet distance says little.
        features: the project's digit classifier, SqueezeNet for images of anything else, or Inception v3 where its weights are
            given.
        frechet, precision, recall: of those features (`applications/common/metrics.py`).
        confident: share of samples of which the classifier is more than 90 % sure; nan but for the digit classifier.
        imbalance: total variation distance of their classes to those of the real images; nan but for the digit classifier.
    """

    samples: int
    numbers: int
    features: str
    frechet: float
    precision: float
    recall: float
    confident: float
    imbalance: float

    def __str__(self) -> str:
        names = ("frechet", "precision", "recall", "confident", "imbalance")
        scores = {name: value for name in names if not math.isnan(value := getattr(self, name))}
        shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        return f"{shown}  ({self.samples} samples, {self.features})"


def is_of_digits(data: ImageSet) -> bool:
    """Whether the digit classifier knows the images of a data set."""
    return data.name.startswith("mnist")


def quality(samples: Tensor, real: ImageSet, data_dir: Folder | None = None, *, fid_weights: Path | None = None) -> Quality:
    """Judge samples in [-1, 1] by as many real images, spread evenly over the set: many sets are sorted by class.

    Arguments:
        samples: (N, C, H, W); the network runs on their device.
        real: what they are to look like.
        data_dir: where SqueezeNet's weights are.
        fid_weights: a file of Inception's weights (`applications/common/inception.py`): the Frechet distance is the standard FID.

    Raises:
        ShapeError: fewer real images than samples: compare equal numbers, since a finite sample is biased.
        DataError: not digits, and the weights of SqueezeNet are not in the data folder; Inception's cannot be read.
    """
    if len(real) < len(samples):
        raise ShapeError(f"quality compares equal numbers: got {len(samples)} samples and {len(real)} images of {real.name}")
    samples, compared = samples.clamp(-1.0, 1.0), real.spread(len(samples))
    images, labels, device = compared.images, compared.labels, samples.device
    confident = imbalance = math.nan
    if fid_weights is not None:
        standard, name = inception(fid_weights).to(device), "Inception v3 (FID)"
        a, b = (extract(standard, x, 25, device) for x in (images, to_uint8(samples)))
    elif not is_of_digits(real):
        net, name = squeezenet(data_dir).to(device), "SqueezeNet 1.1"
        a, b = (extract(net, x.expand(-1, 3, -1, -1), device=device) for x in (images, samples))
    else:
        classifier, name = digit_classifier().to(device), "digit classifier"
        a, b = (extract(classifier.features, x, device=device) for x in (images, samples))
        balance = class_balance(extract(classifier, samples, device=device), labels.bincount(minlength=10))
        confident, imbalance = balance.confident, balance.total_variation
    precision, recall = precision_recall(a, b)
    return Quality(len(samples), a.shape[1], name, frechet_distance(a, b), precision, recall, confident, imbalance)
