"""Formats of research toolkits: Anserini's JsonVectorCollection, and the embedding folder of lsr-benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Queries, json_line, write_lines, write_parts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def write_anserini(vectors: Any, folder: Path, scale: float, queries: Queries | None = None) -> None:
    """A JSON object per line below ``corpus``, whole weights; ``queries.tsv``, weights as repetitions.

    Index with ``-collection JsonVectorCollection -impact -pretokenized``; search with ``-topicReader TsvString -impact
    -pretokenized``: Lucene's impact score is then the dot product of the rounded weights, scale x scale of it.
    """
    (folder / "corpus").mkdir()
    documents = ({"id": d["docno"], "contents": "", "vector": d["toks"]} for d in vectors.documents(scale))
    write_parts(folder, "corpus/docs-{}.jsonl", map(json_line, documents))
    if queries is not None:
        repeated = ((qid, [t for t, w in toks.items() for _ in range(round(w * scale))]) for qid, toks in queries)
        write_lines(folder / "queries.tsv", (f"{qid}\t{' '.join(terms)}\n" for qid, terms in repeated))


def write_lsr_benchmark(vectors: Any, folder: Path, queries: Queries | None = None) -> None:
    """CSR arrays and ids of both sides, columns alike; given as ``--embedding FOLDER`` to its retrieval scripts.

    The vectors are held in memory, as its loader holds them.
    """
    _write_side(folder / "doc", vectors.docnos, vectors.to_csr())
    if queries is not None:
        _write_side(folder / "query", [qid for qid, _ in queries], _query_rows(vectors, queries))


def _write_side(folder: Path, ids: Sequence[str], rows: csr_matrix) -> None:
    folder.mkdir()
    np.savez_compressed(
        folder / f"{folder.name}-embeddings.npz",
        data=rows.data.astype(np.float32), indices=rows.indices.astype(np.int32), indptr=rows.indptr.astype(np.int64),
    )  # fmt: skip
    (folder / f"{folder.name}-ids.txt").write_bytes("\n".join(ids).encode())


def _query_rows(vectors: Any, queries: Queries) -> csr_matrix:
    from scipy.sparse import csr_matrix

    known = [{vectors.columns[t]: w for t, w in toks.items() if t in vectors.columns} for _, toks in queries]
    columns, weights = ([value for row in known for value in part(row)] for part in (dict.keys, dict.values))
    indptr = np.cumsum([0, *map(len, known)])
    rows = csr_matrix((np.array(weights, dtype=np.float32), columns, indptr), shape=(len(known), len(vectors.terms)))
    rows.sort_indices()
    return rows
