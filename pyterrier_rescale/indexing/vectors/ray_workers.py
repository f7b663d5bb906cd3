"""Who encodes, on a Ray cluster: Ray Data's `map_batches` with a pool of actors."""

from __future__ import annotations

import contextlib
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .intake import Window
from .shards import from_table, to_table
from .workers import Encoded, WindowEncoder, place, share_threads

if TYPE_CHECKING:
    import pyarrow as pa

# Text that Ray holds at a time: it is given whole data sets, and a corpus may be larger than its memory.
WAVE_CHARACTERS = 2**28


def encode_on_ray(
    encoder: WindowEncoder, windows: Iterable[Window], workers: int, address: str | None = None
) -> Iterator[Encoded]:
    """Encode with a pool of actors; each window is a block, so that the vectors are those of a local run.

    An actor or a node that dies costs the windows at hand, which Ray gives to others. The actors stay for some hundred
    MB of text, then new ones load the model.

    The package must be installed on the nodes. Actors are on GPUs if the encoder is on one, else they have an equal
    share of the cluster's processors. Without an address the cluster is the one that is connected, that of RAY_ADDRESS,
    or a new one on this machine.

    Raises:
        ImportError: Ray is not installed.
        ValueError: the cluster has not what so many workers need.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    try:
        resources = _resources(ray, workers, encoder)
        payload = ray.put(pickle.dumps(encoder))
        for wave in _waves(windows):
            yield from _encode_wave(ray, payload, wave, workers, resources)
    finally:
        if ours:
            ray.shutdown()


class _Actor:
    """Holds the encoder on a node."""

    def __init__(self, payload: Any, threads: int, device: str | None) -> None:
        share_threads(threads)
        self.encoder: WindowEncoder = place(pickle.loads(_ray().get(payload[0])), device)
        share_threads(threads)

    def __call__(self, texts: pa.Table) -> pa.Table:
        vectors = self.encoder(texts["text"].to_pylist())
        return to_table([""] * vectors.shape[0], vectors)


def _encode_wave(
    ray: Any, payload: Any, wave: list[Window], workers: int, resources: dict[str, float]
) -> Iterator[Encoded]:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

    tables = [pa.table({"text": pa.array(window.texts, pa.string())}) for window in wave]
    device = "cuda" if "num_gpus" in resources else None
    with _settings(ray):
        encoded = ray.data.from_arrow(tables).map_batches(
            _Actor,
            fn_constructor_args=([payload], max(1, int(resources.get("num_cpus", 1))), device),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            **resources,
        )
        waiting, rows = deque(wave), 0
        held: list[pa.Table] = []
        for block in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            held.append(block)  # Ray may cut a large block in several, in order
            rows += block.num_rows
            if rows < len(waiting[0].texts):
                continue
            window = waiting.popleft()
            if rows != len(window.texts):
                raise RuntimeError(f"Ray gave {rows} rows for the {len(window.texts)} documents of a window")
            _, indptr, indices, data = from_table(pa.concat_tables(held))
            yield window, csr_matrix((data, indices, indptr), shape=(rows, int(indices.max(initial=-1)) + 1))
            held, rows = [], 0
        if waiting:
            raise RuntimeError(f"Ray gave {len(wave) - len(waiting)} of {len(wave)} windows back")


def _waves(windows: Iterable[Window]) -> Iterator[list[Window]]:
    wave: list[Window] = []
    characters = 0
    for window in windows:
        wave.append(window)
        characters += sum(map(len, window.texts))
        if characters >= WAVE_CHARACTERS:
            yield wave
            wave, characters = [], 0
    if wave:
        yield wave


def _resources(ray: Any, workers: int, encoder: WindowEncoder) -> dict[str, float]:
    """What an actor asks for. Ray would wait for ever for what the cluster does not have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    device = getattr(encoder.splade.encoder, "device", None)
    gpu = device is not None and device.type == "cuda"
    name = "GPU" if gpu else "CPU"
    there = [int(node.get(name, 0)) for node in nodes]
    if sum(there) < workers:
        raise ValueError(f"workers must be at most the {sum(there)} {name}s of the Ray cluster, got {workers}")
    if gpu:
        return {"num_gpus": 1}
    share = sum(there) // workers
    while sum(cpus // share for cpus in there) < workers:  # an actor is on one node
        share -= 1
    return {"num_cpus": share}


@contextlib.contextmanager
def _settings(ray: Any) -> Iterator[None]:
    """Rows in order, no bars of Ray's own; then what was set before."""
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"this needs Ray: pip install pyterrier-rescale[ray] ({error})") from error
    return ray


