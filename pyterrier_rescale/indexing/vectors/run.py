"""Encode a corpus once: shard by shard, resumable after any interruption, alone or with other processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..._utils.checks import check_integer
from ..._utils.paths import expand
from ..._utils.progress import progress_bar
from ...encoding.pruning import check_pruning
from .folder import Vectors
from .intake import Intake, Window
from .job import Job
from .workers import Encoded, WindowEncoder, encode_here, encode_in_processes

if TYPE_CHECKING:
    from ...splade import Splade


def encode(
    splade: Splade,
    documents: Any,
    path: str | os.PathLike[str],
    *,
    shard_size: int = 50_000,
    workers: int = 1,
    devices: Sequence[str] | None = None,
    shard: str | tuple[int, int] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    max_terms: int | None = None,
    min_weight: float = 0.0,
    ray: bool | str = False,
    verbose: bool = True,
) -> Vectors:
    """Encode documents into a folder of Parquet shards and one manifest, which is written last.

    Interrupted at any moment, the same call goes on with the missing shards; the finished folder is the same, byte for
    byte, as that of a run without interruption. Documents are read once, in order, and never held: memory is that of
    the model and some thousands of documents for each worker, and eight bytes for each document.

    Args:
        splade: the encoder.
        documents: dicts with ``docno`` and the encoder's text field, in an order that is the same in every run; a
            frame of them; or a collection.
        path: the folder.
        shard_size: documents per shard: what an interruption may cost, and what a process takes with ``shard``.
        workers: processes that encode; on CPUs they share the threads of this one, where there are several GPUs they
            get one each. A worker that dies costs the 2,048 documents at hand, which another one encodes.
        devices: torch devices of the workers, in turn; default: the encoder's, or all GPUs.
        shard: ``(i, n)`` or ``"i/n"``: encode only every n-th shard, from shard i on, so that n processes, on one
            machine or several, share the work on one folder. Each reads all documents. The one that ends last writes
            the manifest; until then ``.complete`` is False.
        resume: go on from what is at ``path``; False: remove vectors that are there first.
        overwrite: start anew.
        max_terms: most weighty terms kept per document; default: all.
        min_weight: terms of less weight are dropped.
        ray: encode on a Ray cluster (the extra ``ray``): True, or the cluster's address.
        verbose: show a progress bar.

    Returns:
        the vectors, opened.

    Raises:
        TypeError, KeyError, ValueError: a setting or a document that cannot serve (the message names it); or what is
            at ``path`` was made by another encoder, with other settings or from other documents.
        FileExistsError: something else is at ``path``.
        RuntimeError: workers failed, or another process is writing the same shard.
    """
    path, share, resume = expand(path), _check_share(shard), resume and not overwrite
    shard_size, workers = check_integer("shard_size", shard_size), check_integer("workers", workers)
    if not resume and shard is not None:
        raise ValueError("resume=False removes what is at the path, which other processes share: leave shard out")
    if ray and devices is not None:
        raise ValueError(f"devices are those of processes on this machine, Ray chooses its own: leave out {devices!r}")
    if isinstance(devices, str):
        raise TypeError(f"devices must be a list of torch devices, such as [{devices!r}], got {devices!r}")
    pruning = check_pruning(max_terms, min_weight)
    job = Job.of(splade, path, shard_size, *pruning)
    job.prepare(resume)
    encoder = WindowEncoder(splade, *pruning)
    total = len(documents) if hasattr(documents, "__len__") else None
    with progress_bar(total=total, desc="encode", unit="doc", disable=not verbose) as bar:
        intake = Intake(documents, splade.text_field, job.shard_size, bar.update)
        todo = intake.windows(lambda number: number % share[1] == share[0] and not job.holds(number), job.check)
        with closing(_encoded(encoder, todo, workers, devices, ray)) as encoded:
            job.write(encoded)
    job.finish(intake)
    return Vectors(path)


def _encoded(
    encoder: WindowEncoder, windows: Iterable[Window], workers: int, devices: Sequence[str] | None, ray: bool | str
) -> Iterator[Encoded]:
    if ray:
        from .ray_workers import encode_on_ray

        return encode_on_ray(encoder, windows, workers, None if ray is True else ray)
    if devices is None and workers > 1:
        devices = _gpus(encoder.splade)
    if workers == 1 and not devices:
        return encode_here(encoder, windows)
    return encode_in_processes(encoder, windows, max(workers, len(devices or ())), devices)


def _gpus(splade: Splade) -> list[str] | None:
    """All GPUs, if the encoder is on one."""
    import torch

    device = getattr(splade.encoder, "device", None)  # an encoder without a model has none
    if device is None or device.type != "cuda":
        return None
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _check_share(shard: Any) -> tuple[int, int]:
    """(i, n) of ``"i/n"`` or ``(i, n)``; (0, 1) of None."""
    if shard is None:
        return 0, 1
    try:
        i, n = (int(part) for part in (shard.split("/") if isinstance(shard, str) else shard))
    except (TypeError, ValueError):
        i, n = -1, 0
    if not 0 <= i < n:
        raise ValueError(f"shard must be (i, n) or 'i/n' with 0 <= i < n, such as '0/2', got {shard!r}")
    return i, n
