"""Keep freed memory in the process while models run: glibc hands large blocks back, and every new one faults anew."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = 256 << 20
_LARGEST_ON_HEAP = 32 << 20  # glibc takes no more


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc's malloc keep up to 256 MB of freed memory for the next layer, once per process.

    The hidden states of a layer are tens of MB, allocated and freed again and again; by default each allocation is
    mapped and unmapped, and its page faults were a fifth of a BERT layer's time. Encoding does so; training does not,
    as the heap fragments around the activations it keeps (a third less time per step, but 40% more memory). Settings
    of the user's own (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES``) are left alone.

    Returns:
        Whether the setting was made (on Linux with glibc, without settings of the user's own).
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ):
        return False
    with contextlib.suppress(OSError, AttributeError, TypeError, ValueError):
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError elsewhere: other libraries have another mallopt)
        mallopt = libc.mallopt
        return all([mallopt(_M_TRIM_THRESHOLD, _KEEP), mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)])
    return False
