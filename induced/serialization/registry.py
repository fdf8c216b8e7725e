"""Which classes can be saved, and the arguments that build them anew."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from induced.bijections import Bijection, ConditionalBijection, Reversible
from induced.bijections.adapters.base import Adapted
from induced.bijections.adapters.layer import ConditionalFlow
from induced.errors import CheckpointError
from induced.operators import ForeignOperator

M = TypeVar("M", bound=nn.Module)
BOUND = "bijections.at"
"""The name under which `parent.at(context)` is saved."""


class Recipe(NamedTuple):
    """How the objects of a class are described and built."""

    name: str
    owner: str
    describe: Callable[[Any], Mapping[str, Any]]
    build: Callable[..., nn.Module]


_by_class: dict[type[nn.Module], Recipe] = {}
_by_name: dict[str, Recipe] = {}


def register(
    cls: type[M],
    *attributes: str,
    describe: Callable[[M], Mapping[str, Any]] | None = None,
    build: Callable[..., M] | None = None,
    name: str | None = None,
) -> None:
    """Let `save` and `load` handle a class: `build(**describe(module))` makes a module with tensors of the same names and shapes.

    Parameters and persistent buffers are saved and restored besides; only what the constructor needs has to be described.

    Arguments:
        cls: the class itself; its subclasses are registered on their own.
        attributes: the constructor's arguments, where the module keeps each under its own name.
        describe: gives all arguments instead: numbers, strings, None, tensors, modules, and lists of these.
        build: what takes the arguments; the class where left out.
        name: what config.json calls the class; its module and name where left out.

    Raises:
        CheckpointError: another class has this name.

    Example:
        >>> from induced.bijections import Log
        >>> recipe(Log((2,))).describe(Log((2,)))
        {'shape': (2,)}

    Law:
        `load(folder)(x) == module(x)` after `save(module, folder)`, bit for bit (laws/test_serialization.py)
    """
    name = f"{cls.__module__}.{cls.__qualname__}" if name is None else name
    owner = f"{cls.__module__}.{cls.__qualname__}"
    if name in _by_name and _by_name[name].owner != owner:
        raise CheckpointError(f"{owner} cannot be registered as {name!r}: that is the name of {_by_name[name].owner}")
    entry = Recipe(name, owner, describe or (lambda module: {a: getattr(module, a) for a in attributes}), build or cls)
    _by_class[cls] = _by_name[name] = entry


def recipe(module: nn.Module) -> Recipe:
    """The recipe of a module's class.

    Raises:
        CheckpointError: the class has none.
    """
    kind = type(module).__name__
    if isinstance(module, Bijection) and not isinstance(module, Reversible) and is_bound(module):
        return _by_name[BOUND]
    if isinstance(module, Adapted | ConditionalFlow | ForeignOperator):
        raise CheckpointError(
            f"a {kind} cannot be saved: it runs foreign code, which config.json cannot name. Save the weights of what it wraps "
            f"(safetensors.torch.save_file of its state_dict) and wrap it anew, or write a class and register it"
        )
    if is_parametrized(module):
        raise CheckpointError(
            f"a {kind} cannot be saved: its weights are computed from others by torch.nn.utils.parametrize (weight_norm, "
            f"spectral_norm, ...); call torch.nn.utils.parametrize.remove_parametrizations(module, name) for each, then save"
        )
    if isinstance(getattr(module, "_orig_mod", None), nn.Module):
        raise CheckpointError(
            f"{kind}, of torch.compile, cannot be saved: save its `_orig_mod`, the module that it compiles, and compile what is "
            f"loaded"
        )
    if type(module) not in _by_class:
        raise CheckpointError(
            f"a {kind} cannot be saved: its class is not registered; "
            f"call induced.serialization.register({kind}, *names of its constructor's arguments)"
        )
    return _by_class[type(module)]


def named(name: str, where: str) -> Recipe:
    """The recipe that config.json calls by this name.

    Raises:
        CheckpointError: there is none.
    """
    if name not in _by_name:
        raise CheckpointError(
            f"{where} is of the class {name!r}, which is not registered: nothing else is built. If it is yours, import the "
            f"module that registers it first"
        )
    return _by_name[name]


def is_bound(chart: Bijection) -> bool:
    """Whether a chart is `parent.at(context)`."""
    return chart._origin is not None and isinstance(chart._origin[0], ConditionalBijection)
