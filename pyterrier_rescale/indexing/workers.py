"""Who encodes: processes of this machine, or actors on a Ray cluster; windows in, vectors out in the same order."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ..splade import Splade

_AHEAD = 3  # windows per worker that are read before the first of them is done
_splade: Splade | None = None  # of a worker


class Window(NamedTuple):
    """Documents of a shard that are encoded together."""

    shard: int
    last: bool  # of the shard
    docnos: list[str]
    texts: list[str]


Encoded = tuple[Window, "csr_matrix"]


def encode_in_processes(
    splade: Splade, windows: Iterable[Window], workers: int, devices: Sequence[str] | None = None
) -> Iterator[Encoded]:
    """Encode in processes of their own, which share the processor's threads, or have a device each."""
    import torch

    context = get_context("spawn")  # a forked process inherits locks of threads that it does not have
    places = context.SimpleQueue()
    for number in range(workers):
        places.put(devices[number % len(devices)] if devices else None)
    arguments = pickle.dumps(splade), places, max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(workers, context, _begin, arguments)

    def submit(texts: list[str]) -> Callable[[], csr_matrix]:
        return pool.submit(_encode, texts).result

    try:
        yield from in_order(windows, submit, _AHEAD * workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_order(
    windows: Iterable[Window], submit: Callable[[list[str]], Callable[[], csr_matrix]], ahead: int
) -> Iterator[Encoded]:
    """Hand so many windows out, and give their vectors back in order; ``submit`` returns what waits for the result.

    ``RuntimeError`` says on which documents a worker died, or which it could not encode and why.
    """
    source, waiting = iter(windows), deque()
    while True:
        for window in islice(source, ahead - len(waiting)):
            with _naming(window):  # a pool that broke takes no more
                waiting.append((window, submit(window.texts)))
        if not waiting:
            return
        window, result = waiting.popleft()
        with _naming(window):
            vectors = result()
        yield window, vectors


@contextmanager
def _naming(window: Window) -> Iterator[None]:
    documents = f"the documents from docno {window.docnos[0]!r} on"
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a worker died on {documents} or others (perhaps too little memory; a script that starts workers "
            "needs `if __name__ == '__main__':`). Repeat the call: it continues after the last whole shard"
        ) from error
    except Exception as error:
        raise RuntimeError(f"a worker could not encode {documents}: {error!r}") from error


def _begin(payload: bytes, places: Any, threads: int) -> None:
    """What a worker does first; Ctrl-C ends it without a word, and so does the end of its parent."""
    global _splade
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    _splade = load(payload, places.get(), threads)


def _encode(texts: list[str]) -> csr_matrix:
    return _splade.encode_docs(texts)


def load(payload: bytes, device: str | None, threads: int) -> Splade:
    """A pickled encoder in a process of its own, with its share of the threads, on its device."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads)))
    import torch  # reads them

    torch.set_num_threads(threads)
    splade = pickle.loads(payload)
    if device is not None and device_of(splade):
        inner: Any = splade.encoder
        inner.device = torch.device(device)
        inner.model.to(inner.device)
    return splade


def device_of(splade: Splade) -> str | None:
    """``"cuda"``, ``"cpu"``, ...; None of an encoder without a model."""
    return getattr(getattr(splade.encoder, "device", None), "type", None)


def encode_on_ray(
    splade: Splade, windows: Iterable[Window], workers: int, address: str | None = None
) -> Iterator[Encoded]:
    """Encode with actors, on GPUs if the encoder is on one; one that dies is started anew, and gets its windows again.

    Without an address the cluster is the one that is connected, that of RAY_ADDRESS, or a new one on this machine.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"this needs Ray: pip install pyterrier-rescale[ray] ({error})") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False)
    try:
        kind = "GPU" if device_of(splade) == "cuda" else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there < workers:
            raise ValueError(f"workers must be at most the {there} {kind}s of the Ray cluster, got {workers}")
        threads = 1 if kind == "GPU" else there // workers
        actor = ray.remote(max_restarts=-1, max_task_retries=3, **{f"num_{kind.lower()}s": 1})(_Actor)
        payload = ray.put(pickle.dumps(splade))
        turns = cycle([actor.remote(payload, "cuda" if kind == "GPU" else None, threads) for _ in range(workers)])

        def submit(texts: list[str]) -> Callable[[], Any]:
            return partial(ray.get, next(turns).encode.remote(texts))

        yield from in_order(windows, submit, _AHEAD * workers)
    finally:
        if ours:
            ray.shutdown()


class _Actor:
    """Holds the encoder on a node."""

    def __init__(self, *arguments: Any) -> None:
        self.splade = load(*arguments)

    def encode(self, texts: list[str]) -> Any:
        """Vectors of the texts, shape (N, V)."""
        return self.splade.encode_docs(texts)
