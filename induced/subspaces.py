"""Subspaces of Hilbert spaces, and principal components of points in the induced geometry."""

from typing import final

import torch
from torch import Tensor

from induced._numerics import scaled_norm
from induced._validate import eager, require_shape
from induced.errors import DomainError, ShapeError, SpaceMismatch
from induced.operators import Dense, LinearOperator, LowRank, kernel
from induced.operators.bases import orthonormal_columns
from induced.spaces import HilbertSpace
from induced.spaces.hilbert import difference

FACTOR = 10.0
"""Roundings, in multiples of what is estimated, that membership forgives."""


@final
class Subspace:
    """A linear subspace of a Hilbert space, held by an orthonormal basis in coordinates.

    Arguments:
        space: the Hilbert space.
        Q: coordinates (space.dim, k) of k orthonormal vectors, as columns; k = 0 is the zero subspace. Or an operator from R^k
            with orthonormal columns, as `kernel` and `image` of an operator return it.

    Raises:
        ShapeError: Q has not `space.dim` rows, or more columns than rows. DomainError: its columns are not orthonormal.

    Law:
        `project(project(x)) == project(x)` and `<x (-) project(x), project(y)> == 0` (laws/test_subspaces.py)

    Example:
        >>> import torch
        >>> from induced import InducedSpace
        >>> from induced.bijections import Log
        >>> W = Subspace.span(InducedSpace(Log((2,))), torch.tensor([[2.0, 2.0]]))  # positive pairs (s, s)
        >>> torch.allclose(W.project(torch.tensor([1.0, 4.0])), torch.tensor(2.0))
        True
        >>> W.contains(torch.tensor([[3.0, 3.0], [3.0, 4.0]]))
        tensor([ True, False])
    """

    def __init__(self, space: HilbertSpace, Q: Tensor | LinearOperator) -> None:
        shape = tuple(Q.shape)
        if len(shape) != 2 or shape[0] != space.dim or shape[1] > shape[0]:
            raise ShapeError(f"a basis of a subspace of {space!r} has shape ({space.dim}, k), k <= {space.dim}, got {shape}")
        if isinstance(Q, Tensor):
            _require_orthonormal(Q)
            Q = Dense(Q)
        self.space, self.frame = space, Q

    @staticmethod
    def span(space: HilbertSpace, points: Tensor, rtol: float | None = None) -> "Subspace":
        """The span of points (k, *shape): its dimension is the rank that their coordinates have up to `rtol`."""
        require_shape(points, space.shape, "the points of a span")
        return Subspace(space, orthonormal_columns(space.coords(points).mT, rtol))

    @property
    def dim(self) -> int:
        """The dimension k."""
        return self.frame.shape[1]

    @property
    def Q(self) -> Tensor:
        """The basis in coordinates (space.dim, k), orthonormal columns."""
        return self.frame.matrix(max(self.frame.shape))

    def basis(self) -> Tensor:
        """Orthonormal points (k, *shape)."""
        return self.space.point(self.Q.mT)

    def coefficients(self, x: Tensor) -> Tensor:
        """<x, q_i> for the basis vectors q_i: coordinates (*batch, k) of the projection in the basis."""
        return self.frame.apply_adjoint(self.space.coords(x))

    def element(self, a: Tensor) -> Tensor:
        """The point sum_i a_i (.) q_i of coefficients (*batch, k)."""
        require_shape(a, (self.dim,), "the coefficients of an element")
        return self.space.point(self.frame(a))

    def projector(self) -> LinearOperator:
        """Q Q^T, the orthogonal projection of coordinates."""
        return LowRank(self.Q, self.Q) if isinstance(self.frame, Dense) else self.frame @ self.frame.H

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the subspace, g^-1(Q Q^T g(x))."""
        return self.element(self.coefficients(x))

    def residual(self, x: Tensor) -> Tensor:
        """x (-) project(x), orthogonal to the subspace."""
        return self.space.point(self._off(self.space.coords(x)))

    def _off(self, z: Tensor) -> Tensor:
        return z - self.frame(self.frame.apply_adjoint(z))

    def distance(self, x: Tensor) -> Tensor:
        """||x (-) project(x)||, of shape (*batch,)."""
        return scaled_norm(self._off(self.space.coords(x)), -1)

    def contains(self, x: Tensor, tolerance: float | None = None) -> Tensor:
        """Whether points lie in the subspace: a boolean tensor (*batch,).

        Arguments:
            x: points (*batch, *shape).
            tolerance: the distance, relative to ||x||, that counts as none. By default ten times what rounding may do to the
                coordinates of x (`space.rounding`), and to those of the basis.
        """
        z = self.space.coords(x)
        norms = scaled_norm(z, -1)
        if tolerance is None:
            known = self.space.rounding(x)[1] + self.space.dim * float(norms.max()) if x.numel() else 0.0
            allowed = torch.full_like(norms, FACTOR * torch.finfo(z.dtype).eps * known)
        else:
            allowed = tolerance * norms
        return scaled_norm(self._off(z), -1) <= allowed

    def complement(self) -> "Subspace":
        """The orthogonal complement, of dimension space.dim - k."""
        return Subspace(self.space, kernel(self.frame.H))

    def angles(self, other: "Subspace") -> Tensor:
        """The principal angles between two subspaces, ascending, min(dim, other.dim) of them in [0, pi/2].

        They come from cosines above 45 degrees and from sines below, so that small angles keep their digits.
        """
        P = self._shared(other, "the angles between subspaces")
        small, large = (self.Q, P) if self.dim <= other.dim else (P, self.Q)
        cosines = torch.linalg.svdvals(large.mT @ small).clamp(max=1)
        sines = torch.linalg.svdvals(small - large @ (large.mT @ small)).flip(0).clamp(max=1)[: len(cosines)]
        return torch.where(cosines**2 > 0.5, torch.asin(sines), torch.acos(cosines))

    def __add__(self, other: "Subspace") -> "Subspace":
        """The sum of two subspaces: the span of both."""
        if not isinstance(other, Subspace):
            return NotImplemented
        return Subspace(self.space, orthonormal_columns(torch.cat([self.Q, self._shared(other, "+")], -1)))

    def __and__(self, other: "Subspace") -> "Subspace":
        """The intersection of two subspaces: the complement of the sum of their complements."""
        if not isinstance(other, Subspace):
            return NotImplemented
        self._shared(other, "&")
        return (self.complement() + other.complement()).complement()

    def _shared(self, other: "Subspace", what: str) -> Tensor:
        if self.space != other.space:
            raise SpaceMismatch(f"{what} needs subspaces of one space, got {difference(self.space, other.space)}")
        return other.Q

    def __repr__(self) -> str:
        return f"Subspace(dim={self.dim} of {self.space.dim}, {self.space!r})"


def _require_orthonormal(Q: Tensor) -> None:
    if not eager(Q) or not Q.shape[1]:
        return
    deviation = float((Q.mT @ Q).detach().sub(torch.eye(Q.shape[1], dtype=Q.dtype, device=Q.device)).abs().max())
    if not deviation <= 100 * Q.shape[0] * torch.finfo(Q.dtype).eps:
        raise DomainError(
            f"the columns of a basis are orthonormal in coordinates, but Q^T Q - I has an entry of size {deviation:.3g}; "
            f"Subspace.span(space, points) makes them so"
        )


@final
class PrincipalComponents:
    """Points in the induced geometry as mean (+) sum_i a_i (.) q_i, the directions q_i by descending variance.

    Attributes:
        mean: the induced mean, a point (*shape).
        subspace: the span of the k leading directions; its basis is those directions.
        variances: variances (k,) along them, descending, with divisor N - 1 (N for one point).
    """

    def __init__(self, mean: Tensor, subspace: Subspace, variances: Tensor) -> None:
        self.mean, self.subspace, self.variances = mean, subspace, variances

    def scores(self, x: Tensor) -> Tensor:
        """Coefficients (*batch, k) of points, relative to the mean."""
        space = self.subspace.space
        return (space.coords(x) - space.coords(self.mean)) @ self.subspace.Q

    def reconstruct(self, scores: Tensor) -> Tensor:
        """The points of these scores."""
        space = self.subspace.space
        return space.point(space.coords(self.mean) + scores @ self.subspace.Q.mT)

    def __repr__(self) -> str:
        return f"PrincipalComponents({len(self.variances)} of {self.subspace.space.dim}, {self.subspace.space!r})"


def principal_components(space: HilbertSpace, points: Tensor, k: int | None = None) -> PrincipalComponents:
    """The k leading principal components of points (N, *shape) in the geometry of a space; min(N - 1, dim) by default.

    Raises:
        ShapeError: there are no points, or k exceeds min(N, dim).

    Law:
        no other affine subspace of dimension k is nearer to the points (laws/test_subspaces.py)
    """
    mean = space.mean(points)
    z = space.coords(points)
    most = min(len(z), space.dim)
    count = max(1, min(len(z) - 1, space.dim)) if k is None else k
    if not 0 <= count <= most:
        raise ShapeError(
            f"{len(z)} points in {space.dim} dimensions have at most {most} principal components, {count} were asked for"
        )
    centred = z.double() - z.double().mean(0)
    _, s, Vh = torch.linalg.svd(centred, full_matrices=False)
    variances = s[:count] ** 2 / max(len(z) - 1, 1)
    return PrincipalComponents(mean, Subspace(space, Vh[:count].mT.to(z)), variances.to(z))
