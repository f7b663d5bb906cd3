"""Encode a corpus once: shard by shard, resumable after any interruption, alone or with other processes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils import made_from as records
from .._utils.checks import check_integer
from .._utils.files import expand, write_whole
from .._utils.progress import progress_bar
from ..encoding.pruning import check_pruning
from . import store
from .corpus import CorpusDigest
from .generation import SHARDS, count_shards, write_vocabulary
from .intake import checked_texts
from .shards import GROUP, Block, ShardWriter, read_record, shard_name
from .vectors import Vectors
from .workers import Encoded, Window, WindowEncoder, encode_in_processes

if TYPE_CHECKING:
    from ..splade import Splade


def encode(
    splade: Splade,
    documents: Any,
    path: str | os.PathLike[str],
    *,
    shard_size: int = 50_000,
    workers: int = 1,
    devices: Sequence[str] | None = None,
    shard: str | tuple[int, int] | None = None,
    max_terms: int | None = None,
    min_weight: float = 0.0,
    ray: bool | str = False,
    resume: bool = True,
    overwrite: bool = False,
    verbose: bool = True,
) -> Vectors:
    """Encode documents into a folder of Parquet shards and a manifest, which ``open_vectors(path)`` opens again.

    Interrupted at any moment, the same call goes on with the missing shards; finished, it returns the vectors.
    Documents are read once, in order: memory is that of the model for each worker, of a shard or two of texts, and of
    all docnos.

    Args:
        splade: the encoder.
        documents: dicts with ``docno`` and the encoder's text field, in an order that is the same in every run; a
            frame of them; or a collection.
        path: the folder.
        shard_size: documents per shard: what an interruption may cost, and what a process takes with ``shard``.
        workers: processes that encode; on CPUs they share the threads of this one, where there are several GPUs they
            get one each.
        devices: torch devices of the workers, in turn; default: the encoder's, or all GPUs.
        shard: ``(i, n)`` or ``"i/n"``: encode only every n-th shard, from shard i on, so that n processes, on one
            machine or several, share the work on one folder. Each reads all documents. The one that ends last
            finishes the folder; until then ``.complete`` is False.
        max_terms: most weighty terms kept per document; default: all.
        min_weight: terms of less weight are dropped.
        ray: encode on a Ray cluster (the extra ``ray``): True, or the cluster's address.
        resume: go on with, or return, what the same call made at ``path``; False: refuse it.
        overwrite: start anew, whatever vectors or index are at ``path``; they stay until the new ones are whole.
        verbose: show a progress bar.

    Returns:
        the vectors, opened.

    Raises:
        TypeError, KeyError, ValueError: a setting or a document that cannot serve (the message names it); or what is
            at ``path`` was made by another encoder, with other settings or from other documents.
        FileExistsError: something else is at ``path``.
        RuntimeError: workers failed, or another process is changing the folder.
    """
    path, share = expand(path).absolute(), _check_share(shard)
    shard_size, workers = check_integer("shard_size", shard_size), check_integer("workers", workers)
    if overwrite and shard is not None:
        raise ValueError("overwrite=True removes what is at the path, which other processes share: leave shard out")
    if isinstance(devices, str) or (ray and devices is not None):
        raise ValueError(f"devices must be a list of torch devices, and None on a Ray cluster, got {devices!r}")
    pruning = check_pruning(max_terms, min_weight)
    made_from = {
        "encoder": splade.fingerprint,
        "encoder_settings": repr(splade),
        "vocabulary": splade.term_map().fingerprint,
        "field": splade.text_field,
        "shard_size": shard_size,
        "max_terms": pruning[0],
        "min_weight": pruning[1],
    }
    folder = _begin(path, made_from, splade, resume=resume, overwrite=overwrite)
    total = len(documents) if hasattr(documents, "__len__") else None
    corpus, digests = CorpusDigest(("docno", splade.text_field)), []
    with progress_bar(total=total, desc="encode", unit="doc", disable=not verbose) as bar:

        def windows() -> Iterator[Window]:
            """The documents of this call's shards that are not there yet; the others are read and compared."""
            texts = checked_texts(documents, splade.text_field)
            for number in itertools.count():
                shard = list(itertools.islice(texts, shard_size))
                if not shard:
                    return
                digests.append(_digest(shard, splade.text_field, corpus))
                bar.update(len(shard))
                if read_record(folder / SHARDS / shard_name(number)) is not None:
                    _check_shard(path, folder, number, digests[-1])
                elif number % share[1] == share[0]:
                    for first in range(0, len(shard), GROUP):
                        docnos, part = zip(*shard[first : first + GROUP], strict=True)
                        end = digests[-1] if first + GROUP >= len(shard) else None
                        yield Window(number, list(docnos), list(part), end)

        with closing(_encoded(WindowEncoder(splade, *pruning), windows(), workers, devices, ray)) as encoded:
            _write(folder, encoded)
    _finish(path, folder, {**made_from, "corpus": corpus.value}, digests)
    return Vectors(path)


