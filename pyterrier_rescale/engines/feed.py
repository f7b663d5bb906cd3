"""Lines from this thread to a reader in Java, through a named pipe."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_POLL = 0.2  # seconds between looks at a reader that does not read


def feed_lines(path: Path, lines: Iterable[bytes], read: Callable[[], None]) -> None:
    """Write `lines` to `path` while `read` reads them in another thread; without named pipes, one after the other.

    The lines are made in the calling thread, so that their exceptions reach the caller.

    Raises:
        RuntimeError: the reader failed or stopped before the end.
    """
    if not hasattr(os, "mkfifo"):
        with open(path, "wb") as out:
            out.writelines(lines)
        read()
        return
    os.mkfifo(path)
    reader = _Reader(read)
    reader.start()
    try:
        pipe = _open_pipe(path, reader)
        try:
            for chunk in _chunks(lines):
                _write(pipe, chunk, reader)
        finally:
            os.close(pipe)  # the reader sees the end of the file
    finally:
        reader.join()
    if reader.error is not None:
        raise RuntimeError(f"the indexer failed: {reader.error}") from reader.error


class _Reader(threading.Thread):
    def __init__(self, read: Callable[[], None]):
        super().__init__(daemon=True)
        self.read = read
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.read()
        except BaseException as error:
            self.error = error
        finally:
            import jnius

            jnius.detach()  # the JVM would wait for this thread for ever


def _chunks(lines: Iterable[bytes], size: int = 1 << 16) -> Iterable[bytes]:
    buffer = bytearray()
    for line in lines:
        buffer += line
        if len(buffer) >= size:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


def _open_pipe(path: Path, reader: _Reader) -> int:
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        _check_alive(reader)
        time.sleep(0.001)


def _write(pipe: int, data: bytes, reader: _Reader) -> None:
    view = memoryview(data)
    while view:
        if not select.select([], [pipe], [], _POLL)[1]:
            _check_alive(reader)
            continue
        try:
            view = view[os.write(pipe, view) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            reader.join()
            _check_alive(reader)


def _check_alive(reader: _Reader) -> None:
    if not reader.is_alive():
        raise RuntimeError(f"the indexer stopped before the documents ended: {reader.error}") from reader.error
