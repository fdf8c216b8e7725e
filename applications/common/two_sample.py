"""Are two samples of vectors from one distribution? Energy distance, and how well a classifier tells them apart."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from induced.errors import DomainError, MissingExtra, ShapeError

LEAST = 10
"""Fewest rows of either sample."""


class TwoSample(NamedTuple):
    """A classifier two-sample test.

    Attributes:
        accuracy: cross-validated accuracy of a classifier that tells the samples apart; 0.5 where it cannot.
        deviation: standard deviation of the accuracy of guessing, 1 / (2 sqrt(rows)). Within two of them of 0.5, nothing was told
            apart.
    """

    accuracy: float
    deviation: float


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples (N, n) and (M, n), without bias: pairs of a row with itself do not count.

    Columns count in units of their standard deviation in `a`. It is 0 in the mean for samples of one distribution, and may be
    negative then; else it is positive (Szekely and Rizzo 2013).

    Raises:
        ShapeError: not two matrices of one width with at least 10 rows each.
        DomainError: a value is not finite.
    """
    a, b = _samples("energy_distance", a, b)
    scale = a.std(0)
    a, b = a / torch.where(scale > 0, scale, 1.0), b / torch.where(scale > 0, scale, 1.0)
    within = [torch.pdist(x).mean() for x in (a, b)]
    return float(2 * torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").mean() - within[0] - within[1])


def classifier_test(a: Tensor, b: Tensor, seed: int = 0) -> TwoSample:
    """Five-fold accuracy of gradient-boosted trees that tell apart equal numbers of rows of two samples (Lopez-Paz, Oquab 2017).

    Raises:
        ShapeError: not two matrices of one width with at least 10 rows each.
        DomainError: a value is not finite.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_score
    except ImportError as error:
        raise MissingExtra(f"the two-sample test needs scikit-learn ({error}): install induced[apps]") from error
    a, b = _samples("classifier_test", a, b)
    n = min(len(a), len(b))
    rows, side = torch.cat([a[:n], b[:n]]).numpy(), np.repeat([0, 1], n)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    classifier = HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    return TwoSample(float(cross_val_score(classifier, rows, side, cv=folds).mean()), 0.5 / float(np.sqrt(2 * n)))


def _samples(name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < LEAST:
        raise ShapeError(
            f"{name} compares rows (N, n) and (M, n), {LEAST} or more of each; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    for sample in (a, b):
        if not bool(sample.isfinite().all()):
            raise DomainError(f"{name} got {int((~sample.isfinite()).sum())} values that are not finite, of {sample.numel()}")
    return a.double().cpu(), b.double().cpu()
