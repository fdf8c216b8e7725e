"""Arrays of bytes that are made once and kept in a file, checked each time before they are used."""

import errno
import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from applications.common.locks import held
from induced.errors import DataError
from induced.serialization.disk import sync

_COUNT: Final = 8
_TRAILER: Final = _COUNT + hashlib.sha256().digest_size


def cached(path: Path, shape: tuple[int, ...], blocks: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
    """An array that is made once and then mapped from its file.

    The file is a .npy of uint8 with a trailer: how many items are made, and the SHA-256 of their bytes. It is written beside its
    name, synced, and renamed when all items are there. One process makes it and others wait. If that one is killed, the next goes
    on with the items whose hash is right. Room for the whole is reserved before the first item is made.

    Arguments:
        path: The file; its name tells apart all that it depends on.
        shape: (N, ...), N > 0.
        blocks: From an item on, all items in order: arrays (k, ...) of any k.

    Returns:
        uint8, of the shape; writing to it changes memory alone.

    Raises:
        DataError: there is no room, or the folder cannot be written; or as `blocks` raises. Nothing is left then.
    """
    layout = _Layout(shape)
    try:
        if _is_whole(path, layout):
            return layout.mapped(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.with_suffix(".lock"), lambda other: print(f"{other} makes {path}: waiting for it", flush=True)):
            if not _is_whole(path, layout, say=True):
                _make(path, layout, blocks)
        return layout.mapped(path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: the cache cannot be written ({error}); INDUCED_CACHE moves it") from error


@dataclass(frozen=True)
class _Layout:
    """Where things stand in a file: the head of a .npy, the items, the trailer."""

    shape: tuple[int, ...]

    @property
    def head(self) -> bytes:
        head = io.BytesIO()
        np.lib.format.write_array_header_2_0(head, {"descr": "|u1", "fortran_order": False, "shape": self.shape})
        return head.getvalue()

    @property
    def item(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def size(self) -> int:
        return len(self.head) + math.prod(self.shape) + _TRAILER

    def mapped(self, path: Path) -> np.ndarray:
        return np.memmap(path, np.uint8, mode="c", offset=len(self.head), shape=self.shape)

    def trailer(self, count: int, digest: bytes) -> bytes:
        return count.to_bytes(_COUNT, "big") + digest

    def made(self, path: Path) -> tuple[int, Any]:
        """How many items a file holds, and the hash of their bytes; none where anything about it is wrong."""
        nothing = 0, hashlib.sha256()
        if not path.exists() or path.stat().st_size != self.size:
            return nothing
        content, start = np.memmap(path, np.uint8, "r"), len(self.head)
        trailer = content[-_TRAILER:].tobytes()
        count = int.from_bytes(trailer[:_COUNT], "big")
        if content[:start].tobytes() != self.head or count > self.shape[0]:
            return nothing
        found = hashlib.sha256(content[start : start + count * self.item].data)
        return (count, found) if trailer == self.trailer(count, found.digest()) else nothing


def _is_whole(path: Path, layout: _Layout, *, say: bool = False) -> bool:
    whole: bool = path.exists() and layout.made(path)[0] == layout.shape[0]
    if say and not whole and path.exists():
        print(f"{path}: is damaged (cut short, or its bytes are not those that were written); it is made anew", flush=True)
    return whole


def _make(path: Path, layout: _Layout, blocks: Callable[[int], Iterable[np.ndarray]]) -> None:
    partial = path.with_suffix(".partial")
    try:
        start, found = layout.made(partial)
        with partial.open("r+b" if start else "w+b") as file:
            if not start:
                _reserve(file.fileno(), path.parent, layout.size)
                file.write(layout.head)
            done = start
            for block in blocks(start):
                content = block.tobytes()
                found.update(content)
                file.seek(len(layout.head) + done * layout.item)
                file.write(content)
                file.flush()
                done += len(block)
                # Until this is written the trailer speaks of the items before, which are there.
                file.seek(layout.size - _TRAILER)
                file.write(layout.trailer(done, found.digest()))
                file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)
    except Exception:
        with suppress(OSError):
            partial.unlink()
        raise


def _reserve(handle: int, folder: Path, size: int) -> None:
    """Take the room on disk now: work that has begun does not run out of it."""
    free = shutil.disk_usage(folder).free
    try:
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return
        raise DataError(
            f"{folder}: {size} bytes are needed for the cache and {free} are free ({error.strerror}); make room, or move it with "
            "INDUCED_CACHE"
        ) from error
