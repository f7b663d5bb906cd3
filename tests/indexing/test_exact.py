"""Engine exact: the same documents, order and scores as a dense product by hand."""

from __future__ import annotations

import numpy as np
import pytest
from engine_data import frame, retrieved

from pyterrier_rescale import open_index
from pyterrier_rescale.indexing.engines import exact_kernel

SCALE = 100.0
TERMS = 30


def documents(n: int, largest: int, seed: int) -> list[dict]:
    """Documents in many ties: copies of former ones lie in other blocks, every ninth is empty; term x0 is in most."""
    rng = np.random.default_rng(seed)
    docs = []
    for i, docno in enumerate(rng.permutation(n).tolist()):
        weights = np.unique(np.array([1, 2, largest // 3, largest]))
        chosen = rng.choice(
            TERMS, rng.integers(1, 8), replace=False, p=np.r_[0.5, np.full(TERMS - 1, 0.5 / (TERMS - 1))]
        )
        toks = {f"x{t}": int(rng.choice(weights)) for t in chosen}
        if i % 9 == 4:
            toks = {}
        elif i % 3 == 2:
            toks = docs[rng.integers(i)]["toks"]
        docs.append({"docno": f"d{docno}", "toks": toks})
    return docs


QUERIES = [
    {"x0": 1.0},
    {"x0": 0.7, "x1": 1.3, "unknown": 5.0, "x2": 1e-3},
    {"x3": 1e9, "x4": 1e9 / 3, "x5": 2e7},
    {"x3": 1e-9, "x4": 1e-9 / 3, "x6": 2e-11},
    {"unknown": 1.0},
    {f"x{t}": 0.1 + t % 4 for t in reversed(range(TERMS))},
    {"x7": 1e-300, "x8": 2e-300},
    {},
]


def by_hand(docs: list[dict], query: dict[str, float], k: int) -> list[tuple[str, float]]:
    """[(docno, score)]: terms added in the query's order, rounded to twelve digits of the largest, then by docno."""
    scores = np.zeros(len(docs))
    known = {term for doc in docs for term in doc["toks"]}
    for term, weight in query.items():
        if term in known:
            scores += np.array([doc["toks"].get(term, 0) for doc in docs]) * (weight / SCALE)
    found = [(doc["docno"], score) for doc, score in zip(docs, scores.tolist(), strict=True) if score > 0]
    if found:
        digits = 12 - int(np.ceil(np.log10(max(score for _, score in found))))
        if digits <= 22:
            found = [(docno, float(np.round(score, digits))) for docno, score in found]
        elif digits <= 308:  # np.round multiplies by inexact powers of ten
            found = [(docno, float(np.rint(score * 10.0**digits) / 10.0**digits)) for docno, score in found]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


@pytest.mark.parametrize("largest", [3, 300, 2**22])
def test_as_by_hand(tmp_path, largest, monkeypatch):
    """Many ties, any number of results, one to four threads."""
    monkeypatch.setattr("pyterrier_rescale.indexing.engines.exact._WORK", 1)  # enough for threads
    docs = documents(420, largest, seed=largest)
    index = open_index(tmp_path / "i", "exact", scale=SCALE).indexer().index(docs[:150])
    index.indexer(mode="append").index(docs[150:])
    for k in (1, 10, 100, 1000):
        for threads in (1, 4):
            results = index.retriever(k, threads=threads)(frame(QUERIES))
            for i, query in enumerate(QUERIES):
                assert retrieved(results, f"q{i}") == by_hand(docs, query, k), (k, threads, i)


def test_only_empty_documents(tmp_path):
    """No term is known: nothing is found."""
    index = open_index(tmp_path / "i", "exact").indexer().index([{"docno": f"{i}", "toks": {}} for i in range(9)])
    assert not len(index.retriever()(frame(QUERIES)))
    index.indexer(mode="append").index([{"docno": "x", "toks": {"x0": 50}}])
    assert retrieved(index.retriever()(frame(QUERIES)), "q0") == [("x", 0.5)]


def test_the_best_of_every_distribution():
    """Neither a document of the top k nor one that ties with the last of them is lost."""
    rng = np.random.default_rng(3)
    n = 200_000
    cases = {
        "uniform": rng.random(n),
        "ascending": np.sort(rng.random(n)),
        "descending": np.sort(rng.random(n))[::-1].copy(),
        "few": np.where(rng.random(n) < 0.00005, rng.random(n), 0),
        "ties": rng.integers(0, 3, n).astype(float),
        "ties but for the last bits": rng.integers(1, 4, n) * (1 + 1e-15 * rng.integers(-2, 3, n)),
        "the smallest numbers there are": rng.integers(0, 9, n) * 5e-324,
        "none": np.zeros(n),
    }
    documents, begins, ends = np.arange(n, dtype=np.int32), np.zeros(1, dtype=np.int64), np.array([n])
    for name, scores in cases.items():
        for k in (1, 2, 20, 4999, 250_000):
            kth = np.sort(scores)[::-1][min(k, n) - 1]
            expected = np.flatnonzero((scores >= kth * (1 - 1e-9)) & (scores > 0))
            room = np.zeros(exact_kernel.BLOCK), np.empty(4 * k + 256, dtype=np.int64), np.empty(4 * k + 256)
            numbers, values = exact_kernel.best(documents, scores, begins, ends, np.ones(1), n, k, room)
            assert numbers.tolist() == expected.tolist() and (values == scores[expected]).all(), (name, k)
