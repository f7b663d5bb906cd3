"""nDCG@10 of scores, alone and fused with BM25; the model-free rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import scipy.sparse
from data import Study, Topics
from ir_measures import nDCG

DEPTH = 1000


def judged(topics: Topics, scores: np.ndarray) -> dict[str, Any]:
    """nDCG@10 of dense scores (Q, N): mean and values per topic; documents with a score of 0 are not retrieved."""
    run = []
    most = min(10, scores.shape[1])
    for qid, row in zip(topics.qids, scores, strict=True):
        best = np.argpartition(-row, most - 1)[:most]
        run += [ir_measures.ScoredDoc(qid, topics.docnos[p], float(row[p])) for p in best if row[p] > 0]
    rows = topics.qrels[["qid", "docno", "label"]].itertuples(index=False)
    qrels = [ir_measures.Qrel(qid, docno, int(label)) for qid, docno, label in rows]
    values = {metric.query_id: metric.value for metric in ir_measures.iter_calc([nDCG @ 10], qrels, run)}
    per_query = [round(values.get(qid, 0.0), 4) for qid in topics.qids]
    return {"ndcg": round(float(np.mean(per_query)), 5), "per_query": per_query}


def scaled(scores: np.ndarray, depth: int = DEPTH) -> np.ndarray:
    """Per query: the first ``depth`` scores above 0 from 0 (the last of them) to 1 (the first), all others 0."""
    out = np.zeros(scores.shape, dtype=np.float32)
    for row, to in zip(scores, out, strict=True):
        kept = np.flatnonzero(row > 0)
        if len(kept) > depth:
            kept = kept[np.argpartition(-row[kept], depth - 1)[:depth]]
        if len(kept):
            low, high = row[kept].min(), row[kept].max()
            to[kept] = (row[kept] - low) / (high - low) if high > low else 1.0
    return out


def with_fusion(topics: Topics, scores: np.ndarray, bm25: np.ndarray | None) -> dict[str, Any]:
    """What a system scores, and what it scores when BM25 is added (per query min-max, summed)."""
    result = judged(topics, scores)
    if bm25 is not None:
        result["fused"] = judged(topics, scaled(scores) + scaled(bm25))
    return result


def scores_of(
    encoder: Any, topics: Topics, query_gain: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Dense scores (Q, N) of an encoder's exact dot products, and its active terms; a gain (V,) multiplies queries."""
    queries, documents = encoder.encode_queries(topics.queries), encoder.encode_docs(topics.texts)
    if query_gain is not None:
        queries = queries @ scipy.sparse.diags(query_gain)
    active = {"active_q": queries.nnz / queries.shape[0], "active_d": documents.nnz / documents.shape[0]}
    return (queries @ documents.T).toarray(), {name: round(value, 1) for name, value in active.items()}


def terrier(study: Study, name: str, topics: Topics) -> np.ndarray:
    """Scores (Q, N) of Terrier's BM25 on whole texts, 0 beyond the first 1,000; kept in the cache."""
    path = study.cache_folder / f"bm25-{name}-{topics.fingerprint()}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            scipy.sparse.save_npz(written, scipy.sparse.csr_matrix(_terrier(topics)))
            written.replace(path)
    return scipy.sparse.load_npz(path).toarray()


def _terrier(topics: Topics) -> np.ndarray:
    import pandas as pd
    import pyterrier as pt

    from pyterrier_rescale._utils.java import start_java

    start_java()
    frame = pd.DataFrame({"qid": topics.qids, "query": topics.queries})
    with tempfile.TemporaryDirectory() as folder:
        index = pt.terrier.TerrierIndex(f"{folder}/index")
        longest = max(map(len, topics.docnos))
        index.indexer(meta={"docno": longest}).index(
            {"docno": d, "text": t} for d, t in zip(topics.docnos, topics.texts, strict=True)
        )
        found = (pt.rewrite.tokenise() >> index.bm25(num_results=DEPTH))(frame)
    rows = {qid: number for number, qid in enumerate(topics.qids)}
    columns = {docno: number for number, docno in enumerate(topics.docnos)}
    scores = np.zeros((len(topics.qids), len(topics.docnos)), dtype=np.float32)
    scores[found["qid"].map(rows), found["docno"].map(columns)] = found["score"].clip(lower=1e-6)
    return scores


def model_free(tokenizer: Any, topics: Topics, max_length: int, bm25: np.ndarray) -> dict[str, dict[str, Any]]:
    """The rows that need no model."""
    from pyterrier_rescale import LexicalEncoder

    rows = {"BM25 (Terrier)": judged(topics, bm25)}
    statistics = None
    for label, weighting in (("tokens x IDF", "tokens"), ("BM25 on pieces", "bm25")):
        encoder = LexicalEncoder(
            tokenizer, idf_from=statistics or topics.texts, weighting=weighting, max_length=max_length
        )
        statistics = encoder.idf_from
        scores, active = scores_of(encoder, topics)
        rows[label] = {**with_fusion(topics, scores, bm25), **active}
    return rows
