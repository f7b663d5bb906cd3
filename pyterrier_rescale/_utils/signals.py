"""Who answers signals beside a JVM: Ctrl-C and SIGTERM are Python's, the faults of memory the JVM's."""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import sys
import threading

# A JVM turns these into safepoints and NullPointerExceptions: with another handler above its own, the process dies.
_FAULTS = tuple(getattr(signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL") if hasattr(signal, name))
# Larger than any system's struct sigaction, which begins with the handler.
_ACTION_BYTES = 512
_jvm_actions: dict[int, ctypes.Array] = {}


class _Symbol(ctypes.Structure):
    """Dl_info of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("symbol", ctypes.c_char_p), ("address", ctypes.c_void_p),
    )  # fmt: skip


def python_signals() -> None:
    """Take Ctrl-C and SIGTERM back from a JVM that was started without `-Xrs`, e.g. by `pt.java.init()`.

    Such a JVM answers both by its own exit, which waits for threads of Python that wait for it. Handlers set in Python
    are installed once more; without a JVM, and outside the main thread, nothing is done.
    """
    if "jnius" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)


def jvm_faults() -> None:
    """Put a running JVM's handlers of memory faults on top again, where `faulthandler` was enabled or disabled since.

    Enabled after the JVM, it ends the process at a fault that the JVM would have answered. joblib's workers do that to
    the JVM that PyTerrier's ``.parallel()`` starts in them, ``ray.init`` to one that runs; pytest's end takes the
    JVM's handlers away. Microseconds where all is well; nothing on Windows.
    """
    if sys.platform == "win32" or "jnius" not in sys.modules:
        return
    libc = ctypes.CDLL(None)
    for number in _FAULTS:
        action = ctypes.create_string_buffer(_ACTION_BYTES)
        libc.sigaction(number, None, action)
        where = _library(libc, action)
        if b"libjvm" in where:
            _jvm_actions[number] = action
        elif number in _jvm_actions:
            libc.sigaction(number, _jvm_actions[number], None)
        elif where and where == _library(libc, ctypes.c_void_p.from_buffer(ctypes.pythonapi.Py_IncRef)):
            faulthandler.disable()  # brings back what was there when it was enabled


def _library(libc: ctypes.CDLL, pointer: ctypes.Array | ctypes.c_void_p) -> bytes:
    """The file whose code the pointer at the beginning of the buffer leads to; empty for SIG_DFL and unknown code."""
    address, found = ctypes.c_void_p.from_buffer(pointer), _Symbol()
    return (found.file or b"") if address.value and libc.dladdr(address, ctypes.byref(found)) else b""
