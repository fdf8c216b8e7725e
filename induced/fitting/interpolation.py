"""Theorem H.5, constructively: a Linearizer through given pairs of points."""

import torch
from torch import Tensor

from induced._validate import require_finite, require_like, require_precision, require_shape
from induced.bijections import Affine, Composition
from induced.bijections.interpolating import FEW, PiecewiseLinear, Shear, least_distances
from induced.errors import DomainError, NotInvertible, ShapeError
from induced.linearizer import Linearizer
from induced.operators import LowRank
from induced.spaces import EuclideanSpace, HilbertSpace, InducedSpace

DRAWS = 8  # random frames of few columns, of which the one that tells the points apart best is taken


def interpolate(x: Tensor, y: Tensor, *, eps: float | None = None) -> Linearizer:
    """A Linearizer with |f(x_i) - y_i| <= eps for all pairs of distinct points x_i of R^n and any points y_i of R^m (Thm H.5).

    Both charts are rotations followed by shears that move the points by disjoint bumps, the core is a 0/1 projection: up to
    rounding f(x_i) = y_i. The steepest bump grows as the data come close to each other beside their size: nothing is smooth, or
    said between the points, beyond that. Needs max(n, m) >= 2; on the line (n = m = 1) only constant and strictly monotone data
    have a Linearizer, and targets y_i can repeat only where the core has a kernel: n >= 2, or all of them are one. The
    time grows as N log N while the charts see at most 8 coordinates (for 1 < n <= 16, m >= n / 2), and as N^2 beyond.

    Arguments:
        x: points (N, n), N >= 0; equal ones need equal targets.
        y: targets (N, m), of the same dtype.
        eps: the error that is allowed; by default the largest |y_i| times the square root of the dtype's machine epsilon.

    Returns:
        The Linearizer from R^n to R^m, without parameters.

    Raises:
        ShapeError, DtypeError: not N points of R^n and of R^m of one dtype.
        DomainError: values that are not finite; one point with two targets; or points too close to be told apart within eps.
        NotInvertible: n = 1, and the data are neither constant nor one-to-one (nor monotone, for m = 1).

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
        >>> y = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)   # three zeros and a one
        >>> bool((interpolate(x, y)(x) - y).abs().max() < 1e-12)
        True

    Law:
        `interpolate(x, y)(x) == y` (Thm H.5; laws/test_interpolation.py)
    """
    for value, what in ((x, "the points x"), (y, "the targets y")):
        require_shape(value, value.shape[-1:], what)
        if value.dim() != 2 or value.shape[1] == 0 or len(value) != len(x):
            raise ShapeError(f"{what} must have shape (N, dim), as many of both; got {tuple(x.shape)} and {tuple(y.shape)}")
        require_finite(value, what)
    require_like(y, x, "the targets y beside the points x")
    require_precision(x.dtype, "the data of an interpolation")
    x, y = x.detach(), y.detach()
    points, images = _function_of(x, y) if len(x) else (x.new_zeros(1, x.shape[1]), y.new_zeros(1, y.shape[1]))
    if bool((images == images[0]).all()):
        fit = _fit_constant(points, images)
    elif points.shape[1] >= 2:
        fit = _fit_from_the_plane(points, images)
    else:
        fit = _fit_from_the_line(points, images)
    if eps is None:
        eps = torch.finfo(x.dtype).eps ** 0.5 * float(images.norm(dim=-1).max())
    error = float((fit(points) - images).norm(dim=-1).max())
    if not error <= eps:
        raise DomainError(
            f"the fit misses its targets by {error:.3g}, more than eps = {eps:.3g}: the least distance of two points is "
            f"{float(least_distances(points).min()):.3g}, too small for {x.dtype} beside their size; use float64 or rescale"
        )
    return fit


def _function_of(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs, each point once."""
    points, group = torch.unique(x + 0.0, dim=0, return_inverse=True)
    first = torch.full((len(points),), len(x), device=x.device).scatter_reduce(0, group, _range(x), "amin")
    differs = (y != y[first[group]]).any(-1)
    if bool(differs.any()):
        j = int(differs.nonzero()[0])
        i = int(first[group[j]])
        raise DomainError(f"the pairs {i} and {j} give one point x two targets, {y[i].tolist()} and {y[j].tolist()}: no function")
    return points, y[first]


def _range(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)


def _fit_constant(x: Tensor, y: Tensor) -> Linearizer:
    n, m = x.shape[1], y.shape[1]
    return Linearizer(x.new_zeros(m, n), EuclideanSpace(n), InducedSpace(Affine((m,), 1.0, -y[0])))


def _fit_from_the_plane(x: Tensor, y: Tensor) -> Linearizer:
    """n >= 2: u = C^T x in R^p, v = B^T x and w = D^T y in R^q, a = E^T y. The charts turn v into w and a into 0; A = D B^T."""
    n, m = x.shape[1], y.shape[1]
    p = max(n // 2, n - m)
    q = min(m, n - p)
    targets, group = torch.unique(y, dim=0, return_inverse=True)
    D, E = _frame(targets, q)
    Y: HilbertSpace = EuclideanSpace(m)
    if q < m:
        Y = InducedSpace(Shear(D, E, targets @ D, -(targets @ E)))
    C, rest = _frame(x, p)
    B = rest[:, :q].clone()
    X = InducedSpace(Shear(C, B, x @ C, (targets @ D)[group] - x @ B))
    return Linearizer(LowRank(D, B), X, Y)


def _fit_from_the_line(x: Tensor, y: Tensor) -> Linearizer:
    """n = 1: the identity on the line; for m >= 2, w = D^T y in R and a = E^T y, the chart of Y turns w into x, then a into 0."""
    m = y.shape[1]
    if m == 1:
        steps = y.diff(dim=0)
        if not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise NotInvertible(
                "between two lines (n = m = 1) a Linearizer is constant or strictly monotone, and these data are neither: "
                "add a coordinate to x or y"
            )
        sign = steps[:1].sign()
        X = InducedSpace(PiecewiseLinear(x[:, 0].clone(), (sign * y)[:, 0]))
        return Linearizer(sign, X, EuclideanSpace(1))
    targets, count = torch.unique(y, dim=0, return_counts=True)
    if len(targets) < len(y):
        repeated = targets[int(count.argmax())].tolist()
        raise NotInvertible(
            f"on a line (n = 1) a Linearizer is constant or one-to-one, but several points have the target {repeated}: "
            f"add a coordinate to x"
        )
    E, D = _frame(y, m - 1)
    w, a = y @ D, y @ E
    Y = InducedSpace(Composition(Shear(E, D, a, x - w), Shear(D, E, x, -a)))
    return Linearizer(LowRank(D, torch.ones_like(D[:1])), EuclideanSpace(1), Y)


def _frame(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The columns of a random orthogonal matrix, k and the others; where k is small, the best of a few matrices.

    The best keeps the points farthest apart in its first k columns. Random frames of many columns keep distances alike.
    """
    n = points.shape[1]
    generator = torch.Generator().manual_seed(0)
    draws = DRAWS if k <= FEW else 1
    frames = [torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0].to(points) for _ in range(draws)]
    best = max(frames, key=lambda Q: float(least_distances(points @ Q[:, :k]).min())) if draws > 1 else frames[0]
    return best[:, :k].clone(), best[:, k:].clone()
