"""Numbers that compare images, sets of features or rows, and sets of scores; in float64, and independent of any batch size."""

import math
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from induced.errors import DomainError, DtypeError, ShapeError

_PEAK: Final = 2.0
"""Width of the range of images."""
_SURE: Final = 0.9
_ROWS: Final = 500
"""Rows of a matrix of distances that are held at a time."""
LEAST: Final = 10
"""Fewest rows of either sample of a two-sample test."""


class PrecisionRecall(NamedTuple):
    """Share of the generated that lie in the support of the real, and of the real in the support of the generated."""

    precision: float
    recall: float


class ClassBalance(NamedTuple):
    """How predicted classes are spread, and how sure the classifier is of them.

    Arguments:
        total_variation: Half the sum of |share - reference share|: 0 when equal, at most 1.
        confident: Share of images whose largest probability exceeds 0.9.
    """

    total_variation: float
    confident: float


class TwoSample(NamedTuple):
    """A classifier two-sample test.

    Attributes:
        accuracy: cross-validated accuracy of a classifier that tells the samples apart; 0.5 where it cannot.
        deviation: standard deviation of the accuracy of guessing, 1 / (2 sqrt(rows)). Within two of them of 0.5, nothing was told
            apart.
    """

    accuracy: float
    deviation: float


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images in [-1, 1], 10 log10(2^2 / mean((a - b)^2)), in decibels.

    Each image has its own mean, taken in float64: the value does not depend on what else is in the batch. The average
    over a set is the mean of these values, not the PSNR of the pooled error.

    Arguments:
        a: Images `(N, ...)`, floating-point.
        b: Images of the same shape.

    Returns:
        float64, `(N,)`; infinity where the two images are equal.

    Raises:
        ShapeError: the shapes differ, or there is no dimension beside the batch.
        DtypeError: the images are no floating-point ones (pixels have another range).
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ShapeError(f"psnr compares images (N, ...) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise DtypeError(f"psnr compares images in [-1, 1], got {a.dtype} and {b.dtype}: to_unit makes uint8 images float")
    return 10 * torch.log10(_PEAK**2 / (a.double() - b.double()).flatten(1).square().mean(1))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the mean and covariance of two sets,

    |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)),

    the formula of FID, in whatever features it is given. With C = R^T R from the QR factorisation of the centred set, the
    last trace is the sum of the singular values of R_a R_b^T: no product of covariances is formed and no eigenvalue needs
    clamping, so that the distance of a set to itself is zero to rounding even where its covariance is singular.

    A finite sample is biased: compare sets of equal sizes. C has the divisor N - 1.

    Arguments:
        a: Features `(N, d)`, at least two of them.
        b: Features `(M, d)`.

    Returns:
        The distance; rounding can make that of equal sets slightly negative.

    Raises:
        ShapeError: not two sets of two or more features of one width.
        DomainError: a feature is not finite.
    """
    x, y = _feature_sets("frechet_distance", a, b, least=2)
    mean_x, mean_y = x.mean(0), y.mean(0)
    root_x, root_y = _covariance_root(x - mean_x), _covariance_root(y - mean_y)
    overlap = torch.linalg.svdvals(root_x @ root_y.mT).sum()
    return float((mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap)


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019): who lies in whose k-nearest-neighbour support.

    The support of a set is the union of the closed balls around its members that reach to their k-th nearest other member.
    Precision is the share of `generated` in the support of `real`, recall the converse. Distances that differ by no more than the
    rounding of float64 count as equal, so that a copy of a point always lies in its ball.

    Arguments:
        real: Features `(N, d)`, more than k.
        generated: Features `(M, d)`, more than k. Compare equal numbers: supports grow with the set.
        k: Which neighbour sets the radius.

    Returns:
        Two shares.

    Raises:
        ShapeError: not two sets of more than k features of one width.
        DomainError: a feature is not finite.
    """
    x, y = _feature_sets("precision_recall", real, generated, least=k + 1)
    center = x.mean(0)
    x, y = x - center, y - center
    longest = max(float(x.square().sum(1).max()), float(y.square().sum(1).max()))
    slack = 8 * x.shape[1] * torch.finfo(x.dtype).eps * longest
    reach_x, reach_y = _reach(x, k) + slack, _reach(y, k) + slack
    precise = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    recalled = 0
    for part, reach in zip(torch.split(x, _ROWS), torch.split(reach_x, _ROWS), strict=True):
        distances = _squared_distances(part, y)
        precise |= (distances <= reach[:, None]).any(0)
        recalled += int((distances <= reach_y).any(1).sum())
    return PrecisionRecall(float(precise.double().mean()), recalled / len(x))


