"""The demonstration: two small backbones, raw, divided and calibrated, on text that every installation holds."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison

#: What the rows of the demonstration are.
LESSON = """The rows (encoders read the first 48 tokens of a text):
- raw: the head as pretraining left it. k=16: the same head divided by 16 (arXiv:2606.18811).
- calibrated: k and a level for each term, measured on texts before training.
- tokens x idf, BM25 on pieces: the backbone's word pieces without a model. An encoder has to be ahead of them.
- BM25 + an encoder: their rankings together, by reciprocal rank fusion, as one would serve them."""
_BACKBONE_STEPS = 400  # of pretraining: half a minute on two cores


def small_backbones(collection: Any, *, seed: int = 0, verbose: bool = True, **settings: Any) -> dict[str, str]:
    """A BERT-like and a ModernBERT-like masked LM pretrained on a collection's documents, cached.

    Documents that the test topics look for are among the texts (unlabelled); the topics are not.
    """
    from ..backbones import small_backbone

    texts = [document["text"] for document in collection.corpus()]
    return {
        family: str(small_backbone(family, texts, seed=seed, verbose=verbose, **settings))
        for family in ("bert", "modernbert")
    }


def demo(
    output_dir: str | os.PathLike[str] = "demo", *, n_docs: int = 1500, n_topics: int = 100, steps: int = 100,
    seed: int = 0, say: Any = print, verbose: bool = True, **options: Any,
) -> Comparison:  # fmt: skip
    """Compare raw, k=16 and calibrated heads, before and after a short SPLADE training, beside BM25.

    Args:
        output_dir: gets the tables, figures, runs and encoders.
        n_docs: documents that are indexed; training uses the pairs of all docstrings.
        n_topics: test topics that are scored.
        steps: SPLADE training steps of each encoder.
        seed: of sample, pretraining and training.
        say: told each step.
        verbose: show progress bars.
        options: others of :func:`~pyterrier_rescale.compare`; without one, all encoders use the exact engine.
    """
    from ..collections import load_collection
    from .comparison import compare

    say("docstrings: reading the installed packages (once, then kept)")
    collection = load_collection("docstrings")
    say("backbones: pretraining two small masked LMs (once, then kept)")
    backbones = small_backbones(collection, seed=seed, steps=_BACKBONE_STEPS, verbose=verbose)
    training = {"batch_size": 24, "max_steps": steps, "ramp_steps": max(1, steps * 3 // 4), "learning_rate": 5e-4}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* have max_length=")  # by the demonstration's choice
        return compare(
            collection.sample(n_docs, n_topics, seed), backbones, output_dir, rescalings=(None, 16.0, "calibrated"),
            untrained=True, num_results=100, max_length=48, seed=seed, training=training, say=say, verbose=verbose,
            **{"engine": "exact", **options},
        )  # fmt: skip
