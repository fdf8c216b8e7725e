"""The nn.Module that charts, operators, spaces and maps are: each module in it has one name, and it can be copied."""

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import FunctionType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from induced.errors import InducedError, explain_float64


class Unset:
    """Stands in a class for an attribute that `__init__` sets; to read it before is an error that no property hides."""

    def __init__(self) -> None:
        self.__doc__ = None  # of an attribute, whose class says what it means

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        raise InducedError(
            f"{owner.__name__}.__init__ has not called {owner.first_call} yet: "  # type: ignore[attr-defined]
            f"make it the first line of {owner.__name__}.__init__"
        )


def unset() -> Any:
    """An `Unset` of whatever type the attribute has."""
    return Unset()


class ByValue:
    """An object whose deep copy holds computed tensors by value.

    Tensors without a graph, parameters among them, are copied as torch copies them. One that was computed from others, as the
    core of `f.H` or `f.pinv()` of a map that trains, is copied detached: the copy keeps its values, and follows nothing.

    Law:
        `torch.equal(copy.deepcopy(A)(z), A(z))` (laws/test_capabilities.py)
    """

    def _tensors(self) -> Iterable[Tensor]:
        return (value for value in vars(self).values() if isinstance(value, Tensor))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        for tensor in self._tensors():
            if not tensor.is_leaf:
                memo.setdefault(id(tensor), tensor.detach().clone())
        made = memo[id(self)] = type(self).__new__(type(self))
        state: Any = self.__getstate__()
        made.__dict__.update(copy.deepcopy(state, memo))
        return made


class Module(ByValue, nn.Module):
    """An nn.Module in which each module has one name: that of the first way to it.

    Maps and expressions share what they are built of: both sides of f : X -> X are one space, and A D A holds A twice. Torch
    would list and save such a module under each of its names, and `torch.func.functional_call` would leave its arguments in it.

    Law:
        `functional_call(f, params, x)` leaves f as it was, and no two entries of `f.state_dict()` are one tensor unless two
        modules hold it (laws/test_state.py)
    """

    first_call: ClassVar[str] = "super().__init__()"
    """What the `__init__` of a subclass has to call first."""

    # what torch reads first of a module that is called, listed or moved
    _parameters: dict[str, nn.Parameter | None] = unset()
    _buffers: dict[str, Tensor | None] = unset()
    _modules: dict[str, nn.Module | None] = unset()
    _backward_hooks: dict[int, Callable[..., Any]] = unset()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; under the name of a method, which would hide a module, nothing but another function."""
        is_method = isinstance(getattr(type(self), name, None), FunctionType)
        if is_method and (isinstance(value, nn.Module | nn.Parameter) or not callable(value)):
            raise InducedError(
                f"{type(self).__name__}.{name} is a method of its class: give this {type(value).__name__} another name"
            )
        super().__setattr__(name, value)

    def _reference(self) -> Tensor | None:
        """A tensor that names dtype and device: here the first floating-point parameter or buffer."""
        return next((tensor for tensor in self._tensors() if tensor.is_floating_point()), None)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of what is held; None where that of the input is taken."""
        like = self._reference()
        return None if like is None else like.dtype

    @property
    def device(self) -> torch.device | None:
        """The device of what is held, buffers among it; None where that of the input is taken."""
        like = self._reference()
        like = next(iter(self._tensors()), None) if like is None else like
        return None if like is None else like.device

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All modules within, each once, whatever `remove_duplicate` says."""
        memo = set() if memo is None else memo
        if id(self) in memo:  # not `self in memo`: equal spaces may be two modules
            return
        memo.add(id(self))
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, True)

    def _tensors(self) -> Iterable[Tensor]:
        return chain(self.parameters(), self.buffers())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        try:
            moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            return moved
        except TypeError as error:
            explain_float64(error)
            raise

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Call fn on each module once, on what a module holds before the module itself."""
        for module in _leaves_first(self, set()):
            fn(module)
        return self

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        """Parameters and persistent buffers by name, those of each module once."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        prefix = prefix or (args[1] if len(args) > 1 else "")
        for other, _, _ in _other_names(self, "", {}):
            for key in [key for key in state if key.startswith(prefix + other)]:
                del state[key]
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # torch looks a module up under each of its names, and would take the last of several values in silence
        errors: list[str] = args[-1]
        for other, first, module in _other_names(self, "", {}):
            for key, tensor in module.state_dict(keep_vars=True).items():
                name, known = prefix + other + key, state_dict.get(prefix + first + key, tensor)
                if not _same(state_dict.setdefault(name, known), known):
                    errors.append(
                        f"{prefix + first + key} and {name} are one tensor here, but the state has other values for each."
                    )
        super()._load_from_state_dict(state_dict, prefix, *args)


def reference(module: Module) -> Tensor | None:
    """A tensor of the dtype and device of a module, or None where it takes those of its input."""
    return module._reference()


def _same(one: object, other: object) -> bool:
    """Whether two entries of a state hold the same values, where values are there to be compared."""
    if one is other or not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.is_meta or other.is_meta:
        return True
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def in_double(module: nn.Module, x: Tensor) -> Tensor:
    """module(x) evaluated in float64; the module stays as it is, whatever its parts share."""
    state = {
        f"{name}.{leaf}" if name else leaf: tensor.double() if tensor.is_floating_point() else tensor
        for name, part in module.named_modules()
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None
    }
    # each tensor has its one name here: by its own ties torch would put a shared module's back under another one
    result: Tensor = torch.func.functional_call(module, state, (x.double(),), tie_weights=False)
    return result


def _leaves_first(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    seen.add(id(module))
    for child in module._modules.values():
        if child is not None and id(child) not in seen:
            yield from _leaves_first(child, seen)
    yield module


def _other_names(module: nn.Module, prefix: str, first: dict[int, str]) -> Iterator[tuple[str, str, nn.Module]]:
    """(other name, first name, module) for each way to a module but the first; names end with a dot."""
    for name, child in module._modules.items():
        if child is None:
            continue
        path = f"{prefix}{name}."
        if id(child) in first:
            yield path, first[id(child)], child
        else:
            first[id(child)] = path
            yield from _other_names(child, path, first)
