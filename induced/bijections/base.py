"""Charts: the abstract bijection g : V -> R^n, its inverse and composition."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from induced._module import Module, reference, unset
from induced._registry import saved_as
from induced._validate import whole_sides
from induced.errors import MissingDeterminant, ShapeError

Shape = tuple[int, ...]
Pieces = tuple[Tensor, ...]


class Bijection(Module, ABC):
    """A chart g : V -> R^n, from points (*batch, *shape) to coordinates (*batch, *coord_shape).

    The two obligations are `forward` and `inverse`; a chart that has a Jacobian determinant also implements
    `forward_and_log_abs_det`, and `inverse_and_log_abs_det` where the coordinates know the determinant better. Charts are
    deterministic, in train and eval mode alike: no dropout and no batch statistics.

    Law:
        `g.inverse(g(x)) == x` and `g(g.inverse(z)) == z` up to the chart's rounding amplification (laws/test_bijections.py)
    """

    first_call = "super().__init__(shape)"
    shape: Shape = unset()
    coord_shape: Shape = unset()
    moves_entries: bool = False
    """Whether the chart only moves entries, and so never rounds."""
    lattice_step: float = 0.0
    """The step of the lattice onto which the chart rounds its points and coordinates; 0 where it is defined on all of them."""
    _origin: tuple[object, ...] | None = unset()

    def __init__(self, shape: Sequence[int], coord_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = whole_sides(shape, "the sides of a chart")
        self.coord_shape = self.shape if coord_shape is None else whole_sides(coord_shape, "the sides of a chart")
        if not all(n >= 1 for n in self.shape + self.coord_shape):
            raise ShapeError(f"the sides of a chart are at least 1, got {self.shape} -> {self.coord_shape}")
        self._origin = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Coordinates z = g(x)."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """The point x = g^-1(z)."""

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = g(x) and log|det J_g(x)| of shape (*batch,), in one pass.

        Raises:
            MissingDeterminant: the chart has no determinant.
        """
        raise MissingDeterminant(f"{type(self).__name__} has no log|det J|: implement forward_and_log_abs_det to give it one")

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = g^-1(z) and log|det J_{g^-1}(z)| of shape (*batch,), in one pass; `g.inv.log_abs_det(z)` is the second.

        By default that of g at the rounded x. Near saturation many z round to one x, and a chart that saturates takes it from z.

        Raises:
            MissingDeterminant: the chart has no determinant.
        """
        x = self.inverse(z)
        return x, -self.log_abs_det(x)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """log|det J_g(x)|, of shape (*batch,)."""
        return self.forward_and_log_abs_det(x)[1]

    def roundoff(self, x: Tensor) -> Tensor:
        """How much the chart rounds the coordinates z = g(x), in multiples of eps: b >= 0 of the shape of z.

        With a = `inverse_roundoff(z)` the chart computes, in either direction, a z and an x near the given ones with
        z + eps b = g(x + eps a). `rounding` carries both through the layers of a composition. By default b = |z| and a = |x|, one
        rounding of each number; a chart that adds up larger numbers than its results overrides them (a matrix A has b = |A| |x|).

        Law:
            `(g(g.inverse(z)) - z).norm() <= 10 * eps * rounding(g.inv, z)` (laws/test_amplification.py)
        """
        return self._ulps(self(x))

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        """How much the chart rounds the points x = g^-1(z): a >= 0 of the shape of x; it is `g.inv.roundoff(z)`."""
        return self._ulps(self.inverse(z))

    def _ulps(self, result: Tensor) -> Tensor:
        """What a rounding of each number is, over eps: |x|, but for denormal numbers that of the smallest normal one."""
        if self.moves_entries or self.lattice_step:
            return torch.zeros_like(result)
        return result.abs().clamp(min=torch.finfo(result.dtype).tiny)

    def initialize(self, batch: Tensor) -> None:
        """Set the state that depends on data (ActNorm) from a batch of points; most charts have none."""

    def layers(self) -> tuple["Bijection", ...]:
        """The charts g_1, ..., g_L in order of application, with g = g_L ... g_1."""
        return (self,)

    def identity(self) -> tuple[object, ...]:
        """What makes two charts the same one: the object itself, or (parent, context) for `parent.at(context)`."""
        return self._origin or (self,)

    def _reference(self) -> Tensor | None:
        """A parameter that names the chart's dtype and device, or None where it takes those of its input."""
        return _first_parameter(self)

    @property
    def inv(self) -> "Bijection":
        """g^-1 as a chart; `g.inv.inv is g`."""
        return Inverse(self)

    def __matmul__(self, other: "Bijection") -> "Composition":
        """`g2 @ g1` is g2 after g1."""
        if not isinstance(other, Bijection):
            return NotImplemented
        return Composition(other, self)

    def _event_sum(self, values: Tensor) -> Tensor:
        """Sum over the dimensions of one point."""
        return values.sum(dim=tuple(range(-len(self.shape), 0))) if self.shape else values

    def _batch_zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[: x.dim() - len(self.shape)])

    def extra_repr(self) -> str:
        return f"{self.shape} -> {self.coord_shape}" if self.shape != self.coord_shape else f"{self.shape}"


