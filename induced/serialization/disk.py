"""Files that are there whole or not at all, and reading that no fifo, device or size can harm."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from induced.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

PARTIAL: Final = ".partial-"
"""Prefix of what is being written; anything of that name was left by a killed process."""
MOST_JSON: Final = 2**24
"""Bytes that a JSON file has at most."""
DEPTH: Final = 100
"""References, and lists, that may lie in each other."""


# --------------------------------------------------------------------------------------------------------------- writing
def replace_file(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all.

    Raises:
        CheckpointError: it cannot be written; nothing is left of it then, and what was there stays.
    """
    with replacing(path, f"{len(content)} bytes were to be stored") as file:
        file.write(content)
    return path


@contextlib.contextmanager
def replacing(path: Path, hint: str) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when all is written and on disk; errors as of `replace_file`."""
    partial = path.with_name(f"{PARTIAL}{path.name}-{os.getpid()}-{threading.get_ident()}")
    with cannot("be written", path, hint):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a folder's entries are on disk; Windows cannot open folders, and needs no such wait."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs files alone
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder, among processes and threads; without effect where a file system has no locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def cannot(be_done: str, path: Path, hint: str) -> Iterator[None]:
    """Turn errors of the system into one of the library, which says what was meant."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot {be_done} ({error.strerror or error}); {hint}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: cannot {be_done} (it is larger than memory); {hint}") from error


# --------------------------------------------------------------------------------------------------------------- reading
def read(path: Path, hint: str, most: int | None = None) -> bytes:
    """The content of a regular file, or its first `most` bytes; links are followed.

    Raises:
        CheckpointError: it is not there, cannot be read, or is a fifo, socket, device or folder.
    """
    with cannot("be read", path, hint):
        if not stat.S_ISREG(path.stat().st_mode):  # opened, a fifo would be waited for, and a device may do anything
            raise CheckpointError(f"{path}: is a folder, fifo, socket or device, not a file; {hint}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # not the path's: another process may have replaced the file meanwhile
            return file.read(size if most is None else min(most, size))


def sha256(content: bytes) -> str:
    """The hash that records name files by."""
    return hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------------------------------------ JSON
def plain(value: Any) -> Any:
    """Make a value strict JSON: numbers that are not finite become strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: object, indent: int | None = None) -> str:
    """Strict JSON, or what in the value is none."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot be saved as JSON: {error}") from error


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """An object as a JSON file; numbers that are not finite become strings."""
    return (json_text(plain(value), 2) + "\n").encode()


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """Parse a JSON object, strictly.

    Raises:
        CheckpointError: it is no JSON or too large, has a key twice, a number that is not finite, or too many lists in lists.
    """
    if len(content) > MOST_JSON:
        raise CheckpointError(f"{path}: has more than {MOST_JSON} bytes, which no JSON file of a model has")
    try:
        value = json.loads(content, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON, or was cut short or changed: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    if _deeper(value, DEPTH):
        raise CheckpointError(f"{path}: has more than {DEPTH} lists or objects in each other")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a file; errors as `read` and `parse_json`."""
    return parse_json(path, read(path, "a JSON file was expected", MOST_JSON + 1))


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON object, whole or not at all; numbers that are not finite become strings."""
    return replace_file(path, json_bytes(value))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text} is not finite")
    return number


def _deeper(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return depth == 0 or any(_deeper(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))
