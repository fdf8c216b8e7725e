"""Charts of constrained sets: compositions (the simplex) and symmetric positive definite matrices."""

import math
from typing import final

import torch
from torch import Tensor

from induced._numerics import linear_algebra, matrix_exp
from induced._registry import saved_as
from induced._validate import eager, require_domain, require_finite, require_floating, require_precision
from induced.bijections.base import Bijection
from induced.errors import DomainError


@final
@saved_as("bijections.Simplex", describe=lambda g: {"parts": g.shape[0]})
class Simplex(Bijection):
    """z = ilr(x), z_k = sqrt(k/(k+1)) (mean of log x_1..k - log x_{k+1}): Aitchison's geometry of compositions.

    Points are positive vectors (parts,) with sum 1, coordinates vectors (parts - 1,). (+) is the perturbation
    x_i y_i / sum, a (.) x the powering x_i^a / sum, 0_g the uniform composition, and the inner product is Aitchison's, that of
    the centred log-ratios: the isometric log-ratio (Egozcue et al. 2003) writes those in an orthonormal Helmert basis.

    log|det J| is taken with respect to the surface measure of the simplex in R^parts: it is -log(parts) - sum_i log x_i. For
    Lebesgue measure on the first parts - 1 entries, which is the surface measure over sqrt(parts), add log(parts) / 2.

    Arguments:
        parts: number of parts, at least 2.

    Raises:
        ShapeError: fewer than two parts.
        DomainError: a point is not positive, or its sum is not 1 within rounding: divide it by its sum.

    Example:
        >>> import torch
        >>> g = Simplex(3)
        >>> g.inverse(torch.zeros(2))
        tensor([0.3333, 0.3333, 0.3333])

    Law:
        `g.inverse(g(x) + g(y)) == x * y / (x * y).sum()` (§2.1; laws/test_constrained.py)
    """

    def __init__(self, parts: int) -> None:
        super().__init__((parts,), (parts - 1,))

    def forward(self, x: Tensor) -> Tensor:
        require_floating(x, "a composition")
        require_domain(x, x > 0, "the positive numbers", "the parts of a composition")
        if eager(x):
            self._require_closed(x.detach())
        logs, k = x.log(), self._counts(x)
        return (k / (k + 1)).sqrt() * (logs[..., :-1].cumsum(-1) / k - logs[..., 1:])

    def inverse(self, z: Tensor) -> Tensor:
        return self._closed(self._logs(z))

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        logs = self._logs(z)
        return self._closed(logs), math.log(self.shape[0]) + torch.log_softmax(logs, -1).sum(-1)

    def _logs(self, z: Tensor, sign: int = -1) -> Tensor:
        """The logarithms of the parts, up to a constant; the size of the numbers that they come of, for |z| and sign 1."""
        k = self._counts(z)
        scaled, zero = z / (k * (k + 1)).sqrt(), z.new_zeros((*z.shape[:-1], 1))
        # z_k lifts the first k parts by the scaled value each, and lowers part k + 1 by k times it
        later = torch.cat([scaled.flip(-1).cumsum(-1).flip(-1), zero], -1)
        return torch.add(later, torch.cat([zero, k * scaled], -1), alpha=sign)

    def _closed(self, logs: Tensor) -> Tensor:
        x = torch.softmax(logs, -1)
        require_domain(x, x > 0, "the positive numbers", "the composition of the coordinates", _TOO_LARGE)
        return x

    def roundoff(self, x: Tensor) -> Tensor:
        """A coordinate is a difference of logarithms, whose errors have signs of their own."""
        logs, k = x.log().abs(), self._counts(x)
        return (k / (k + 1)).sqrt() * torch.hypot(logs[..., :-1].cumsum(-1) / k, logs[..., 1:])

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        """A part is as well known as the logarithm that it comes of, and one below the normal numbers loses digits."""
        x, logs = self.inverse(z), self._logs(z.abs(), 1)
        return (x * torch.hypot(torch.ones_like(logs), logs)).clamp(min=torch.finfo(x.dtype).tiny)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z: Tensor = self(x)
        return z, -math.log(self.shape[0]) - x.log().sum(-1)

    def _counts(self, like: Tensor) -> Tensor:
        return torch.arange(1, self.shape[0], dtype=like.dtype, device=like.device)

    def _require_closed(self, x: Tensor) -> None:
        gap = (x.sum(-1) - 1).abs()
        if not bool((gap <= 10 * self.shape[0] * torch.finfo(x.dtype).eps).all()):
            raise DomainError(
                f"a composition has sum 1, but one of the {gap.numel()} given is off by {float(gap.max()):.3g}: "
                f"divide each by its sum, x / x.sum(-1, keepdim=True)"
            )


