"""The object that `module:object` names."""

import importlib
import sys
from functools import reduce
from pathlib import Path

from induced.checks.measure import one_line
from induced.checks.run import TAKEN, Checkable
from induced.errors import InducedError


def load_object(name: str) -> Checkable:
    """The object that `module:object` names; the current directory is where modules are looked for first.

    Arguments:
        name: a module and, after the colon, an object in it, or a class or function that makes one without arguments.

    Raises:
        InducedError: the name is not `module:object`; the module or object is not there, or fails; `check` does not take it.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise InducedError(f"name what to check as module:object, for example mycharts:MyChart; got {name!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise InducedError(f"cannot import {module}: {one_line(error)}") from error
    try:
        thing = reduce(getattr, path.split("."), found)
    except AttributeError as error:
        raise InducedError(f"{module} ({found.__file__}) has no {path}") from error
    if not isinstance(thing, Checkable) and callable(thing):
        try:
            thing = thing()
        except Exception as error:
            raise InducedError(f"{name} cannot be called without arguments: {one_line(error)}") from error
    if not isinstance(thing, Checkable):
        raise InducedError(f"{name} should be, or make, {TAKEN}; it is of the type {type(thing).__name__}")
    return thing
