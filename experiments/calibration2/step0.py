"""Block 0: the arms before training, scored in and out of domain."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from arms import SOURCES, Sources, make_arms, token_frequencies
from data import UNSEEN, Study
from scoring import terrier, with_fusion

from pyterrier_rescale.encoding.lexical import inverse_frequencies
from pyterrier_rescale.heads.checkpoint import load_backbone

MAX_LENGTH = 96
BLOCK = 256
SAMPLE = 512


def sample(pairs: list[tuple[str, str]], size: int = SAMPLE) -> list[tuple[str, str]]:
    """Pairs spread evenly over the training data, each document once."""
    chosen = {document: query for query, document in pairs[:: max(1, len(pairs) // size)]}
    return [(query, document) for document, query in chosen.items()][:size]


def measured(
    study: Study, backbone: str, collection: str, seed: int = 0, only: str | None = None
) -> tuple[dict, dict, Sources, Any]:
    """Arms (or one of A to I), facts, sources and tokenizer of a backbone, measured on a collection's pairs."""
    model, tokenizer = load_backbone(study.backbone(backbone, seed))
    sources = Sources(model, tokenizer, MAX_LENGTH, study.device)
    queries, documents = zip(*sample(study.pairs(collection)[0]), strict=True)
    needed = SOURCES if only is None else ("centred", "top")[: 1 + (only == "H")]
    probes = {name: sources.probe(name, list(queries), list(documents)) for name in needed}
    texts = study.corpus(collection)[1]
    counts, frequencies = token_frequencies(tokenizer, texts, MAX_LENGTH, len(sources.bias))
    arms, facts = make_arms(probes, counts, frequencies, len(texts), seed, only)
    return arms, facts, sources, tokenizer


def idf_of(study: Study, collection: str, splade: Any) -> np.ndarray:
    """Arm J's gain of query terms, (V,): their IDF in the collection that is trained on."""
    texts, encoder = study.corpus(collection)[1], splade.encoder
    counts = token_frequencies(encoder.tokenizer, texts, MAX_LENGTH, encoder.vocab_size)
    return inverse_frequencies(counts[1], len(texts))


def step0(study: Study, backbone: str, collection: str, *, unseen: bool = True, say: Any = print) -> dict[str, Any]:
    """A result row: every arm's scores; the documents pass the model once."""
    begun = time.perf_counter()
    arms, facts, sources, _ = measured(study, backbone, collection)
    say(f"{backbone}, {collection}: {pd.Series(facts).round(3).to_dict()}")
    row: dict[str, Any] = {"facts": facts, "k": {name: arm.k for name, arm in arms.items()}, "scores": {}}
    bias = sources.bias
    for name in (collection, *(UNSEEN if unseen else ())):
        topics = study.test(name)
        scores = {arm: np.zeros((len(topics.qids), len(topics.docnos)), dtype=np.float32) for arm in arms}
        active = dict.fromkeys(arms, 0)
        asked = sources.pooled(topics.queries)
        queries = {arm.name: arm.weights(asked[arm.source], bias, query=True) for arm in arms.values()}
        for begin in range(0, len(topics.texts), BLOCK):
            texts = [text if text.strip() else "." for text in topics.texts[begin : begin + BLOCK]]
            pooled = sources.pooled(texts)
            for arm in arms.values():
                weights = arm.weights(pooled[arm.source], bias)
                active[arm.name] += int(np.count_nonzero(weights))
                scores[arm.name][:, begin : begin + BLOCK] = queries[arm.name] @ weights.T
        say(f"  {name} scored after {time.perf_counter() - begun:.0f} s")
        bm25 = terrier(study, name, topics)
        row["scores"][name] = {
            arm: {**with_fusion(topics, values, bm25), "active_d": round(active[arm] / len(topics.texts), 1)}
            for arm, values in scores.items()
        }
    row["seconds"] = round(time.perf_counter() - begun, 1)
    return row
