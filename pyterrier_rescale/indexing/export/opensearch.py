"""OpenSearch and Elasticsearch: bulk lines, mappings and query bodies, whose score is the dot product.

What spoils it by default: a ``rank_feature`` query saturates, so ``linear`` must be said; Elasticsearch's
``sparse_vector`` prunes tokens unless told not to. Both engines keep nine significant bits of a weight (0.4 %).
OpenSearch's ``sparse_vector`` keeps eight bits below a ceiling, 3 for documents and 16 for queries unless it is told
others, and folds the terms' numbers modulo 32,768.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._utils.checks import check_choice, warn
from . import Source, json_line, write_lines, write_parts

FIELD = "vector"
KINDS = ("opensearch", "elasticsearch", "rank_feature", "opensearch-ann")
_SLOTS = 2**15  # numbers of terms that OpenSearch's sparse_vector tells apart
_SEARCH_CEILING = 16.0  # its default: kept where no queries say what is needed
_TOP = """\
Made by pyterrier-rescale: {documents:,} documents, term weights as floats > 0 in the field "vector".

  curl -X PUT  HOST/INDEX       -H 'Content-Type: application/json'     --data-binary @{mapping}
  curl -X POST HOST/INDEX/_bulk -H 'Content-Type: application/x-ndjson' --data-binary @bulk-00000.jsonl    (each file)

