"""Charts that act on each coordinate alone, exact and with a documented domain."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from induced._registry import saved_as
from induced._validate import eager, require_domain, require_floating
from induced.bijections.base import Bijection
from induced.errors import DomainError, DtypeError, ShapeError


class Elementwise(Bijection):
    """A chart z_i = phi(x_i) with a slope phi' that never vanishes.

    The slope of phi^-1 is a function of z of its own: near saturation it is lost in the rounding of x.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)

    @abstractmethod
    def log_slope(self, x: Tensor) -> Tensor:
        """log|phi'(x)|, entry by entry."""

    @abstractmethod
    def inverse_log_slope(self, z: Tensor) -> Tensor:
        """log|(phi^-1)'(z)|, entry by entry."""

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z: Tensor = self(x)
        return z, self._event_sum(self.log_slope(x))

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(z), self._event_sum(self.inverse_log_slope(z))


@final
@saved_as("bijections.Affine", "shape", "scale", "shift")
class Affine(Elementwise):
    """z = scale * x + shift on R; numbers or tensors that broadcast to a point, kept in float64 and cast to the input's dtype.

    An `nn.Parameter` given for either one trains, and then fixes the chart's dtype.

    Raises:
        DomainError: the scale is 0 or not finite somewhere.
        ShapeError: scale or shift does not broadcast to `shape`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, shape: Sequence[int], scale: float | Tensor = 1.0, shift: float | Tensor = 0.0) -> None:
        super().__init__(shape)
        for name, value in (("scale", scale), ("shift", shift)):
            tensor = value if isinstance(value, nn.Parameter) else torch.as_tensor(value)
            if tensor.is_complex():
                raise DtypeError(f"the {name} of an affine chart is real, got {tensor.dtype}")
            tensor = tensor if isinstance(value, nn.Parameter) else torch.as_tensor(value, dtype=torch.float64)
            try:
                fits = torch.broadcast_shapes(tensor.shape, self.shape) == self.shape  # type: ignore[no-untyped-call]
            except RuntimeError:
                fits = False
            if not fits:
                raise ShapeError(f"the {name} of shape {tuple(tensor.shape)} does not broadcast to a point of shape {self.shape}")
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        if eager(self.scale) and not bool((torch.isfinite(self.scale) & (self.scale != 0)).all()):
            raise DomainError("the scale of an affine chart must be finite and non-zero, or it has no inverse")

    def forward(self, x: Tensor) -> Tensor:
        require_floating(x, "the point of an Affine chart")
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        require_floating(z, "the coordinates of an Affine chart")
        return (z - self.shift.to(z.dtype)) / self.scale.to(z.dtype)

    def log_slope(self, x: Tensor) -> Tensor:
        return self.scale.abs().log().to(x.dtype).expand_as(x)

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return -self.log_slope(z)


@final
@saved_as("bijections.Log", "shape")
class Log(Elementwise):
    """z = log x on the positive numbers: (+) is the product, a (.) x the power x^a, 0_g = 1, and the mean is geometric.

    This is the multiplicative geometry: the distance of x and y is |log(x / y)|, so that scaling is an isometry.

    Law:
        `X.mean(x) == exp(mean(log(x)))` (§2.1; laws/test_constrained.py)
    """

    def forward(self, x: Tensor) -> Tensor:
        require_domain(x, (x > 0) & (x < math.inf), "the positive numbers", "the point of a Log chart")
        return x.log()

    def inverse(self, z: Tensor) -> Tensor:
        x = z.exp()
        require_domain(x, (x > 0) & (x < math.inf), "the positive numbers", "exp of the coordinates", _TOO_LARGE)
        return x

    def log_slope(self, x: Tensor) -> Tensor:
        return -x.log()

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return z


@final
@saved_as("bijections.Logit", "shape")
class Logit(Elementwise):
    """z = log(x / (1 - x)) on (0, 1), the log-odds: (+) multiplies the odds x / (1 - x), a (.) x takes their power, 0_g = 1/2.

    The sum of probabilities is Bayes' rule for independent evidence at even prior odds: x y / (x y + (1 - x)(1 - y)).

    Law:
        `odds(X.add(x, y)) == odds(x) * odds(y)` (§2.1; laws/test_constrained.py)
    """

    def forward(self, x: Tensor) -> Tensor:
        require_domain(x, (x > 0) & (x < 1), "(0, 1)", "the point of a Logit chart")
        return x.log() - torch.log1p(-x)

    def inverse(self, z: Tensor) -> Tensor:
        # below -40 the sigmoid is the exponential, and is still a number where 1 + exp(-z) overflows
        x = torch.where(z < -40, z.clamp(max=0).exp(), torch.sigmoid(z))
        require_domain(x, (x > 0) & (x < 1), "(0, 1)", "the sigmoid of the coordinates", _TOO_LARGE)
        return x

    def log_slope(self, x: Tensor) -> Tensor:
        return -x.log() - torch.log1p(-x)

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z) + F.logsigmoid(-z)


@final
@saved_as("bijections.Arctanh", "shape")
class Arctanh(Elementwise):
    """z = artanh x on (-1, 1), the rapidity: (+) is the relativistic addition of collinear velocities, (x + y) / (1 + x y).

    `Arctanh((3,))` holds three independent copies, entry by entry: not Einstein's addition on the ball, which is neither
    commutative nor a vector space.

    Law:
        `X.add(x, y) == (x + y) / (1 + x * y)` (§2.1; laws/test_constrained.py)
    """

    def forward(self, x: Tensor) -> Tensor:
        require_domain(x, x.abs() < 1, "(-1, 1)", "the point of an Arctanh chart")
        return torch.atanh(x)

    def inverse(self, z: Tensor) -> Tensor:
        x = torch.tanh(z)
        require_domain(x, x.abs() < 1, "(-1, 1)", "the tanh of the coordinates", _TOO_LARGE)
        return x

    def log_slope(self, x: Tensor) -> Tensor:
        return -torch.log1p(x) - torch.log1p(-x)

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return -2 * _log_cosh(z)


@final
@saved_as("bijections.InverseSoftplus", "shape")
class InverseSoftplus(Elementwise):
    """z = log(e^x - 1) on the positive numbers, the inverse of softplus: like `Log` near 0, and like x itself for large x."""

    def forward(self, x: Tensor) -> Tensor:
        require_domain(x, (x > 0) & (x < math.inf), "the positive numbers", "the point of an InverseSoftplus chart")
        # each branch is finite where the other one is taken, so that gradients are
        return torch.where(x > 1, x + torch.log1p(-torch.exp(-x.clamp(min=1))), torch.expm1(x.clamp(max=1)).log())

    def inverse(self, z: Tensor) -> Tensor:
        require_floating(z, "the coordinates of an InverseSoftplus chart")
        x = torch.logaddexp(z, torch.zeros_like(z))
        require_domain(x, (x > 0) & (x < math.inf), "the positive numbers", "the softplus of the coordinates", _TOO_LARGE)
        return x

    def log_slope(self, x: Tensor) -> Tensor:
        return -torch.where(x < 1, torch.log(-torch.expm1(-x)), torch.log1p(-torch.exp(-x.clamp(min=1))))

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z)


@final
@saved_as("bijections.Sinh", "shape")
class Sinh(Elementwise):
    """z = sinh x on R: linear near 0, exponential far from it; `Sinh(shape).inv` is the area sine, which tames long tails."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sinh(x)

    def inverse(self, z: Tensor) -> Tensor:
        # torch's derivative 1 / sqrt(1 + z^2) vanishes where z^2 overflows
        far = z.abs() > 1e9
        size = torch.where(far, z.abs(), 1.0)
        return torch.where(far, z.sign() * (size.log() + math.log(2)), torch.asinh(torch.where(far, 0.0, z)))

    def log_slope(self, x: Tensor) -> Tensor:
        return _log_cosh(x)

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return -torch.hypot(z, torch.ones_like(z)).log()


def _log_cosh(x: Tensor) -> Tensor:
    """log cosh x, without overflow, and smooth at 0."""
    return torch.logaddexp(x, -x) - math.log(2)


_TOO_LARGE = "the coordinates are so large that the point rounds to the edge of the domain: keep |z| smaller, or use float64"
