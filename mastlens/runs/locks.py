"""Locks on folders: held by a process, gone with it, however it ends."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

try:
    import fcntl
except ImportError:  # not a POSIX system: runs are not kept apart there
    fcntl = None  # type: ignore[assignment]

_HELD: dict[tuple[int, int], int] = {}  # (device, inode) of a folder that this process holds, to how often
_GUARD = RLock()


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Return whether a lock was got; where the file system has none, it counts as got."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def held(folder: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder, so that no other process that asks for it goes on before this one is done.

    A process that holds it already may ask again. Nothing is written: a kill leaves no lock behind.

    Args:
        folder: An existing folder.
        waiting: Called once where another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        about = os.fstat(descriptor)
        key = (about.st_dev, about.st_ino)
        with _GUARD:
            again = key in _HELD
            _HELD[key] = _HELD.get(key, 0) + 1
        try:
            if not again and not _lock(descriptor, wait=False):
                if waiting is not None:
                    waiting()
                _lock(descriptor, wait=True)
            yield
        finally:
            with _GUARD:
                _HELD[key] -= 1
                if not _HELD[key]:
                    del _HELD[key]
    finally:
        os.close(descriptor)  # and with it the lock goes


def abandoned(folder: Path) -> bool:
    """Return whether nobody holds a folder any more: whoever made it was killed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        return fcntl is not None and _lock(descriptor, wait=False)
    finally:
        os.close(descriptor)