"""
_README = _TOP + """\
OpenSearch 2.14 and later (rank_features field, neural_sparse query with query_tokens): the mapping above; the body of
a search is query.json, "opensearch".
Elasticsearch 8.15 and later (sparse_vector): the same with elasticsearch-mapping.json; query.json, "elasticsearch".
Servers before 8.19 and 9.1 want the mapping without index_options.
Any server with rank_features: query.json, "rank_feature": one clause per term.
All three take at most 1,024 terms a query unless indices.query.bool.max_clause_count says more.
Scores are dot products up to the nine significant bits that Lucene keeps of a weight (0.4 %).
"""
_ANN_README = _TOP + """\
OpenSearch 3.3 and later (sparse_vector field, approximate by SEISMIC). Terms are numbers, named in terms.json. Segments
of less than a million documents are searched exactly unless the mapping's approximate_threshold says less. The mapping
has the ceilings {ingest:g} for documents and {search:g} for queries: larger weights would be clipped. query.json is the
body of a search; top_n is the number of the query's terms, since others than the top_n heaviest are dropped.
"""


def write(source: Source, folder: Path) -> None:
    """Write bulk files, two mappings, ``query.json`` (an example of each kind), and ``queries.jsonl``."""
    source.terms = np.array([term.replace(".", "__") for term in source.terms], dtype=object)  # as Elasticsearch does
    example = source.named(source.example())
    _write(source, folder, _README.format(documents=len(source.vectors), mapping="opensearch-mapping.json"), {
        "opensearch-mapping.json": mapping("opensearch"),
        "elasticsearch-mapping.json": mapping("elasticsearch"),
        "query.json": {kind: query_body(example, kind) for kind in KINDS[:3]},
    })  # fmt: skip


def write_ann(source: Source, folder: Path) -> None:
    """Write bulk files, ``mapping.json`` with the ceilings that the weights need, ``terms.json``, ``query.json``."""
    frequencies, ingest = np.zeros(len(source.terms), dtype=np.int64), 0.0
    for _, rows in source.vectors.blocks():
        frequencies += np.bincount(rows.indices, minlength=len(frequencies))
        ingest = max(ingest, float(rows.data.max(initial=0)))
    numbers, colliding = dense_numbers(frequencies)
    if colliding:
        warn(
            f"{(frequencies > 0).sum():,} terms occur, and OpenSearch's sparse_vector tells {_SLOTS:,} apart: "
            f"{colliding:.2%} of the weights share a number with another term. Fewer terms (pruned(max_terms)), or "
            "format 'opensearch', which is exact, avoid that"
        )  # fmt: skip
    names = {term: int(number) for term, number in zip(source.terms, numbers, strict=True) if number >= 0}
    search = _SEARCH_CEILING
    if source.queries is not None:
        source.queries = [(q, {c: w for c, w in toks.items() if numbers[c] >= 0}) for q, toks in source.queries]
        search = max((weight for _, toks in source.queries for weight in toks.values()), default=search)
    source.terms = numbers.astype(str).astype(object)
    readme = _ANN_README.format(documents=len(source.vectors), mapping="mapping.json", ingest=ingest, search=search)
    _write(source, folder, readme, {
        "terms.json": names,
        "mapping.json": mapping("opensearch-ann", ingest, search),
        "query.json": query_body(source.named(source.example()), "opensearch-ann"),
    })  # fmt: skip


def dense_numbers(frequencies: np.ndarray) -> tuple[np.ndarray, float]:
    """Numbers of the terms that occur, the most frequent first, -1 for others; and the share of weights that collide.

    Above 32,768 terms the rarest ones share their numbers, modulo 32,768, with the next rare ones, not with frequent.
    """
    order = np.argsort(-frequencies, kind="stable")[: np.count_nonzero(frequencies)]
    turn, place = np.divmod(np.arange(len(order)), _SLOTS)
    slots = np.where(turn % 2, _SLOTS - 1 - place, place)
    numbers = np.full(len(frequencies), -1, dtype=np.int64)
    numbers[order] = turn * _SLOTS + slots
    shared = np.bincount(slots, minlength=1)[slots] > 1
    return numbers, float(frequencies[order][shared].sum() / max(1, frequencies.sum()))


def mapping(kind: str, ingest: float = 3.0, search: float = 16.0) -> dict[str, Any]:
    """The body that creates an index; ``ingest`` and ``search``: the largest weights, for ``"opensearch-ann"``."""
    fields: dict[str, Any] = {"docno": {"type": "keyword"}, "title": {"type": "text"}, "text": {"type": "text"}}
    if kind == "opensearch-ann":
        ceilings = {"quantization_ceiling_ingest": ingest, "quantization_ceiling_search": search}
        fields[FIELD] = {"type": "sparse_vector", "method": {"name": "seismic", "parameters": ceilings}}
        return {"settings": {"index": {"sparse": True}}, "mappings": {"properties": fields}}
    fields[FIELD] = {"type": "rank_features"}
    if kind == "elasticsearch":
        fields[FIELD] = {"type": "sparse_vector", "index_options": {"prune": False}}
    return {"mappings": {"properties": fields}}


def query_body(toks: Mapping[str, float], kind: str = "opensearch", size: int = 10) -> dict[str, Any]:
    """The body of a search whose score is the dot product of ``toks`` and the document's weights.

    Args:
        toks: the query's terms and weights > 0; with none, nothing is found.
        kind: ``"opensearch"``, ``"elasticsearch"``, ``"rank_feature"`` (any server with rank_features), or
            ``"opensearch-ann"`` (terms are the numbers of ``terms.json``, as strings).
        size: documents wanted.
    """
    check_choice("kind", kind, KINDS)
    weights = {term: float(weight) for term, weight in toks.items()}
    query: dict[str, Any] = {"match_none": {}}
    if weights and kind == "elasticsearch":
        query = {"sparse_vector": {"field": FIELD, "query_vector": weights, "prune": False}}
    elif weights and kind == "rank_feature":
        clauses = [{"field": f"{FIELD}.{term}", "linear": {}, "boost": weight} for term, weight in weights.items()]
        query = {"bool": {"should": [{"rank_feature": clause} for clause in clauses]}}
    elif weights:
        query = {"neural_sparse": {FIELD: {"query_tokens": weights}}}
        if kind == "opensearch-ann":
            query["neural_sparse"][FIELD]["method_parameters"] = {"top_n": len(weights), "k": size}
    return {"size": size, "_source": ["docno", "title", "text"], "query": query}


def _write(source: Source, folder: Path, readme: str, files: Mapping[str, Any]) -> None:
    """Write documents and queries, and some small files."""
    write_lines(folder / "README.txt", [readme])
    for name, content in files.items():
        write_lines(folder / name, [json_line(content, indent=1)])
    bulk = (
        json_line({"index": {"_id": docno}}) + json_line({"docno": docno, **fields, FIELD: source.named(toks)})
        for docno, toks, fields in source.rows()
    )
    write_parts(folder, "bulk-*.jsonl", bulk)
    source.write_queries(
        folder / "queries.jsonl", lambda qid, toks: json_line({"qid": qid, FIELD: source.named(toks)})
    )
