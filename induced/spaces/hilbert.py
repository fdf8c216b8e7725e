"""Hilbert spaces of points that are known by their coordinates, and their vectors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import cast, final

import torch
from torch import Tensor

from induced._module import ByValue, Module, unset
from induced._numerics import linear_algebra, longest_product, scaled_norm
from induced._validate import innermost, require_shape
from induced.errors import DtypeError, ShapeError, SpaceMismatch
from induced.operators.bases import Span, orthonormal_columns
from induced.operators.rules import Scalar, is_zero, per_sample, require_fit

FACTOR = 10.0
"""Roundings, in multiples of what is estimated, that decisions about points forgive."""

SOME = 64
"""So many points tell the rounding of all points that span a subspace."""


def require_alike(*points: Tensor) -> None:
    """Raise DtypeError unless all points have one dtype and device: torch would promote them in silence."""
    kinds = list(dict.fromkeys(f"{x.dtype} on {x.device}" for x in points))
    if len(kinds) > 1:
        raise DtypeError(f"points that meet have one dtype and device, got {' and '.join(kinds)}: convert them with x.to(...)")


class HilbertSpace(Module, ABC):
    """A set of points that is a Hilbert space through coordinates in R^dim.

    Subclasses give `shape` and `dim` to `__init__` and implement `coords` and `point`, inverse to each other; every operation is
    then one line: do it to the coordinates. Batch dimensions lead.

    Law:
        the nine axioms of a vector space (Prop 2.3) and those of an inner product (Prop 2.7; laws/test_spaces.py)
    """

    first_call = "super().__init__(shape, dim)"
    shape: tuple[int, ...] = unset()
    dim: int = unset()
    _key: tuple[object, ...] = unset()
    made_of = "chart"
    """What tells two spaces of one class and shape apart."""

    def __init__(self, shape: Sequence[int], dim: int, key: tuple[object, ...] | None = None) -> None:
        """`key` says when two spaces are the same one; without it a space equals itself alone."""
        super().__init__()
        self.shape, self.dim = tuple(int(n) for n in shape), int(dim)
        self._key = (object(),) if key is None else key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HilbertSpace) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @abstractmethod
    def coords(self, x: Tensor) -> Tensor:
        """Coordinates (*batch, dim) of points (*batch, *shape).

        Raises:
            ShapeError, DtypeError: x does not fit the space.
            DomainError: x, or its coordinates, hold values outside the domain or not finite.
        """

    @abstractmethod
    def point(self, z: Tensor) -> Tensor:
        """Points (*batch, *shape) of coordinates (*batch, dim); raises as `coords` does."""

    def _reference(self) -> Tensor | None:
        """A parameter that names the dtype and device of the space, or None where it takes those of its input."""
        return next(self.parameters(), None)

    def roundings(self, x: Tensor, against: Tensor | None = None) -> Tensor:
        """Norms of the errors of the coordinates of x there and back, `coords(point(z))`, in multiples of eps; (*batch,).

        The number of a point does not depend on the other points. With `against`, coordinates (m, dim), it is the largest inner
        product of the error with one of them. By default it is one rounding of the result; a space that knows more overrides it.
        """
        z = self.coords(x)
        return scaled_norm(z, -1) if against is None else longest_product(z, against)

    def point_roundings(self, x: Tensor) -> Tensor:
        """Likewise of the points, `point(coords(x))`."""
        return scaled_norm(x.flatten(x.dim() - len(self.shape)) if self.shape else x.unsqueeze(-1), -1)

    def zero_size(self, like: Tensor) -> float:
        """The size of the numbers computed at the zero vector, in the dtype of `like`; by default that of its entries."""
        return float(scaled_norm(self.zero(dtype=like.dtype, device=like.device).flatten()))

    def combine(self, weights: Tensor | Sequence[Scalar], points: Tensor | Sequence[Tensor]) -> Tensor:
        """sum_i a_i (.) x_i = g^-1(sum_i a_i g(x_i)): the coordinates of all terms in one pass, and one point.

        Arguments:
            weights: k numbers, or a tensor (k,) or (k, *batch); or k tensors (*batch,).
            points: k points of one shape (*batch, *shape), or a tensor (k, *batch, *shape).

        Raises:
            ShapeError: no terms, not as many weights as points, or weights that do not fit the batch (see `scale`).

        Law:
            `combine((a, b), (x, y)) == add(scale(a, x), scale(b, y))` (Def 2.2; laws/test_spaces.py)
        """
        if not isinstance(points, Tensor):
            require_alike(*points)
        stacked = points if isinstance(points, Tensor) else torch.stack(list(points)) if len(points) else torch.zeros(0)
        count = -1 if isinstance(weights, Tensor) and not weights.dim() else len(weights)
        if stacked.shape[:1] != (count,) or count == 0:
            raise ShapeError(
                f"combine needs as many weights as points, at least one; got {count} weights, points {tuple(stacked.shape)}"
            )
        z = self.coords(stacked)
        a = (
            weights
            if isinstance(weights, Tensor)
            else torch.stack([w.to(z) if isinstance(w, Tensor) else z.new_full((), w) for w in weights])
        )
        if a.is_complex():
            raise DtypeError(f"the weights of combine are real numbers, got {a.dtype}")
        a = a.to(z)
        require_fit(a[0], z.shape[1:-1], "one weight per sample, after the first dimension,")
        more = a.dim() + 1 - z.dim()  # dimensions of the batch that only one of both has: the terms lead in each
        a = a.reshape(count, *(1,) * -more, *a.shape[1:], 1)
        return self.point((a * z.reshape(count, *(1,) * more, *z.shape[1:])).sum(0))

    def _pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates of two points of one dtype and device."""
        z, w = self.coords(x), self.coords(y)
        require_alike(x, y)
        return z, w

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x (+) y = g^-1(g(x) + g(y)) (Def 2.2)."""
        z, w = self._pair(x, y)
        return self.point(z + w)

    def sub(self, x: Tensor, y: Tensor) -> Tensor:
        """x (-) y = g^-1(g(x) - g(y))."""
        z, w = self._pair(x, y)
        return self.point(z - w)

    def neg(self, x: Tensor) -> Tensor:
        """(-) x = g^-1(-g(x))."""
        return self.point(-self.coords(x))

    def scale(self, a: Scalar, x: Tensor) -> Tensor:
        """a (.) x = g^-1(a g(x)) (Def 2.2).

        Arguments:
            a: a number, or a tensor (*batch,) with one number per sample, as everywhere in the library. If it has as many
                dimensions as the batch, lengths of 1 broadcast; if not, one of the two shapes must be the result's already.
            x: points (*batch, *shape).

        Raises:
            ShapeError: a does not fit the batch: (k, 1) beside k points is an error, and not k^2 of them.
        """
        z = self.coords(x)
        return self.point(per_sample(a, z) * z)

    def zero(self, *batch: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The zero vectors 0_g = g^-1(0), of shape (*batch, *shape)."""
        return self.point(self._empty(batch, dtype, device).zero_())

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n points whose coordinates are independent standard normal, of shape (n, *shape).

        A generator draws on its own device: one of the CPU gives the same points on every device.
        """
        device = device or self.device
        z = self._empty((n,), dtype, device if generator is None else generator.device).normal_(generator=generator)
        return self.point(z.to(device))

    def _empty(self, batch: Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
        return torch.empty(*batch, self.dim, dtype=dtype or self.dtype, device=device or self.device)

    def mean(self, points: Tensor) -> Tensor:
        """The induced mean g^-1(mean g(x_i)) over the first dimension of points (k, *batch, *shape).

        Raises:
            ShapeError: there are no points.
        """
        if points.dim() == len(self.shape) or points.shape[0] == 0:
            raise ShapeError(f"the mean of points needs a first dimension of length >= 1, got shape {tuple(points.shape)}")
        return self.point(self.coords(points).mean(0))

    def segment(self, x: Tensor, y: Tensor, t: Scalar) -> Tensor:
        """The induced geodesic g^-1((1-t) g(x) + t g(y)); t is a number or a tensor of shape (*batch,)."""
        z, w = self._pair(x, y)
        way = w - z
        return self.point(z + per_sample(t, way) * way)

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """<x, y> = <g(x), g(y)>, of shape (*batch,) (Def 2.6); infinite or nan where a product of coordinates overflows."""
        z, w = self._pair(x, y)
        return (z * w).sum(-1)

    def norm(self, x: Tensor) -> Tensor:
        """||x|| = |g(x)|, of shape (*batch,); its squares may overflow where it does not."""
        return scaled_norm(self.coords(x), -1)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """||x (-) y|| = |g(x) - g(y)|, of shape (*batch,)."""
        z, w = self._pair(x, y)
        return scaled_norm(z - w, -1)

    def angle(self, x: Tensor, y: Tensor) -> Tensor:
        """The angle between x and y in [0, pi], of shape (*batch,); nan where either is the zero vector."""
        z, w = (c / scaled_norm(c, -1).unsqueeze(-1) for c in self._pair(x, y))
        # 2 atan2(|u - v|, |u + v|) keeps full precision near 0 and pi, where arccos loses half the digits.
        return 2 * torch.atan2(scaled_norm(z - w, -1), scaled_norm(z + w, -1))

    @linear_algebra
    def gram(self, points: Tensor) -> Tensor:
        """The Gram matrix (k, k) of points (k, *shape)."""
        z = self.coords(points)
        return z @ z.mT

    @linear_algebra
    def orthonormalize(self, points: Tensor, rtol: float | None = None) -> Tensor:
        """Orthonormal points (r, *shape) with the span of points (k, *shape): Gram-Schmidt in coordinates, rank-revealing.

        Points that depend on others are left out: r is the dimension of the span. Singular values of the coordinates up to
        `rtol` times the largest one count as zero, by default those that rounding of coordinates and chart explains.

        Law:
            `gram(orthonormalize(x)) == I`; `orthonormalize(x)[0] == x[0] / ||x[0]||` for independent x (laws/test_spans.py)
        """
        return self.point(self.coordinate_basis(points, rtol).Q.mT)

    def coordinate_basis(self, points: Tensor, rtol: float | None = None) -> Span:
        """An orthonormal basis Q (dim, r) of the coordinates of points (k, *shape), and its accuracy; `rtol` as above."""
        require_shape(points, self.shape, "points that span a subspace")
        if points.dim() != len(self.shape) + 1:
            k = ", ".join(map(str, ("k", *self.shape)))
            raise ShapeError(f"points that span a subspace have the shape ({k}), got {tuple(points.shape)}")
        z = self.coords(points)
        innermost(z, "the dimension of a span")
        return orthonormal_columns(z.mT, rtol, self._noise(points, z.detach()) if rtol is None else 0.0)

    def _noise(self, points: Tensor, z: Tensor) -> float:
        """The norm of what the chart adds to the rounding of coordinates (k, dim), of all points as of some of them."""
        some = slice(None, None, max(1, len(points) // SOME))
        with torch.no_grad():
            added = self.roundings(points[some].detach()) - scaled_norm(z[some], -1)
        size = float(torch.linalg.vector_norm(added.double().clamp(min=0)))
        return float(FACTOR * torch.finfo(z.dtype).eps * size * math.sqrt(len(z) / max(1, len(z[some]))))

    @linear_algebra
    def metric(self, x: Tensor) -> Tensor:
        """The metric tensor G(x) = J^T J, J the Jacobian of the coordinates: the pullback of the Euclidean metric.

        Of shape (*batch, d, d), d the number of entries of a point. It speaks of tangent vectors: where a set has fewer
        dimensions than its points have entries (the simplex, symmetric matrices), only of those that stay in the set. The
        chart must be C^1, with J injective on tangent vectors; x^3 fails at 0.

        Law:
            `v @ G(x) @ v == |d/ds g(x + s v)|^2` (laws/test_metric.py)
        """
        points = x.reshape(-1, *self.shape)
        self.coords(points)  # refuses points outside the domain, at which jacrev does not look
        # samples do not meet in a chart, so the Jacobian of the sum over them holds that of each
        J = (
            torch.func.jacrev(lambda p: self.coords(p).sum(0))(points)
            .reshape(self.dim, len(points), math.prod(self.shape))
            .movedim(0, 1)
        )
        G: Tensor = (J.mT @ J).reshape(*x.shape[: x.dim() - len(self.shape)], J.shape[-1], J.shape[-1])
        return G

    def geodesic(self, x: Tensor, tangent: Tensor, t: Scalar = 1.0) -> Tensor:
        """The point g^-1(g(x) + t J_g(x) v) reached from x at time t with initial velocity v: straight in coordinates.

        Arguments:
            x: points (*batch, *shape).
            tangent: velocities v of the same shape, in the entries of a point.
            t: a number or a tensor of shape (*batch,).

        Law:
            its speed sqrt(v^T G v) is constant, and its start has velocity v (laws/test_metric.py)
        """
        require_alike(x, tangent)
        z, w, *_ = torch.func.jvp(self.coords, (x,), (tangent,))
        return self.point(z + per_sample(t, z) * w)

    def forward(self, x: Tensor) -> "Vector":
        """`space(x)` is the Vector of the point x."""
        return Vector(self, point=x)


def difference(one: HilbertSpace, other: HilbertSpace) -> str:
    """The names of two spaces, and in what they differ."""
    if repr(one) != repr(other):
        return f"{one!r} and {other!r}, which differ"
    part = f"{one.made_of} object"
    return f"two spaces that both print as {one!r} but hold different {part}s: use the same {part} in both"


@final
class Vector(ByValue):
    """A point of a space with its algebra; immutable, its coordinates and its point computed at most once each.

    `(2 * u + v - w).point` encodes each leaf once and decodes once. `u @ v` is the inner product.

    Raises:
        SpaceMismatch: two vectors of different spaces are joined.
    """

    space: HilbertSpace
    _point: Tensor | None
    _coords: Tensor | None

    def __init__(self, space: HilbertSpace, *, point: Tensor | None = None, coords: Tensor | None = None) -> None:
        if point is None and coords is None:
            raise ShapeError("a Vector needs its point or its coordinates")
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "_point", point)
        object.__setattr__(self, "_coords", coords)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("a Vector is immutable; make a new one with space(point)")

    @property
    def coords(self) -> Tensor:
        """Coordinates, of shape (*batch, dim)."""
        if self._coords is None and self._point is not None:
            object.__setattr__(self, "_coords", self.space.coords(self._point))
        return cast(Tensor, self._coords)

    @property
    def point(self) -> Tensor:
        """The point, of shape (*batch, *shape)."""
        if self._point is None and self._coords is not None:
            object.__setattr__(self, "_point", self.space.point(self._coords))
        return cast(Tensor, self._point)

    def _with(self, coords: Tensor) -> "Vector":
        return Vector(self.space, coords=coords)

    def _same_space(self, other: "Vector", what: str) -> Tensor:
        if self.space != other.space:
            raise SpaceMismatch(f"{what} joins vectors of one space, got {difference(self.space, other.space)}")
        require_alike(self.coords, other.coords)
        return other.coords

    def __add__(self, other: "Vector") -> "Vector":
        return self._with(self.coords + self._same_space(other, "+")) if isinstance(other, Vector) else NotImplemented

    def __radd__(self, zero: object) -> "Vector":
        return self if is_zero(zero) else NotImplemented

    def __sub__(self, other: "Vector") -> "Vector":
        return self._with(self.coords - self._same_space(other, "-")) if isinstance(other, Vector) else NotImplemented

    def __neg__(self) -> "Vector":
        return self._with(-self.coords)

    def __mul__(self, a: Scalar) -> "Vector":
        if not isinstance(a, (Real, Tensor)):
            return NotImplemented
        return self._with(per_sample(a, self.coords) * self.coords)

    __rmul__ = __mul__

    def __truediv__(self, a: Scalar) -> "Vector":
        if not isinstance(a, (Real, Tensor)):
            return NotImplemented
        return self._with(self.coords / per_sample(a, self.coords))

    def __matmul__(self, other: "Vector") -> Tensor:
        """The inner product <u, v>, of shape (*batch,)."""
        return (self.coords * self._same_space(other, "@")).sum(-1) if isinstance(other, Vector) else NotImplemented

    def __iter__(self) -> Iterator["Vector"]:
        raise TypeError("a Vector is one element of its space and is not iterable; use .point or .coords")

    def norm(self) -> Tensor:
        """||v||, of shape (*batch,)."""
        return scaled_norm(self.coords, -1)

    def __repr__(self) -> str:
        known, own = (self.coords, 1) if self._point is None else (self._point, len(self.space.shape))
        batch = tuple(known.shape[: known.dim() - own])
        return f"Vector(batch={batch}, space={self.space!r})"
