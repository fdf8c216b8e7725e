"""Generated images judged by as many real ones, in the features of a network."""

import math
import os
from dataclasses import dataclass

from torch import Tensor

from applications.common.classifier import digit_classifier
from applications.common.data import ImageSet
from applications.common.features import extract, squeezenet
from applications.common.metrics import class_balance, frechet_distance, precision_recall
from induced.errors import ShapeError


@dataclass(frozen=True)
class Quality:
    """How samples compare with as many real images, in the features of a network.

    Attributes:
        samples: how many of either.
        features: the network: the project's digit classifier, or SqueezeNet for colour images.
        frechet, precision, recall: of those features (`applications/common/metrics.py`).
        confident: share of samples of which the classifier is more than 90 % sure; nan for colour images.
        imbalance: total variation distance of their classes to those of the real images; nan for colour images.
    """

    samples: int
    features: str
    frechet: float
    precision: float
    recall: float
    confident: float
    imbalance: float


def quality(samples: Tensor, real: ImageSet, data_dir: str | os.PathLike[str] | None = None) -> Quality:
    """Judge samples in [-1, 1] by as many real images, spread evenly over the set: many sets are sorted by class.

    Raises:
        ShapeError: fewer real images than samples: compare equal numbers, since a finite sample is biased.
        DataError: colour images, and the weights of SqueezeNet are not in the data folder.
    """
    if len(real) < len(samples):
        raise ShapeError(f"quality compares equal numbers: got {len(samples)} samples and {len(real)} images of {real.name}")
    samples, compared = samples.clamp(-1.0, 1.0), real.spread(len(samples))
    images, labels = compared.images, compared.labels
    if samples.shape[1] == 3:
        net, name = squeezenet(data_dir), "SqueezeNet 1.1"
        a, b, confident, imbalance = extract(net, images), extract(net, samples), math.nan, math.nan
    else:
        classifier, name = digit_classifier(), "digit classifier"
        a, b = extract(classifier.features, images), extract(classifier.features, samples)
        balance = class_balance(extract(classifier, samples), labels.bincount(minlength=10))
        confident, imbalance = balance.confident, balance.total_variation
    precision, recall = precision_recall(a, b)
    return Quality(len(samples), name, frechet_distance(a, b), precision, recall, confident, imbalance)