@final
@saved_as("bijections.PositiveDefinite", describe=lambda g: {"n": g.shape[0]})
class PositiveDefinite(Bijection):
    """z = vec(log X), X a symmetric positive definite n x n matrix: the log-Euclidean geometry.

    Coordinates are the upper triangle of log X row by row, off-diagonal entries times sqrt(2), so that |z| is the Frobenius norm
    of log X (Arsigny et al. 2006). (+) is exp(log X + log Y), the product where X and Y commute, 0_g the identity matrix, and
    the distance is ||log X - log Y||_F. It is not the affine-invariant geometry: congruence X -> G X G^T is no isometry.

    log|det J| is taken with respect to the surface measure of the symmetric matrices in R^{n x n}: it is
    sum_{i <= j} log log[l_i, l_j], with log[a, b] = (log a - log b) / (a - b), log[a, a] = 1 / a, over the eigenvalues l_i of X
    (Daleckii-Krein). For Lebesgue measure on the entries i <= j, add n (n - 1) / 4 log 2.

    Points and coordinates have derivatives up to the second, at repeated eigenvalues too, in reverse and forward mode; log|det J|
    has its first. A matrix of condition c is known to its logarithm within about eps c.

    Arguments:
        n: side of the matrices, at least 1.

    Raises:
        ShapeError: n is below 1.
        DomainError: a point is not symmetric within rounding, or not positive definite at its precision.

    Example:
        >>> import torch
        >>> g = PositiveDefinite(2)
        >>> g.inverse(torch.zeros(3))
        tensor([[1., 0.],
                [0., 1.]])

    Law:
        `g(x).norm() == scipy.linalg.logm(x).norm()` (§2.1; laws/test_constrained.py)
    """

    upper: Tensor
    place: Tensor

    def __init__(self, n: int) -> None:
        super().__init__((n, n), (n * (n + 1) // 2,))
        rows, columns = torch.triu_indices(n, n)
        place = torch.zeros(n, n, dtype=torch.long)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
        self.register_buffer("upper", rows * n + columns, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._with_eigenvalues(x)[0]

    @linear_algebra
    def inverse(self, z: Tensor) -> Tensor:
        require_precision(z.dtype, "the coordinate vector of a PositiveDefinite chart")
        # in float32 torch's exponential is off by tens of roundings
        X = _symmetric(matrix_exp(self._logarithm(z).double()).to(z.dtype))
        if eager(X):
            inside = self._keeps_digits(X.detach(), z.detach()).unsqueeze(-1).expand_as(z)
            require_domain(z, inside, "the logarithms of definite matrices", "the coordinates", _TOO_LARGE)
        return X

    def roundoff(self, x: Tensor) -> Tensor:
        # eigenvalue decompositions and exponentials round by eps ||X|| whatever the entry
        z: Tensor = self(x)
        return z.abs().amax(-1, keepdim=True).expand_as(z)

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        x = self.inverse(z)
        return x.abs().amax((-2, -1), keepdim=True).expand_as(x)

    def _keeps_digits(self, X: Tensor, z: Tensor) -> Tensor:
        """Whether X = exp(S) is definite at its precision: rounding may make it look so, and torch has exp(S) = I for huge S."""
        limits, L = torch.finfo(X.dtype), torch.linalg.cholesky_ex(X)
        pivots = L.L.diagonal(dim1=-2, dim2=-1).square()
        in_range = torch.linalg.vector_norm(z, dim=-1) < math.sqrt(self.shape[0]) * math.log(limits.max)
        kept: Tensor = (L.info == 0) & in_range & (pivots.amin(-1) > limits.eps * pivots.amax(-1))
        return kept

    def _logarithm(self, z: Tensor) -> Tensor:
        """log X as a matrix."""
        require_floating(z, "the coordinates of a PositiveDefinite chart")
        return (z / self._lengths(z))[..., self.place]

    @linear_algebra
    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, values = self._with_eigenvalues(x)
        return z, -self._log_abs_det_of_exp(values.log())

    @linear_algebra
    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(z), self._log_abs_det_of_exp(torch.linalg.eigh(self._logarithm(z)).eigenvalues)

    def _log_abs_det_of_exp(self, logs: Tensor) -> Tensor:
        """log|det J| of the inverse, from the eigenvalues of log X."""
        n = self.shape[0]
        i, j = torch.triu_indices(n, n, 1, device=logs.device)
        spread = _log_sinhc((logs[..., i] - logs[..., j]) / 2)
        return (n + 1) / 2 * logs.sum(-1) + spread.sum(-1)

    @linear_algebra
    def _with_eigenvalues(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates, and the eigenvalues of x."""
        require_floating(x, "a point of a PositiveDefinite chart")
        require_precision(x.dtype, "the point of a PositiveDefinite chart")
        require_finite(x, "a point of a PositiveDefinite chart")
        if eager(x):
            _require_symmetric(x.detach())
        X = _symmetric(x)
        values, U = torch.linalg.eigh(X)
        if eager(x):
            _require_positive(values.detach())
        # The Taylor expansion of the logarithm at X, with Daleckii-Krein weights: an eigenvector has no derivative where
        # eigenvalues repeat, as at the identity, but the logarithm has. `difference` is zero and carries the derivatives.
        logs, U, difference = values.detach().log(), U.detach(), X - X.detach()
        half = (logs.unsqueeze(-1) - logs.unsqueeze(-2)) / 2
        inverses = torch.exp(-(logs.unsqueeze(-1) + logs.unsqueeze(-2)) / 2).clamp(max=torch.finfo(x.dtype).max)
        weights = torch.where(half == 0, 1.0, half / torch.sinh(half)) * inverses

        def derivative(E: Tensor) -> Tensor:
            D: Tensor = U @ (weights * (U.mT @ E @ U)) @ U.mT
            return D

        L = (U * logs.unsqueeze(-2)) @ U.mT + derivative(difference)
        if torch.is_grad_enabled() or not eager(x):
            # one chord step of exp(L) = X: it adds an order of derivatives
            power = matrix_exp(L)
            L = L + derivative(difference - (power - power.detach()))
        return L.flatten(-2)[..., self.upper] * self._lengths(L), values

    def _lengths(self, like: Tensor) -> Tensor:
        n = self.shape[0]
        return like.new_ones(len(self.upper)).masked_fill(self.upper % (n + 1) != 0, math.sqrt(2))


def _symmetric(X: Tensor) -> Tensor:
    return (X + X.mT) / 2


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h), smooth at 0 and without overflow."""
    near = h.abs() < 1
    small, large = torch.where(near, h, 0.0), torch.where(near, 1.0, h).abs()
    u, series = small * small, torch.ones_like(h)
    for k in range(9, 0, -1):
        series = 1 + series * u / (2 * k * (2 * k + 1))
    return torch.where(near, series.log(), large + torch.log1p(-torch.exp(-2 * large)) - torch.log(2 * large))


def _require_symmetric(x: Tensor) -> None:
    gap, size = (x - x.mT).abs().amax((-2, -1)), x.abs().amax((-2, -1))
    if not bool((gap <= 10 * x.shape[-1] * torch.finfo(x.dtype).eps * size).all()):
        raise DomainError(
            f"a point of a PositiveDefinite chart is symmetric, but x and its transpose differ by {float(gap.max()):.3g} "
            f"at entries up to {float(size.max()):.3g}: symmetrise it, (x + x.mT) / 2"
        )


def _require_positive(values: Tensor) -> None:
    least, largest = values[..., 0], values[..., -1]
    if not bool((least > torch.finfo(values.dtype).eps * largest).all()):
        raise DomainError(
            f"a point of a PositiveDefinite chart is positive definite, but one of the {least.numel()} given has the smallest "
            f"eigenvalue {float(least.min()):.3g} (largest {float(largest.max()):.3g}): at {values.dtype} a condition above "
            f"{1 / torch.finfo(values.dtype).eps:.0e} cannot be told from it"
        )


_TOO_LARGE = "the coordinates are so large that the point rounds to the edge of the domain: keep |z| smaller, or use float64"