@final
@saved_as("bijections.Identity", "shape")
class Identity(Bijection):
    """g(x) = x."""

    moves_entries = True

    def forward(self, x: Tensor) -> Tensor:
        return x

    def inverse(self, z: Tensor) -> Tensor:
        return z

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self._batch_zeros(x)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z, self._batch_zeros(z)


@final
@saved_as("bijections.Inverse", "bijection")
class Inverse(Bijection):
    """g^-1 as a chart."""

    def __init__(self, bijection: Bijection) -> None:
        super().__init__(bijection.coord_shape, bijection.shape)
        self.bijection = bijection
        self._origin = ("inverse", *bijection.identity())
        self.moves_entries = bijection.moves_entries
        self.lattice_step = bijection.lattice_step

    def forward(self, x: Tensor) -> Tensor:
        return self.bijection.inverse(x)

    def inverse(self, z: Tensor) -> Tensor:
        point: Tensor = self.bijection(z)
        return point

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse_and_log_abs_det(x)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.forward_and_log_abs_det(z)

    def roundoff(self, x: Tensor) -> Tensor:
        return self.bijection.inverse_roundoff(x)

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        return self.bijection.roundoff(z)

    def _reference(self) -> Tensor | None:
        return reference(self.bijection)

    def layers(self) -> tuple[Bijection, ...]:
        return tuple(layer.inv for layer in reversed(self.bijection.layers()))

    @property
    def inv(self) -> Bijection:
        return self.bijection


class Pieced(Bijection):
    """A chart that works on pieces of a point; in a composition, neighbours that cut points alike hand the pieces on."""

    @abstractmethod
    def _split(self, x: Tensor) -> Pieces:
        """The pieces of a point, which its shape decides."""

    @abstractmethod
    def _join(self, pieces: Pieces) -> Tensor:
        """The point of its pieces."""

    @abstractmethod
    def _step(self, pieces: Pieces) -> Pieces:
        """`forward` on pieces."""

    @abstractmethod
    def _step_back(self, pieces: Pieces) -> Pieces:
        """`inverse` on pieces."""

    @abstractmethod
    def _step_and_log_abs_det(self, pieces: Pieces) -> tuple[Pieces, Tensor]:
        """`forward_and_log_abs_det` on pieces."""

    @abstractmethod
    def _step_back_and_log_abs_det(self, pieces: Pieces) -> tuple[Pieces, Tensor]:
        """`inverse_and_log_abs_det` on pieces."""

    def forward(self, x: Tensor) -> Tensor:
        return self._join(self._step(self._split(x)))

    def inverse(self, z: Tensor) -> Tensor:
        return self._join(self._step_back(self._split(z)))

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pieces, log_det = self._step_and_log_abs_det(self._split(x))
        return self._join(pieces), log_det

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        pieces, log_det = self._step_back_and_log_abs_det(self._split(z))
        return self._join(pieces), log_det


