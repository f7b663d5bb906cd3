"""Encoders to retrieval pipelines: index a corpus once per encoder, reuse what is there and still fits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.documents import as_documents
from .._utils.names import slug

if TYPE_CHECKING:
    import pyterrier as pt

    from ..splade import Splade

# Documents that the encoder sorts by length together; the encoder's own batches are smaller.
_WINDOW = 2048
# Two texts whose vectors tell encoders apart, trained or not.
_PROBES = ("sparse retrieval of documents by weighted terms", "a short text, with numbers 1 2 3 and an AUTHOR")


def systems(
    encoders: Mapping[str, Splade],
    corpus: Any,
    index_dir: str | os.PathLike[str],
    *,
    engine: str = "terrier",
    num_results: int = 1000,
    verbose: bool = False,
) -> dict[str, pt.Transformer]:
    """Index a corpus once per encoder and return the pipelines, for ``pt.Experiment(systems(...), ...)``.

    An index that is there is reused if it was made by the same encoder from the same documents, else built anew.

    Args:
        encoders: ``{name: Splade}``.
        corpus: a collection (``load_collection``), or an iterable of dicts with ``docno`` and the encoder's text field.
        index_dir: a folder that gets one index per name.
        engine: ``"terrier"``, ``"pisa"`` or ``"exact"``.
        num_results: documents per query.
        verbose: show progress bars.

    Returns:
        ``{name: splade.query_encoder() >> index.retriever()}`` in the order given.

    Raises:
        TypeError: if ``encoders`` is not a dict of names -> Splade encoders.
        ValueError: for an empty dict, an unknown engine, an empty corpus.
    """
    from ..splade import Splade

    if not isinstance(encoders, Mapping) or not all(isinstance(splade, Splade) for splade in encoders.values()):
        raise TypeError("encoders must be a dict of name -> Splade, e.g. {'raw': splade_a, 'k=16': splade_b}")
    if not encoders:
        raise ValueError("encoders must hold at least one Splade, got an empty dict")
    if not all(isinstance(name, str) and name for name in encoders):
        raise TypeError(f"names of encoders must be non-empty str, got {list(encoders)}")
    documents = _reiterable(corpus)
    corpus_id = _corpus_fingerprint(documents)
    pipelines = {}
    for name, splade in encoders.items():
        index = build_index(
            splade, documents, Path(index_dir) / slug(name), engine=engine, corpus_id=corpus_id, verbose=verbose
        )
        pipelines[name] = splade.query_encoder() >> index.retriever(num_results)
    return pipelines


def build_index(
    splade: Splade,
    documents: Callable[[], Iterable[dict[str, Any]]],
    path: Path,
    *,
    engine: str = "terrier",
    corpus_id: str | None = None,
    scale: float = 100,
    verbose: bool = False,
) -> Any:
    """The index of the documents at ``path``: reused if encoder, documents and scale are the same, else built.

    Args:
        splade: the encoder.
        documents: gives a fresh iterator at each call.
        path: the index's folder; a note of what it was made from lies beside it.
        engine: the engine's name.
        corpus_id: fingerprint of the documents; ``None``: taken here, by one pass over them.
        scale: units per weight.
        verbose: show progress bars.
    """
    from .engines import open_index

    wanted = {
        "encoder": encoder_fingerprint(splade),
        "corpus": corpus_id or _corpus_fingerprint(documents),
        "engine": engine,
        "scale": scale,
    }
    note = path.with_name(path.name + ".made-from.json")
    made_from = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    if made_from == wanted:
        index = open_index(path, engine)
        if index.built:
            return index
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "create"
    if path.exists():
        if made_from is None:
            raise FileExistsError(f"{str(path)!r} is there, and not made by systems(): choose another index_dir")
        mode = "overwrite"
        open_engine = made_from["engine"]
        if open_engine != engine or made_from["scale"] != scale:
            _remove_index(path)
            mode = "create"
    note.write_text(json.dumps(wanted), encoding="utf-8")
    index = open_index(path, engine, scale=scale)
    stage = splade.doc_encoder(scale=scale, verbose=False)
    (stage >> index.indexer(mode=mode, verbose=verbose)).index(documents(), batch_size=_WINDOW)
    return index


def encoder_fingerprint(splade: Splade) -> str:
    """Sixteen hex digits that differ between encoders: the vectors of two fixed texts, and the vocabulary."""
    vectors = splade.encode_docs(list(_PROBES))
    digest = hashlib.sha256(splade.term_map().fingerprint.encode())
    digest.update(f"{splade.max_length} {splade.text_field}".encode())
    digest.update(vectors.indices.tobytes())
    digest.update(vectors.data.round(3).tobytes())
    return digest.hexdigest()[:16]


def _remove_index(path: Path) -> None:
    import shutil

    shutil.rmtree(path)


def _reiterable(corpus: Any) -> Callable[[], Iterable[dict[str, Any]]]:
    """A function that gives a fresh iterator over the documents; a one-shot iterator is kept in memory."""
    if hasattr(corpus, "corpus"):
        return corpus.corpus
    corpus = as_documents(corpus)
    if iter(corpus) is corpus:
        corpus = list(corpus)
    return lambda: iter(corpus)


def _corpus_fingerprint(documents: Callable[[], Iterable[dict[str, Any]]]) -> str:
    digest = hashlib.sha256()
    count = 0
    for document in documents():
        count += 1
        digest.update(f"{document.get('docno')}\0{document.get('text')}\n".encode())
    if not count:
        raise ValueError("corpus must hold at least one document, got none")
    return f"{count}:{digest.hexdigest()[:16]}"
