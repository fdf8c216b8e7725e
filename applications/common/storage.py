"""Writing that survives a kill at any moment: a file is there whole or not at all. JSON here is strict JSON."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from induced.errors import CheckpointError

PARTIAL: Final = ".partial-"
"""Prefix of what is being written; anything of that name was left by a killed process."""


def plain(value: Any) -> Any:
    """Make a value strict JSON: numbers that are not finite become strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Serialise an object, or say what in it is no JSON."""
    try:
        return (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise CheckpointError(f"cannot be saved as JSON: {error}") from error


def parse_object(path: Path, content: bytes) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: is no JSON, truncated or changed ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        return parse_object(path, path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing") from error


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON object, whole or not at all."""
    return replace_file(path, json_bytes(value))


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{path.name}-{os.getpid()}")
    write_synced(partial, content)
    os.replace(partial, path)
    return path


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on disk; Windows cannot open folders, and needs no such wait."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
