"""OpenSearch and Elasticsearch: bulk lines, a mapping and query bodies for each, whose score is the dot product.

What spoils it by default: a ``rank_feature`` query saturates, so ``linear`` must be said; Elasticsearch's
``sparse_vector`` prunes tokens unless told not to. Both engines keep nine significant bits of a weight (0.4 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..._utils.checks import check_choice
from . import Queries, json_line, weights_by_term, write_lines, write_parts

FIELD = "vector"
KINDS = ("opensearch", "elasticsearch", "rank_feature")
_README = """\
Made by pyterrier-rescale: {documents:,} documents, term weights as floats > 0 in the field "vector".

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


def write(vectors: Any, folder: Path, queries: Queries | None = None) -> None:
    """Write bulk files, two mappings, ``query.json`` (an example of each kind), and ``queries.jsonl``."""
    example: dict[str, float] = {}

    def bulk() -> Iterator[str]:
        for docno, weights in weights_by_term(vectors):
            example.update({} if example else dict(sorted(weights.items(), key=lambda item: -item[1])[:5]))
            yield json_line({"index": {"_id": docno}}) + json_line({"docno": docno, FIELD: weights})

    write_parts(folder, "bulk-{}.jsonl", bulk())
    for kind in ("opensearch", "elasticsearch"):
        write_lines(folder / f"{kind}-mapping.json", [json_line(mapping(kind), indent=1)])
    write_lines(folder / "query.json", [json_line({kind: query_body(example, kind) for kind in KINDS}, indent=1)])
    write_lines(folder / "README.txt", [_README.format(documents=len(vectors))])
    if queries is not None:
        lines = ({"qid": qid, FIELD: {term: float(w) for term, w in toks.items()}} for qid, toks in queries)
        write_lines(folder / "queries.jsonl", map(json_line, lines))


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
    """
    check_choice("kind", kind, KINDS)
    weights = {term: float(weight) for term, weight in toks.items()}
    query: dict[str, Any] = {"neural_sparse": {FIELD: {"query_tokens": weights}}}
    if kind == "elasticsearch":
        query = {"sparse_vector": {"field": FIELD, "query_vector": weights, "prune": False}}
    elif kind == "rank_feature":
        clauses = [{"field": f"{FIELD}.{term}", "linear": {}, "boost": weight} for term, weight in weights.items()]
        query = {"bool": {"should": [{"rank_feature": clause} for clause in clauses]}}
    return {"size": size, "_source": ["docno"], "query": query}
