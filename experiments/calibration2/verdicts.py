"""What the audit's verdict would have said of every start on record, and how its run ended.

    python experiments/calibration2/verdicts.py

Reads the results of both studies, with the thresholds of ``analysis/verdict.py`` as they are now. No model is run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from pyterrier_rescale.analysis.verdict import judge

HERE = Path(__file__).resolve().parent
FILES = {
    "first": [HERE.parent / "calibration" / "results.jsonl"],
    "second": [HERE / "results.jsonl", HERE / "results-gpu.jsonl"],
}


def said(audit: dict) -> str:
    """The verdict on a row of an audit that was written before training; what its k was is not asked."""
    numbers = {"infonce": audit.get("loss"), "texts": np.exp(audit["chance_loss"]), **audit, "rescaled_by": np.nan}
    return "; ".join(judge(numbers, np.nan)[0]) or "fine"


def runs() -> pd.DataFrame:
    """A row per run of 100 steps or more: its start, the numbers before training, the findings, its end."""
    rows = []
    for study, files in FILES.items():
        for result in (json.loads(line) for file in files for line in file.read_text().splitlines()):
            run, audit = result.get("run", {"steps": 0}), result.get("audit")
            if run["steps"] < 100 or audit is None:
                continue
            collection = run["collection"]
            rows.append({
                "study": study, "backbone": run.get("backbone") or f"{run['family']} {run['layers']}x{run['hidden']}",
                "collection": collection, "topics": run.get("topics", "test"), "steps": run["steps"],
                "pairs": run.get("batch_size", 0), "start": str(run["start"]), "said": said(audit),
                "loss": audit.get("infonce", audit.get("loss")) / audit["chance_loss"],
                "saturation": audit["random_saturation"],
                "ndcg": result["scores"][collection]["ndcg"],
            })  # fmt: skip
    table = pd.DataFrame(rows)
    # against the best run of the same backbone, collection, length and batch, whatever its start and rate
    same = table.groupby(["study", "backbone", "collection", "topics", "steps", "pairs"])["ndcg"]
    return table.assign(share=table["ndcg"] / same.transform("max"))


def summed(table: pd.DataFrame, by: list[str]) -> str:
    """A line per group: runs, what was measured, and how they ended."""
    lines = ["| " + " | ".join([*by, "runs", "loss / ln B", "saturation", "nDCG@10 of the best", "below half"]) + " |"]
    lines.append("|" + " --- |" * (len(by) + 5))
    for key, rows in table.groupby(by):
        low, high = rows["loss"].min(), rows["loss"].max()
        least, most = rows["saturation"].min(), rows["saturation"].max()
        cells = [
            *key, len(rows), f"{low:.2g} to {high:.3g}", f"{least:.2f} to {most:.2f}",
            f"{rows['share'].mean():.2f} ({rows['share'].min():.2f} to {rows['share'].max():.2f})",
            int((rows["share"] < 0.5).sum()),
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = runs()
    print(summed(found, ["study", "said"]), "\n")
    print(summed(found[found["study"] == "second"], ["backbone", "start", "said"]))
