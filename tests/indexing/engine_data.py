"""Documents and queries for the engines' tests, and their exact scores by hand."""

from __future__ import annotations

import importlib.util

import numpy as np
import pandas as pd
import pytest

HAS_PISA = importlib.util.find_spec("pyterrier_pisa") is not None
ENGINES = ["exact", "terrier", pytest.param("pisa", marks=pytest.mark.skipif(not HAS_PISA, reason="no pyterrier-pisa"))]
# How far an engine's scores may be from exact ones: PISA rounds the query's weights to thousandths of the largest.
TOLERANCE = {"exact": 1e-9, "terrier": 1e-9, "pisa": 2e-2}


def make_docs(n: int, vocabulary: int = 2000, terms: int = 40, seed: int = 0) -> list[dict]:
    """Documents with integer weights; one without terms; docnos not in index order."""
    rng = np.random.default_rng(seed)
    docs = []
    for i in range(n):
        chosen = rng.choice(vocabulary, terms, replace=False)
        weights = rng.integers(1, 300, terms)
        toks = {f"x{t}": int(w) for t, w in zip(chosen, weights, strict=True)}
        docs.append({"docno": f"doc{(i * 7919) % n}", "toks": toks if i != n // 2 else {}})
    return docs


def make_queries(n: int, vocabulary: int = 2000, terms: int = 12, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    toks = []
    for _ in range(n):
        chosen = rng.choice(vocabulary, terms, replace=False)
        toks.append({f"x{t}": float(w) for t, w in zip(chosen, rng.random(terms) * 3 + 0.01, strict=True)})
    return frame(toks)


def frame(toks: list[dict]) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(toks))], "query": "some words", "query_toks": toks})


def exact_ranking(docs: list[dict], query: dict[str, float], k: int, scale: float = 100) -> list[tuple[str, float]]:
    """[(docno, dot product)], best first, ties by docno."""
    scores = {d["docno"]: sum(w * d["toks"].get(t, 0) for t, w in query.items()) / scale for d in docs}
    return sorted(((d, s) for d, s in scores.items() if s > 0), key=lambda pair: (-round(pair[1], 9), pair[0]))[:k]


def retrieved(results: pd.DataFrame, qid: str) -> list[tuple[str, float]]:
    part = results[results["qid"] == qid]
    assert part["rank"].tolist() == list(range(len(part)))
    return list(zip(part["docno"], part["score"], strict=True))
