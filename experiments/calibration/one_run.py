"""One run of the study: backbone, start, audit, training, scores."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plan import UNSEEN, Run

TRAINING = {
    "batch_size": 24, "learning_rate": 5e-4, "max_length": 96, "monitor": "warn", "save_steps": 0, "device": "cpu",
}  # fmt: skip
LAMBDA_Q, LAMBDA_D = 5e-4, 3e-4
PRETRAINING_STEPS = 1000
#: Steps whose monitor rows are kept.
WATCHED = (1, 2, 5, 10, 25, 50, 100, 150, 200, 250, 500, 1000)
KEPT_COLUMNS = ("step", "loss", "contrast", "saturation", "score_std", "active_q", "active_d", "cosine", "grad_norm")


class Study:
    """Folders of the collections and caches."""

    def __init__(self, collections: Path, cache: Path) -> None:
        self.collections, self.cache = collections, cache

    @cache  # noqa: B019  (one study per process)
    def collection(self, name: str):
        from pyterrier_rescale import load_collection

        return load_collection(self.collections / name)

    @cache  # noqa: B019
    def texts(self) -> list[str]:
        """What backbones are pretrained on: the corpora that are trained on, never the unseen ones."""
        return [d["text"] for name in ("vaswani", "scifact", "medquad") for d in self.collection(name).corpus()]

    def backbone(self, run: Run) -> Path:
        from pyterrier_rescale import small_backbone

        return small_backbone(
            run.family, self.texts(), self.cache, seed=run.seed, steps=PRETRAINING_STEPS, layers=run.layers,
            hidden=run.hidden, lowercase=run.lowercase,
        )  # fmt: skip

    def carry_out(self, run: Run) -> dict[str, Any]:
        """The row of a run."""
        from pyterrier_rescale import Splade, audit, rescale, train
        from pyterrier_rescale.heads.checkpoint import load_backbone
        from pyterrier_rescale.heads.provenance import provenance
        from pyterrier_rescale.training.initialization import LEARNED_START

        begun = time.perf_counter()
        model, tokenizer = load_backbone(self.backbone(run))
        pairs = self.collection(run.collection).train_pairs()
        how: Any = None if run.start == "raw" else run.start
        if how == "calibrated" or run.placement != "decoder":
            model = self.started(model, tokenizer, run, pairs)
            how = None
        if run.steps == 0 and how is not None:
            model = self.started(model, tokenizer, run, pairs)
            how = None
        row: dict[str, Any] = {"id": run.id, "run": dataclasses.asdict(run), "warnings": []}
        with tempfile.TemporaryDirectory() as out, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if run.steps:
                start, learned = model, how == "learned"
                if isinstance(how, float):
                    start = rescale(model, how)
                elif how == "auto":
                    start = self.started(model, tokenizer, run, pairs)
                elif learned:
                    start = rescale(model, LEARNED_START)
                row["audit"] = numbers(audit(start, texts=sample(pairs), tokenizer=tokenizer))
                splade = train(
                    model if learned else start, pairs, out, tokenizer=tokenizer,
                    rescale="learned" if learned else None, max_steps=run.steps, seed=run.seed,
                    ramp_steps=max(1, run.steps * 3 // 4), lambda_q=LAMBDA_Q * run.penalty,
                    lambda_d=LAMBDA_D * run.penalty, verbose=False, **TRAINING,
                )  # fmt: skip
                row["k"] = (provenance(splade.encoder.model if learned else start) or {}).get("k", 1.0)
                log = pd.read_csv(Path(out) / "monitor.csv")
                row["dynamics"] = log.loc[log["step"].isin(WATCHED), list(KEPT_COLUMNS)].round(4).to_dict("list")
            else:
                row["k"] = (provenance(model) or {}).get("k", 1.0)
                splade = Splade(model, tokenizer=tokenizer, max_length=TRAINING["max_length"], device="cpu")
            for warning in caught:
                found = re.match(r"step (\d+).*?: (.*)", str(warning.message))
                if found:
                    row["warnings"].append(found.group(0)[:90])
            names = [run.collection, *(UNSEEN if run.unseen else ())]
            row["scores"] = {name: score(splade, self.collection(name)) for name in names}
        row["seconds"] = round(time.perf_counter() - begun, 1)
        return row

    def started(self, model: Any, tokenizer: Any, run: Run, pairs: list) -> Any:
        """The model with its start applied: what ``train(rescale=...)`` does, with the study's further settings."""
        from starts import calibrated, divided_at_the_norm

        from pyterrier_rescale import rescale

        if isinstance(run.start, float):
            return rescale(model, run.start) if run.placement == "decoder" else divided_at_the_norm(model, run.start)
        offset: Any = run.start == "calibrated" and {"term": True, "global": "global", "none": False}[run.offset]
        return calibrated(
            model, tokenizer, sample(pairs), offset=offset, centre=run.start == "calibrated" and run.centre,
            rate=run.rate, max_length=TRAINING["max_length"], device="cpu",
        )  # fmt: skip


