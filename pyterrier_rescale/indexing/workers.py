"""Who encodes: this process, or several of its own; windows in, their vectors out in the same order."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ..splade import Splade
    from .intake import Window

Encoded = tuple["Window", "csr_matrix"]
_TRIES = 2  # processes that may die on the same documents until these are blamed
_AHEAD = 3  # windows per worker that are read before the first of them is done


class WindowEncoder:
    """Texts to vectors, pruned."""

    def __init__(self, splade: Splade, max_terms: int | None, min_weight: float) -> None:
        self.splade = copy.copy(splade)
        self.splade.verbose = False
        self.max_terms = max_terms
        self.min_weight = min_weight

    def __call__(self, texts: list[str]) -> csr_matrix:
        """Vectors of the texts, shape (N, V)."""
        from ..encoding.pruning import prune

        return prune(self.splade.encode_docs(texts), self.max_terms, self.min_weight)


def encode_here(encoder: WindowEncoder, windows: Iterable[Window]) -> Iterator[Encoded]:
    """Encode in this process."""
    for window in windows:
        yield window, encoder(window.texts)


def encode_in_processes(
    encoder: WindowEncoder, windows: Iterable[Window], workers: int, devices: Sequence[str] | None = None
) -> Iterator[Encoded]:
    """Encode in processes of their own, which share the processor's threads, or have a device each.

    A process that dies costs its window, which a new one encodes.

    Raises:
        RuntimeError: two processes died on the same documents, or one could not encode; the message says why.
    """
    import torch

    payload, places = pickle.dumps(encoder), list(devices or [None])
    threads = max(1, torch.get_num_threads() // workers)
    pool = [_Worker(payload, places[number % len(places)], threads) for number in range(workers)]
    idle = list(pool)

    def encode(window: Window) -> csr_matrix:
        worker = idle.pop()  # there is one: a thread each
        try:
            return worker.encode(window)
        finally:
            idle.append(worker)

    executor = ThreadPoolExecutor(workers)
    try:
        yield from in_order(windows, lambda window: executor.submit(encode, window).result, _AHEAD * workers)
    finally:
        for worker in pool:
            worker.end()
        executor.shutdown(cancel_futures=True)


def in_order(
    windows: Iterable[Window], submit: Callable[[Window], Callable[[], csr_matrix]], ahead: int
) -> Iterator[Encoded]:
    """Hand so many windows out, and give their vectors back in order; ``submit`` returns what waits for the result."""
    source, waiting = iter(windows), deque()
    while True:
        for window in islice(source, ahead - len(waiting)):
            waiting.append((window, submit(window)))
        if not waiting:
            return
        window, result = waiting.popleft()
        yield window, result()


class _Worker:
    """A process that encodes one window at a time; the pipe to it closes when it dies."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments, self._ended = arguments, False
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # a forked process inherits locks of threads that it does not have
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self.process.start()
        theirs.close()

    def encode(self, window: Window) -> csr_matrix:
        """The vectors of a window."""
        documents = f"the documents from docno {window.docnos[0]!r} on"
        for _ in range(_TRIES):
            with suppress(EOFError, OSError):  # the process is dead
                self.pipe.send(window.texts)
                answer = self.pipe.recv()
                if isinstance(answer, str):
                    raise RuntimeError(f"a worker could not encode {documents}:\n{answer}")
                return answer
            self.process.join()
            code = self.process.exitcode
            if not self._ended:
                self._start()
        raise RuntimeError(
            f"{_TRIES} workers died on {documents}, exit code {code} (-9: perhaps too little memory; 1: a script that "
            "starts workers needs `if __name__ == '__main__':`)"
        )

    def end(self) -> None:
        """End the process, at work or not."""
        self._ended = True
        self.process.kill()
        self.process.join()


def _serve(pipe: connection.Connection, payload: bytes, device: str | None, threads: int) -> None:
    """What a worker does: encode until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the parent ends its workers
    encoder: WindowEncoder | None = None
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            texts = pipe.recv()
            try:
                encoder = encoder or load(payload, device, threads)
                answer: Any = encoder(texts)
            except Exception:
                answer = traceback.format_exc()
            pipe.send(answer)


def load(payload: bytes, device: str | None, threads: int) -> WindowEncoder:
    """A pickled encoder in a process of its own, with its share of the threads, on its device."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads)))
    import torch  # reads them

    torch.set_num_threads(threads)
    encoder = pickle.loads(payload)
    inner: Any = encoder.splade.encoder
    if device is not None and hasattr(inner, "device"):  # an encoder without a model has none
        inner.device = torch.device(device)
        inner.model.to(inner.device)
    return encoder
