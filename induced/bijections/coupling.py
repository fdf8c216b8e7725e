"""Coupling charts: one part of the point is kept and decides, through a free network, how the other part changes."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from induced._registry import saved_as
from induced._validate import require_floating
from induced.bijections.base import Pieced, Pieces
from induced.errors import DomainError, ShapeError
from induced.precision import warn_of_tf32


class Coupling(Pieced):
    """(a, b) -> (a, h(b; conditioner(a))), a and b the halves of the first axis of a point; `flip` exchanges their roles.

    Under autocast only the conditioner runs in the lower precision. One coupling is then inverted as accurately as ever, since
    its conditioner sees the same half both ways; a chain only to the lower precision: train under autocast, encode and decode
    outside.

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
        self.conditioner, self.flip = conditioner, bool(flip)
        first = self.shape[0] // 2
        self._sizes = [first, self.shape[0] - first]
        self._axis = -len(self.shape)
        self.changed = self._sizes[0] if flip else self._sizes[1]
        if self.changed == 0:
            raise ShapeError(f"a flipped coupling changes the first half of a point, which is empty for shape {self.shape}")

    @abstractmethod
    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """h(b), and log|h'(b)| entry by entry (None for 0)."""

    @abstractmethod
    def _restore(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """h^-1(b), and log|(h^-1)'(b)| entry by entry (None for 0)."""

    def _split(self, x: Tensor) -> Pieces:
        return torch.split_with_sizes(x, self._sizes, self._axis)

    def _join(self, pieces: Pieces) -> Tensor:
        return torch.cat(pieces, self._axis)

    def _roles(self, pieces: Pieces) -> Pieces:
        """The kept half and the one that changes, from (first, second); or back."""
        return pieces[::-1] if self.flip else pieces

    def _condition(self, a: Tensor, b: Tensor) -> Tensor:
        require_floating(b, "the points of a coupling")
        if not a.is_cpu:
            warn_of_tf32(a, convolutions=len(self.shape) > 1)
        parameters: Tensor = self.conditioner(a)
        axis = b.dim() + self._axis
        expected = (*b.shape[:axis], self.parameters_per_entry * self.changed, *b.shape[axis + 1 :])
        if tuple(parameters.shape) != expected:
            raise ShapeError(
                f"the conditioner of {type(self).__name__} must return shape {expected} for a kept half {tuple(a.shape)}, "
                f"got {tuple(parameters.shape)}"
            )
        # under autocast the conditioner alone runs in its lower precision
        return parameters.to(b.dtype)

    def _step(self, pieces: Pieces) -> Pieces:
        a, b = self._roles(pieces)
        return self._roles((a, self._transform(b, self._condition(a, b))[0]))

    def _step_back(self, pieces: Pieces) -> Pieces:
        a, b = self._roles(pieces)
        return self._roles((a, self._restore(b, self._condition(a, b))[0]))

    def _step_and_log_abs_det(self, pieces: Pieces) -> tuple[Pieces, Tensor]:
        a, b = self._roles(pieces)
        return self._with_log_abs_det(a, *self._transform(b, self._condition(a, b)))

    def _step_back_and_log_abs_det(self, pieces: Pieces) -> tuple[Pieces, Tensor]:
        a, b = self._roles(pieces)
        return self._with_log_abs_det(a, *self._restore(b, self._condition(a, b)))

    def _with_log_abs_det(self, a: Tensor, b: Tensor, log_slope: Tensor | None) -> tuple[Pieces, Tensor]:
        return self._roles((a, b)), self._batch_zeros(b) if log_slope is None else self._event_sum(log_slope)


@final
@saved_as("bijections.AdditiveCoupling", "shape", "conditioner", "flip")
class AdditiveCoupling(Coupling):
    """(a, b) -> (a, b + shift(a)); volume preserving, and the best conditioned of the couplings."""

    parameters_per_entry = 1

    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return b + parameters, None

    def _restore(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return b - parameters, None


@final
@saved_as("bijections.AffineCoupling", "shape", "conditioner", "flip", "max_log_scale")
class AffineCoupling(Coupling):
    """(a, b) -> (a, exp(s(a)) b + shift(a)), with the log-scale softly clamped: s = m tanh(raw / m), m = `max_log_scale`.

    The conditioner returns (shift, raw) stacked along the first axis. A smaller m makes a deep chart better conditioned: a
    coupling stretches and shrinks by exp(m) at most.

    Raises:
        DomainError: `max_log_scale` is not positive and finite.
    """

    parameters_per_entry = 2

    def __init__(self, shape: Sequence[int], conditioner: nn.Module, *, flip: bool = False, max_log_scale: float = 1.0) -> None:
        super().__init__(shape, conditioner, flip=flip)
        if not 0 < max_log_scale < math.inf:
            raise DomainError(f"the bound of a log-scale is a positive number, got max_log_scale={max_log_scale}")
        self.max_log_scale = max_log_scale

    def _unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = torch.split_with_sizes(parameters, [self.changed, self.changed], self._axis)
        m = self.max_log_scale
        # m tanh(raw / m) by a sigmoid, which torch computes several times faster on a CPU
        return shift, torch.rsub(torch.sigmoid(raw * (-2 / m)), m, alpha=2 * m)

    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._unpack(parameters)
        return torch.addcmul(shift, b, log_scale.exp()), log_scale

    def _restore(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._unpack(parameters)
        return (b - shift) / log_scale.exp(), -log_scale