@final
@saved_as("bijections.Composition", "*parts")
class Composition(Bijection):
    """g_L ... g_2 g_1, the parts given in order of application; nested compositions are flattened.

    Couplings that follow each other are a run: the point is cut once, before the first, and joined once, after the last. Forward
    hooks of a coupling within a composition are not called; those of its conditioner are.

    Raises:
        ShapeError: there are no parts, or the coordinates of one do not fit the points of the next.
    """

    def __init__(self, *parts: Bijection) -> None:
        if not parts:
            raise ShapeError("a composition needs at least one chart")
        for first, second in pairwise(parts):
            if first.coord_shape != second.shape:
                raise ShapeError(
                    f"{type(first).__name__} gives coordinates of shape {first.coord_shape}, "
                    f"but {type(second).__name__} takes points of shape {second.shape}"
                )
        super().__init__(parts[0].shape, parts[-1].coord_shape)
        flat = [p for part in parts for p in (part._parts() if isinstance(part, Composition) else (part,))]
        self.parts = nn.ModuleList(flat)
        self.moves_entries = all(part.moves_entries for part in flat)
        self.lattice_step = max(part.lattice_step for part in flat)

    def forward(self, x: Tensor) -> Tensor:
        for run in _runs(self._parts()):
            x = run(x)
        return x

    def inverse(self, z: Tensor) -> Tensor:
        for run in reversed(_runs(self._parts())):
            z = run.inverse(z)
        return z

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _summed(x, [run.forward_and_log_abs_det for run in _runs(self._parts())])

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return _summed(z, [run.inverse_and_log_abs_det for run in reversed(_runs(self._parts()))])

    def roundoff(self, x: Tensor) -> Tensor:
        """That of the last part that rounds; `rounding` takes the others from `layers`."""
        return _last_roundoff(self._parts(), x)

    def inverse_roundoff(self, z: Tensor) -> Tensor:
        return _last_roundoff([part.inv for part in self._parts()[::-1]], z)

    def initialize(self, batch: Tensor) -> None:
        with torch.no_grad():
            for part in self._parts():
                part.initialize(batch)
                batch = _data(part, batch)

    def _reference(self) -> Tensor | None:
        for part in self._parts():
            if (like := reference(part)) is not None:
                return like
        return None

    def _parts(self) -> list[Bijection]:
        """The parts, typed."""
        return list(self.parts)  # type: ignore[arg-type]

    def layers(self) -> tuple[Bijection, ...]:
        return tuple(layer for part in self._parts() for layer in part.layers())


class _Run:
    """Charts that cut points alike, one after the other: the point is cut before the first and joined after the last."""

    def __init__(self, first: Pieced) -> None:
        self.parts = [first]

    def __call__(self, x: Tensor) -> Tensor:
        pieces = self.parts[0]._split(x)
        for part in self.parts:
            pieces = part._step(pieces)
        return self.parts[0]._join(pieces)

    def inverse(self, z: Tensor) -> Tensor:
        pieces = self.parts[0]._split(z)
        for part in reversed(self.parts):
            pieces = part._step_back(pieces)
        return self.parts[0]._join(pieces)

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pieces, log_det = _summed(self.parts[0]._split(x), [part._step_and_log_abs_det for part in self.parts])
        return self.parts[0]._join(pieces), log_det

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        steps = [part._step_back_and_log_abs_det for part in reversed(self.parts)]
        pieces, log_det = _summed(self.parts[0]._split(z), steps)
        return self.parts[0]._join(pieces), log_det


def _runs(parts: Sequence[Bijection]) -> list[Bijection | _Run]:
    """The parts, neighbours that cut points of one shape into pieces joined to a run."""
    runs: list[Bijection | _Run] = []
    for part in parts:
        last = runs[-1] if runs else None
        if not isinstance(part, Pieced):
            runs.append(part)
        elif isinstance(last, _Run) and last.parts[0].shape == part.shape:
            last.parts.append(part)
        else:
            runs.append(_Run(part))
    return runs


def _summed(x: Any, steps: Sequence[Callable[[Any], tuple[Any, Tensor]]]) -> tuple[Any, Tensor]:
    """What the steps make of x one after the other, and the sum of their log-determinants."""
    log_dets = []
    for step in steps:
        x, log_det = step(x)
        log_dets.append(log_det)
    return x, reduce(torch.add, log_dets)


def _data(part: Bijection, batch: Tensor) -> Tensor:
    """Coordinates of a batch; in a channel whose samples differ by roundings alone, as after a rotation, those of the first.

    An ActNorm would scale such roundings up to variance 1.
    """
    z: Tensor = part(batch)
    rows = z.reshape(-1, *part.coord_shape)
    if len(rows) < 2:
        return z
    sizes = part.roundoff(batch).reshape(rows.shape).amax(0)
    equal = (rows - rows[0]).abs() <= 100 * torch.finfo(z.dtype).eps * sizes
    return torch.where(equal.all(dim=(0, *range(2, rows.dim())), keepdim=True), rows[0], rows).reshape(z.shape)


def _last_roundoff(parts: Sequence[Bijection], x: Tensor) -> Tensor:
    """The roundoff of the last part, which parts that only move entries move."""
    size = torch.zeros_like(x)
    for part in parts:
        size, x = part(size) if part.moves_entries else part.roundoff(x), part(x)
    return size


def _first_parameter(module: nn.Module) -> Tensor | None:
    """`next(module.parameters(), None)` at a fraction of its cost, which every call of a space pays."""
    for p in module._parameters.values():
        if p is not None:
            return p
    for child in module._modules.values():
        if child is not None and (found := _first_parameter(child)) is not None:
            return found
    return None
