"""Bounds of settings."""

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
