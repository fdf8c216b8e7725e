"""Numbers that compare images, sets of features and sets of scores; in float64, and independent of any batch size."""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from induced.errors import DomainError, DtypeError, ShapeError

_WINDOW: Final = 11
_SIGMA: Final = 1.5
_K: Final = (0.01, 0.03)
_PART: Final = 16


class PrecisionRecall(NamedTuple):
    """Share of the generated that lie in the support of the real, and of the real in the support of the generated."""

    precision: float
    recall: float


class ClassBalance(NamedTuple):
    """How predicted classes are spread, and how sure the classifier is of them.

    Arguments:
        shares: float64, `(K,)`: share of each class; they sum to 1.
        total_variation: Half the sum of |share - reference share|: 0 when equal, at most 1.
        entropy: Of the shares, in nats; log K when they are equal.
        confident: Share of images whose largest probability exceeds the threshold.
    """

    shares: Tensor
    total_variation: float
    entropy: float
    confident: float


def psnr(a: Tensor, b: Tensor, peak: float) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images, 10 log10(peak^2 / mean((a - b)^2)), in decibels.

    Each image has its own mean, taken in float64: the value does not depend on what else is in the batch. The average
    over a set is the mean of these values, not the PSNR of the pooled error.

    Arguments:
        a: Images `(N, ...)`, of any dtype.
        b: Images of the same shape and dtype.
        peak: Width of the images' range: 255 for uint8, 2 for [-1, 1].

    Returns:
        float64, `(N,)`; infinity where the two images are equal.

    Raises:
        ShapeError: the shapes differ, or there is no dimension beside the batch.
        DtypeError: the dtypes differ (two different ranges, as a rule).
        DomainError: `peak` is not a positive number.
    """
    _check_pair("psnr", a, b, peak)
    if a.ndim < 2:
        raise ShapeError(f"psnr compares images (N, ...) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    error = (a.to(torch.float64) - b.to(torch.float64)).flatten(1).square().mean(1)
    return 10 * torch.log10(peak**2 / error)


def ssim(a: Tensor, b: Tensor, peak: float) -> Tensor:
    """Structural similarity of each pair of images (Wang et al. 2004), the mean of

    (2 m_a m_b + c1) (2 s_ab + c2) / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2)), c1 = (.01 peak)^2, c2 = (.03 peak)^2,

    over channels and over every place where the whole window lies inside the image. The means m and (co)variances s are
    weighted by a Gaussian window of 11 x 11 pixels with standard deviation 1.5; no image is scaled down first.

    Arguments:
        a: Images `(N, C, H, W)` of any dtype, at least one, sides of at least 11.
        b: Images of the same shape and dtype.
        peak: Width of the images' range: 255 for uint8, 2 for [-1, 1].

    Returns:
        float64, `(N,)`, at most 1; 1 where the two images are equal.

    Raises:
        ShapeError: the shapes differ, are not four-dimensional, or have a side below 11.
        DtypeError: the dtypes differ.
        DomainError: `peak` is not a positive number.
    """
    _check_pair("ssim", a, b, peak)
    if a.ndim != 4 or 0 in a.shape or min(a.shape[-2:]) < _WINDOW:
        raise ShapeError(f"ssim compares images (N, C, H, W) with sides of at least {_WINDOW}, got {tuple(a.shape)}")
    # A part at a time: the window's sums then stay in the processor's cache, and memory does not grow with the set.
    pairs = zip(torch.split(a, _PART), torch.split(b, _PART), strict=True)
    return torch.cat([_similarity(x.to(torch.float64), y.to(torch.float64), peak) for x, y in pairs])


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


def precision_recall(real: Tensor, generated: Tensor, k: int = 3, chunk: int = 500) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019): who lies in whose k-nearest-neighbour support.

    The support of a set is the union of the closed balls around its members that reach to their k-th nearest other member.
    Precision is the share of `generated` in the support of `real`, recall the converse. Distances that differ by no more than the
    rounding of float64 count as equal, so that a copy of a point always lies in its ball.

    Arguments:
        real: Features `(N, d)`, more than k.
        generated: Features `(M, d)`, more than k. Compare equal numbers: supports grow with the set.
        k: Which neighbour sets the radius.
        chunk: Rows of a distance matrix held at a time; the result does not depend on it.

    Returns:
        Two shares.

    Raises:
        ShapeError: not two sets of more than k features of one width.
        DomainError: a feature is not finite, or k or chunk is not positive.
    """
    if k < 1 or chunk < 1:
        raise DomainError(f"k and chunk must be positive, got {k} and {chunk}")
    x, y = _feature_sets("precision_recall", real, generated, least=k + 1)
    center = x.mean(0)
    x, y = x - center, y - center
    longest = max(float(x.square().sum(1).max()), float(y.square().sum(1).max()))
    slack = 8 * x.shape[1] * torch.finfo(x.dtype).eps * longest
    reach_x, reach_y = _reach(x, k, chunk) + slack, _reach(y, k, chunk) + slack
    precise = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    recalled = 0
    for start in range(0, len(x), chunk):
        distances = _squared_distances(x[start : start + chunk], y)
        precise |= (distances <= reach_x[start : start + chunk, None]).any(0)
        recalled += int((distances <= reach_y).any(1).sum())
    return PrecisionRecall(float(precise.double().mean()), recalled / len(x))


