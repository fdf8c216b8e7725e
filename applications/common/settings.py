"""Nested settings and states by dotted names, and bounds of settings."""

from collections.abc import Iterator, Mapping
from typing import Any

from induced.errors import DomainError


def at_least(least: float, settings: Any, *names: str) -> None:
    """Refuse settings below a bound.

    Raises:
        DomainError: one is, or is NaN.
    """
    for name in names:
        if not getattr(settings, name) >= least:
            raise DomainError(f"{name} must be at least {least}, got {getattr(settings, name)}")


def at_most(most: float, settings: Any, *names: str) -> None:
    """Refuse settings above a bound.

    Raises:
        DomainError: one is, or is NaN.
    """
    for name in names:
        if not getattr(settings, name) <= most:
            raise DomainError(f"{name} must be at most {most}, got {getattr(settings, name)}")


def flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What nested mappings hold, by dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
