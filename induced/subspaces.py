"""Subspaces of Hilbert spaces, and principal components of points in the induced geometry."""

import copy
import math
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._module import ByValue, reference
from induced._numerics import largest, linear_algebra, random_signs, scaled_norm
from induced._registry import saved_as
from induced._validate import eager, require_cutoff, require_like, require_one_kind, require_shape
from induced.errors import DomainError, ShapeError, SpaceMismatch
from induced.operators import Dense, LinearOperator, LowRank, kernel
from induced.operators.orthogonal import off
from induced.operators.rules import is_zero, kind
from induced.spaces import HilbertSpace
from induced.spaces.hilbert import FACTOR, difference

PROBES = 4
"""Random sign patterns of the rounding of coordinates, the worst of which counts."""

MOST = 0.5
"""Vectors at a larger sine, 30 degrees, are never taken for the same, however little is known of two subspaces."""


@final
@saved_as("Subspace", describe=lambda W: {"space": W.space, "Q": W.frame, "accuracy": W.accuracy})
class Subspace(HilbertSpace):
    """A linear subspace of a Hilbert space, a Hilbert space itself: its coordinates are those in an orthonormal basis Q.

    `coords(x) = Q^T g(x)` and `point(a) = g^-1(Q a)`, for the coordinates g of the space. A point off the subspace has the
    coordinates of its projection. So every operation of a space works within it, and `Linearizer(A, W)` is a map of it. With
    `i = Linearizer.inclusion(W)`, `i.H @ f @ i` restricts a map f of the whole space to W.

    Two are equal where their spaces are and their basis operators `frame` are one object: another basis gives other coordinates.
    A tensor Q becomes a new operator each time, so make W once, or pass `W.frame`.

    Arguments:
        space: the Hilbert space.
        Q: coordinates (space.dim, k) of k orthonormal vectors, as columns; k = 0 is the zero subspace. Or an operator from R^k
            with orthonormal columns, as `kernel` and `image` of an operator return it.
        accuracy: the sine of the angle by which the span of Q may be off the subspace it stands for; by default how far the
            columns are from orthonormal. `+`, `&` and `contains` take smaller angles for rounding.

    Raises:
        ShapeError: Q has not `space.dim` rows, or more columns than rows. DtypeError: its dtype is not that of the space.
        DomainError: its columns are not orthonormal, or are an `nn.Parameter`, which does not stay so.

    Law:
        `check_space(W, x)` for points x of W; `project(project(x)) == project(x)` and `<x (-) project(x), project(y)> == 0`;
        `(W + V).dim + (W & V).dim == W.dim + V.dim` (laws/test_spaces.py, laws/test_spans.py)

    Example:
        >>> import torch
        >>> from induced import InducedSpace
        >>> from induced.bijections import Log
        >>> W = Subspace.span(InducedSpace(Log((2,))), torch.tensor([[2.0, 2.0]]))  # positive pairs (s, s)
        >>> torch.allclose(W.project(torch.tensor([1.0, 4.0])), torch.tensor(2.0))
        True
        >>> W.contains(torch.tensor([[3.0, 3.0], [3.0, 4.0]]))
        tensor([ True, False])
        >>> W.mean(torch.tensor([[2.0, 2.0], [8.0, 8.0]])).round(decimals=3)
        tensor([4., 4.])
    """

    made_of = "basis operator"

    def __init__(self, space: HilbertSpace, Q: Tensor | LinearOperator, accuracy: float | None = None) -> None:
        shape = (*getattr(Q, "batch", ()), *Q.shape)
        if len(shape) != 2 or shape[0] != space.dim or shape[1] > shape[0]:
            raise ShapeError(f"a basis of a subspace of {space!r} has shape ({space.dim}, k), k <= {space.dim}, got {shape}")
        if isinstance(Q.A if isinstance(Q, Dense) else Q, nn.Parameter):
            raise DomainError("a trained basis does not stay orthonormal: give its values, Q.detach(), and train the chart")
        frame = Dense(Q.contiguous()) if isinstance(Q, Tensor) else Q
        # an operator whose accuracy is known was made of orthonormal columns
        known = _deviation(frame) if isinstance(frame, Dense) or accuracy is None else 0.0
        require_one_kind("the basis of the subspace", reference(frame), "its space", reference(space))
        super().__init__(space.shape, shape[1])
        self.space, self.frame = space, frame
        self._known = known if accuracy is None else float(accuracy)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("space", "frame") and "frame" in self._modules:  # another basis makes another subspace of it
            key = ("subspace", self.space, self.frame)
            self.__dict__.update(shape=self.space.shape, dim=self.frame.shape[1], _key=key)

    @staticmethod
    def span(space: HilbertSpace, points: Tensor, rtol: float | None = None) -> "Subspace":
        """The span of points (k, *shape).

        Its dimension is the rank of their coordinates: singular values up to `rtol` times the largest one count as zero. The
        default covers the rounding of the coordinates and ten times what the chart adds to it, and does not depend on the number
        of points. The accuracy is this cut-off over the least singular value above it.
        """
        return Subspace(space, *space.coordinate_basis(points, rtol))

    @property
    def accuracy(self) -> float:
        """The sine of the angle by which the span of the basis may be off; at least ten roundings."""
        return max(self._known, FACTOR * torch.finfo(self._dtype()).eps)

    def _dtype(self) -> torch.dtype:
        return self.frame.dtype or torch.get_default_dtype()

    @property
    def Q(self) -> Tensor:
        """The basis in the coordinates of the space, (space.dim, k), orthonormal columns."""
        return self.frame.matrix(max(self.frame.shape))

    def _reference(self) -> Tensor | None:
        like = reference(self.space)
        return reference(self.frame) if like is None else like

    def coords(self, x: Tensor) -> Tensor:
        """<x, q_i> for the basis vectors q_i: the coordinates (*batch, k) of the projection of points (*batch, *shape)."""
        return self._along(self._whole(x))

    def _whole(self, x: Tensor) -> Tensor:
        """The coordinates of points in the space."""
        require_like(x, reference(self), "the point")
        return self.space.coords(x)

    @linear_algebra
    def _along(self, z: Tensor) -> Tensor:
        """Q^T z."""
        return self.frame.apply_adjoint(z)

    def point(self, z: Tensor) -> Tensor:
        """The points sum_i z_i (.) q_i of coordinates (*batch, k)."""
        require_shape(z, (self.dim,), "coordinates of the subspace")
        return self.space.point(self.frame(z))

    def roundings(self, x: Tensor, against: Tensor | None = None) -> Tensor:
        # a product with Q or Q^T rounds coordinates by sqrt(n) |z|
        products = math.sqrt(self.space.dim) * scaled_norm(self._whole(x), -1)
        if against is None:
            return self.space.roundings(x) + products
        return self.space.roundings(x, self.frame(against)) + largest(scaled_norm(against, -1)) * products

    def point_roundings(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.space.coords(x)
            batch = z.dim() - 1
            signs = random_signs(0, PROBES, self.space.dim).reshape(PROBES, *(1,) * batch, -1).to(z)
            products = signs * scaled_norm(z, -1).unsqueeze(-1)
            # g^-1 carries what the products round to the point
            shifts = torch.func.jvp(self.space.point, (z.expand(products.shape).clone(),), (products,))[1]
            carried = scaled_norm(shifts.reshape(PROBES, *z.shape[:-1], math.prod(self.shape)), -1).amax(0)
        return self.space.point_roundings(x) + carried

    def zero_size(self, like: Tensor) -> float:
        return self.space.zero_size(like)

    def basis(self) -> Tensor:
        """Orthonormal points (k, *shape)."""
        return self.space.point(self.Q.mT)

    @linear_algebra
    def projector(self) -> LinearOperator:
        """Q Q^T, the orthogonal projection of the coordinates of the space."""
        return LowRank(self.Q, self.Q) if isinstance(self.frame, Dense) else self.frame @ self.frame.H

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the subspace, g^-1(Q Q^T g(x))."""
        return self.point(self.coords(x))

    def residual(self, x: Tensor) -> Tensor:
        """x (-) project(x), orthogonal to the subspace."""
        return self.space.point(self._off(self._whole(x)))

    def _off(self, z: Tensor) -> Tensor:
        return z - self.frame(self._along(z))

    def distance_to(self, x: Tensor) -> Tensor:
        """||x (-) project(x)||, the distance from points to the subspace, of shape (*batch,)."""
        return scaled_norm(self._off(self._whole(x)), -1)

    def contains(self, x: Tensor, tolerance: float | None = None) -> Tensor:
        """Whether points lie in the subspace: a boolean tensor (*batch,), each decided on its own.

        Arguments:
            x: points (*batch, *shape).
            tolerance: the distance, relative to ||x||, that counts as none. By default `accuracy`, and ten times what
                rounding may do to the coordinates of x (`space.roundings`) and to products with the basis.
        """
        z = self._whole(x)
        norms = scaled_norm(z, -1)
        if tolerance is None:
            known = self.space.roundings(x) + math.sqrt(self.space.dim) * norms
            allowed = FACTOR * torch.finfo(z.dtype).eps * known + self.accuracy * norms
        else:
            allowed = tolerance * norms
        inside: Tensor = scaled_norm(self._off(z), -1) <= allowed
        return inside

    # ------------------------------------------------------------------------------------------------------- the lattice
    @linear_algebra
    def complement(self) -> "Subspace":
        """The orthogonal complement, of dimension space.dim - k, known as well; its basis carries no gradient."""
        with torch.no_grad():
            if isinstance(self.frame, Dense):
                return self._beside(self.Q, self._known)
            return Subspace(self.space, kernel(self._precise().H).to(self._dtype()), self._known)

    def _beside(self, Q: Tensor, accuracy: float) -> "Subspace":
        """What is orthogonal to columns Q (n, p), held by the fewer vectors: its own, or those."""
        rest = off(Q.detach().double())
        frame = Dense(rest.matrix(len(Q)).contiguous()) if 2 * Q.shape[1] >= len(Q) else rest
        return Subspace(self.space, frame.to(self._dtype()), accuracy)

    def _precise(self) -> LinearOperator:
        """The frame in float64: reflections in float32 err by sqrt(n) roundings."""
        return self.frame if self._dtype() == torch.float64 else copy.deepcopy(self.frame).double()

    def _held(self) -> tuple[Tensor, bool]:
        """A basis in float64 of the subspace, or of its complement where that is smaller and no matrix is held; and which."""
        if isinstance(self.frame, Dense):
            return self.Q.double(), False
        frame, n = self._precise(), self.space.dim
        return (kernel(frame.H).matrix(n), True) if 2 * self.dim > n else (frame.matrix(n), False)

    def _both(self, other: "Subspace", what: str) -> tuple[Tensor, bool, Tensor, bool]:
        """What holds both, that of fewer columns first."""
        if self.space != other.space:
            raise SpaceMismatch(f"{what} needs subspaces of one space, got {difference(self.space, other.space)}")
        # of as many, that of the lesser sum: V + W shall round as W + V does
        (A, a), (B, b) = sorted((self._held(), other._held()), key=lambda X: (X[0].shape[1], float(X[0].detach().sum())))
        return A, a, B, b

    @linear_algebra
    def angles(self, other: "Subspace") -> Tensor:
        """The principal angles between two subspaces, ascending, min(dim, other.dim) of them in [0, pi/2].

        They come from cosines above 45 degrees and from sines below, so that small angles keep their digits.
        """
        A, a, B, b = self._both(other, "an angle")
        C, n, count = B.mT @ A, self.space.dim, min(self.dim, other.dim)
        sines, cosines = (torch.linalg.svdvals(X).clamp(max=1) for X in (A - B @ C, C))
        if a != b:  # angles with what is orthogonal are the rest of 90 degrees
            sines, cosines = cosines, sines
        found = torch.where(cosines**2 > 0.5, torch.asin(sines.flip(0)), torch.acos(cosines))
        shared = n - A.shape[1] - B.shape[1] if a and b else B.shape[1] - A.shape[1] if a else 0
        found = torch.cat([found.new_zeros(max(0, shared)), found])
        return (found[len(found) - count :] if a and b else found[:count]).to(self._dtype())

    def sum(self, other: "Subspace", rtol: float | None = None) -> "Subspace":
        """W + V, the span of both, of dimension dim W + dim V - dim(W & V).

        Which directions W and V share is decided once, by the sines of the principal angles between them, the singular values
        of (I - P_W) Q_V: cosines see no angle below sqrt(eps).

        Arguments:
            rtol: directions whose sine is at most this count as shared; by default the sum of both accuracies, at most 1/2.

        Returns:
            The sum; its accuracy is the cut-off over the least sine above it. Where both subspaces hold matrices, its basis
            carries gradients, at fixed dimension.

        Law:
            `W.sum(V, rtol).dim + W.intersection(V, rtol).dim == W.dim + V.dim` (laws/test_spans.py)
        """
        return self._joined(other, "+", rtol, intersection=False)

    def intersection(self, other: "Subspace", rtol: float | None = None) -> "Subspace":
        """W & V, the directions that both share, decided as in `sum`. Its basis carries no gradient."""
        with torch.no_grad():
            return self._joined(other, "&", rtol, intersection=True)

    @linear_algebra
    def _joined(self, other: "Subspace", what: str, rtol: float | None, *, intersection: bool) -> "Subspace":
        if rtol is not None:
            require_cutoff(rtol, "the sine of an angle")
        A, a, B, b = self._both(other, what)
        zero = min(MOST, self.accuracy + other.accuracy) if rtol is None else rtol
        with torch.no_grad():
            C = B.mT @ A
            # the sines between A and what is orthogonal to B are its cosines with B
            U, sines, V = torch.linalg.svd(C) if a != b else torch.linalg.svd(A - B @ C, full_matrices=False)
        kept = int((sines > zero).sum())
        # each is made of what A and B share, or of both; a complement turns + into &
        if a != b:
            outside, held = not intersection, A @ V[kept:].mT if intersection == b else B @ U[:, kept:]
        elif intersection != a:
            outside, held = a, A @ V[kept:].mT
        else:
            outside, held = a, torch.linalg.qr(torch.cat([B, A @ V[:kept].mT], -1))[0]
        held, accuracy = held.to(self._dtype()), min(1.0, zero / float(sines[kept - 1])) if kept else zero
        return self._beside(held, accuracy) if outside else Subspace(self.space, held, accuracy)

    def __add__(self, other: "Subspace") -> "Subspace":
        """`sum`: the span of both."""
        return self.sum(other) if isinstance(other, Subspace) else NotImplemented

    def __radd__(self, zero: object) -> "Subspace":
        """0 + W is W, so that `sum` of a list of subspaces is their sum."""
        return self if is_zero(zero) else NotImplemented

    def __and__(self, other: "Subspace") -> "Subspace":
        """`intersection`: what both share."""
        return self.intersection(other) if isinstance(other, Subspace) else NotImplemented

    def __repr__(self) -> str:
        return f"Subspace(dim={self.dim} of {self.space.dim}, {self.space!r})"


def _deviation(frame: LinearOperator) -> float:
    """How far columns are from orthonormal, as the norm of Q^T Q - I may be; products with them round by as much.

    Of an operator that is no matrix one product is looked at: it keeps what it rounds to itself.
    """
    like, (n, k) = kind(frame), frame.shape
    if not eager(like) or not k:
        return 0.0
    if isinstance(frame, Dense):
        exact = frame.A.detach().double()
        error = exact.mT @ exact - torch.eye(k, dtype=exact.dtype, device=exact.device)
    else:
        with torch.no_grad():
            v = torch.arange(k, dtype=like.dtype, device=like.device).sqrt().frac() + 0.5
            error = frame.apply_adjoint(frame(v)) - v
    deviation = float(error.abs().max())
    if not deviation <= FACTOR * math.sqrt(n) * torch.finfo(like.dtype).eps:
        raise DomainError(
            f"the columns of Q must be orthonormal, but Q^T Q - I has an entry of size {deviation:.3g}: give "
            f"torch.linalg.qr(Q).Q, or points to Subspace.span(space, points)"
        )
    return deviation * math.sqrt(k) if isinstance(frame, Dense) else 0.0


@final
class PrincipalComponents(ByValue):
    """Points in the induced geometry as mean (+) sum_i a_i (.) q_i, the directions q_i by descending variance.

    Attributes:
        mean: the induced mean, a point (*shape).
        subspace: the span of the k leading directions; its basis is those directions.
        variances: variances (k,) along them, descending, with divisor N - 1 (N for one point).
    """

    def __init__(self, mean: Tensor, subspace: Subspace, variances: Tensor) -> None:
        self.mean, self.subspace, self.variances = mean, subspace, variances

    def coords(self, x: Tensor) -> Tensor:
        """The scores of points: coordinates (*batch, k) along the directions, from the mean; of points off them, as projected."""
        space = self.subspace.space
        return self.subspace.frame.H(space.coords(x) - space.coords(self.mean))

    def point(self, z: Tensor) -> Tensor:
        """The points mean (+) sum_i z_i (.) q_i of scores (*batch, k)."""
        require_shape(z, (self.subspace.dim,), "the scores")
        space = self.subspace.space
        return space.point(space.coords(self.mean) + self.subspace.frame(z))

    def __repr__(self) -> str:
        return f"PrincipalComponents({len(self.variances)} of {self.subspace.space.dim}, {self.subspace.space!r})"


def principal_components(space: HilbertSpace, points: Tensor, k: int | None = None) -> PrincipalComponents:
    """The k leading principal components of points (N, *shape) in the geometry of a space; min(N - 1, dim) by default.

    Raises:
        ShapeError: there are no points, or k exceeds min(N, dim).

    Law:
        no other affine subspace of dimension k is nearer to the points (laws/test_metric.py)
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
    # the rounding of the coordinates, over what tells these directions from the next
    sizes = s.tolist()
    gap = sizes[count - 1] - (sizes[count] if count < len(s) else 0.0) if count else 1.0
    noise = torch.finfo(z.dtype).eps * float(torch.linalg.vector_norm(z.detach().double()))
    subspace = Subspace(space, Vh[:count].mT.to(z), min(1.0, noise / gap) if gap > 0 else 1.0)
    return PrincipalComponents(mean, subspace, variances.to(z))
