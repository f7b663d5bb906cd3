"""Query weights where they enter: a retriever, a scorer, feedback, an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .intake import parse_stamp


def query_weights(toks: Any, qid: Any, vocabulary: str | None) -> dict[str, float]:
    """A query's terms of weight > 0.

    Args:
        toks: {term: weight >= 0}, unscaled.
        qid: of the query, for messages.
        vocabulary: fingerprint of the documents' vocabulary, if it is known.

    Raises:
        TypeError: no dict of str -> number.
        ValueError: weights below 0 or not finite, scaled ones, or those of another vocabulary.
    """
    if not isinstance(toks, Mapping):
        raise TypeError(f"query_toks of query {qid!r} must be a dict of term -> weight, got {toks!r:.80}")
    stamp = parse_stamp(toks)
    if stamp and vocabulary and stamp[0] != vocabulary:
        raise ValueError(
            f"query {qid!r} was encoded with another vocabulary ({stamp[0]}) than the documents ({vocabulary}): encode "
            "it again, with the query encoder of the model that encoded the documents"
        )
    if stamp and stamp[1] != 1:
        raise ValueError(
            f"query {qid!r} was encoded at scale {stamp[1]:g}, unscaled weights are needed: use query_encoder(scale=1)"
        )
    try:
        weights = np.fromiter(toks.values(), dtype=np.float64, count=len(toks))
    except (TypeError, ValueError):
        weights = np.full(1, np.nan)
    if not (np.isfinite(weights) & (weights >= 0)).all() or any(isinstance(w, str) for w in toks.values()):
        raise ValueError(f"query {qid!r}: weights must be finite numbers >= 0, got {dict(toks)!r:.200}")
    if not all(isinstance(term, str) for term in toks):
        raise TypeError(f"query {qid!r}: terms must be str, got {dict(toks)!r:.200}")
    return {term: weight for term, weight in zip(toks, weights.tolist(), strict=True) if weight > 0}
