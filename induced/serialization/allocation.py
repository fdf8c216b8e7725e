"""What constructors may allocate while a model is built from a file that anyone may have written."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from induced.errors import CheckpointError

FREE: Final = 2**28
"""Bytes that all constructors together may allocate beside what the weights explain: constants, and steps on the way."""
TIMES: Final = 32
"""Bytes that they may allocate for each byte of weights: drawn, factored and copied before the saved ones take their place."""
_LEAST: Final = 4096


class Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops a constructor before it allocates what the weights do not explain: sizes are computed on the meta device first.

    All that is allocated counts, also what was freed, so that this bounds the time as well.

    Arguments:
        weights: bytes of the weights.

    Raises:
        CheckpointError: an operation would exceed the allowance.
    """

    def __init__(self, weights: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = self.left = FREE + TIMES * weights

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second, lest it trace this

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        aliased = any(value.alias_info is not None for value in func._schema.returns)
        self._spend(0 if aliased else _size(func, args, kwargs))
        return func(*args, **kwargs)

    def _spend(self, size: int) -> None:
        self.left -= max(size, _LEAST)
        if self.left < 0:
            raise CheckpointError(
                f"its arguments ask for more than {self.limit} bytes, which the weights beside it do not hold: nothing is built"
            )


def _size(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The bytes of an operation's results; 0 where they depend on values, and so are bounded by what is there."""
    meta = {name: _on_meta(value) for name, value in kwargs.items()}
    makes = not any(isinstance(value, Tensor) for value in _leaves(args))
    if makes or "device" in kwargs:
        meta["device"] = "meta"
    try:
        made = func(*map(_on_meta, args), **meta)
    except (NotImplementedError, RuntimeError, TypeError):  # it draws from a generator, or its sizes are too large for torch
        return 8 * math.prod(value for value in _leaves(args) if isinstance(value, int)) if makes else 0
    return sum(math.prod(t.shape) * t.dtype.itemsize for t in _leaves(made) if isinstance(t, Tensor))


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return [_on_meta(item) for item in value] if isinstance(value, list | tuple) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
