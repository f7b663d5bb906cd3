"""Vector databases: bodies of requests for Qdrant, a table for PostgreSQL's pgvector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..._utils.checks import warn
from . import Source, json_line, write_lines, write_parts

NAME = "terms"  # of the sparse vector in Qdrant
_HNSW = 1000  # non-zeros of a sparsevec that pgvector's HNSW takes
_QDRANT_README = """\
Made by pyterrier-rescale: {documents:,} points, ids by document number, docnos in the payload; Qdrant 1.10 and later.

  curl -X PUT  HOST/collections/NAME              -H 'Content-Type: application/json' --data-binary @collection.json
  curl -X PUT  HOST/collections/NAME/points       -H 'Content-Type: application/json' --data-binary @points-00000.json
  curl -X POST HOST/collections/NAME/points/query -H 'Content-Type: application/json' --data-binary @query.json

Scores are exact dot products. Indices are the encoder's token ids: splade.encode_queries(texts) has the same columns.
"""
_SETUP = """\
-- psql -f setup.sql; needs pgvector 0.7 or later
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE documents (docno text PRIMARY KEY, title text, text text, vector sparsevec({size}));
\\copy documents FROM 'documents.tsv'
-- Search is exact, by a scan, unless there is an index; HNSW refuses documents and queries of more than 1,000 terms:
-- CREATE INDEX ON documents USING hnsw (vector sparsevec_ip_ops);
"""
_SEARCH = """\
SELECT docno, -(vector <#> '{vector}') AS score
FROM documents ORDER BY vector <#> '{vector}' LIMIT 10;
"""


def write_qdrant(source: Source, folder: Path) -> None:
    """Write bodies of requests: ``collection.json``, ``points-00000.json``, ..., ``query.json``, ``queries.jsonl``."""
    points = (
        {"id": number, "vector": {NAME: _sparse(toks)}, "payload": {"docno": docno, **fields}}
        for number, (docno, toks, fields) in enumerate(source.rows())
    )
    write_parts(folder, "points-*.json", map(json_line, points), '{"points": [', ",", "]}\n")
    write_lines(folder / "collection.json", [json_line({"sparse_vectors": {NAME: {}}})])
    write_lines(folder / "query.json", [json_line(_qdrant_query(source.example()))])
    write_lines(folder / "README.txt", [_QDRANT_README.format(documents=len(source.vectors))])
    source.write_queries(folder / "queries.jsonl", lambda qid, toks: json_line({"qid": qid, **_qdrant_query(toks)}))


def write_pgvector(source: Source, folder: Path) -> None:
    """Write ``documents.tsv`` (for COPY), ``setup.sql``, ``search.sql`` and ``queries.tsv`` (qid, sparsevec)."""
    size, too_long = len(source.terms), 0

    def lines() -> Iterator[str]:
        nonlocal too_long
        for docno, toks, fields in source.rows():
            too_long += len(toks) > _HNSW
            yield _row(docno, fields.get("title", ""), fields.get("text", ""), sparsevec(toks, size))

    write_lines(folder / "documents.tsv", lines())
    write_lines(folder / "setup.sql", [_SETUP.format(size=size)])
    write_lines(folder / "search.sql", [_SEARCH.format(vector=sparsevec(source.example(), size))])
    source.write_queries(folder / "queries.tsv", lambda qid, toks: _row(qid, sparsevec(toks, size)))
    if too_long:
        warn(
            f"{too_long} documents have more than {_HNSW:,} terms, which pgvector's HNSW index refuses: search without "
            f"an index, which is exact, or export vectors.pruned({_HNSW})"
        )  # fmt: skip


def sparsevec(toks: Mapping[int, float], size: int) -> str:
    """Pgvector's text of a sparse vector, whose indices begin at 1: ``{1:0.5,3:2}/5``."""
    return f"{{{','.join(f'{column + 1}:{weight:.7g}' for column, weight in sorted(toks.items()))}}}/{size}"


def _row(*values: str) -> str:
    """A line of COPY's text format."""
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
    return "\t".join(value.translate(escapes) for value in values) + "\n"


def _sparse(toks: Mapping[int, float]) -> dict[str, list[Any]]:
    return {"indices": list(toks), "values": list(toks.values())}


def _qdrant_query(toks: Mapping[int, float]) -> dict[str, Any]:
    return {"query": _sparse(toks), "using": NAME, "limit": 10, "with_payload": True}
