"""Who encodes, on a Ray cluster: actors, each with a share of the processors or a GPU."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

from .workers import Encoded, Window, WindowEncoder, in_order, load

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
        kind = "GPU" if encoder.device is not None and encoder.device.type == "cuda" else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there < workers:
            raise ValueError(f"workers must be at most the {there} {kind}s of the Ray cluster, got {workers}")
        threads = 1 if kind == "GPU" else there // workers
        actor = ray.remote(max_restarts=-1, max_task_retries=3, **{f"num_{kind.lower()}s": 1})(_Actor)
        payload = ray.put(pickle.dumps(encoder))
        turns = cycle([actor.remote(payload, "cuda" if kind == "GPU" else None, threads) for _ in range(workers)])

        def submit(texts: list[str]) -> Callable[[], Any]:
            return partial(ray.get, next(turns).encode.remote(texts))

        yield from in_order(windows, submit, _AHEAD * workers)
    finally:
        if ours:
            ray.shutdown()


class _Actor:
    """Holds the encoder on a node."""

    def __init__(self, payload: bytes, device: str | None, threads: int) -> None:
        self.encoder = load(payload, device, threads)

    def encode(self, texts: list[str]) -> Any:
        """Vectors of the texts, shape (N, V)."""
        return self.encoder(texts)
