"""What every module of the library that holds tensors promises beyond nn.Module."""

import copy
from itertools import chain
from typing import Any, Self

from torch import nn


class Module(nn.Module):
    """An nn.Module whose deep copy holds computed tensors by value.

    Tensors without a graph, parameters among them, are copied as torch copies them. One that was computed from others, as the
    core of `f.H` or `f.pinv()` of a map that trains, is copied detached: the copy keeps its values, and follows nothing.

    Law:
        `torch.equal(copy.deepcopy(A)(z), A(z))` (laws/test_capabilities.py)
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        for tensor in chain(self.parameters(), self.buffers()):
            if not tensor.is_leaf:
                memo.setdefault(id(tensor), tensor.detach().clone())
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        return made