def class_balance(logits: Tensor, reference: Tensor | None = None, confidence: float = 0.9) -> ClassBalance:
    """Spread of the classes that a classifier sees in a set of images, and its confidence.

    Arguments:
        logits: `(N, K)`, unnormalised log-probabilities.
        reference: Shares to compare with, `(K,)`, scaled to sum to 1 (so that counts serve); equal shares if None.
        confidence: Threshold of the largest probability.

    Returns:
        Shares, their distance to the reference, their entropy, and the share of confident predictions.

    Raises:
        ShapeError: logits are no nonempty matrix, or the reference has another length.
        DomainError: a logit is not finite, or the reference holds a negative value or sums to 0.
    """
    if logits.ndim != 2 or 0 in logits.shape:
        raise ShapeError(f"class_balance takes logits (N, K) of at least one image and class, got {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise DomainError(f"class_balance got {int((~logits.isfinite()).sum())} logits that are not finite, of {logits.numel()}")
    count, classes = logits.shape
    expected = torch.ones(classes) if reference is None else reference
    if expected.shape != (classes,):
        raise ShapeError(f"the reference has shape {tuple(expected.shape)}, the logits are of {classes} classes")
    expected = expected.to(logits.device, torch.float64)
    if not (bool((expected >= 0).all()) and 0 < float(expected.sum()) < math.inf):
        raise DomainError(f"the reference must hold shares or counts, not all 0; got {expected.tolist()}")
    shares = logits.argmax(1).bincount(minlength=classes).double() / count
    certainty = logits.to(torch.float64).softmax(1).amax(1)
    return ClassBalance(
        shares,
        float((shares - expected / expected.sum()).abs().sum() / 2),
        float(torch.special.entr(shares).sum()),
        float((certainty > confidence).double().mean()),
    )


def auroc(negatives: Tensor, positives: Tensor) -> float:
    """Area under the ROC curve, P(positive > negative) + P(positive = negative) / 2, from the ranks of the scores.

    Arguments:
        negatives: Scores `(N,)` of what should score low, such as data of the training distribution.
        positives: Scores `(M,)` of what should score high, such as data from elsewhere. Infinities are allowed.

    Returns:
        1 for perfect separation, 1/2 for none.

    Raises:
        ShapeError: not two nonempty vectors.
        DomainError: a score is NaN.
    """
    if negatives.ndim != 1 or positives.ndim != 1 or 0 in (len(negatives), len(positives)):
        raise ShapeError(f"auroc takes two nonempty vectors, got {tuple(negatives.shape)} and {tuple(positives.shape)}")
    low, high = negatives.to(torch.float64), positives.to(torch.float64)
    if bool(low.isnan().any()) or bool(high.isnan().any()):
        raise DomainError(
            f"auroc got {int(low.isnan().sum())} negative and {int(high.isnan().sum())} positive scores that are NaN"
        )
    ordered = low.sort().values
    # How many negatives lie below, and how many at or below: ties count once in one and not in the other.
    below = torch.searchsorted(ordered, high) + torch.searchsorted(ordered, high, right=True)
    return int(below.sum()) / (2 * len(low) * len(high))


def _check_pair(name: str, a: Tensor, b: Tensor, peak: float) -> None:
    """Refuse images that cannot be compared pixel by pixel."""
    if a.shape != b.shape:
        raise ShapeError(f"{name} compares images (N, ...) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.dtype != b.dtype:
        raise DtypeError(f"{name} got {a.dtype} and {b.dtype}: bring both to the same range and dtype first")
    if not (math.isfinite(peak) and peak > 0):
        raise DomainError(f"peak is the width of the images' range, a positive number; got {peak}")


def _similarity(x: Tensor, y: Tensor, peak: float) -> Tensor:
    """SSIM of float64 images."""
    mean_x, mean_y, xx, yy, xy = _smooth(torch.stack((x, y, x * x, y * y, x * y))).unbind()
    c1, c2 = ((k * peak) ** 2 for k in _K)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    structure = (2 * (xy - product) + c2) / (xx + yy - squares + c2)
    return ((2 * product + c1) / (squares + c1) * structure).flatten(1).mean(1)


def _smooth(planes: Tensor) -> Tensor:
    """Weight every 11 x 11 window inside float64 planes `(..., H, W)` by the Gaussian, rows first."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.softmax(-offsets.square() / (2 * _SIGMA**2), 0).tolist()
    for dim in (-2, -1):
        size = planes.shape[dim] - _WINDOW + 1
        total = weights[0] * planes.narrow(dim, 0, size)
        for start in range(1, _WINDOW):
            total = total.add(planes.narrow(dim, start, size), alpha=weights[start])
        planes = total
    return planes


def _feature_sets(name: str, a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Check two sets of features and widen them."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 1 or min(len(a), len(b)) < least:
        raise ShapeError(
            f"{name} compares features (N, d) and (M, d), at least {least} of each; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
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


def _reach(x: Tensor, k: int, chunk: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other one; it is its own nearest."""
    return torch.cat([_squared_distances(part, x).kthvalue(k + 1, 1).values for part in torch.split(x, chunk)])
