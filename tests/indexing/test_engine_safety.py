"""Random documents in and out."""

from __future__ import annotations

import random

import pytest
from engine_data import ENGINES, frame

from pyterrier_rescale import open_index


def random_documents(n, seed, alphabet):
    rng = random.Random(seed)
    words = list({"".join(rng.choices(alphabet, k=rng.randint(1, 9))) for _ in range(max(n // 10, 500))})
    return [
        {
            "docno": f"{rng.getrandbits(40):x}-{i}",
            "toks": {w: int(rng.paretovariate(0.6)) % 100_000 + 1 for w in rng.sample(words, rng.randint(0, 20))},
        }
        for i in range(n)
    ]


SAFE = "abcdefghijklmnopqrstuvwxyz0123456789"
ODD = SAFE + "ABC\u0120\u010a\u00e9\u4e2d\u0416#[]{}'\"\\/^~:;.,*?! \t\n\u2581\ufffd\ue000\uff21"


def stored_postings(index, documents):
    """All postings of an index, asked for term by term."""
    terms = sorted({t for d in documents for t in d["toks"]})
    results = index.retriever(len(documents))(frame([{t: 1.0} for t in terms]))
    qids = {f"q{i}": t for i, t in enumerate(terms)}
    return {
        (docno, qids[qid], round(score))
        for qid, docno, score in zip(results["qid"], results["docno"], results["score"], strict=True)
    }


def fuzz(tmp_path, engine, n, seed):
    documents = random_documents(n, seed, SAFE if engine == "pisa" else ODD)
    index = open_index(tmp_path / "i", engine, scale=1).indexer().index(iter(documents))
    assert len(index) == n
    expected = {(d["docno"], t, w) for d in documents for t, w in d["toks"].items()}
    assert stored_postings(index, documents) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_random_documents_come_out_again(tmp_path, engine):
    fuzz(tmp_path, engine, 2000, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_100000_random_documents_come_out_again(tmp_path, engine):
    fuzz(tmp_path, engine, 100_000, seed=12)
