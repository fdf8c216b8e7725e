"""Charts from `torch.distributions.Transform`."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.transforms import (
    CatTransform,
    ComposeTransform,
    CorrCholeskyTransform,
    CumulativeDistributionTransform,
    ExpTransform,
    IndependentTransform,
    SigmoidTransform,
    SoftplusTransform,
    StackTransform,
    StickBreakingTransform,
    TanhTransform,
    _InverseTransform,
)

from induced._validate import eager, require_domain
from induced.bijections.adapters.base import AdaptedWithDeterminant, composed, require_from, require_one_function
from induced.bijections.base import Bijection, Identity
from induced.bijections.direct_sum import DirectSum, on_vectors
from induced.bijections.elementwise import Arctanh, InverseSoftplus, Log, Logit
from induced.bijections.reshape import Blocks
from induced.errors import DomainError, InducedError, NotInvertible, ShapeError
from induced.operators.algebra import register

OWN: dict[type[Transform], Callable[[Sequence[int]], Bijection]] = {
    ExpTransform: Log,
    SigmoidTransform: Logit,
    TanhTransform: Arctanh,
    SoftplusTransform: InverseSoftplus,
}
"""Transforms whose inverse is a chart of this library; torch's own clip some of their values in silence."""
CLIPPED = (StickBreakingTransform, CorrCholeskyTransform)
"""Transforms that torch clips where they saturate."""


@final
class _Transform(AdaptedWithDeterminant):
    """A torch Transform whose tensors are the chart's parameters and buffers, handed to it again before each use."""

    def __init__(self, transform: Transform, shape: Sequence[int]) -> None:
        super().__init__(shape, _shape_after(transform, shape))
        self._transform = transform
        self._owners: list[tuple[object, str, str]] = []
        self._adopt(transform, "", {})
        self._bound()  # so that another chart of the same transform finds the parameters of this one
        require_one_function(self)
        self.train(self.training)

    def _adopt(self, owner: object, path: str, seen: dict[int, object]) -> None:
        """Register the tensors and modules that a transform or a distribution holds, and those of what it holds."""
        if id(owner) in seen:
            return
        seen[id(owner)] = owner
        if isinstance(owner, nn.Module):
            self.add_module(path or "module", owner)
            return
        if getattr(owner, "_cache_size", 0):
            raise InducedError(f"{owner} caches its last value, which training makes stale: pass transform.with_cache(0)")
        for name, value in list(vars(owner).items()):
            for k, item in enumerate(value if isinstance(value, list | tuple) else (value,)):
                key = f"{path}_{name}".strip("_") + (f"_{k}" if item is not value else "")
                if isinstance(item, Tensor) and item is value:
                    leaf = item.requires_grad and item.is_leaf and not isinstance(item, nn.Parameter)
                    register(self, key, nn.Parameter(item) if leaf else item)
                    self._owners.append((owner, name, key))
                elif isinstance(item, Transform | Distribution | nn.Module) and name != "_inv":
                    self._adopt(item, key, seen)

    def _bound(self) -> Transform:
        for owner, name, key in self._owners:
            setattr(owner, name, getattr(self, key))
        return self._transform

    def _encode(self, x: Tensor) -> Tensor:
        transform = self._bound()
        _require_inside(x, transform.domain, "the point")
        z: Tensor = transform(x)
        _require_inside(z, transform.codomain, "the image of the point", _TOO_LARGE)
        if isinstance(transform, CLIPPED) and eager(z):
            kept = (transform.inv(z) - x).detach().abs() < 1
            require_domain(x, kept, "the range in which torch does not clip", "the values that are mapped", _TOO_LARGE)
        return z

    def _decode(self, z: Tensor) -> Tensor:
        transform = self._bound()
        _require_inside(z, transform.codomain, "the coordinates")
        x: Tensor = transform.inv(z)
        _require_inside(x, transform.domain, "the point of the coordinates", _TOO_LARGE)
        return x

    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        z = self._encode(x)
        return z, self._log_det(x, z)

    def _decode_with_log_det(self, z: Tensor) -> tuple[Tensor, object]:
        x = self._decode(z)
        return x, -self._log_det(x, z)

    def _log_det(self, x: Tensor, z: Tensor) -> Tensor:
        before, after = math.prod(self.shape), math.prod(self.coord_shape)
        if before == after:
            log_det: Tensor = self._transform.log_abs_det_jacobian(x, z)  # type: ignore[no-untyped-call]
            return log_det
        function, at, sign = (self._encode, x, 1) if before < after else (self._decode, z, -1)
        J = torch.func.vmap(torch.func.jacfwd(lambda p: function(p[None])[0]))(at)
        R = torch.linalg.qr(J.reshape(len(x), max(before, after), min(before, after))).R
        volume: Tensor = R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return sign * volume

    def roundoff(self, x: Tensor) -> Tensor:
        size = super().roundoff(x)
        # torch adds a distribution function to 1 / 2, where a small one loses its digits
        return size.clamp(min=1) if isinstance(self._transform, CumulativeDistributionTransform) else size

    def extra_repr(self) -> str:
        return f"{type(self._transform).__name__}, {super().extra_repr()}"