def _begin(path: Path, made_from: dict[str, Any], splade: Splade, *, resume: bool, overwrite: bool) -> Path:
    """The folder of the generation to write, new or that of the same call before."""
    with store.locked(path):
        manifest = store.read_manifest(path)
        if manifest is None:
            manifest = store.check_vacant(path, overwrite=overwrite)
        known = {name: value for name, value in made_from.items() if name != "encoder_settings"}
        name = f"g-{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]}"
        current = manifest.current
        if not overwrite:
            begun = store.unfinished(path, manifest)
            if current is not None and (current["engine"] or "shard_size" not in (current["made_from"] or {})):
                raise FileExistsError(f"{path} holds an index: choose another path")
            if (current is not None or begun) and not resume:
                raise FileExistsError(f"vectors are at {path} already: resume=True goes on with them")
            if current is not None:
                found = {key: current["made_from"].get(key) for key in known}
                records.check_same(path, found, known)
                return path / current["generation"]
            for folder in begun:
                found = records.read_record(folder, store.RECORD) or {}
                records.check_same(path, {key: found.get(key) for key in known}, known)
        elif current is not None and current["generation"] == name:
            name += "-2" if not name.endswith("-2") else ""
        folder = path / name
        if overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        store.begin(path, manifest, Vectors(path)._build_metadata(), name)
        (folder / SHARDS).mkdir(exist_ok=True)
        if not (folder / store.RECORD).is_file():
            terms, tokenizer = splade.term_map(), splade.encoder.tokenizer
            readable = [terms.readable(index, tokenizer) for index in range(len(terms.terms))]
            write_vocabulary(folder, terms.terms.tolist(), readable, splade.term_map("raw").terms.tolist())
            write_whole(folder / store.RECORD, json.dumps(made_from))
        return folder


def _digest(shard: list[tuple[str, str]], field: str, corpus: CorpusDigest) -> str:
    """Hash of a shard's documents, which are added to the corpus's."""
    digest = hashlib.sha256()
    for docno, text in shard:
        digest.update(f"{len(docno)} {len(text)}\n{docno}{text}".encode())
        corpus.add({"docno": docno, field: text})
    return digest.hexdigest()


def _check_shard(path: Path, folder: Path, number: int, digest: str) -> None:
    """Raise ``ValueError`` if the shard that is there was made from other documents than those just read."""
    record = read_record(folder / SHARDS / shard_name(number))
    if record is not None and record.documents != digest:
        raise ValueError(
            f"{str(path)!r} was made from other documents: those of {shard_name(number)} differ. Choose another path, "
            "or start anew with overwrite=True"
        )


def _write(folder: Path, encoded: Iterator[Encoded]) -> None:
    """Write windows into shards."""
    writer: ShardWriter | None = None
    try:
        for window, vectors in encoded:
            writer = writer or ShardWriter(folder / SHARDS / shard_name(window.shard))
            writer.write(Block(window.docnos, vectors))
            if window.end is not None:
                writer.commit(window.end)
                writer = None
    finally:
        if writer is not None:
            writer.abandon()


def _finish(path: Path, folder: Path, made_from: dict[str, Any], digests: list[str]) -> None:
    """Let the vectors count if all shards are there, and are of the documents that were read."""
    there, documents, postings = count_shards(folder)
    for number, digest in enumerate(digests):
        _check_shard(path, folder, number, digest)
    if there < len(digests):
        return  # other processes are on it
    if there > len(digests):
        raise ValueError(
            f"{str(path)!r} was made from more documents: it has {there} shards, {len(digests)} were read. Choose "
            "another path, or start anew with overwrite=True"
        )
    with store.locked(path):
        manifest = store.read_manifest(path)
        if manifest and manifest.current and manifest.current["generation"] == folder.name:
            return
        for beside in (folder / SHARDS).glob(".shard-*"):
            beside.unlink(missing_ok=True)
        content = {
            "engine": None, "scale": None, "documents": documents, "postings": postings,
            "fingerprint": made_from["vocabulary"], "made_from": made_from,
        }  # fmt: skip
        store.commit(path, Vectors(path)._build_metadata(), folder, content)


def _encoded(
    encoder: WindowEncoder, windows: Iterable[Window], workers: int, devices: Sequence[str] | None, ray: bool | str
) -> Iterator[Encoded]:
    if ray:
        from .ray_workers import encode_on_ray

        return encode_on_ray(encoder, windows, workers, None if ray is True else ray)
    if devices is None and workers > 1:
        devices = _gpus(encoder.splade)
    if workers == 1 and not devices:
        return ((window, encoder(window.texts)) for window in windows)
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
