"""An error of the library, and what raises it."""

from collections.abc import Callable
from typing import NamedTuple


class Case(NamedTuple):
    """What is done, the error it must raise, and what the message must say."""

    error: type[Exception]
    message: str
    act: Callable[[], object]
