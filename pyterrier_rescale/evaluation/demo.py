"""The demonstration: two small backbones, raw, divided and calibrated, on text that every installation holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import Comparison

#: Documents and topics of the sample that is indexed and scored; training uses the pairs of the whole collection.
DEMO_DOCS, DEMO_TOPICS = 1500, 100
DEMO_RESCALINGS: tuple[Any, ...] = (None, 16.0, "calibrated")
DEMO_TRAINING = {
    "batch_size": 24, "max_steps": 100, "learning_rate": 5e-4, "monitor": "warn", "save_steps": 0,
}  # fmt: skip
DEMO_LENGTH = 48
#: Pretraining steps of each small backbone: half a minute on two cores.
DEMO_BACKBONE_STEPS = 400
FAMILIES = ("bert", "modernbert")
#: What the demonstration's table is there to show.
LESSON = """What you have just seen:
- raw: the head as pretraining left it. Its scores are so large that the softmax has no gradient: training is lost.
- k=16: the same head divided by 16 (arXiv:2606.18811). Now it trains; a document still takes a thousand terms and more.
- calibrated: k and a level per term, measured on texts before training. It ranks untrained, with fewer terms.
- BM25, and the encoder's own word pieces (tokens x idf, BM25 on pieces), need no model: be ahead of them to be useful.
- One seed, minutes of training, small models: the table shows the effect, not the level."""


def small_backbones(collection: Any, *, seed: int = 0, verbose: bool = True, **settings: Any) -> dict[str, str]:
    """A BERT-like and a ModernBERT-like masked LM pretrained on a collection's documents, cached.

    Documents that the test topics look for are among the texts (unlabelled); the topics are not.
    """
    from ..backbones import small_backbone

    texts = [document["text"] for document in collection.corpus()]
    return {family: str(small_backbone(family, texts, seed=seed, verbose=verbose, **settings)) for family in FAMILIES}


def demo(
    output_dir: str | os.PathLike[str] = "demo",
    *,
    n_docs: int = DEMO_DOCS,
    n_topics: int = DEMO_TOPICS,
    steps: int = DEMO_TRAINING["max_steps"],
    seed: int = 0,
    say: Callable[[str], None] = print,
    command: str | None = None,
    verbose: bool = True,
) -> Comparison:
    """Compare raw, k=16 and calibrated heads, before and after a short SPLADE training, beside BM25.

    Args:
        output_dir: gets the tables, figures, runs and encoders.
        n_docs: documents that are indexed.
        n_topics: test topics that are scored.
        steps: SPLADE training steps of each encoder.
        seed: of sample, pretraining and training.
        say: told each step.
        command: what the report says it was made by.
        verbose: show progress bars.
    """
    from ..collections import load_collection
    from .comparison import compare

    say("docstrings: reading the installed packages (once, then kept)")
    collection = load_collection("docstrings")
    say("backbones: pretraining two small masked LMs (once, then kept)")
    backbones = small_backbones(collection, seed=seed, steps=DEMO_BACKBONE_STEPS, verbose=verbose)
    return compare(
        collection.sample(n_docs, n_topics, seed),
        backbones,
        output_dir,
        rescalings=DEMO_RESCALINGS,
        untrained=True,
        num_results=100,
        max_length=DEMO_LENGTH,
        seed=seed,
        training={**DEMO_TRAINING, "max_steps": steps, "ramp_steps": max(1, steps * 3 // 4)},
        say=say,
        command=command,
        verbose=verbose,
    )
