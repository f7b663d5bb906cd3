"""Engine milvus, embedded: the same rankings as the exact engine's, whole or not at all."""

from __future__ import annotations

import pytest
from engine_data import frame, make_docs, make_queries, retrieved

from pyterrier_rescale import open_index

pytest.importorskip("pymilvus", reason="no pymilvus")
pytest.importorskip("milvus_lite", reason="no milvus-lite")
DOCS, QUERIES = make_docs(300), make_queries(12)


def test_as_the_exact_engine(tmp_path):
    index = open_index(tmp_path / "i", "milvus").indexer().index(iter(DOCS))
    exact = open_index(tmp_path / "e", "exact").indexer().index(DOCS)
    for k in (10, 1000):
        found, wanted = index.retriever(k)(QUERIES), exact.retriever(k)(QUERIES)
        assert found["qid"].tolist() == wanted["qid"].tolist()
        assert found["score"].tolist() == pytest.approx(wanted["score"].tolist(), rel=1e-3)
        assert len(found.merge(wanted, on=["qid", "docno"])) >= 0.98 * len(wanted)
    assert open_index(index.path) == index and (len(index), index.built) == (300, True)
    assert index.retriever()(frame([{}, {"unknown": 1.0}])).empty
    back = open_index(tmp_path / "b", "exact").indexer().index(index)
    assert back.retriever(20)(QUERIES).equals(exact.retriever(20)(QUERIES))
    with pytest.raises(ValueError, match="num_results must be at most 16384"):
        index.retriever(20_000)(QUERIES)


def test_ties_in_docno_order(tmp_path):
    docs = [{"docno": f"d{(i * 7) % 60:02}", "toks": {"a": 3}} for i in range(60)]
    index = open_index(tmp_path / "i", "milvus").indexer().index(docs)
    assert [d for d, _ in retrieved(index.retriever(5)(frame([{"a": 2.0}])), "q0")] == [f"d{i:02}" for i in range(5)]


def test_replaced_when_whole_and_nothing_left_of_failures(tmp_path):
    path = tmp_path / "i"
    index = open_index(path, "milvus").indexer().index(DOCS[:5])

    def broken():
        yield from DOCS[:3]
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        index.indexer(mode="overwrite").index(broken())
    assert len(index) == 5
    index.indexer(mode="overwrite", bits=8).index(DOCS[:7])
    assert len(open_index(path)) == 7
    assert len(list(path.glob("g-*"))) == 1
