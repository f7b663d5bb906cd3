"""From encoders and a corpus to pipelines: each index knows what it was made from, and is built once."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyterrier as pt

from .._utils.documents import as_documents
from .._utils.files import expand
from .._utils.made_from import check_same
from . import store
from .corpus import corpus_fingerprint
from .index import Index
from .own_documents import WithoutOwnDocuments
from .shards import GROUP

if TYPE_CHECKING:
    from ..splade import Splade

# What vectors that an index is made of may have been pruned by; `build_index` does without.
_WHOLE = {"max_terms": None, "min_weight": 0.0, "pruned": None}


def systems(
    encoders: Mapping[str, Splade],
    corpus: Any,
    index_dir: str | os.PathLike[str],
    *,
    engine: str = "terrier",
    num_results: int = 1000,
    own_documents: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
) -> dict[str, pt.Transformer]:
    """Index a corpus once per encoder and return the pipelines, for ``pt.Experiment(systems(...), ...)``.

    An index that is there is used if it was made by the same encoder from the same documents (of which the docno and
    the encoder's text field count).

    Args:
        encoders: ``{name: encoder}``: Splades, LexicalEncoders, or whatever makes the same stages.
        corpus: a collection (``load_collection``), or dicts with ``docno`` and the encoder's text field in what can be
            read several times: a list, a frame, a Hugging Face dataset.
        index_dir: a folder that gets one index per name.
        engine: as in ``open_index``.
        num_results: documents per query.
        own_documents: whether a query that is a document finds itself, too; see ``WithoutOwnDocuments``.
        overwrite: build anew where an index was made from something else.
        verbose: show progress bars.

    Returns:
        ``{name: splade.query_encoder() >> index.retriever()}`` in the order given, which leave out own documents.

    Raises:
        TypeError: ``encoders`` is no dict of encoders by name, or ``corpus`` can be read only once.
        ValueError: an unknown engine, an empty corpus, or an index that was made from something else; the message
            names what differs.
    """
    if not isinstance(encoders, Mapping) or not all(hasattr(encoder, "doc_encoder") for encoder in encoders.values()):
        raise TypeError("encoders must be a dict of name -> Splade, e.g. {'raw': splade_a, 'k=16': splade_b}")
    documents = _reiterable(corpus)
    fields = dict.fromkeys(splade.text_field for splade in encoders.values())
    corpus_ids = {field: corpus_fingerprint(documents, ("docno", field)) for field in fields}
    without_own = {field: WithoutOwnDocuments(documents, num_results, field) for field in fields}  # read it once
    pipelines = {}
    for name, splade in encoders.items():
        index = build_index(
            splade, documents, expand(index_dir) / slug(name), engine=engine, corpus_id=corpus_ids[splade.text_field],
            overwrite=overwrite, verbose=verbose,
        )  # fmt: skip
        found = splade.query_encoder() >> index.retriever(num_results + (not own_documents))
        pipelines[name] = found if own_documents else found >> without_own[splade.text_field]
    return pipelines


def build_index(
    splade: Splade,
    documents: Callable[[], Iterable[dict[str, Any]]],
    path: Path,
    *,
    engine: str = "terrier",
    corpus_id: str | None = None,
    scale: float = 100,
    overwrite: bool = False,
    verbose: bool = False,
) -> Index:
    """The index of the documents at ``path``: that which the same call made before, else built now.

    An index of vectors (``encode``) of all terms, by the same encoder from the same documents, is the same.
    ``documents`` gives a fresh iterator at each call; ``corpus_id`` is their fingerprint, if it is known.
    """
    fields, scale = ("docno", splade.text_field), float(scale)
    made_from = {
        "encoder": splade.fingerprint,
        "encoder_settings": repr(splade),
        "corpus": corpus_id or corpus_fingerprint(documents, fields),
        "field": splade.text_field,
    }
    index, manifest = Index(path, engine, scale=scale), store.read_manifest(Path(path))
    current = manifest and manifest.current
    if current:
        there = {**_WHOLE, **(current["made_from"] or {}), "engine": current["engine"], "scale": current["scale"]}
        wanted = {**_WHOLE, **made_from, "engine": engine, "scale": scale}
        found = {name: there.get(name) for name in wanted}
        if found["encoder"] == wanted["encoder"]:
            del found["encoder_settings"], wanted["encoder_settings"]  # how the encoder was written, no more
        if found == wanted and index.built:
            return index
        if not overwrite:
            check_same(path, found, wanted)
    indexer = index.indexer(mode="overwrite" if current else "create", verbose=verbose, made_from=made_from)
    return (splade.doc_encoder(scale=scale, verbose=False) >> indexer).index(documents(), batch_size=GROUP)


def _reiterable(corpus: Any) -> Callable[[], Iterable[dict[str, Any]]]:
    """A function that gives a fresh iterator over the documents."""
    if hasattr(corpus, "corpus"):
        return corpus.corpus
    corpus = as_documents(corpus)
    if iter(corpus) is corpus:
        raise TypeError(
            f"corpus must be readable several times, got a {type(corpus).__name__}: give a collection, a frame, or "
            "list(documents) where they fit the memory"
        )
    return lambda: iter(corpus)


def slug(name: str) -> str:
    """A name as a folder's name on every system: ``bert-a`` stays, ``My bert`` is ``my-bert-3a5f...``."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return readable if readable == name else f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
