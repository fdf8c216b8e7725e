"""What every adapted chart has in common: rows of points, one function in every mode, and what is refused."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from induced._module import Module
from induced._registry import FOREIGN, not_saved
from induced.bijections.base import Bijection, Composition
from induced.errors import DtypeError, InducedError
from induced.precision import warn_of_tf32

Map = Callable[[Tensor], Tensor]


@not_saved(FOREIGN)
class Adapted(Bijection):
    """A chart whose maps take points as (N, *shape) and nothing else: leading batch dimensions are flattened and restored."""

    @abstractmethod
    def _encode(self, x: Tensor) -> Tensor:
        """Coordinates (N, *coord_shape) of points (N, *shape), N >= 1."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor:
        """Points (N, *shape) of coordinates (N, *coord_shape), N >= 1."""

    def forward(self, x: Tensor) -> Tensor:
        return self._in_rows(self._encode, x, self.shape, self.coord_shape)

    def inverse(self, z: Tensor) -> Tensor:
        return self._in_rows(self._decode, z, self.coord_shape, self.shape)

    def _in_rows(self, function: Map, x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        batch = x.shape[: x.dim() - len(before)]
        if 0 in batch:
            return x.new_zeros((*batch, *after)) + x.sum()  # with the graph of x
        self._warn(x)
        return function(x.reshape((math.prod(batch), *before))).reshape((*batch, *after))

    def _warn(self, x: Tensor) -> None:
        if not x.is_cpu:
            warn_of_tf32(x, convolutions=len(self.shape) > 1)

    def __repr__(self) -> str:
        # not that of the modules held: zuko's draws random numbers
        return f"{type(self).__name__}({self.extra_repr()})"

    def _reference(self) -> Tensor | None:
        return Module._reference(self)  # what it holds may be buffers

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if module is not self:
                module.training = mode and is_from(module, "zuko")
        return self


class AdaptedWithDeterminant(Adapted):
    """An adapted chart that knows its determinant."""

    @abstractmethod
    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        """Coordinates of points (N, *shape), and log|det J|: a number, or a tensor whose dimensions but the first are summed."""

    @abstractmethod
    def _decode_with_log_det(self, z: Tensor) -> tuple[Tensor, object]:
        """Points of coordinates (N, *coord_shape), and log|det J| of this direction, in the same forms."""

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._in_rows_with_log_det(self._encode_with_log_det, x, self.shape, self.coord_shape)

    def inverse_and_log_abs_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._in_rows_with_log_det(self._decode_with_log_det, z, self.coord_shape, self.shape)

    def _in_rows_with_log_det(
        self, function: Callable[[Tensor], tuple[Tensor, object]], x: Tensor, before: Sequence[int], after: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        batch = x.shape[: x.dim() - len(before)]
        if 0 in batch:
            return x.new_zeros((*batch, *after)) + x.sum(), x.new_zeros(batch) + x.sum()
        self._warn(x)
        rows = x.reshape(math.prod(batch), *before)
        y, log_det = function(rows)
        value = log_det.to(x) if isinstance(log_det, Tensor) else torch.as_tensor(log_det, dtype=x.dtype, device=x.device)
        value = value.flatten(1).sum(-1) if value.dim() > 1 else value.expand(len(rows))
        return y.reshape((*batch, *after)), value.reshape(batch)


def is_from(thing: object, library: str, *names: str) -> bool:
    """Whether a class of `library`, with one of these names if any are given, is among the classes of the object."""
    return any(
        cls.__module__.partition(".")[0] == library and (not names or cls.__name__ in names) for cls in type(thing).__mro__
    )


def require_from(thing: object, what: str, library: str, *names: str) -> None:
    if not is_from(thing, library, *names):
        raise DtypeError(f"expected {what}, got {type(thing).__name__}")


def require_one_function(chart: Bijection) -> None:
    """Raise where evaluation mode does not make a module one and the same function for every batch and every step."""
    for module in chart.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:
            raise InducedError(
                f"{module} normalises by the statistics of each batch: a point would have no coordinates of its own"
            )
        if getattr(module, "using_cache", False):
            raise InducedError(f"{type(module).__name__} caches its matrix, which training makes stale: use_cache(False)")


def composed(parts: Sequence[Bijection]) -> Bijection:
    return parts[0] if len(parts) == 1 else Composition(*parts)
