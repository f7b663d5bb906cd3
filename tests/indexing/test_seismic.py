"""Engine seismic: what it finds of the exact top, true scores, its own arguments, its library's traps."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from engine_data import frame, retrieved

from pyterrier_rescale import open_index
from pyterrier_rescale.indexing.engines import seismic as engine_seismic

seismic = pytest.importorskip("seismic", reason="no pyseismic-lsr")
pytestmark = pytest.mark.filterwarnings("ignore:all query weights are whole numbers")
TERMS = 1500


def splade_like(count: int, terms: int, seed: int) -> list[dict]:
    """Zipf over terms, log-normal weights, safe terms."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, TERMS + 1) ** 0.8
    docs = []
    for _ in range(count):
        chosen = np.unique(rng.choice(TERMS, terms, p=shares / shares.sum()))
        docs.append({f"t{t}": float(w) for t, w in zip(chosen, rng.lognormal(-0.5, 0.7, len(chosen)), strict=True)})
    return docs


DOCS = [
    {"docno": f"d{i:05}", "toks": {t: max(1, round(100 * w)) for t, w in toks.items()} if i % 500 else {}}
    for i, toks in enumerate(splade_like(6000, 60, 0))
]
QUERIES = frame(splade_like(60, 25, 1))


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return open_index(tmp_path_factory.mktemp("exact") / "i", "exact").indexer().index(DOCS)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return open_index(tmp_path_factory.mktemp("seismic") / "i", "seismic").indexer().index(iter(DOCS))


def recall(found, wanted) -> float:
    pairs = [set(zip(frame["qid"], frame["docno"], strict=True)) for frame in (found, wanted)]
    return len(pairs[0] & pairs[1]) / len(pairs[1])


def test_the_defaults_find_95_of_100_with_true_scores(exact, index):
    assert open_index(index.path) == index and len(index) == len(DOCS)
    for k in (10, 100):
        wanted, found = exact.retriever(k)(QUERIES), index.retriever(k)(QUERIES)
        assert recall(found, wanted) >= 0.95
        assert found.groupby("qid").size().tolist() == [k] * len(QUERIES)
        scores = exact.retriever(len(DOCS))(QUERIES).set_index(["qid", "docno"])["score"]
        assert found["score"].tolist() == pytest.approx(
            [scores[pair] for pair in zip(found["qid"], found["docno"], strict=True)], rel=1e-9
        )
        for qid in QUERIES["qid"]:
            pairs = [(-score, docno) for docno, score in retrieved(found, qid)]
            assert pairs == sorted(pairs)


def test_arguments_of_the_retriever(exact, index):
    wanted = exact.retriever(10)(QUERIES)
    narrow = index.retriever(10, query_cut=1, heap_factor=0.5)
    wide = index.retriever(10, query_cut=1000, heap_factor=1.0)
    assert recall(narrow(QUERIES), wanted) < recall(wide(QUERIES), wanted)
    assert repr(wide).endswith(".retriever(num_results=10, query_cut=1000, heap_factor=1.0)")
    assert repr(index.retriever()).endswith(".retriever()")
    assert narrow != wide and narrow == pickle.loads(pickle.dumps(narrow))
    assert narrow.fuse_rank_cutoff(3).options == narrow.options
    threaded = index.retriever(10, threads=2)(QUERIES)
    assert threaded.equals(index.retriever(10)(QUERIES))
    for wrong in ({"query_cut": 0}, {"heap_factor": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            index.retriever(**wrong)(QUERIES)


def test_empty_documents_keep_their_numbers(tmp_path):
    """Seismic leaves out documents without terms: by place, all later ones would have another's docno."""
    docs = [{"docno": "a", "toks": {"x": 1}}, {"docno": "b", "toks": {}}, {"docno": "c", "toks": {"y": 1}}]
    index = open_index(tmp_path / "i", "seismic").indexer().index(docs)
    assert retrieved(index.retriever()(frame([{"y": 100.0}])), "q0") == [("c", 1.0)]
    empty = open_index(tmp_path / "j", "seismic").indexer().index([{"docno": "a", "toks": {}}])
    assert len(empty) == 1 and empty.retriever()(frame([{"y": 1.0}])).empty


def test_large_weights_do_not_overflow(tmp_path):
    """Seismic's weights are 16-bit floats: 70,000 is infinite to it, 2,049 is 2,048."""
    docs = [{"docno": "a", "toks": {"x": 2**22}}, {"docno": "b", "toks": {"x": 2049}}]
    index = open_index(tmp_path / "i", "seismic", scale=1).indexer().index(docs)
    assert retrieved(index.retriever()(frame([{"x": 2.0}])), "q0") == [("a", 2.0**23), ("b", 4098)]


@pytest.mark.parametrize("terms", [600, pytest.param(66_000, marks=pytest.mark.slow)])
def test_vocabularies_of_more_than_16_bits_and_long_terms(tmp_path, monkeypatch, terms):
    """Its standard classes number terms up to 65,535; its tokens are of 100 characters, ours are numbers."""
    if terms < 65_536:  # a millisecond per term: the large classes by a smaller number
        monkeypatch.setattr(engine_seismic, "SMALL_VOCABULARY", terms // 2)
        monkeypatch.setattr(seismic, "SeismicDataset", None)
    names = [f"{'long' * 40}{i}" for i in range(terms)]
    docs = [{"docno": f"d{i}", "toks": dict.fromkeys(names[i::300], i + 1)} for i in range(300)]
    index = open_index(tmp_path / "i", "seismic").indexer().index(docs)
    for place in (0, 41, terms - 1):
        found = retrieved(index.retriever()(frame([{names[place]: 100.0}])), "q0")
        assert found == [(f"d{place % 300}", place % 300 + 1)]
