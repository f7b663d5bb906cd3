"""OpenSearch and Elasticsearch: bulk lines, a mapping and query bodies for each, whose score is the dot product.

What spoils it by default: a ``rank_feature`` query saturates, so ``linear`` must be said; Elasticsearch's
``sparse_vector`` prunes tokens unless told not to. Both engines keep nine significant bits of a weight (0.4 %).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._utils.checks import check_choice
from ..._utils.paths import whole_folder

if TYPE_CHECKING:
    import pandas as pd

    from ..vectors.base import SparseVectors

FIELD = "vector"
KINDS = ("opensearch", "elasticsearch", "rank_feature")
_DOCUMENTS_PER_FILE = 10_000  # some tens of MB: a bulk request has a limit of 100 MB
_README = """\
Made by pyterrier-rescale: {documents} documents, term weights as floats > 0 in the field "vector".

OpenSearch (2.11 and later: neural_sparse on a rank_features field):
  curl -X PUT  HOST/INDEX       -H 'Content-Type: application/json'     --data-binary @opensearch-mapping.json
  curl -X POST HOST/INDEX/_bulk -H 'Content-Type: application/x-ndjson' --data-binary @bulk-00000.jsonl    (each file)
  query.json, "opensearch": the body of a search.
Elasticsearch (8.15 and later: sparse_vector): the same with elasticsearch-mapping.json; query.json, "elasticsearch".
Pruning is switched off in the query and, where the server knows the setting (8.19, 9.1), in the mapping; older servers
want the mapping without index_options.
Any server with rank_features: query.json, "rank_feature": one clause per term; "linear" is needed, for the default
saturates; at most 1,024 clauses unless indices.query.bool.max_clause_count says more.
Scores are dot products up to the nine significant bits that Lucene keeps of a weight (0.4 %).
"""


def write(vectors: SparseVectors, path: Path, *, queries: pd.DataFrame | None = None) -> None:
    """Write bulk files, two mappings, ``query.json`` (an example of each kind), and ``queries.jsonl``."""
    with whole_folder(path) as folder:
        example: dict[str, float] = {}
        out, number = None, 0
        for docnos, matrix in vectors.blocks():
            bounds = matrix.indptr.tolist()
            for docno, begin, end in zip(docnos, bounds[:-1], bounds[1:], strict=True):
                if number % _DOCUMENTS_PER_FILE == 0:
                    if out is not None:
                        out.close()
                    name = f"bulk-{number // _DOCUMENTS_PER_FILE:05d}.jsonl"
                    out = open(folder / name, "w", encoding="utf-8", newline="\n")  # noqa: SIM115
                terms = vectors.terms[matrix.indices[begin:end]].tolist()
                weights = [float(f"{weight:.7g}") for weight in matrix.data[begin:end].tolist()]
                vector = dict(zip(terms, weights, strict=True))
                out.write(json.dumps({"index": {"_id": docno}}, ensure_ascii=False) + "\n")
                out.write(json.dumps({"docno": docno, FIELD: vector}, ensure_ascii=False) + "\n")
                example = example or dict(sorted(vector.items(), key=lambda item: -item[1])[:5])
                number += 1
        if out is not None:
            out.close()
        _write(folder / "opensearch-mapping.json", mapping("opensearch"))
        _write(folder / "elasticsearch-mapping.json", mapping("elasticsearch"))
        _write(folder / "query.json", {kind: query_body(example, kind) for kind in KINDS})
        (folder / "README.txt").write_text(_README.format(documents=f"{number:,}"), encoding="utf-8")
        if queries is not None:
            with open(folder / "queries.jsonl", "w", encoding="utf-8", newline="\n") as lines:
                for qid, toks in zip(queries["qid"], queries["query_toks"], strict=True):
                    line = {"qid": qid, FIELD: {term: float(weight) for term, weight in toks.items()}}
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def mapping(kind: str) -> dict[str, Any]:
    """The index's mapping: ``"opensearch"`` (rank_features) or ``"elasticsearch"`` (sparse_vector, nothing pruned)."""
    field: dict[str, Any] = {"type": "rank_features"}
    if kind == "elasticsearch":
        field = {"type": "sparse_vector", "index_options": {"prune": False}}
    return {"mappings": {"properties": {"docno": {"type": "keyword"}, FIELD: field}}}


def query_body(toks: Mapping[str, float], kind: str = "opensearch", size: int = 10) -> dict[str, Any]:
    """The body of a search whose score is the dot product of ``toks`` and the document's weights.

    Args:
        toks: the query's terms and weights > 0.
        kind: ``"opensearch"``, ``"elasticsearch"``, or ``"rank_feature"`` (any server with rank_features).
        size: documents wanted.

    Raises:
        ValueError: an unknown kind.
    """
    check_choice("kind", kind, KINDS)
    weights = {term: float(weight) for term, weight in toks.items()}
    if kind == "opensearch":
        query: dict[str, Any] = {"neural_sparse": {FIELD: {"query_tokens": weights}}}
    elif kind == "elasticsearch":
        query = {"sparse_vector": {"field": FIELD, "query_vector": weights, "prune": False}}
    else:
        clauses = [
            {"rank_feature": {"field": f"{FIELD}.{term}", "linear": {}, "boost": weight}}
            for term, weight in weights.items()
        ]
        query = {"bool": {"should": clauses}}
    return {"size": size, "_source": ["docno"], "query": query}


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
