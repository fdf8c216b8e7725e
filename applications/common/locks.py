"""A lock that the system releases when the process that holds it dies, whatever kills it."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: Path, busy: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock; without effect where the system or the file system has none.

    Arguments:
        path: A file of its own for this lock, in a folder that exists. It goes with the lock; a file that a killed process left
            holds nobody up.
        busy: Called with the name of the process that holds the lock, if one does. It raises, or returns: then this call waits.

    Raises:
        OSError: the file cannot be made.
    """
    handle = _taken(path, busy)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _taken(path: Path, busy: Callable[[str], None]) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)  # a link's target is not written
        if fcntl is None:
            return handle
        try:
            _lock(handle, busy)
            # A process that held the lock before has taken the file away: another may hold one of the same name.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                with suppress(OSError):  # a full disk; the name is for messages alone
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, busy: Callable[[str], None]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        busy(os.pread(handle, 200, 0).decode(errors="replace") or "another process")
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return
