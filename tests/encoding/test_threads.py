"""Small work on one thread: of the calling thread only, and as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from pyterrier_rescale.encoding.threads import _torch_library, one_thread

needs_openmp = pytest.mark.skipif(_torch_library() is None, reason="torch is built without OpenMP or MKL")


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@needs_openmp
def test_within_the_block_and_after_it():
    blas = _torch_library().MKL_Get_Max_Threads
    with one_thread() as alone:
        assert alone and torch.get_num_threads() == blas() == 1
        with one_thread() as alone:
            assert alone
        assert torch.get_num_threads() == blas() == 1
    assert torch.get_num_threads() == blas() == 3
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == blas() == 3


@needs_openmp
def test_other_threads_keep_theirs():
    """One that has long been there, and one that starts meanwhile."""
    seen, inside, done = [], threading.Event(), threading.Event()

    def beside():
        seen.append(torch.get_num_threads())
        inside.wait()
        seen.append(torch.get_num_threads())
        done.set()

    old = threading.Thread(target=beside)
    old.start()
    with one_thread():
        new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        new.start()
        new.join()
        inside.set()
        old.join()
        assert torch.get_num_threads() == 1
    assert done.is_set() and seen == [3, 3, 3]


PROGRAM = """
import os, torch
from pyterrier_rescale.encoding.threads import one_thread
torch.set_num_threads(4)
def threads():
    return len(os.listdir("/proc/self/task"))
def work():
    a = torch.randn(700, 700)
    halves, bytes_ = a.bfloat16(), a.to(torch.int8)
    a @ a, halves @ halves, torch._int_mm(bytes_, bytes_), torch.nn.functional.gelu(a)
    return threads()
before = threads()
with one_thread():
    print(work() - before)
print(work() - before)
"""


@needs_openmp
@pytest.mark.skipif(sys.platform != "linux", reason="counts the kernel's threads")
def test_products_start_no_thread():
    """The kernel's own count: of products in every format, by MKL and oneDNN, and of torch's own operations."""
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=100)
    within, after = map(int, out.stdout.split())
    assert within == 0 and after >= 3


def test_without_openmp_nothing_changes(monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.encoding.threads._torch_library", lambda: None)
    with one_thread() as alone:
        assert not alone and torch.get_num_threads() == 3
