"""Engine exact in blocks of documents: the same documents, order and scores as a dense product by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from engine_data import frame, retrieved

from pyterrier_rescale import open_index
from pyterrier_rescale.indexing.engines import exact

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
        if digits <= 308:
            found = [(docno, float(np.round(score, digits))) for docno, score in found]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


@pytest.mark.parametrize("block", [1, 7, 64, 210, 1000])
@pytest.mark.parametrize("largest", [3, 300, 2**22])
def test_blocks_as_by_hand(tmp_path, monkeypatch, block, largest):
    """Blocks of one document, of parts, of half the collection and of more than all of it; one to four threads."""
    docs = documents(420, largest, seed=block)
    index = open_index(tmp_path / "i", "exact", scale=SCALE).indexer().index(docs[:150])
    index.indexer(mode="append").index(docs[150:])
    monkeypatch.setattr(exact, "BLOCK", block)
    for k in (1, 10, 100, 1000):
        for threads in (1, 4):
            results = index.retriever(k, threads=threads)(frame(QUERIES))
            for i, query in enumerate(QUERIES):
                assert retrieved(results, f"q{i}") == by_hand(docs, query, k), (k, threads, i)


def test_only_empty_documents(tmp_path, monkeypatch):
    """No term is known: nothing is found, and no empty block is looked at."""
    index = open_index(tmp_path / "i", "exact").indexer().index([{"docno": f"{i}", "toks": {}} for i in range(9)])
    monkeypatch.setattr(exact, "BLOCK", 2)
    assert not len(index.retriever()(frame(QUERIES)))
    index.indexer(mode="append").index([{"docno": "x", "toks": {"x0": 50}}])
    assert retrieved(index.retriever()(frame(QUERIES)), "q0") == [("x", 0.5)]


def test_best_of_blocks_with_every_distribution():
    """Neither an estimated threshold nor one from former blocks may lose a document of the top k or its ties."""
    rng = np.random.default_rng(3)
    n, k = 5000, 20
    cases = {
        "uniform": rng.random(n),
        "ascending": np.sort(rng.random(n)),
        "descending": np.sort(rng.random(n))[::-1],
        "few": np.where(rng.random(n) < 0.002, rng.random(n), 0),
        "ties": rng.integers(0, 3, n).astype(float),
        "ties but for the last bits": rng.integers(1, 4, n) * (1 + 1e-15 * rng.integers(-2, 3, n)),
        "high ones all in the last block": np.r_[rng.random(n - 10), np.full(10, 9.0)],
        "the smallest numbers there are": rng.integers(0, 9, n) * 5e-324,
        "none": np.zeros(n),
    }
    for name, scores in cases.items():
        kth = np.sort(scores)[::-1][k - 1]
        expected = np.flatnonzero((scores >= kth * (1 - 1e-9)) & (scores > 0))
        for block in (1, 30, 777, 2500, n):
            best = exact.Best(k)
            for first in range(0, n, block):
                best.add(first, scores[first : first + block])
            numbers, values = best.all()
            assert numbers.tolist() == expected.tolist(), (name, block)
            assert (values == scores[expected]).all(), (name, block)


def test_a_query_holds_one_block_of_postings(tmp_path, monkeypatch):
    """400,000 postings match, of which a copy takes 12 bytes each."""
    toks = {f"x{t}": 1 + t for t in range(40)}
    index = open_index(tmp_path / "i", "exact").indexer().index({"docno": f"{i}", "toks": toks} for i in range(10_000))
    searcher = index.searcher()
    searcher.search({"x0": 1.0}, 10)  # docnos are read at the first query
    monkeypatch.setattr(exact, "BLOCK", 500)
    tracemalloc.start()
    numbers, scores = searcher.search(dict.fromkeys(toks, 1.0), 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(numbers) == 10 and scores.tolist() == [8.2] * 10
    assert peak < 1_500_000
