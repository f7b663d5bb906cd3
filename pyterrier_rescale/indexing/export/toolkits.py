"""Formats of research toolkits: Anserini's JsonVectorCollection, and the embedding folder of lsr-benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import Source, json_line, write_lines, write_parts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def write_anserini(source: Source, folder: Path) -> None:
    """A JSON object per line below ``corpus``, whole weights; ``queries.tsv``, weights as repetitions.

    Index with ``-collection JsonVectorCollection -impact -pretokenized``; search with ``-topicReader TsvString -impact
    -pretokenized``: Lucene's impact score is then the dot product of the rounded weights, scale x scale of it.
    """
    (folder / "corpus").mkdir()
    lines = (
        json_line({"id": docno, "contents": "\n".join(fields.values()), "vector": source.named(toks)})
        for docno, toks, fields in source.rows(whole=True)
    )
    write_parts(folder / "corpus", "docs-*.jsonl", lines)

    def query(qid: str, toks: dict[int, float]) -> str:
        repeated = [term for term, weight in source.named(toks).items() for _ in range(round(weight * source.scale))]
        return f"{qid}\t{' '.join(repeated)}\n"

    source.write_queries(folder / "queries.tsv", query)


def write_lsr_benchmark(source: Source, folder: Path) -> None:
    """CSR arrays and ids of both sides, columns alike; given as ``--embedding FOLDER`` to its retrieval scripts.

    The vectors are held in memory, as its loader holds them.
    """
    from scipy.sparse import csr_matrix

    _write_side(folder / "doc", source.vectors.docnos, source.vectors.to_csr())
    if source.queries is not None:
        columns = [column for _, toks in source.queries for column in toks]
        weights = [weight for _, toks in source.queries for weight in toks.values()]
        indptr = np.cumsum([0, *(len(toks) for _, toks in source.queries)])
        rows = csr_matrix((weights, columns, indptr), shape=(len(source.queries), len(source.terms)))
        rows.sort_indices()
        _write_side(folder / "query", [qid for qid, _ in source.queries], rows)


def _write_side(folder: Path, ids: Sequence[str], rows: csr_matrix) -> None:
    folder.mkdir()
    np.savez_compressed(
        folder / f"{folder.name}-embeddings.npz",
        data=rows.data.astype(np.float32), indices=rows.indices.astype(np.int32), indptr=rows.indptr.astype(np.int64),
    )  # fmt: skip
    write_lines(folder / f"{folder.name}-ids.txt", ["\n".join(ids)])
