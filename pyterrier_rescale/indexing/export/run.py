"""The one way out: vectors of a folder or of an index, into the format of another engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._utils.checks import check_choice, check_integer, check_number, warn
from ..._utils.documents import as_documents
from ..._utils.files import expand, whole_folder
from ..intake import query_weights
from . import Source, databases, heaviest, opensearch, toolkits

if TYPE_CHECKING:
    import pandas as pd

#: name -> (writer, what it takes beside vectors and path)
FORMATS: dict[str, tuple[Callable[[Source, Path], None], set[str]]] = {
    "anserini": (toolkits.write_anserini, {"scale", "queries", "terms", "documents"}),
    "ciff": (toolkits.write_ciff, {"scale", "terms"}),
    "lsr-benchmark": (toolkits.write_lsr_benchmark, {"queries"}),
    "opensearch": (opensearch.write, {"queries", "terms", "documents"}),
    "opensearch-ann": (opensearch.write_ann, {"queries", "documents"}),
    "pgvector": (databases.write_pgvector, {"queries", "documents"}),
    "qdrant": (databases.write_qdrant, {"queries", "documents"}),
}
# Lucene answers longer queries with an error (OpenSearch, Elasticsearch) or an empty run (Anserini).
_CLAUSES = 1024
_LUCENE = ("anserini", "opensearch")


def export(
    vectors: Any,
    path: str | os.PathLike[str],
    format: str,
    *,
    scale: float | None = None,
    queries: pd.DataFrame | None = None,
    max_terms: int | None = None,
    terms: str = "safe",
    documents: Any = None,
    text: str = "text",
    title: str = "title",
) -> Path:
    """Write document vectors, and queries where given, for another engine, whole or not at all; return the path.

    Args:
        vectors: ``open_vectors(path)``, or an index (as it holds the weights: rounded).
        path: what is written: a folder; with ``"ciff"`` a file.
        format: ``"anserini"`` (JsonVectorCollection), ``"ciff"`` (Common Index File Format), ``"lsr-benchmark"`` (its
            embeddings), ``"opensearch"`` (OpenSearch and Elasticsearch: exact), ``"opensearch-ann"`` (OpenSearch's
            ``sparse_vector``: approximate), ``"pgvector"`` (PostgreSQL), ``"qdrant"``.
        scale: units per weight in the formats with whole weights (anserini, ciff); default: the index's, else 100.
        queries: a frame with qid and query_toks, as ``splade.query_encoder()`` makes it (not with ``"ciff"``).
        max_terms: heaviest terms kept of each query; default: all.
        terms: names of the terms in anserini, ciff, opensearch: ``"safe"``, as our query encoders name them;
            ``"raw"``, the tokenizer's own tokens, where the engine itself encodes queries with the encoder's folder:
            Pyserini, and models deployed in Elasticsearch (where ``__`` stands for a dot) or OpenSearch.
        documents: the collection that was encoded: its titles and texts are written, too, so that hits can be read.
        text: the field of the text in ``documents``.
        title: the field of the title.

    Raises:
        ValueError: an unknown format, an option that the format does not take, queries of another vocabulary or scaled
            already, other documents, or raw terms of vectors that do not know them.
        FileExistsError: something is at the path.
    """
    write, takes = FORMATS[check_choice("format", format, FORMATS)]
    check_choice("terms", terms, ("safe", "raw"))
    check_integer("max_terms", max_terms, optional=True)
    given = {"scale": scale, "queries": queries, "documents": documents, "terms": None if terms == "safe" else terms}
    for name, value in given.items():
        if value is not None and name not in takes:
            raise ValueError(f"format {format!r} takes no {name}: leave it out")
    if terms == "raw" and vectors.tokens is None:
        raise ValueError(f"terms='raw': {vectors!r} does not know the tokenizer's tokens; encode() anew writes them")
    source = Source(
        vectors, vectors.terms if terms == "safe" else np.array(vectors.tokens, dtype=object), text=text, title=title
    )
    if "scale" in takes:
        source.scale = vectors.scale or 100.0 if scale is None else check_number("scale", scale)
    if documents is not None:
        source.documents = documents.corpus() if hasattr(documents, "corpus") else as_documents(documents)
    if queries is not None:
        pairs = list(zip(queries["qid"].astype(str), queries["query_toks"], strict=True))
        source.queries = [(qid, _by_column(toks, qid, vectors, max_terms)) for qid, toks in pairs]
        long = sum(len(toks) > _CLAUSES for _, toks in source.queries)
        if long and format in _LUCENE:
            warn(
                f"{long} of {len(pairs)} queries have more than 1,024 terms: Anserini answers them with nothing, "
                f"OpenSearch and Elasticsearch with an error; export(..., max_terms={_CLAUSES}) cuts them"
            )  # fmt: skip
    path = expand(path)
    with nullcontext(path) if format == "ciff" else whole_folder(path) as target:
        write(source, target)
    return path


def _by_column(toks: Any, qid: str, vectors: Any, max_terms: int | None) -> dict[int, float]:
    known = vectors.open().known(query_weights(toks, qid, vectors.vocabulary))
    return heaviest(known, max_terms or len(known))
