"""Encode a corpus once: shard by shard, resumable after any interruption, alone or with other processes."""

from __future__ import annotations

import copy
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_integer
from .._utils.files import expand
from .._utils.made_from import check_same
from .._utils.progress import progress_bar
from ..encoding.pruning import check_pruning, prune
from . import store
from .corpus import CorpusDigest
from .generation import SHARDS, VOCABULARY, Generation, write_vocabulary
from .intake import checked_texts
from .shards import GROUP, Block, new_shard, shard_digest, shard_name
from .vectors import Vectors
from .workers import Encoded, Window, device_of, encode_in_processes, encode_on_ray

if TYPE_CHECKING:
    from ..splade import Splade

_PATIENCE = 60  # seconds: processes that share the work hold the lock when they begin and when they end


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

    Interrupted at any moment, the same call continues with the missing shards; finished, it returns the vectors.
    Documents are read once, in order: memory is that of the model for each worker, of a shard or two of texts, and of
    all docnos.

    Args:
        splade: the encoder.
        documents: a collection, a frame, or dicts with ``docno`` and the encoder's text field; their order must be the
            same in every run.
        path: the folder.
        shard_size: documents per shard: what an interruption may cost, and what a process takes with ``shard``.
        workers: processes that encode; on CPUs they share the threads of this one, of several GPUs they get one each.
        devices: torch devices of the workers, in turn; default: the encoder's, or all GPUs.
        shard: ``(i, n)`` or ``"i/n"``: encode only every n-th shard, from shard i on, so that n processes, on one
            machine or several, share the work on one folder. Each reads all documents. The one that ends last
            finishes the folder; until then ``.complete`` is False.
        max_terms: most weighty terms kept per document; default: all.
        min_weight: terms of less weight are dropped.
        ray: encode on a Ray cluster (the extra ``ray``): True, or the cluster's address.
        resume: go on with, or return, what the same call made at ``path``; False: refuse it.
        overwrite: start anew, whatever vectors or index are at ``path``; they stay until the new ones are whole. If it
            is interrupted, the call without ``overwrite`` continues.
        verbose: show a progress bar.

    Raises:
        TypeError, KeyError, ValueError: a setting or a document that cannot serve (the message names it); or what is
            at ``path`` was made by another encoder, with other settings or from other documents.
        FileExistsError: something else is at ``path``.
        RuntimeError: workers failed, or another process is changing the folder.
    """
    path, (part, parts) = expand(path).absolute(), _check_share(shard)
    shard_size, workers = check_integer("shard_size", shard_size), check_integer("workers", workers)
    if not hasattr(splade, "term_map"):
        raise TypeError(f"splade must be an encoder, such as Splade('folder'), got {splade!r:.80}")
    if overwrite and shard is not None:
        raise ValueError("overwrite=True removes what is at the path, which other processes share: leave shard out")
    if isinstance(devices, str) or (ray and devices is not None):
        raise ValueError(f"devices must be a list of torch devices, and None on a Ray cluster, got {devices!r}")
    max_terms, min_weight = check_pruning(max_terms, min_weight)
    made_from = {
        "encoder": splade.fingerprint,
        "encoder_settings": repr(splade),
        "vocabulary": splade.term_map().fingerprint,
        "field": splade.text_field,
        "shard_size": shard_size,
        "max_terms": max_terms,
        "min_weight": min_weight,
    }
    folder = _begin(path, made_from, splade, resume=resume, overwrite=overwrite)
    total = len(documents) if hasattr(documents, "__len__") else None
    corpus, digests = CorpusDigest(("docno", splade.text_field)), []
    with progress_bar(total=total, desc="encode", unit="doc", disable=not verbose) as bar:

        def windows() -> Iterator[Window]:
            """The documents of this call's shards that are not there yet; the others are read and compared."""
            texts = checked_texts(documents, splade.text_field)
            while shard := list(itertools.islice(texts, shard_size)):
                number, digest = len(digests), CorpusDigest(corpus.fields)
                for docno, text in shard:
                    for each in (digest, corpus):
                        each.add({"docno": docno, splade.text_field: text})
                digests.append(digest.value)
                if _is_there(path, folder, number, digest.value) or number % parts != part:
                    bar.update(len(shard))
                    continue
                for first in range(0, len(shard), GROUP):
                    docnos, window = zip(*shard[first : first + GROUP], strict=True)
                    yield Window(number, first + GROUP >= len(shard), list(docnos), list(window))

        quiet = copy.copy(splade)
        quiet.verbose = False
        try:
            with closing(_encoded(quiet, windows(), workers, devices, ray)) as encoded:
                for window, vectors in encoded:  # the first of a shard
                    with new_shard(folder / SHARDS / shard_name(window.shard), digests[window.shard]) as write:
                        while True:
                            write(Block(window.docnos, prune(vectors, max_terms, min_weight)))
                            bar.update(len(window.docnos))
                            if window.last:
                                break
                            window, vectors = next(encoded)
        except BaseException:
            if shard is None and not any((folder / SHARDS).iterdir()):  # nothing is lost, and the path is free again
                store.abandon(path, folder)
            raise
    if all([_is_there(path, folder, number, digest) for number, digest in enumerate(digests)]):
        _finish(path, folder, {**made_from, "corpus": corpus.value}, len(digests), corpus.count)
    return Vectors(path)


