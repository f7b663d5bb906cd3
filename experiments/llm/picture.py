"""The gallery's picture of SmolLM2's head: logits by position, and which terms fire at which k.

    python experiments/llm/picture.py --collections COLLECTIONS --model FOLDER    # language_model.png, a minute

64 abstracts of SciFact, the first 64 tokens of each; FOLDER as for run.py. Prints the numbers that the text names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from run import smollm2

from pyterrier_rescale import load_collection
from pyterrier_rescale.heads.checkpoint import load_backbone

DRAWN = Path(__file__).resolve().parents[2] / "pyterrier_rescale" / "pt_docs" / "language_model.png"
TEXTS, LENGTH, RATE = 64, 64, 0.03
DIVISORS = 2.0 ** np.arange(0, 7)


@torch.inference_mode()
def logits_of(model: object, tokenizer: object, texts: list[str]) -> list[np.ndarray]:
    """Logits of each text, (L, V), by the stock model."""
    inputs = (tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt") for text in texts)
    return [model(**one).logits[0].float().numpy() for one in inputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("smollm2"))
    options = parser.parse_args()
    documents = load_collection(options.collections / "scifact").corpus()
    texts = [document["text"] for document, _ in zip(documents, range(TEXTS), strict=False)]
    model, tokenizer = load_backbone(smollm2(options.model), attention="bidirectional")
    logits = logits_of(model.eval(), tokenizer, texts)
    first, others = np.stack([one[0] for one in logits]), np.concatenate([one[1:] for one in logits])
    pooled = np.stack([one.max(axis=0) for one in logits])
    won = np.mean([one.argmax(axis=0) == 0 for one in logits])
    print(f"first position: mean {first.mean():.1f}, wins {won:.1%} of all terms; others: mean {others.mean():.1f}")
    print(f"pooled: mean {pooled.mean():.1f}, std {pooled.std():.1f}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    bins = np.linspace(-10, 40, 101)
    every = max(1, others.size // 5_000_000)
    for values, label in ((others.ravel()[::every], "other positions"), (first.ravel(), "first position"),
                          (pooled.ravel(), "largest of a text")):  # fmt: skip
        left.hist(values, bins, density=True, histtype="step", label=label)
    left.axvline(0, color="black", linewidth=0.8)
    left.set(xlabel="logit", ylabel="share", title="The largest logits of a text all lie above 0", yticks=[])
    left.legend(frameon=False)
    shifts = {
        "divided by k": 0.0,
        "one offset, then k": np.quantile(pooled, 1 - RATE),
        "an offset per term, then k": np.quantile(pooled, 1 - RATE, axis=0),
    }
    for (label, shift), marker in zip(shifts.items(), "osx", strict=True):
        active = [float((np.log1p(np.maximum(0, (pooled - shift) / k)) > 0).mean()) for k in DIVISORS]
        print(label, [round(share, 4) for share in active])
        right.plot(DIVISORS, active, marker=marker, label=label)
    right.set(xscale="log", xlabel="k", ylim=(0, 1.05), title="Share of terms that fire")
    right.set_xticks(DIVISORS, [f"{k:g}" for k in DIVISORS])
    right.minorticks_off()
    right.legend(frameon=False)
    figure.savefig(DRAWN, dpi=110)


if __name__ == "__main__":
    main()
