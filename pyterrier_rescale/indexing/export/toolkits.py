"""Formats of research toolkits: Anserini's JsonVectorCollection, lsr-benchmark's embeddings, CIFF."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..._utils.files import sync
from ..engines.exact import invert, read_inverted
from . import Source, json_line, write_lines, write_parts

_LARGEST = 2**31 - 1


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


def write_ciff(source: Source, path: Path) -> None:
    """Write one file of protocol buffers (Lin et al., 2020); gzip-compressed if its name ends in ``.gz``.

    A header; then for each term, in the order of its bytes, its postings (gaps of document numbers, whole weights);
    then each document's docno and length (the sum of its weights).
    """
    try:
        import ciff_toolkit.write  # noqa: F401
    except ImportError as error:
        raise ImportError(f"format 'ciff' needs ciff-toolkit: pip install pyterrier-rescale[ciff] ({error})") from error
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists already: choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        whole = Path(folder, path.name)
        _write_index(source, whole)
        sync(whole)
        os.replace(whole, path)


def _write_index(source: Source, path: Path) -> None:
    from ciff_toolkit.ciff_pb2 import DocRecord, Header, Posting, PostingsList
    from ciff_toolkit.write import CiffWriter

    generation = source.vectors.open().at_scale(source.scale)
    invert(path.parent, generation)
    indptr, documents, weights = read_inverted(path.parent)
    lengths = np.concatenate([np.asarray(rows.sum(axis=1)).ravel() for rows in generation.whole_blocks()]).tolist()
    if max(lengths) > _LARGEST:
        raise ValueError(f"CIFF sums a document's weights in 31 bits: scale must be less than {source.scale:g}")
    columns = sorted(np.flatnonzero(np.diff(indptr)).tolist(), key=lambda column: source.terms[column].encode())

    def postings() -> Iterator[Any]:
        for column in columns:
            part = slice(indptr[column], indptr[column + 1])
            gaps, values = np.diff(documents[part], prepend=0).tolist(), weights[part].tolist()
            found = [Posting(docid=gap, tf=weight) for gap, weight in zip(gaps, values, strict=True)]
            yield PostingsList(term=source.terms[column], df=len(found), cf=sum(values), postings=found)

    with CiffWriter(path) as writer:
        writer.write_header(Header(
            version=1, num_postings_lists=len(columns), total_postings_lists=len(columns),
            num_docs=len(lengths), total_docs=len(lengths),
            total_terms_in_collection=sum(lengths), average_doclength=sum(lengths) / len(lengths),
            description=f"pyterrier-rescale: term weights times {source.scale:g}, rounded",
        ))  # fmt: skip
        writer.write_postings_lists(postings())
        writer.write_documents(
            DocRecord(docid=number, collection_docid=docno, doclength=length)
            for number, (docno, length) in enumerate(zip(generation.docnos.to_pylist(), lengths, strict=True))
        )
