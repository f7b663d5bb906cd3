"""Who encodes: this process, or several of its own; windows in, their vectors out in the same order."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING, Any

from .intake import Window

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ...splade import Splade

Encoded = tuple[Window, "csr_matrix"]
_DEATHS = 2  # of workers, on the same documents, until they are blamed
_AHEAD = 4  # windows per worker that may wait for one that takes longer


class WindowEncoder:
    """Texts to vectors, pruned."""

    def __init__(self, splade: Splade, max_terms: int | None, min_weight: float) -> None:
        self.splade = copy.copy(splade)
        self.splade.verbose = False
        self.max_terms = max_terms
        self.min_weight = min_weight

    def __call__(self, texts: list[str]) -> csr_matrix:
        """Vectors of the texts, shape (N, V)."""
        from ...encoding.pruning import prune

        return prune(self.splade.encode_docs(texts), self.max_terms, self.min_weight)


def encode_here(encoder: WindowEncoder, windows: Iterable[Window]) -> Iterator[Encoded]:
    """Encode in this process."""
    for window in windows:
        yield window, encoder(window.texts)


def encode_in_processes(
    encoder: WindowEncoder, windows: Iterable[Window], workers: int, devices: Sequence[str] | None = None
) -> Iterator[Encoded]:
    """Encode in processes of their own, which share the processor's threads, or have a device each.

    A process that dies costs its window, which another one encodes.

    Raises:
        RuntimeError: two processes died on the same documents, or one could not encode; the message says why.
    """
    import torch

    payload = pickle.dumps(encoder)
    places = list(devices or [None])
    threads = max(1, torch.get_num_threads() // workers)
    pool = [_Worker(payload, places[i % len(places)], threads) for i in range(workers)]
    source, order = iter(windows), deque()
    results: dict[int, csr_matrix] = {}
    deaths: dict[int, int] = {}
    again: list[Window] = []
    try:
        while True:
            for number, worker in enumerate(pool):
                while worker.window is None and (again or len(order) < _AHEAD * workers):
                    window = again.pop() if again else next(source, None)
                    if window is None:
                        break
                    if not any(window is waiting for waiting in order):
                        order.append(window)
                    if not worker.give(window):
                        pool[number] = worker = _replaced(worker, deaths, again, payload, threads)
            if not order:
                return
            busy = {w.pipe: i for i, w in enumerate(pool) if w.window is not None}
            for pipe in connection.wait(list(busy)):
                worker = pool[busy[pipe]]
                window = worker.window
                answer = worker.take()
                if answer is None:
                    pool[busy[pipe]] = _replaced(worker, deaths, again, payload, threads)
                else:
                    results[id(window)] = answer
            while order and id(order[0]) in results:
                window = order.popleft()
                yield window, results.pop(id(window))
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process that encodes one window at a time; its end of the pipe closes when it dies."""

    def __init__(self, payload: bytes, device: str | None, threads: int) -> None:
        context = get_context("spawn")  # a forked process inherits locks of threads that it does not have
        self.pipe, theirs = context.Pipe()
        self.device = device
        self.window: Window | None = None
        self.process = context.Process(target=_serve, args=(theirs, payload, device, threads), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, window: Window) -> bool:
        """Hand over documents; False if the process is dead."""
        self.window = window
        try:
            self.pipe.send(window.texts)
        except OSError:
            return False
        return True

    def take(self) -> csr_matrix | None:
        """The vectors; None if the process is dead."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        if isinstance(answer, str):
            first = self.window.docnos[0]
            raise RuntimeError(f"a worker could not encode the documents from docno {first!r} on:\n{answer}")
        self.window = None
        return answer

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _replaced(
    dead: _Worker, deaths: dict[int, int], again: list[Window], payload: bytes, threads: int
) -> _Worker:
    """A new process for a dead one, whose window is to be encoded again."""
    window = dead.window
    dead.process.join(10)
    code = dead.process.exitcode
    dead.stop()
    deaths[id(window)] = deaths.get(id(window), 0) + 1
    if deaths[id(window)] >= _DEATHS:
        reason = {-9: " (killed: perhaps too little memory)", 1: " (it could not start: see its message above)"}
        raise RuntimeError(
            f"{_DEATHS} workers died on the documents from docno {window.docnos[0]!r} on, exit code "
            f"{code}{reason.get(code, '')}. A script that starts workers needs `if __name__ == '__main__':`"
        )
    again.append(window)
    return _Worker(payload, dead.device, threads)


def _serve(pipe: connection.Connection, payload: bytes, device: str | None, threads: int) -> None:
    """What a worker does: encode until the other end of the pipe is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    share_threads(threads)
    try:
        encoder: WindowEncoder | None = place(pickle.loads(payload), device)
        share_threads(threads)
        failure = ""
    except Exception:
        encoder, failure = None, traceback.format_exc()
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            texts = pipe.recv()
            try:
                answer: Any = encoder(texts) if encoder else failure
            except Exception:
                answer = traceback.format_exc()
            pipe.send(answer)


def share_threads(threads: int) -> None:
    """Bound the threads of this process's libraries: those loaded already, and those to come."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def place(encoder: WindowEncoder, device: str | None) -> WindowEncoder:
    """Move an encoder's model to a device."""
    inner: Any = encoder.splade.encoder
    if device is not None and hasattr(inner, "device"):  # an encoder without a model has none
        import torch

        inner.device = torch.device(device)
        inner.model.to(inner.device)
    return encoder
