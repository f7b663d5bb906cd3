"""malloc's settings hold inside their blocks, by where glibc puts large ones, and the last block to end puts back."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from pyterrier_rescale._utils import memory
from pyterrier_rescale._utils.memory import keep_freed_memory, return_freed_memory

_MB = 1 << 20


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


@pytest.fixture
def mapped():
    """Whether glibc maps a block of so many MB alone."""
    libc = memory._glibc()
    if libc is None or not hasattr(libc, "mallinfo2") or memory._USERS_OWN & set(os.environ):
        pytest.skip("needs glibc 2.33 without settings of the user's own")
    libc.mallinfo2.restype = _Mallinfo2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]

    def ask(megabytes: int) -> bool:
        libc.malloc_trim(0)  # what is free is no longer there to be taken
        before = libc.mallinfo2().hblks
        block = libc.malloc(megabytes * _MB)
        after = libc.mallinfo2().hblks
        libc.free(block)
        return after > before

    return ask


def test_settings_end_with_their_block(mapped):
    with return_freed_memory() as made:
        assert made and mapped(30) and not mapped(2)
        with keep_freed_memory() as made:
            assert made and not mapped(31) and mapped(33)
        assert mapped(30)
    assert not mapped(31) and mapped(33)
    with pytest.raises(KeyError), return_freed_memory():
        raise KeyError
    assert not mapped(30)


def test_what_ends_out_of_order_leaves_the_others(mapped):
    """Threads, and generators that are dropped, end when they like."""
    first, second = return_freed_memory(), keep_freed_memory()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not mapped(30)
    second.__exit__(None, None, None)
    assert not memory._open


def test_both_thresholds_are_put_back(monkeypatch):
    calls = []

    class Libc:
        gnu_get_libc_version = None

        @staticmethod
        def mallopt(name: int, value: int) -> int:
            calls.append((name, value))
            return 1

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Libc)
    for name in memory._USERS_OWN:
        monkeypatch.delenv(name, raising=False)
    for setting, expected in ((keep_freed_memory, [256, 32]), (return_freed_memory, [64, 2.25])):
        with setting():
            assert [value / _MB for _, value in calls] == expected
        assert [(name, value / _MB) for name, value in calls[2:]] == [(-1, 64), (-3, 32)]
        calls.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    with keep_freed_memory() as made:
        assert not made
    assert not calls


def test_an_encoder_leaves_no_setting(mapped, monkeypatch):
    import tiny

    from pyterrier_rescale import Splade

    model, tokenizer = tiny.build("bert")
    splade = Splade(model, tokenizer=tokenizer, max_length=32)
    seen = []
    apply = memory._apply
    monkeypatch.setattr(memory, "_apply", lambda libc: seen.append(len(memory._open)) or apply(libc))
    splade.encode_docs(tiny.TEXTS[:2])  # few texts: malloc is left alone
    assert not seen
    threads = [threading.Thread(target=splade.encode_docs, args=(tiny.TEXTS,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 4 and seen[-1] == 0 and not memory._open
    batches = splade.encoder.head_batches(tiny.TEXTS)
    next(batches)
    assert memory._open
    batches.close()
    assert not memory._open