def sample(pairs: list, size: int = 512) -> list[tuple[str, str]]:
    """Pairs spread evenly over the training data, each document once."""
    chosen = {document: query for query, document, *_ in pairs[:: max(1, len(pairs) // size)]}
    return [(query, document) for document, query in chosen.items()][:size]


def numbers(audit: Any) -> dict[str, float]:
    """The audit's numeric columns."""
    row = audit.to_frame().iloc[0].to_dict()
    return {
        name: float(f"{value:.5g}")
        for name, value in row.items()
        if isinstance(value, (int, float, np.number)) and np.isfinite(value)
    }


def score(splade: Any, collection: Any) -> dict[str, Any]:
    """nDCG@10 on the test topics by exact dot products: mean and values per topic (by qid), and active terms."""
    import ir_measures
    from ir_measures import nDCG

    documents = list(collection.corpus())
    topics, qrels = collection.topics("test"), collection.qrels("test")
    topics = topics[topics["qid"].isin(set(qrels["qid"]))].sort_values("qid")
    matrix = splade.encode_docs([d["text"] for d in documents])
    queries = splade.encode_queries(topics["query"].tolist())
    names = np.array([d["docno"] for d in documents])
    run = []
    for begin in range(0, queries.shape[0], 64):
        scores = (queries[begin : begin + 64] @ matrix.T).toarray()
        best = np.argpartition(-scores, 10, axis=1)[:, :10]
        for number, places in enumerate(best):
            qid = topics["qid"].iloc[begin + number]
            run += [
                ir_measures.ScoredDoc(qid, names[p], float(scores[number, p])) for p in places if scores[number, p] > 0
            ]
    judged = [ir_measures.Qrel(q, d, int(label)) for q, d, label in qrels[["qid", "docno", "label"]].itertuples(False)]
    values = {metric.query_id: metric.value for metric in ir_measures.iter_calc([nDCG @ 10], judged, run)}
    per_query = [round(values.get(qid, 0.0), 3) for qid in topics["qid"]]
    return {
        "ndcg": round(float(np.mean(per_query)), 5), "per_query": per_query,
        "active_d": round(matrix.nnz / matrix.shape[0], 1), "active_q": round(queries.nnz / queries.shape[0], 1),
    }  # fmt: skip


def bm25(collection: Any) -> dict[str, Any]:
    """BM25 of Terrier on the same topics."""
    import ir_measures
    import pyterrier as pt
    from ir_measures import nDCG

    from pyterrier_rescale._utils.java import start_java

    start_java()
    topics, qrels = collection.topics("test"), collection.qrels("test")
    topics = topics[topics["qid"].isin(set(qrels["qid"]))].sort_values("qid")
    with tempfile.TemporaryDirectory() as folder:
        index = pt.terrier.TerrierIndex(f"{folder}/index")
        index.indexer(meta={"docno": 64}).index({"docno": d["docno"], "text": d["text"]} for d in collection.corpus())
        found = (pt.rewrite.tokenise() >> index.bm25(num_results=10))(topics)
    found = found.rename(columns={"qid": "query_id", "docno": "doc_id"})[["query_id", "doc_id", "score"]]
    judged = qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
    values = {m.query_id: m.value for m in ir_measures.iter_calc([nDCG @ 10], judged, found)}
    per_query = [round(values.get(qid, 0.0), 3) for qid in topics["qid"]]
    return {"ndcg": round(float(np.mean(per_query)), 5), "per_query": per_query}
