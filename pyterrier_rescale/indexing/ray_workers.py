"""Who encodes, on a Ray cluster: actors, each with a share of the processors or a GPU."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

from .workers import Encoded, WindowEncoder, in_order, load

if TYPE_CHECKING:
    from .intake import Window

_AHEAD = 2  # windows per actor: one that it encodes, and the next


def encode_on_ray(
    encoder: WindowEncoder, windows: Iterable[Window], workers: int, address: str | None = None
) -> Iterator[Encoded]:
    """Encode with actors; the vectors are those of a local run.

    The package must be installed on the nodes. An actor that dies is started anew, and gets its windows again. Actors
    are on GPUs if the encoder is on one, else they share the cluster's processors. Without an address the cluster is
    the one that is connected, that of RAY_ADDRESS, or a new one on this machine.

    Raises:
        ImportError: Ray is not installed.
        ValueError: the cluster has not what so many workers need; Ray would wait for ever.
        RuntimeError: documents that could not be encoded, or on which several actors died.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"this needs Ray: pip install pyterrier-rescale[ray] ({error})") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False)
    try:
        device = getattr(encoder.splade.encoder, "device", None)  # an encoder without a model has none
        gpu = device is not None and device.type == "cuda"
        kind = "GPU" if gpu else "CPU"
        there = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
        if sum(there) < workers:
            raise ValueError(f"workers must be at most the {sum(there)} {kind}s of the Ray cluster, got {workers}")
        share = 1 if gpu else sum(there) // workers
        while sum(count // share for count in there) < workers:  # an actor is on one node
            share -= 1
        options = {"num_gpus": 1} if gpu else {"num_cpus": share}
        actor = ray.remote(max_restarts=-1, max_task_retries=3, **options)(_Actor)
        payload = ray.put(pickle.dumps(encoder))
        actors = [actor.remote(payload, "cuda" if gpu else None, share) for _ in range(workers)]
        turns = cycle(actors)

        def submit(window: Window) -> Callable[[], Any]:
            vectors = next(turns).encode.remote(window.texts)
            return lambda: _result(ray, window, vectors)

        yield from in_order(windows, submit, _AHEAD * workers)
    finally:
        if ours:
            ray.shutdown()


def _result(ray: Any, window: Window, vectors: Any) -> Any:
    try:
        return ray.get(vectors)
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"the documents from docno {window.docnos[0]!r} on could not be encoded: {error}") from error


class _Actor:
    """Holds the encoder on a node."""

    def __init__(self, payload: bytes, device: str | None, threads: int) -> None:
        self.encoder = load(payload, device, threads)

    def encode(self, texts: list[str]) -> Any:
        """Vectors of the texts, shape (N, V)."""
        return self.encoder(texts)
