"""Coupling charts: one part of the point is kept and decides, through a free network, how the other part changes."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from induced.bijections.base import Bijection
from induced.errors import ShapeError


class Coupling(Bijection):
    """(a, b) -> (a, h(b; conditioner(a))), a and b the halves of the first axis of a point; `flip` exchanges their roles.

    Arguments:
        shape: shape of a point; its first axis of length C is cut after C // 2.
        conditioner: any deterministic module from the kept half to the parameters of h, stacked along the first axis.
        flip: keep the second half and change the first.

    Raises:
        ShapeError: nothing is left to change, or the conditioner returns another shape than h needs.
    """

    parameters_per_entry: int

    def __init__(self, shape: Sequence[int], conditioner: nn.Module, *, flip: bool = False) -> None:
        super().__init__(shape)
        self.conditioner, self.flip = conditioner, flip
        first = self.shape[0] // 2
        self._sizes = [first, self.shape[0] - first]
        self._axis = -len(self.shape)
        self.changed = self._sizes[0] if flip else self._sizes[1]
        if self.changed == 0:
            raise ShapeError(f"a flipped coupling changes the first half of a point, which is empty for shape {self.shape}")

    @abstractmethod
    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """h(b), and log|h'| entry by entry (None for 0)."""

    @abstractmethod
    def _restore(self, b: Tensor, parameters: Tensor) -> Tensor:
        """h^-1(b)."""

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = torch.split_with_sizes(x, self._sizes, self._axis)
        return (second, first) if self.flip else (first, second)

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([b, a] if self.flip else [a, b], self._axis)

    def _condition(self, a: Tensor, b: Tensor) -> Tensor:
        parameters: Tensor = self.conditioner(a)
        axis = b.dim() + self._axis
        expected = (*b.shape[:axis], self.parameters_per_entry * self.changed, *b.shape[axis + 1 :])
        if tuple(parameters.shape) != expected:
            raise ShapeError(
                f"the conditioner of {type(self).__name__} must return shape {expected} for a kept half {tuple(a.shape)}, "
                f"got {tuple(parameters.shape)}"
            )
        return parameters

    def forward(self, x: Tensor) -> Tensor:
        a, b = self._split(x)
        return self._join(a, self._transform(b, self._condition(a, b))[0])

    def inverse(self, z: Tensor) -> Tensor:
        a, b = self._split(z)
        return self._join(a, self._restore(b, self._condition(a, b)))

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._split(x)
        changed, log_slope = self._transform(b, self._condition(a, b))
        return self._join(a, changed), self._batch_zeros(x) if log_slope is None else self._event_sum(log_slope)


@final
class AdditiveCoupling(Coupling):
    """(a, b) -> (a, b + shift(a)); volume preserving, and the best conditioned of the couplings."""

    parameters_per_entry = 1

    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return b + parameters, None

    def _restore(self, b: Tensor, parameters: Tensor) -> Tensor:
        return b - parameters


@final
class AffineCoupling(Coupling):
    """(a, b) -> (a, exp(s(a)) b + shift(a)), with the log-scale softly clamped: s = m tanh(raw / m), m = `max_log_scale`.

    The conditioner returns (shift, raw) stacked along the first axis.
    """

    parameters_per_entry = 2

    def __init__(self, shape: Sequence[int], conditioner: nn.Module, *, flip: bool = False, max_log_scale: float = 1.0) -> None:
        super().__init__(shape, conditioner, flip=flip)
        self.max_log_scale = max_log_scale

    def _unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = torch.split_with_sizes(parameters, [self.changed, self.changed], self._axis)
        return shift, self.max_log_scale * torch.tanh(raw / self.max_log_scale)

    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._unpack(parameters)
        return torch.addcmul(shift, b, log_scale.exp()), log_scale

    def _restore(self, b: Tensor, parameters: Tensor) -> Tensor:
        shift, log_scale = self._unpack(parameters)
        return (b - shift) * (-log_scale).exp()
