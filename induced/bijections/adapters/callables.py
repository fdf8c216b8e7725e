"""Charts from a pair of callables."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from induced.bijections.adapters.base import Adapted, AdaptedWithDeterminant, Map, require_one_function
from induced.bijections.base import Bijection


class _Callables(Adapted):
    def __init__(self, functions: Sequence[Map], shape: Sequence[int], coord_shape: Sequence[int] | None) -> None:
        super().__init__(shape, coord_shape)
        # a bound method trains the module it belongs to
        owners = [getattr(function, "__self__", function) for function in functions]
        self.modules_held = nn.ModuleList({id(owner): owner for owner in owners if isinstance(owner, nn.Module)}.values())
        self._functions = tuple(functions)
        require_one_function(self)
        self.train(self.training)

    def _encode(self, x: Tensor) -> Tensor:
        return self._functions[0](x)

    def _decode(self, z: Tensor) -> Tensor:
        return self._functions[1](z)


@final
class _CallablesWithDeterminant(_Callables, AdaptedWithDeterminant):
    def _encode_with_log_det(self, x: Tensor) -> tuple[Tensor, object]:
        return self._encode(x), self._functions[2](x)

    def _decode_with_log_det(self, z: Tensor) -> tuple[Tensor, object]:
        x = self._decode(z)
        return x, -self._functions[2](x)


def from_callables(
    forward: Map,
    inverse: Map,
    shape: Sequence[int],
    coord_shape: Sequence[int] | None = None,
    *,
    log_abs_det: Map | None = None,
) -> Bijection:
    """The chart g = `forward` with g^-1 = `inverse`; modules among the callables, and those of bound methods, train.

    Arguments:
        forward: points (N, *shape) -> coordinates (N, *coord_shape).
        inverse: coordinates -> points.
        shape: shape of a point.
        coord_shape: shape of its coordinates, by default that of a point.
        log_abs_det: points -> log|det J_g| of shape (N,); without it the chart has none. A value is reached through its first
            dimension, the others are summed.

    Raises:
        InducedError: a module normalises by the statistics of a batch, or keeps values that training makes stale.

    Example:
        >>> import torch
        >>> g = from_callables(torch.log, torch.exp, (2,), log_abs_det=lambda x: -x.log().sum(-1))
        >>> g(torch.ones(2)), g.log_abs_det(torch.ones(3, 2)).shape
        (tensor([0., 0.]), torch.Size([3]))

    Law:
        `check_bijection` (laws/test_transforms.py). The callables are not tried here, since nothing says their dtype and device:
        that they undo each other is for the caller to check with it.
    """
    if log_abs_det is None:
        return _Callables((forward, inverse), shape, coord_shape)
    return _CallablesWithDeterminant((forward, inverse, log_abs_det), shape, coord_shape)