def _begin(path: Path, made_from: dict[str, Any], splade: Splade, *, resume: bool, overwrite: bool) -> Path:
    """The folder of the generation to write: that of the same call before, or a new one."""
    with store.locked(path, _PATIENCE) as manifest:
        begun = manifest.unfinished
        if not overwrite:
            wanted = {key: value for key, value in made_from.items() if key != "encoder_settings"}
            there = {name: {key: found.get(key) for key in wanted} for name, found in begun.items()}
            if manifest.current and wanted not in there.values():  # else an overwriting call was interrupted
                if manifest.current["engine"]:
                    raise FileExistsError(f"{path} holds an index: choose another path")
                found = manifest.current["made_from"]
                there = {manifest.current["generation"]: {key: found.get(key) for key in wanted}}
            if there and not resume:
                raise FileExistsError(f"vectors are at {path} already: resume=True continues")
            if wanted not in there.values():
                for found in there.values():
                    check_same(path, found, wanted)
            for name, found in there.items():
                if found == wanted and (path / name / VOCABULARY).exists():  # else killed before it had one
                    return path / name
        for name in begun:
            shutil.rmtree(path / name, ignore_errors=True)
        folder = store.begin(path, manifest, made_from)
        (folder / SHARDS).mkdir()
        terms, tokenizer = splade.term_map(), splade.encoder.tokenizer
        readable = [terms.readable(index, tokenizer) for index in range(len(terms.terms))]
        write_vocabulary(folder, terms.terms.tolist(), readable, splade.term_map("raw").terms.tolist())
        return folder


def _is_there(path: Path, folder: Path, number: int, digest: str) -> bool:
    """Whether a shard is there; ``ValueError`` if it was made from other documents than those just read."""
    current, name = store.read_manifest(path).current, f"{SHARDS}/{shard_name(number)}"
    # once it counts, a lost shard is made again, and none is added
    added = current is not None and current["generation"] == folder.name and name not in current["files"]
    found = shard_digest(folder / name)
    if added or found not in (None, digest):
        raise ValueError(
            f"{str(path)!r} was made from other documents: those of {shard_name(number)} differ. Choose another path, "
            "or start anew with overwrite=True"
        )
    return found is not None


def _finish(path: Path, folder: Path, made_from: dict[str, Any], shards: int, documents: int) -> None:
    """Let the vectors count."""
    if shard_digest(folder / SHARDS / shard_name(shards)) is not None:
        raise ValueError(
            f"{str(path)!r} was made from more documents than the {documents} that were read. Choose another path, or "
            "start anew with overwrite=True"
        )
    with store.locked(path, _PATIENCE) as manifest:
        if manifest.current and manifest.current["generation"] == folder.name:
            return
        for beside in (folder / SHARDS).glob(".shard-*"):  # of killed processes
            beside.unlink(missing_ok=True)
        content = {
            "engine": None, "scale": None, "documents": documents, "fingerprint": made_from["vocabulary"],
            "made_from": made_from,
        }  # fmt: skip
        Generation(folder, content).write_rows()
        store.commit(path, folder, Vectors(path)._build_metadata(), content)


def _encoded(
    splade: Splade, windows: Iterable[Window], workers: int, devices: Sequence[str] | None, ray: bool | str
) -> Iterator[Encoded]:
    if ray:
        return encode_on_ray(splade, windows, workers, None if ray is True else ray)
    if devices is None and workers > 1 and device_of(splade) == "cuda":
        import torch

        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if workers == 1 and not devices:
        return ((window, splade.encode_docs(window.texts)) for window in windows)
    return encode_in_processes(splade, windows, max(workers, len(devices or ())), devices)


def _check_share(shard: Any) -> tuple[int, int]:
    """(i, n) of ``"i/n"`` or ``(i, n)``; (0, 1) of None."""
    if shard is None:
        return 0, 1
    try:
        i, n = map(int, shard.split("/") if isinstance(shard, str) else shard)
    except (TypeError, ValueError):
        i, n = 0, 0
    if not 0 <= i < n:
        raise ValueError(f"shard must be (i, n) or 'i/n' with 0 <= i < n, such as '0/2', got {shard!r}")
    return i, n
