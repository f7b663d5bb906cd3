"""What centring W does, measured on data that is not scored: why ``calibrate`` centres it.

    python experiments/calibration/centring.py --collections COLLECTIONS

Calibrated starts with and without it: how many terms fire in pairs of Vaswani that were not calibrated on, and, after
250 steps on Vaswani, nDCG@10 on NFCorpus's dev topics, with how smoothly the training went. One seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
from analyse import markdown
from one_run import LAMBDA_D, LAMBDA_Q, TRAINING, Study, sample, score
from plan import Run

from pyterrier_rescale import Splade, train
from pyterrier_rescale.heads.checkpoint import load_backbone

HELD_OUT = 1500


@dataclasses.dataclass
class DevTopics:
    """A collection whose dev topics stand for its test topics."""

    collection: Any

    def corpus(self) -> Any:
        """The documents."""
        return self.collection.corpus()

    def topics(self, _: str) -> pd.DataFrame:
        """The dev topics."""
        return self.collection.topics("dev")

    def qrels(self, _: str) -> pd.DataFrame:
        """Their judgements."""
        return self.collection.qrels("dev")


def measure(study: Study, run: Run) -> dict[str, Any]:
    """A row: one start, before and after training."""
    pairs = study.collection(run.collection).train_pairs()
    model, tokenizer = load_backbone(study.backbone(run))
    start = study.started(model, tokenizer, run, pairs)
    measured_on = set(sample(pairs))
    others = [pair for pair in ((query, document) for query, document, *_ in pairs) if pair not in measured_on]
    others = others[:: max(1, len(others) // HELD_OUT)][:HELD_OUT]
    encoder = Splade(start, tokenizer=tokenizer, max_length=TRAINING["max_length"], device="cpu")
    line: dict[str, Any] = {"backbone": run.family, "centred": "yes" if run.centre else "no"}
    for side, number in (("query", 0), ("document", 1)):
        active = np.diff(encoder.encode_docs([pair[number] for pair in others]).indptr)
        figures = np.percentile(active, (50, 99, 100))
        line[f"terms per {side}: median, 99%, most"] = ", ".join(f"{figure:.0f}" for figure in figures)
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        splade = train(
            start, pairs, out, tokenizer=tokenizer, rescale=None, max_steps=run.steps, seed=run.seed,
            ramp_steps=run.steps * 3 // 4, lambda_q=LAMBDA_Q, lambda_d=LAMBDA_D, verbose=False, **TRAINING,
        )  # fmt: skip
        log = pd.read_csv(Path(out) / "monitor.csv")
    return line | {
        "largest gradient norm after step 10": f"{log['grad_norm'][10:].max():.0f}",
        "mean loss of the last 50": f"{log['loss'][-50:].mean():.3f}",
        "NFCorpus dev nDCG@10": f"{score(splade, DevTopics(study.collection('nfcorpus')))['ndcg']:.3f}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/calibration-backbones"))
    options = parser.parse_args()
    study = Study(options.collections, options.cache)
    rows = [
        measure(study, Run(family=family, collection="vaswani", start="calibrated", centre=centre))
        for family in ("bert", "modernbert")
        for centre in (False, True)
    ]
    print(markdown(rows))


if __name__ == "__main__":
    sys.exit(main())
