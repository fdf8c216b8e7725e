"""Charts through given points: a shear by disjoint bumps and a piecewise linear function (Thm H.5)."""

from typing import final

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from induced._numerics import linear_algebra
from induced._registry import saved_as
from induced._validate import eager
from induced.bijections.base import Bijection
from induced.bijections.elementwise import Elementwise

FEW = 8
"""Coordinates up to which a tree finds exact neighbours faster than all distances do."""
BLOCK = 2**20
"""Distances that are held at once."""


@final
# the mean and the radii come back with its tensors
@saved_as("bijections.Shear", "C", "B", "centers", "values")
class Shear(Bijection):
    """x -> x + B s(C^T x), C^T B = 0: an additive coupling, in rotated axes.

    s(u) = mean + sum_i b_i max(0, 1 - |u - u_i|^2 / r_i^2)^2, r_i half the distance from u_i to the next of them: the bumps do
    not overlap, and s(u_i) = mean + b_i.
    """

    C: Tensor
    B: Tensor
    centers: Tensor
    values: Tensor
    mean: Tensor
    radii: Tensor

    def __init__(self, C: Tensor, B: Tensor, centers: Tensor, values: Tensor) -> None:
        super().__init__(C.shape[:1])
        mean, smallest = values.mean(0), torch.finfo(values.dtype).tiny ** 0.5
        radii = (least_distances(centers) / 2).clamp(min=smallest)
        named = {"C": C, "B": B, "centers": centers, "values": values - mean, "mean": mean, "radii": radii}
        for name, tensor in named.items():
            self.register_buffer(name, tensor)

    def _reference(self) -> Tensor:
        return self.C

    def forward(self, x: Tensor) -> Tensor:
        return x + self._shift(x)

    def inverse(self, z: Tensor) -> Tensor:
        return z - self._shift(z)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inverse(z), self._batch_zeros(z)

    @linear_algebra
    def _shift(self, x: Tensor) -> Tensor:
        u = (x @ self.C).reshape(-1, self.C.shape[1])
        nearest = _nearest(u.detach(), self.centers, self.radii)
        square = (u - self.centers.index_select(0, nearest)).square().sum(-1)
        bump = (1 - square / self.radii.index_select(0, nearest).square()).clamp(min=0).square()
        shift = self.mean + bump.unsqueeze(-1) * self.values.index_select(0, nearest)
        return (shift @ self.B.mT).reshape(x.shape)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|, without the cancellation of |a|^2 + |b|^2 - 2 a b."""
    distances: Tensor = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _nearest(u: Tensor, centers: Tensor, radii: Tensor) -> Tensor:
    """The centre in whose bump each point lies, which is the nearest one; any centre for a point that lies in none."""
    if not eager(u):
        return _distances(u, centers).argmin(-1)
    index, left = torch.zeros(len(u), dtype=torch.long, device=u.device), torch.arange(len(u), device=u.device)
    if u.is_cpu and len(u) * len(centers) > BLOCK // 16:
        # Bumps are disjoint, so an approximate neighbour is the right one where its bump holds the point.
        exact = u.shape[1] <= FEW
        found = cKDTree(centers.double().numpy()).query(u.nan_to_num().double().numpy(), eps=0.0 if exact else 4.0)
        distance, index = (torch.from_numpy(part) for part in found)
        left = left[:0] if exact else (distance >= radii[index]).nonzero()[:, 0]
    for rows in torch.split(left, max(1, BLOCK // len(centers))):
        index[rows] = _distances(u[rows], centers).argmin(-1)
    return index


def least_distances(points: Tensor) -> Tensor:
    """From each point to the nearest other one; inf where there is none."""
    if points.shape[1] <= FEW:
        tree = cKDTree(points.double().cpu().numpy())
        return torch.as_tensor(tree.query(tree.data, k=2)[0])[:, 1].to(points)
    least, rows = torch.empty_like(points[:, 0]), max(1, BLOCK // len(points))
    for start in range(0, len(points), rows):
        between = _distances(points[start : start + rows], points)
        between.diagonal(start).fill_(torch.inf)
        least[start : start + rows] = between.amin(-1)
    return least


@final
@saved_as("bijections.PiecewiseLinear", "x", "z")
class PiecewiseLinear(Elementwise):
    """The increasing function through the knots (x_i, z_i), straight between them and beyond the last ones."""

    x: Tensor
    z: Tensor

    def __init__(self, x: Tensor, z: Tensor) -> None:
        super().__init__((1,))
        self.register_buffer("x", x)
        self.register_buffer("z", z)

    def _reference(self) -> Tensor:
        return self.x

    def forward(self, x: Tensor) -> Tensor:
        return _straight(x, self.x, self.z)

    def inverse(self, z: Tensor) -> Tensor:
        return _straight(z, self.z, self.x)

    def log_slope(self, x: Tensor) -> Tensor:
        return self._log_slopes()[_piece(x, self.x)]

    def inverse_log_slope(self, z: Tensor) -> Tensor:
        return -self._log_slopes()[_piece(z, self.z)]

    def _log_slopes(self) -> Tensor:
        return (self.z.diff() / self.x.diff()).log()


def _piece(x: Tensor, knots: Tensor) -> Tensor:
    return (torch.bucketize(x.detach().contiguous(), knots, right=True) - 1).clamp(0, len(knots) - 2)


def _straight(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    k = _piece(x, knots)
    t = (x - knots[k]) / (knots[k + 1] - knots[k])
    # lerp meets both ends exactly
    return torch.lerp(values[k], values[k + 1], t)