def class_balance(logits: Tensor, reference: Tensor) -> ClassBalance:
    """Spread of the classes that a classifier sees in a set of images, and its confidence.

    Arguments:
        logits: `(N, K)`, unnormalised log-probabilities.
        reference: Counts or shares to compare with, `(K,)`.

    Raises:
        ShapeError: logits are no nonempty matrix, or the reference has another length.
        DomainError: a logit is not finite.
    """
    if logits.ndim != 2 or 0 in logits.shape or reference.shape != logits.shape[1:]:
        raise ShapeError(f"class_balance takes logits (N, K) and shares (K,); got {[*logits.shape]}, {[*reference.shape]}")
    if not bool(logits.isfinite().all()):
        raise DomainError(f"class_balance got {int((~logits.isfinite()).sum())} logits that are not finite, of {logits.numel()}")
    shares = logits.argmax(1).bincount(minlength=len(reference)).double() / len(logits)
    sure = logits.double().softmax(1).amax(1) > _SURE
    return ClassBalance(float((shares - (reference / reference.sum()).to(shares)).abs().sum() / 2), float(sure.double().mean()))


def auroc(negatives: Tensor, positives: Tensor) -> float:
    """Area under the ROC curve, P(positive > negative) + P(positive = negative) / 2, of the ranks of the scores.

    Arguments:
        negatives: Scores `(N,)` of what should score low, such as data of the training distribution.
        positives: Scores `(M,)` of what should score high, such as data from elsewhere. Infinities are allowed.

    Returns:
        1 for perfect separation, 1/2 for none.

    Raises:
        ShapeError: not two nonempty vectors.
        DomainError: a score is NaN.
    """
    from sklearn.metrics import roc_auc_score

    if negatives.ndim != 1 or positives.ndim != 1 or 0 in (len(negatives), len(positives)):
        raise ShapeError(f"auroc takes two nonempty vectors, got {tuple(negatives.shape)} and {tuple(positives.shape)}")
    scores = torch.cat([negatives.double(), positives.double()])
    if bool(scores.isnan().any()):
        raise DomainError(f"auroc got {int(scores.isnan().sum())} scores that are NaN, of {len(scores)}")
    ranks = torch.unique(scores, return_inverse=True)[1]  # infinities have one
    return float(roc_auc_score([0] * len(negatives) + [1] * len(positives), ranks.cpu().numpy()))


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples (N, n) and (M, n), without bias: pairs of a row with itself do not count.

    Columns count in units of their standard deviation in `a`. It is 0 in the mean for samples of one distribution, and may be
    negative then; else it is positive (Szekely and Rizzo 2013).

    Raises:
        ShapeError: not two matrices of one width with at least 10 rows each.
        DomainError: a value is not finite.
    """
    a, b = _feature_sets("energy_distance", a.cpu(), b.cpu(), LEAST)
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
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    a, b = _feature_sets("classifier_test", a.cpu(), b.cpu(), LEAST)
    n = min(len(a), len(b))
    rows, side = torch.cat([a[:n], b[:n]]).numpy(), np.repeat([0, 1], n)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    classifier = HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    return TwoSample(float(cross_val_score(classifier, rows, side, cv=folds).mean()), 0.5 / float(np.sqrt(2 * n)))


def _feature_sets(name: str, a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Check two sets of features or rows and widen them."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 1 or min(len(a), len(b)) < least:
        raise ShapeError(f"{name} compares sets (N, d) and (M, d), N and M >= {least}; got {tuple(a.shape)} and {tuple(b.shape)}")
    x, y = a.to(torch.float64), b.to(torch.float64)
    for which, values in (("first", x), ("second", y)):
        if not bool(values.isfinite().all()):
            raise DomainError(f"{name}: {int((~values.isfinite()).sum())} values of the {which} set are not finite")
    return x, y


def _covariance_root(centred: Tensor) -> Tensor:
    """R with R^T R the covariance of centred rows."""
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root / math.sqrt(len(centred) - 1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """All squared distances by one matrix product, some ten times faster than pair by pair; rounding leaves 0 near 0."""
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.mT, alpha=-2)


def _reach(x: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other one; it is its own nearest."""
    return torch.cat([_squared_distances(part, x).kthvalue(k + 1, 1).values for part in torch.split(x, _ROWS)])
