"""Engine milvus, embedded: the same rankings as the exact engine's, whole or not at all."""

from __future__ import annotations

import pickle

import pytest
from engine_data import frame, make_docs, make_queries, retrieved

from pyterrier_rescale import open_index
from pyterrier_rescale.indexing.engines import milvus

pytest.importorskip("pymilvus", reason="no pymilvus")
pytest.importorskip("milvus_lite", reason="no milvus-lite")
DOCS, QUERIES = make_docs(300), make_queries(12)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("milvus") / "i"
    return open_index(path, "milvus").indexer(made_from={"encoder": "e"}).index(iter(DOCS))


def assert_as_exact(index, exact, queries, k):
    found, wanted = index.retriever(k)(queries), exact.retriever(k)(queries)
    assert found["qid"].tolist() == wanted["qid"].tolist()
    assert found["score"].tolist() == pytest.approx(wanted["score"].tolist(), rel=1e-3)
    for qid in queries["qid"]:
        assert len({d for d, _ in retrieved(found, qid)} & {d for d, _ in retrieved(wanted, qid)}) >= 0.98 * min(
            k, len(wanted[wanted["qid"] == qid])
        )


def test_as_the_exact_engine(tmp_path, index):
    exact = open_index(tmp_path / "e", "exact").indexer().index(DOCS)
    for k in (10, 1000):
        assert_as_exact(index, exact, QUERIES, k)
    assert open_index(index.path) == index and open_index(index.path).engine == "milvus"
    mine, its = index.stats(), exact.stats()
    for key in ("documents", "terms", "postings", "weight_sum", "scale"):
        assert mine[key] == its[key]
    assert (len(index), index.built, index.made_from) == (300, True, {"encoder": "e"})
    assert index.retriever()(frame([{}, {"unknown": 1.0}])).empty and index.retriever()(QUERIES.iloc[:0]).empty
    again = pickle.loads(pickle.dumps(index.retriever(5)))
    assert again(QUERIES).equals(index.retriever(5)(QUERIES))
    back = open_index(tmp_path / "b", "exact").indexer().index(index)
    assert back.retriever(20)(QUERIES).equals(exact.retriever(20)(QUERIES))


def test_ties_in_docno_order(tmp_path):
    docs = [{"docno": f"d{(i * 7) % 60:02}", "toks": {"a": 3}} for i in range(60)]
    index = open_index(tmp_path / "i", "milvus").indexer().index(docs)
    assert [d for d, _ in retrieved(index.retriever(5)(frame([{"a": 2.0}])), "q0")] == [f"d{i:02}" for i in range(5)]


def test_replaced_when_whole_and_nothing_left_of_failures(tmp_path):
    path = tmp_path / "i"
    index = open_index(path, "milvus").indexer().index(DOCS[:5])
    with pytest.raises(FileExistsError, match="already"):
        index.indexer().index(DOCS[:5])

    def broken():
        yield from DOCS[:3]
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        index.indexer(mode="overwrite").index(broken())
    assert len(index) == 5
    index.indexer(mode="overwrite", bits=8).index(DOCS[:7])
    assert len(open_index(path)) == 7
    assert len(list(path.glob("g-*"))) == 1


def test_what_is_refused(tmp_path, monkeypatch, index):
    with pytest.raises(ValueError, match="num_results must be at most 16384"):
        index.retriever(20_000)(QUERIES)
    monkeypatch.setattr(milvus, "_search", lambda *a: [[{"id": 0, "distance": 1.0}]])
    with pytest.raises(RuntimeError, match="the score 1.0, its inner product is"):
        open_index(tmp_path / "w", "milvus").indexer().index(DOCS[:3])
    assert not list(tmp_path.iterdir())