def _shape_after(transform: Transform, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(transform.forward_shape(torch.Size(shape)))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ShapeError(f"{transform} does not take points of shape {tuple(shape)}: {error}") from error


def _parts(transform: Transform) -> Iterator[Transform]:
    """The transforms that one is composed of; that of independent entries is the transform of an entry."""
    if isinstance(transform, ComposeTransform):
        for part in transform.parts:
            yield from _parts(part)
    elif isinstance(transform, IndependentTransform):
        yield from _parts(transform.base_transform)
    else:
        yield transform


def _kinds(constraint: object) -> set[str]:
    """The sets that the entries of a constraint lie in."""
    if isinstance(constraint, constraints._IndependentConstraint):
        return _kinds(constraint.base_constraint)
    if isinstance(constraint, constraints.cat | constraints.stack):
        return set().union(*map(_kinds, constraint.cseq))
    return {repr(constraint)}


def _require_inside(x: Tensor, constraint: constraints.Constraint, what: str, hint: str = "") -> None:
    if _kinds(constraint) != REAL and eager(x):
        inside = _interior(x.detach(), constraint)
        inside = inside.reshape(*inside.shape, *[1] * (x.dim() - inside.dim())).expand_as(x)
        require_domain(x, inside, f"the interior of {constraint}", what, hint)


def _interior(x: Tensor, constraint: constraints.Constraint) -> Tensor:
    """Where x lies in a set and not on its edge, which torch's own check takes for a part of it: charts are of open sets."""
    if isinstance(constraint, constraints._IndependentConstraint):
        inner = _interior(x, constraint.base_constraint)
        return inner.flatten(inner.dim() - constraint.reinterpreted_batch_ndims).all(-1)
    inside: Tensor = constraint.check(x)  # type: ignore[no-untyped-call]
    for side, beyond in (("lower_bound", torch.gt), ("upper_bound", torch.lt)):
        if hasattr(constraint, side):
            inside = inside & beyond(x, getattr(constraint, side))
    if constraint is constraints.simplex:
        inside = inside & (x > 0).all(-1)
    return inside


REAL = {repr(constraints.real)}


def require_onto(parts: Sequence[Transform], whole: object) -> None:
    """Raise unless the composition of the transforms is a bijection onto R^n."""
    for k, part in enumerate(parts):
        if not part.bijective:
            raise NotInvertible(
                f"{part} is not bijective, so {whole} is no chart: two points would have the same coordinates, or some none"
            )
        image = _kinds(part.codomain)
        if image == REAL or (k + 1 < len(parts) and image == _kinds(parts[k + 1].domain)):
            continue
        swapped = k + 1 == len(parts) and _kinds(parts[0].domain) == REAL
        raise DomainError(
            f"{part} maps onto {', '.join(sorted(image))}, which is not all of R^n, so {whole} is no chart: coordinates "
            f"must fill R^n{'; its inverse maps onto R^n, use transform.inv' if swapped else ''}"
        )


def from_transform(transform: Transform, shape: Sequence[int] = ()) -> Bijection:
    """The chart of a `torch.distributions.Transform` that is bijective and onto R^n.

    Its `nn.Parameter`s, and leaf tensors that require gradients, become parameters of the chart (these as `nn.Parameter`s on the
    same storage), and its other tensors buffers: they train, move, and are saved with the chart. log|det J| of a transform
    between different numbers of entries, as `StickBreakingTransform().inv`, is that of volumes on the surface of its points, from
    the Jacobian; torch's own is for another base measure.

    The inverses of Exp, Sigmoid, Tanh and Softplus become `Log`, `Logit`, `Arctanh` and `InverseSoftplus`, Cat and Stack a
    `DirectSum`, whose parts may change in length. A point on the edge of a domain is refused, even where torch's own check
    includes it or its transform clips it.

    Arguments:
        transform: any transform, composed or not; a `StickBreakingTransform().inv` is a chart of the open simplex.
        shape: shape of a point.

    Raises:
        DtypeError: not a Transform.
        NotInvertible: it is not bijective (Abs, Softmax, LowerCholesky), or not at its values (a scale of 0).
        DomainError: it is not onto R^n (Sigmoid, Exp, of which `.inv` is a chart); or, later, a point outside its domain.
        ShapeError: it does not take points of this shape.
        InducedError: it caches values.

    Example:
        >>> from torch.distributions import SigmoidTransform
        >>> from_transform(SigmoidTransform().inv, (3,))(torch.full((3,), 0.5))
        tensor([0., 0., 0.])

    Law:
        `check_bijection` (laws/test_transforms.py)
    """
    require_from(transform, "a torch.distributions.Transform", "torch", "Transform")
    parts = list(_parts(transform))
    require_onto(parts, transform)
    chart = _chart(parts, shape)
    require_there_and_back(chart, str(transform))
    return chart


def _chart(parts: Sequence[Transform], shape: Sequence[int]) -> Bijection:
    charts: list[Bijection] = []
    for part in parts:
        charts.append(_chart_of_one(part, charts[-1].coord_shape if charts else tuple(shape)))
    return composed(charts) if charts else Identity(shape)


def _chart_of_one(part: Transform, shape: tuple[int, ...]) -> Bijection:
    # torch forgets what an inverse inverts when it is copied, so the chart of the original is inverted
    inverted = isinstance(part, _InverseTransform)
    original: Transform = part.inv if inverted else part
    if (own := OWN.get(type(original))) is not None:
        return own(shape) if inverted else own(shape).inv
    if isinstance(original, CatTransform | StackTransform):
        return _side_by_side(original, shape, inverted)
    return _Transform(original, _shape_after(part, shape)).inv if inverted else _Transform(part, shape)


def _side_by_side(whole: CatTransform | StackTransform, shape: tuple[int, ...], inverted: bool) -> Bijection:
    """Transforms of the blocks of an axis, as a direct sum; torch's own joins only those that keep the length of a block."""
    axis, stacked = len(shape) + whole.dim, isinstance(whole, StackTransform)
    if not 0 <= axis < len(shape):
        raise ShapeError(
            f"{whole} has dim={whole.dim}, which is not an axis of a point of shape {shape}: count it from the end, dim=-1"
        )
    before, after = shape[:axis], shape[axis + 1 :]
    transforms = [t.inv if inverted else t for t in whole.transforms]
    blocks = [(*before, *after) if stacked else (*before, n, *after) for n in getattr(whole, "lengths", transforms)]
    if inverted and not stacked:
        blocks = [_shape_after(t, block) for t, block in zip(whole.transforms, blocks, strict=True)]
    cut = Blocks(blocks, axis, stacked)
    if cut.shape != shape:
        raise ShapeError(f"{whole} takes points of shape {cut.shape}, got {shape}")
    charts = [_chart(list(_parts(t)), block) for t, block in zip(transforms, blocks, strict=True)]
    ends = [chart.coord_shape for chart in charts]
    sum_of_charts = DirectSum(*map(on_vectors, charts)) @ cut
    alike = {end if stacked else (*end[:axis], *end[axis + 1 :]) for end in ends}
    # where their shapes do not fit each other any more, the coordinates stay a vector
    return Blocks(ends, axis, stacked).inv @ sum_of_charts if len(alike) == 1 else sum_of_charts


def require_there_and_back(chart: Bijection, name: str) -> None:
    """Raise unless coordinates around 0 return roughly as they were, and coordinates as large as 2 have points.

    A scale of 0, a wrong shape, a bounded image show. How well large ones return is not asked: a search for them may be bounded.
    """
    z = torch.linspace(-0.5, 0.5, math.prod(chart.coord_shape), dtype=chart.dtype, device=chart.device)
    z = z.reshape(1, *chart.coord_shape)
    if z.is_meta:
        return
    why: Exception | None = None
    try:
        with torch.no_grad():
            back = chart(chart.inverse(z))
            far = chart.inverse(torch.cat([4 * z, -4 * z]))
        if back.shape == z.shape and back.dtype == z.dtype and bool(((back - z).abs() < 0.25).all()):
            if bool(far.isfinite().all()):
                return
            found = f"coordinates {(4 * z).flatten()[:4].tolist()} have the points {far[0].flatten()[:4].tolist()}"
        else:
            found = f"coordinates {z.flatten()[:4].tolist()} come back as {back.flatten()[:4].tolist()}"
    except Exception as error:
        why, found = error, f"{type(error).__name__}: {error}"
    raise NotInvertible(f"{name} does not map coordinates around 0 to points of shape {chart.shape} and back: {found}") from why


_TOO_LARGE = "it is so large that its image rounds to the edge of the domain: keep it smaller, or use float64"
