"""How often the monitor is right: short runs, half of them made to collapse, against how they end.

    python experiments/training/monitor.py --collections COLLECTIONS

100 steps each on Vaswani (titles -> bodies), small backbones of `experiments/calibration`, `monitor="warn"`. A run has
collapsed if it ends below 15% of BM25's nDCG@10 on a sample of 2,000 documents. Finished runs stand in monitor.csv and
are not run again.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd

HERE = Path(__file__).parent
STEPS = 100
COLLAPSED = 0.15
#: What is asked of ``train``; every setting with both backbones and two orders of the data.
MADE_TO_COLLAPSE: dict[str, dict[str, Any]] = {
    "raw": {"rescale": None},
    "enlarged 4 times": {"rescale": 0.25},
    "regulariser x 3,000": {"rescale": 16.0, "lambda_q": 1.5, "lambda_d": 0.9, "ramp_steps": 20},
    "learning rate x 100": {"rescale": 16.0, "learning_rate": 5e-2},
    "raw, temperature .1": {"rescale": None, "temperature": 0.1},
}
MADE_TO_LEARN: dict[str, dict[str, Any]] = {
    "k=8": {"rescale": 8.0},
    "k=16": {"rescale": 16.0},
    "auto": {"rescale": "auto"},
    "calibrated": {"rescale": "calibrated"},
    "calibrated, regulariser x 30": {"rescale": "calibrated", "lambda_q": 1.5e-2, "lambda_d": 9e-3},
}


def main() -> None:
    """Train, score, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/calibration-backbones"))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "calibration"))
    from one_run import TRAINING, Study, bm25, score
    from plan import Run

    from pyterrier_rescale import train
    from pyterrier_rescale.heads.checkpoint import load_backbone

    study = Study(options.collections, options.cache)
    collection = study.collection("vaswani")
    pairs, sample = collection.train_pairs(), collection.sample(2000, 93, 0)
    floor = COLLAPSED * bm25(sample)["ndcg"]
    path = HERE / "monitor.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for seed in range(2):
        for name, asked in (MADE_TO_COLLAPSE | MADE_TO_LEARN).items():
            for family in ("bert", "modernbert"):
                if any((r["setting"], r["backbone"], r["seed"]) == (name, family, seed) for r in rows):
                    continue
                begun = time.monotonic()
                model, tokenizer = load_backbone(study.backbone(Run(family=family, collection="vaswani", start="raw")))
                how = {**TRAINING, "ramp_steps": 75, **asked, "max_steps": STEPS, "seed": seed, "verbose": False}
                with tempfile.TemporaryDirectory() as out, warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    try:
                        splade = train(model, pairs, out, tokenizer=tokenizer, **how)
                        ndcg = score(splade, sample)["ndcg"]
                    except Exception as error:  # a run that is not finite stops whatever the monitor may do
                        ndcg, caught = 0.0, [*caught, warnings.WarningMessage(error, UserWarning, "", 0)]
                said = [str(w.message) for w in caught if re.match(r"step \d+", str(w.message))]
                rows.append({
                    "setting": name, "backbone": family, "seed": seed, "nDCG@10": ndcg, "collapsed": ndcg < floor,
                    "monitor": said[0][:90] if said else "",
                })  # fmt: skip
                pd.DataFrame(rows).to_csv(path, index=False)
                print(len(rows), rows[-1], f"{time.monotonic() - begun:.0f} s", flush=True)
    table = pd.DataFrame(rows)
    table["flagged"] = table["monitor"].fillna("") != ""
    print(table.groupby(["setting", "collapsed"], sort=False)["flagged"].agg(["sum", "size"]))
    for collapsed, part in table.groupby("collapsed"):
        print("collapsed" if collapsed else "others", f"flagged {part['flagged'].sum()} of {len(part)}")


if __name__ == "__main__":
    sys.exit(main())
