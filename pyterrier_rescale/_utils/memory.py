"""glibc's malloc, set for what models do: allocate and free blocks of many MB, again and again.

By default it maps the first large blocks one by one and, once it has seen one freed, takes all that are smaller from a
heap, which fragments. Encoding, and training of small models, want speed; training of large ones wants room for the
activations.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USERS_OWN = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}
_MB = 1 << 20


def keep_freed_memory() -> bool:
    """Take blocks of up to 32 MB from the heap, and keep 256 MB of freed memory there.

    For encoding, and for training models whose activations are few. Mapping and unmapping a BERT layer's hidden states
    costs a fifth of its time in page faults.

    Returns:
        Whether the setting was made: on Linux with glibc, without settings of the user's own
        (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``).
    """
    return _set_malloc(trim=256 * _MB, mapped_from=32 * _MB)


def return_freed_memory() -> bool:
    """Map blocks of more than 2 MB one by one, so that what is freed is returned at once.

    For training large models: the activations that wait for the backward pass would hold a fragmented heap, whose peak
    was a third larger. With a few hundred tokens at a time (:mod:`.training.micro_batches`) most others are smaller;
    mapping those, too, made a step half as long again.

    Returns:
        As :func:`keep_freed_memory`.
    """
    return _set_malloc(trim=64 * _MB, mapped_from=9 * _MB // 4)


def _set_malloc(*, trim: int, mapped_from: int) -> bool:
    if _USERS_OWN & set(os.environ):
        return False
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError elsewhere: other libraries have another mallopt)
        return all([libc.mallopt(_M_TRIM_THRESHOLD, trim), libc.mallopt(_M_MMAP_THRESHOLD, mapped_from)])
    return False
