"""Charts from `torch.distributions.Transform`."""

import math
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform, _InverseTransform

from induced._validate import require_domain
from induced.bijections.adapters.base import AdaptedWithDeterminant, composed, require_from, require_one_function
from induced.bijections.base import Bijection, Identity
from induced.errors import DomainError, InducedError, NotInvertible, ShapeError
from induced.operators.algebra import register


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
        return z

    def _decode(self, z: Tensor) -> Tensor:
        transform = self._bound()
        _require_inside(z, transform.codomain, "the coordinates")
        x: Tensor = transform.inv(z)
        return x

    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        z, (before, after) = self._encode(x), (math.prod(self.shape), math.prod(self.coord_shape))
        if before == after:
            return z, self._transform.log_abs_det_jacobian(x, z)  # type: ignore[no-untyped-call]
        function, at, sign = (self._encode, x, 1) if before < after else (self._decode, z, -1)
        J = torch.func.vmap(torch.func.jacfwd(lambda p: function(p[None])[0]))(at)
        R = torch.linalg.qr(J.reshape(len(x), max(before, after), min(before, after))).R
        return z, sign * R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

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


def _require_inside(x: Tensor, constraint: constraints.Constraint, what: str) -> None:
    if _kinds(constraint) != REAL:
        require_domain(x, constraint.check(x), str(constraint), what)  # type: ignore[no-untyped-call]


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

    Arguments:
        transform: any transform, composed or not; a `StickBreakingTransform().inv` is a chart of the open simplex.
        shape: shape of a point.

    Raises:
        DtypeError: not a Transform.
        NotInvertible: it is not bijective (Abs, Softmax, LowerCholesky).
        DomainError: it is not onto R^n (Sigmoid, Exp, of which `.inv` is a chart); or, later, a point outside its domain.
        ShapeError: it does not take points of this shape.
        InducedError: it caches values.

    Example:
        >>> from torch.distributions import SigmoidTransform
        >>> from_transform(SigmoidTransform().inv, (3,))(torch.full((3,), 0.5))
        tensor([0., 0., 0.])

    Law:
        `check_bijection` (laws/test_adapters.py)
    """
    require_from(transform, "a torch.distributions.Transform", "torch", "Transform")
    parts = list(_parts(transform))
    require_onto(parts, transform)
    charts: list[Bijection] = []
    for part in parts:
        # torch forgets what an inverse inverts when it is copied, so the chart of the original is inverted
        inverted = isinstance(part, _InverseTransform)
        here: tuple[int, ...] = charts[-1].coord_shape if charts else tuple(shape)
        chart = _Transform(part.inv, _shape_after(part, here)).inv if inverted else _Transform(part, here)
        charts.append(chart)
    return composed(charts) if charts else Identity(shape)
