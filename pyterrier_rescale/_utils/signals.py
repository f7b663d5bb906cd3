"""Ctrl-C and SIGTERM are Python's, also beside a JVM."""

from __future__ import annotations

import signal
import sys
import threading


def python_signals() -> None:
    """Take Ctrl-C and SIGTERM back from a JVM that was started without ``-Xrs``, e.g. by ``pt.java.init()``.

    Such a JVM answers both by its own exit, which waits for threads of Python that wait for it. Handlers set in Python
    are installed once more; without a JVM, and outside the main thread, nothing is done.
    """
    if "jnius" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
