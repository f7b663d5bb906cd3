"""Three losses, raw and rescaled heads, trained by the command line on two collections.

    python experiments/training/run.py --collections COLLECTIONS

COLLECTIONS is a folder of BEIR folders with vaswani and scifact. Teacher scores, which MarginMSE and KL distil, are
those of BM25: two hard negatives per query from Terrier's BM25, its scores beside them. InfoNCE trains on the same
rows. A finished run, with its row in results.csv and its log under --runs, is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd

HERE = Path(__file__).parent
LOSSES = ("infonce", "margin_mse", "kl")
RESCALES = ("none", "16", "calibrated")
NEGATIVES = 2
STEPS = {"vaswani": 200, "scifact": 120}
#: KL compares distributions: the teacher's scores differ by some ten units, which would leave one document of three.
TEMPERATURES = {"infonce": 1.0, "margin_mse": 1.0, "kl": 5.0}


def with_teacher(collection, path: Path) -> None:
    """Write rows of query, positive, negatives and BM25's scores of them; a document not found scores zero."""
    import pyterrier as pt

    from pyterrier_rescale._utils.java import start_java

    start_java()
    pairs = collection.train_pairs()
    documents = list(dict.fromkeys(document for _, document, *_ in pairs))
    places = {document: str(place) for place, document in enumerate(documents)}
    queries = pd.DataFrame({"qid": [str(n) for n in range(len(pairs))], "query": [query for query, *_ in pairs]})
    with tempfile.TemporaryDirectory() as folder:
        index = pt.terrier.TerrierIndex(f"{folder}/index")
        index.indexer(meta={"docno": 20}).index({"docno": n, "text": text} for text, n in places.items())
        found = (pt.rewrite.tokenise() >> index.bm25(num_results=50))(queries)
    with path.open("w", encoding="utf-8") as out:
        groups = dict(tuple(found.groupby("qid")))
        for number, (query, document, *_) in enumerate(pairs):
            ranked = groups.get(str(number))
            if ranked is None:
                continue
            scores = dict(zip(ranked["docno"], ranked["score"], strict=True))
            negatives = [docno for docno in scores if docno != places[document]][:NEGATIVES]
            if len(negatives) < NEGATIVES:
                continue
            row = {
                "query": query, "positive": document, "negatives": [documents[int(docno)] for docno in negatives],
                "scores": [round(scores.get(docno, 0.0), 4) for docno in (places[document], *negatives)],
            }  # fmt: skip
            out.write(json.dumps(row) + "\n")


def command(backbone: Path, data: Path, out: Path, collection: str, loss: str, rescale: str) -> list[str]:
    """The command line of a run."""
    steps = STEPS[collection]
    return [
        "pyterrier-rescale", "train", str(backbone), str(data), str(out), "--loss", loss, "--rescale", rescale,
        "--max-steps", str(steps), "--set", f"ramp_steps={steps * 3 // 4}", "--batch-size", "16",
        "--learning-rate", "5e-4", "--max-length", "96", "--set", f"temperature={TEMPERATURES[loss]}",
        "--set", "monitor=warn", "--overwrite", "--quiet",
    ]  # fmt: skip


def draw(runs: Path, table: pd.DataFrame, path: Path) -> None:
    """Curves of ranking loss and active terms, a column per loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for collection, rows in table.groupby("collection"):
        figure, axes = pyplot.subplots(2, len(LOSSES), figsize=(11, 5.5), layout="constrained", sharex=True)
        for column, loss in enumerate(LOSSES):
            for _, row in rows[rows["loss"] == loss].iterrows():
                log = pd.read_csv(runs / collection / f"{loss}-{row['rescale']}" / "monitor.csv")
                label = {"none": "raw", "16": "k=16"}.get(str(row["rescale"]), row["rescale"])
                axes[0, column].plot(log["step"], log["ranking"], label=label)
                axes[1, column].plot(log["step"], log["active_d"].clip(lower=0.1), label=label)
            axes[0, column].set(title=loss, yscale="log", ylabel="ranking loss" if column == 0 else None)
            axes[1, column].set(yscale="log", xlabel="step", ylabel="terms per document" if column == 0 else None)
        axes[0, 0].legend(frameon=False)
        figure.suptitle(collection)
        figure.savefig(path / f"{collection}.png", dpi=110)
        pyplot.close(figure)


def main() -> None:
    """Train, score, table, curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/training"))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "calibration"))
    from one_run import score

    from pyterrier_rescale import Splade, load_collection, small_backbone

    results = HERE / "results.csv"
    rows = pd.read_csv(results, dtype={"rescale": str}).to_dict("records") if results.exists() else []
    for name in STEPS:
        collection = load_collection(options.collections / name)
        backbone = small_backbone("modernbert", [d["text"] for d in collection.corpus()], steps=800)
        data = options.runs / f"{name}.jsonl"
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            with_teacher(collection, data)
        for loss in LOSSES:
            for rescale in RESCALES:
                out = options.runs / name / f"{loss}-{rescale}"
                others = [r for r in rows if (r["collection"], r["loss"], r["rescale"]) != (name, loss, rescale)]
                if len(others) < len(rows) and (out / "monitor.csv").exists():  # the curves are drawn from the log
                    continue
                rows = others
                line = command(backbone, data, out, name, loss, rescale)
                print(shlex.join(line), flush=True)
                done = subprocess.run(line, check=True, capture_output=True, text=True)
                warned = [line for line in done.stderr.splitlines() if ": step " in line]
                verdicts = [line.split("UserWarning: ")[1][:60] for line in warned]
                log = pd.read_csv(out / "monitor.csv")
                figures = score(Splade(out, device="cpu"), collection)
                rows.append({
                    "collection": name, "loss": loss, "rescale": rescale, "nDCG@10": figures["ndcg"],
                    "terms/query": figures["active_q"], "terms/document": figures["active_d"],
                    "first loss": log["ranking"].iloc[0], "last loss": log["ranking"].iloc[-1],
                    "first gradient norm": log["grad_norm"].iloc[0], "monitor": "; ".join(verdicts),
                })  # fmt: skip
                print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(results, index=False)
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    draw(options.runs, table, HERE)


if __name__ == "__main__":
    sys.exit(main())
