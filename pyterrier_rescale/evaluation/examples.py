"""A few topics seen closely: what each encoder makes of query and best document, and where rankings part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from ..splade import Splade

#: Name of the file in a comparison's folder.
EXAMPLES_FILE = "examples.json"
_TOPICS = 5
_TERMS = 12
_RANKS = 5
_SNIPPET = 300
_MEASURE = "nDCG@10"


def telling_topics(per_query: pd.DataFrame, names: list[str]) -> list[str]:
    """The five topics on which the named systems' nDCG@10 lie furthest apart; ties by qid."""
    values = per_query[(per_query["measure"].astype(str) == _MEASURE) & per_query["name"].isin(names)]
    spread = values.groupby("qid")["value"].agg(lambda v: v.max() - v.min())
    return sorted(spread.index, key=lambda qid: (-spread[qid], qid))[:_TOPICS]


def topic_examples(
    encoders: Mapping[str, Splade],
    runs: Mapping[str, pd.DataFrame],
    per_query: pd.DataFrame,
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    texts: Any,
) -> list[dict[str, Any]]:
    """Plain values for the report: per topic and system the query's terms, the best document, the ranking.

    Args:
        encoders: ``{system: Splade}``, those that are set side by side.
        runs: ``{system: frame of qid, docno, rank}``.
        per_query: columns ``name, qid, measure, value``.
        topics: ``qid, query``.
        qrels: ``qid, docno, label``.
        texts: called with a set of docnos, gives ``{docno: text}``.
    """
    names = list(encoders)
    queries = dict(zip(topics["qid"], topics["query"], strict=True))
    chosen = [qid for qid in telling_topics(per_query, names) if qid in queries]
    best: dict[tuple[str, str], list[str]] = {}
    for name in names:
        run = runs[name].sort_values("rank")
        for qid in chosen:
            best[name, qid] = run.loc[run["qid"] == qid, "docno"].astype(str).tolist()[:_RANKS]
    found = texts({docno for docnos in best.values() for docno in docnos})
    scores = per_query[per_query["measure"].astype(str) == _MEASURE].set_index(["name", "qid"])["value"]
    examples = []
    for qid in chosen:
        relevant = set(qrels.loc[(qrels["qid"] == qid) & (qrels["label"] > 0), "docno"])
        shared = set.intersection(*(set(best[name, qid]) for name in names))
        columns = []
        for name, splade in encoders.items():
            docnos = best[name, qid]
            columns.append({
                "system": name,
                "ndcg": float(scores.get((name, qid), 0.0)),
                "query_terms": [[term, weight] for term, weight in _query_terms(splade, queries[qid])],
                "best": _best_document(splade, queries[qid], docnos[0], found[docnos[0]]) if docnos else None,
                "ranking": [
                    {"docno": docno, "relevant": docno in relevant, "differs": docno not in shared} for docno in docnos
                ],
            })
        examples.append({"qid": qid, "query": queries[qid], "relevant": len(relevant), "systems": columns})
    return examples


def _query_terms(splade: Splade, query: str) -> list[tuple[str, float]]:
    row = splade.encode_queries([query])
    order = row.data.argsort()[::-1][:_TERMS]
    terms, tokenizer = splade.term_map(), splade.encoder.tokenizer
    return [(terms.readable(int(row.indices[i]), tokenizer), float(row.data[i])) for i in order]


def _best_document(splade: Splade, query: str, docno: str, text: str) -> dict[str, Any]:
    from ..splade.explanation import explain

    shown = explain(splade, query, text)
    terms = shown[shown["contribution"] > 0]
    columns = ["term", "contribution", "in_query", "in_document"]
    return {
        "docno": docno,
        "text": text[:_SNIPPET] + ("…" if len(text) > _SNIPPET else ""),
        "score": shown.score,
        "shared": len(terms),
        "terms": [dict(zip(columns, row, strict=True)) for row in terms[columns].head(_TERMS).values.tolist()],
    }


def texts_of(collection: Any, docnos: set[str]) -> dict[str, str]:
    """The texts of some documents of a collection, by one pass over it."""
    return {d["docno"]: d["text"] for d in collection.corpus() if d["docno"] in docnos}


def write_examples(folder: Path, examples: list[dict[str, Any]]) -> None:
    """Keep them beside the results."""
    (folder / EXAMPLES_FILE).write_text(json.dumps(examples, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """What :func:`write_examples` wrote; empty where nothing is."""
    file = folder / EXAMPLES_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
