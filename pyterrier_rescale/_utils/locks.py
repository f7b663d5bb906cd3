"""Locks: one per object, whoever holds the object, and one per file, between processes."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What flock answers where a file system has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


def lock_of(thing: Any) -> threading.RLock:
    """The reentrant lock of an object that can be hashed by identity; it lives as long as the object.

    For models and tokenizers, whose state changes while they run. Kept beside the object, not in it, so that the
    object still pickles and copies.
    """
    with _guard:
        return _locks.setdefault(thing, threading.RLock())


def open_locked(path: Path, *, create: bool = True) -> tuple[int, bool]:
    """A descriptor of the file at ``path``, locked, and whether the system has locks; some network file systems do not.

    The lock is gone with the process, or when the descriptor is closed.

    Raises:
        BlockingIOError: another process, or another descriptor of this one, holds it.
        FileNotFoundError: there is no such file, and ``create`` is False.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        try:
            locked = _flock(descriptor)
            # A holder may move or remove the file: what was opened before that and locked after it is another one.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True
