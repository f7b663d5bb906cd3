"""Small work on one thread: shorter than what several threads wait for one another.

Each of torch's operations ends when its last thread does. Beside another busy process that thread may wait for a core
for some milliseconds, which a query's fifty small operations do fifty times: hundreds of times their own work.

``torch.set_num_threads`` is no way out: it changes all threads of the process, those that start meanwhile for good, and
is not safe where several call it. The two numbers behind it are a thread's own in OpenMP and can be in MKL.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def one_thread() -> Iterator[bool]:
    """Within the block, operations that this thread calls run on it alone; other threads' are as they were.

    To be left by the thread that entered it: no ``yield`` inside.

    Returns:
        A context manager; it gives whether one thread is what operations have. Not where torch is built without
        OpenMP, or with another BLAS than MKL.
    """
    import torch

    before = torch.get_num_threads()  # also sets up a thread that has not called torch yet
    library = _torch_library() if before > 1 else None
    if library is None:
        yield before == 1
        return
    library.omp_set_num_threads(1)
    blas = library.MKL_Set_Num_Threads_Local(1)  # 0: what is set for all threads
    try:
        yield True
    finally:
        library.omp_set_num_threads(before)
        library.MKL_Set_Num_Threads_Local(blas)


@functools.cache
def _torch_library() -> ctypes.CDLL | None:
    """The library of torch's operations, through which its own OpenMP is found, whatever others are loaded."""
    import torch

    with contextlib.suppress(OSError, AttributeError):
        # loaded already: opening it again gives the same one
        library = ctypes.CDLL(os.fspath(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library.omp_set_num_threads, library.MKL_Set_Num_Threads_Local  # noqa: B018  (AttributeError where absent)
        return library
    return None
