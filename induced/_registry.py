"""The kinds of modules that can be saved: what config.json calls each, and what builds one anew.

Each class is registered where it is defined. Kinds of other packages are found by their entry points in the group
`induced.models`, which are read only when a folder asks for a kind that is not registered yet.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from induced.errors import CheckpointError

M = TypeVar("M", bound=nn.Module)
ENTRY_POINTS: Final = "induced.models"
"""The group of entry points; one named `family` is imported for the kinds `family.ANY`."""

FOREIGN = (
    "it runs foreign code, which config.json cannot name. Save the weights of what it wraps (safetensors.torch.save_file of its "
    "state_dict) and wrap it anew, or write a class and register it"
)
"""Why what wraps foreign objects cannot be saved."""


class Recipe(NamedTuple):
    """How the objects of a class are described and built."""

    name: str
    owner: str
    cls: type[nn.Module]
    describe: Callable[[Any], Mapping[str, Any]]
    build: Callable[..., nn.Module]
    when: Callable[[Any], bool] | None


by_class: dict[type[nn.Module], Recipe] = {}
by_name: dict[str, Recipe] = {}
_refused: dict[type[nn.Module], str] = {}


def register(
    cls: type[M],
    *attributes: str,
    describe: Callable[[M], Mapping[str, Any]] | None = None,
    build: Callable[..., M] | None = None,
    name: str | None = None,
    when: Callable[[M], bool] | None = None,
) -> None:
    """Let `save` and `load` handle a class: `build(**describe(module))` makes a module with tensors of the same names and shapes.

    Parameters and persistent buffers are saved and restored besides; only what the constructor needs has to be described.

    Arguments:
        cls: the class itself; its subclasses are registered on their own.
        attributes: the constructor's arguments, where the module keeps each under its own name; "*parts" for a sequence that the
            constructor takes as *parts.
        describe: gives all arguments instead: numbers, strings, None, tensors, modules, and lists of these.
        build: what takes the arguments; the class where left out.
        name: what config.json calls the class; its module and name where left out. A package that has an entry point `family` in
            the group `induced.models` calls its kinds `family.ANY`, and they load without being imported first.
        when: the recipe is for those objects of the class and of its subclasses of which this is true, before their own recipes.

    Raises:
        CheckpointError: another class has this name; or the class lies in a function, where several may be called the same, and
            `name` is left out.

    Example:
        >>> from induced.bijections import Log
        >>> recipe(Log((2,))).describe(Log((2,)))
        {'shape': (2,)}

    Law:
        `load(folder)(x) == module(x)` after `save(module, folder)`, bit for bit (laws/test_serialization.py)
    """
    owner = f"{cls.__module__}.{cls.__qualname__}"
    if name is None and "<locals>" in owner:
        raise CheckpointError(f"{owner} lies in a function, where several classes may be called so: give register a name= for it")
    name = owner if name is None else name
    if name in by_name and by_name[name].owner != owner:
        raise CheckpointError(f"{owner} cannot be registered as {name!r}: that is the name of {by_name[name].owner}")
    names = [attribute.removeprefix("*") for attribute in attributes]

    def built(**given: Any) -> M:
        sequence = [item for attribute in attributes if attribute[0] == "*" for item in given.pop(attribute[1:])]
        return cls(*sequence, **given)

    described = describe or (lambda module: {a: getattr(module, a) for a in names})
    entry = Recipe(name, owner, cls, described, build or (cls if names == list(attributes) else built), when)
    by_class[cls] = by_name[name] = entry


def saved_as(
    name: str,
    *attributes: str,
    describe: Callable[[Any], Mapping[str, Any]] | None = None,
    build: Callable[..., Any] | None = None,
    when: Callable[[Any], bool] | None = None,
) -> Callable[[type[M]], type[M]]:
    """`register` as a decorator of the class."""

    def decorate(cls: type[M]) -> type[M]:
        register(cls, *attributes, describe=describe, build=build, name=name, when=when)
        return cls

    return decorate


def not_saved(reason: str) -> Callable[[type[M]], type[M]]:
    """Say, as a decorator, why the objects of a class and of its subclasses cannot be saved."""

    def decorate(cls: type[M]) -> type[M]:
        _refused[cls] = reason
        return cls

    return decorate


def recipe(module: nn.Module) -> Recipe:
    """The recipe of a module's class.

    Raises:
        CheckpointError: the class has none.
    """
    cls = type(module)
    for base in cls.__mro__:
        if base in by_class and (when := by_class[base].when) is not None and when(module):
            return by_class[base]
    for base in cls.__mro__:
        if base in _refused:
            raise CheckpointError(f"a {cls.__name__} cannot be saved: {_refused[base]}")
    if is_parametrized(module):
        raise CheckpointError(
            f"a {cls.__name__} cannot be saved: its weights are computed from others by torch.nn.utils.parametrize (weight_norm, "
            f"spectral_norm, ...); call torch.nn.utils.parametrize.remove_parametrizations(module, name) for each, then save"
        )
    if isinstance(getattr(module, "_orig_mod", None), nn.Module):
        raise CheckpointError(
            f"{cls.__name__}, of torch.compile, cannot be saved: save its `_orig_mod`, the module that it compiles, and compile "
            f"what is loaded"
        )
    if cls not in by_class:
        raise CheckpointError(
            f"a {cls.__name__} cannot be saved: its class is not registered; "
            f"call induced.serialization.register({cls.__name__}, *names of its constructor's arguments)"
        )
    return by_class[cls]


def named(name: str, where: str) -> Recipe:
    """The recipe that config.json calls by this name.

    Raises:
        CheckpointError: there is none, or the package that has it cannot be imported.
    """
    if name not in by_name:
        family = name.partition(".")[0]
        for point in entry_points(group=ENTRY_POINTS, name=family):
            try:
                point.load()
            except (ImportError, AttributeError) as error:
                raise CheckpointError(
                    f"{where} is a {name} of {point.value}, which cannot be imported ({error}): install induced[apps]"
                ) from error
    if name not in by_name:
        raise CheckpointError(
            f"{where} is of the class {name!r}, which is not registered: nothing else is built. If it is an application's, "
            f"install induced[apps]; if it is yours, import the module that registers it first, or register it with "
            f"name={name!r} where it has moved"
        )
    return by_name[name]
