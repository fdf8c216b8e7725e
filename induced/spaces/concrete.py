"""Spaces: that of a chart, the Euclidean one, and products."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._module import reference
from induced._numerics import scaled_norm
from induced._registry import saved_as
from induced._validate import eager, require_like, require_shape, whole_sides
from induced.bijections import Bijection
from induced.bijections.amplification import roundings, zero_size
from induced.errors import DomainError, DtypeError, ShapeError
from induced.precision import exactly, full_precision
from induced.spaces.hilbert import HilbertSpace, require_alike


@final
@saved_as("InducedSpace", "chart")
class InducedSpace(HilbertSpace):
    """The Hilbert space that a chart g makes of its points; two such spaces are equal where their chart is the same one.

    Example:
        >>> import torch
        >>> from induced.bijections import Log
        >>> X = InducedSpace(Log((1,)))                     # the positive numbers
        >>> X.add(torch.tensor([2.0]), torch.tensor([3.0]))  # (+) is the product
        tensor([6.])
    """

    def __init__(self, chart: Bijection) -> None:
        if not isinstance(chart, Bijection):
            raise DtypeError(
                f"the chart of an InducedSpace is a Bijection, got {type(chart).__name__}: build one from induced.bijections, "
                f"take g.at(context) of a conditional chart g, or make one of a map and its inverse with from_callables"
            )
        super().__init__(chart.shape, math.prod(chart.coord_shape), ("induced", *chart.identity()))
        self.chart = chart

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "chart":  # another chart makes another space of it
            sides, key = value.coord_shape, ("induced", *value.identity())
            self.__dict__.update(shape=value.shape, dim=math.prod(sides), _key=key, _spread=len(sides) != 1)

    def coords(self, x: Tensor) -> Tensor:
        require_shape(x, self.shape, "a point of the space")
        require_like(x, reference(self.chart), "the point")
        z: Tensor = self.chart(x) if x.is_cpu else exactly(self.chart, x)
        if self._spread:
            z = z.reshape(*z.shape[: z.dim() - len(self.chart.coord_shape)], self.dim)
        _require_finite(z, x, "point", "coordinates", self)
        return z

    def point(self, z: Tensor) -> Tensor:
        require_shape(z, (self.dim,), "coordinates of the space")
        require_like(z, reference(self.chart), "the coordinates")
        w = z.reshape((*z.shape[:-1], *self.chart.coord_shape)) if self._spread else z
        x = self.chart.inverse(w) if w.is_cpu else exactly(self.chart.inverse, w)
        _require_finite(x, z, "coordinates", "point", self)
        return x

    def _reference(self) -> Tensor | None:
        return reference(self.chart)

    @full_precision()
    def roundings(self, x: Tensor, against: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return roundings(self.chart.inv, self.chart(x), against=against)

    def point_roundings(self, x: Tensor) -> Tensor:
        return roundings(self.chart, x.detach())

    def zero_size(self, like: Tensor) -> float:
        return zero_size(self.chart, like)

    def __repr__(self) -> str:
        return f"InducedSpace({_describe(self.chart)})"


@final
@saved_as("EuclideanSpace", "shape")
class EuclideanSpace(HilbertSpace):
    """R^n with its ordinary structure, for points of any shape; two are equal where their shapes are."""

    def __init__(self, shape: int | Sequence[int]) -> None:
        sides = whole_sides(shape if isinstance(shape, Iterable) else (shape,), "the sides of a point")
        if any(side < 0 for side in sides):
            raise ShapeError(f"the points of a EuclideanSpace have sides >= 0, got the shape {sides}")
        super().__init__(sides, math.prod(sides), ("euclidean", sides))

    def coords(self, x: Tensor) -> Tensor:
        require_shape(x, self.shape, "a point of the space")
        z = x.reshape(*x.shape[: x.dim() - len(self.shape)], self.dim)
        _require_finite(z, x, "point", "coordinates", self)
        return z

    def point(self, z: Tensor) -> Tensor:
        require_shape(z, (self.dim,), "coordinates of the space")
        _require_finite(z, z, "coordinates", "point", self)
        return z.reshape((*z.shape[:-1], *self.shape))

    def __repr__(self) -> str:
        return f"EuclideanSpace({self.shape})"


@final
@saved_as("ProductSpace", "*factors")
class ProductSpace(HilbertSpace):
    """X_1 x ... x X_k with <x, y> = sum_i <x_i, y_i>; a point is the entries of its parts, flattened one after the other.

    `join` and `split` go between a point and its parts. Two products are equal where their factors are.

    Raises:
        ShapeError: there are no factors. DtypeError: the factors' charts differ in dtype or device.

    Law:
        `inner(x, y) == sum(F.inner(a, b) for F, a, b in zip(factors, split(x), split(y)))` (laws/test_product_spaces.py)

    Example:
        >>> import torch
        >>> from induced.bijections import Log
        >>> X = ProductSpace(EuclideanSpace(1), InducedSpace(Log((1,))))
        >>> x = X.join(torch.tensor([2.0]), torch.tensor([3.0]))
        >>> X.add(x, x)
        tensor([4., 9.])
    """

    def __init__(self, *factors: HilbertSpace) -> None:
        if not factors:
            raise ShapeError("a product of spaces needs at least one factor")
        factors = tuple(factors[factors.index(factor)] for factor in factors)  # one space is one module
        self._entries = [math.prod(factor.shape) for factor in factors]
        self._dims = [factor.dim for factor in factors]
        super().__init__((sum(self._entries),), sum(self._dims), ("product", *factors))
        self.factors = nn.ModuleList(factors)
        kinds = {(factor.dtype, factor.device) for factor in factors if factor.dtype is not None}
        if len(kinds) > 1:
            raise DtypeError(f"the factors of a product hold parameters of one dtype and device, got {sorted(map(str, kinds))}")

    def _spaces(self) -> list[HilbertSpace]:
        """The factors, typed."""
        return list(self.factors)  # type: ignore[arg-type]

    def _reference(self) -> Tensor | None:
        return next((like for factor in self._spaces() if (like := reference(factor)) is not None), None)

    def join(self, *parts: Tensor) -> Tensor:
        """The point of the product with these parts, one a factor, of shapes (*batch, *factor.shape).

        Raises:
            ShapeError: there are more or fewer parts than factors, or a part is no point of its factor.
            DtypeError: the parts differ in dtype or device.
        """
        spaces = self._spaces()
        if len(parts) != len(spaces):
            raise ShapeError(f"this product has {len(spaces)} factors, got {len(parts)} parts")
        for part, space in zip(parts, spaces, strict=True):
            require_shape(part, space.shape, f"a part in {space!r}")
        require_alike(*parts)
        return torch.cat(
            [
                part.reshape(*_batch(part, space), entries)
                for part, space, entries in zip(parts, spaces, self._entries, strict=True)
            ],
            -1,
        )

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts of points (*batch, *shape), one a factor."""
        require_shape(x, self.shape, "a point of the product")
        pieces = torch.split_with_sizes(x, self._entries, -1)
        return tuple(p.reshape((*p.shape[:-1], *space.shape)) for p, space in zip(pieces, self._spaces(), strict=True))

    def coords(self, x: Tensor) -> Tensor:
        return torch.cat([space.coords(part) for part, space in zip(self.split(x), self._spaces(), strict=True)], -1)

    def point(self, z: Tensor) -> Tensor:
        require_shape(z, (self.dim,), "coordinates of the product")
        pieces = torch.split_with_sizes(z, self._dims, -1)
        return self.join(*(space.point(piece) for piece, space in zip(pieces, self._spaces(), strict=True)))

    def roundings(self, x: Tensor, against: Tensor | None = None) -> Tensor:
        along = [None] * len(self._dims) if against is None else list(torch.split_with_sizes(against, self._dims, -1))
        each = torch.stack([F.roundings(part, w) for F, part, w in zip(self._spaces(), self.split(x), along, strict=True)])
        # errors along vectors add up, lengths of errors as the hypotenuse
        return scaled_norm(each, 0) if against is None else each.sum(0)

    def point_roundings(self, x: Tensor) -> Tensor:
        each = [F.point_roundings(part) for F, part in zip(self._spaces(), self.split(x), strict=True)]
        return scaled_norm(torch.stack(each), 0)

    def zero_size(self, like: Tensor) -> float:
        return math.hypot(*(F.zero_size(like) for F in self._spaces()))

    def __repr__(self) -> str:
        return f"ProductSpace({', '.join(map(repr, self._spaces()))})"


def _batch(x: Tensor, space: HilbertSpace) -> tuple[int, ...]:
    return tuple(x.shape[: x.dim() - len(space.shape)])


def _require_finite(result: Tensor, source: Tensor, came: str, made: str, space: HilbertSpace) -> None:
    if not eager(result) or math.isfinite(result.detach().sum().item()) or bool(torch.isfinite(result).all()):
        return
    if not bool(torch.isfinite(source).all()):
        bad = int((~torch.isfinite(source)).sum())
        raise DomainError(f"{bad} of the {source.numel()} values of the {came} given to {space!r} are not finite")
    hint = "the chart overflows there; keep the values smaller, or use float64"
    if bool(torch.isnan(result).any()):
        hint = "the chart gives nan there, so it overflows, or it is no bijection onto R^n"
    raise DomainError(
        f"{space!r} finds no finite {made} for the {came}, of size {float(source.detach().abs().max()):.3g}: {hint}"
    )


def _describe(chart: Bijection) -> str:
    return f"{type(chart).__name__}{chart.shape}"
