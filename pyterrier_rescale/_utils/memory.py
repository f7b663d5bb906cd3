"""glibc's malloc, set for what models do while they do it: allocate and free blocks of many MB, again and again.

By default it maps the first large blocks one by one and, once it has seen one freed, takes all that are smaller from a
heap, which fragments. Encoding, and training of small models, want speed; training of large ones wants room for the
activations.

The settings are the process's, so they hold only inside the ``with`` blocks below; the innermost of those that are open
counts, of whatever thread. glibc cannot tell what was set before, and does not go back to adjusting itself once
something was set. Behind the last block come the two values at which its own adjustment ends in a process that has
freed a block of 32 MB: blocks of up to 32 MB from the heap, 64 MB of freed memory kept there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USERS_OWN = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}
_MB = 1 << 20


class _Setting(NamedTuple):
    """Bytes: free memory at the heap's end from which it is returned; size from which a block is mapped alone."""

    trim: int
    mapped_from: int


# DEFAULT_MMAP_THRESHOLD_MAX of malloc.c, and twice that
_AFTERWARDS = _Setting(trim=64 * _MB, mapped_from=32 * _MB)
_lock = threading.Lock()
_open: list[tuple[object, _Setting]] = []


def keep_freed_memory() -> contextlib.AbstractContextManager[bool]:
    """Within the block, take blocks of up to 32 MB from the heap, and keep 256 MB of freed memory there.

    For encoding, and for training models whose activations are few. Mapping and unmapping a BERT layer's hidden states
    costs a fifth of its time in page faults.

    Returns:
        A context manager; it gives whether the setting was made: on Linux with glibc, without settings of the user's
        own (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``).
    """
    return _malloc(_Setting(trim=256 * _MB, mapped_from=32 * _MB))


def return_freed_memory() -> contextlib.AbstractContextManager[bool]:
    """Within the block, map blocks of more than 2 MB one by one, so that what is freed is returned at once.

    For training large models: the activations that wait for the backward pass would hold a fragmented heap, whose peak
    was a third larger. With a few hundred tokens at a time (:mod:`.training.model`) most others are smaller;
    mapping those, too, made a step half as long again.

    Returns:
        As :func:`keep_freed_memory`.
    """
    return _malloc(_Setting(trim=64 * _MB, mapped_from=9 * _MB // 4))


@contextlib.contextmanager
def _malloc(setting: _Setting) -> Iterator[bool]:
    libc = None if _USERS_OWN & set(os.environ) else _glibc()
    if libc is None:
        yield False
        return
    mine = object()
    with _lock:
        _open.append((mine, setting))
        made = _apply(libc)
    try:
        yield made
    finally:
        with _lock:
            _open[:] = [entry for entry in _open if entry[0] is not mine]  # not always the last: threads, generators
            _apply(libc)


def _apply(libc: ctypes.CDLL) -> bool:
    trim, mapped_from = _open[-1][1] if _open else _AFTERWARDS
    return all([libc.mallopt(_M_TRIM_THRESHOLD, trim), libc.mallopt(_M_MMAP_THRESHOLD, mapped_from)])


def _glibc() -> ctypes.CDLL | None:
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError elsewhere: other libraries have another mallopt)
        return libc
    return None
