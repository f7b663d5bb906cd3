"""Writing indexes: appending, replacing, in many runs; what is not ours stays."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from engine_data import ENGINES, frame, make_docs, make_queries, retrieved

from pyterrier_rescale.indexing.engines import inversion, open_index

DOCS = make_docs(600)
QUERIES = make_queries(15)


def test_append(tmp_path):
    index = open_index(tmp_path / "i", "exact")
    index.indexer(mode="append").index(DOCS[:200])
    assert len(index.retriever(1000)(QUERIES)) > 0
    index.indexer(mode="append").index(DOCS[200:500])
    open_index(tmp_path / "i", "exact").indexer(mode="append").index(DOCS[500:])
    whole = open_index(tmp_path / "w", "exact").indexer().index(DOCS)
    assert {**index.stats(), "size_bytes": 0} == {**whole.stats(), "size_bytes": 0}
    pd.testing.assert_frame_equal(index.retriever()(QUERIES), whole.retriever()(QUERIES))
    with pytest.raises(ValueError, match="occurs twice"):
        index.indexer(mode="append").index(DOCS[:1])
    pd.testing.assert_frame_equal(index.retriever()(QUERIES), whole.retriever()(QUERIES))


@pytest.mark.parametrize("join", [1, 50, 5000])
def test_several_runs_and_threads(tmp_path, monkeypatch, join):
    """A collection written in many runs and parts equals one written in a single one; threads change nothing."""
    one = open_index(tmp_path / "one", "exact").indexer().index(DOCS)
    monkeypatch.setattr(inversion.Inverter.__init__, "__defaults__", (777,))
    monkeypatch.setattr(inversion, "JOIN_POSTINGS", join)
    many = open_index(tmp_path / "many", "exact").indexer().index(DOCS)
    grown = open_index(tmp_path / "grown", "exact").indexer().index(DOCS[:100])
    grown.indexer(mode="append").index(DOCS[100:])
    for name in ("indptr.npy", "documents.npy", "weights.npy", "terms.json"):
        expected = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "grown" / name).read_bytes() == expected
    pd.testing.assert_frame_equal(one.retriever(50)(QUERIES), many.retriever(50, threads=3)(QUERIES))


def test_append_holds_no_old_postings(tmp_path, monkeypatch):
    """300,000 old postings of 2 bytes and more each; 20,000 in one term."""
    monkeypatch.setattr(inversion, "JOIN_POSTINGS", 2000)
    rng = np.random.default_rng(0)
    words = [{f"x{t}": 2 for t in row} for row in rng.integers(0, 300, (20_000, 15)).tolist()]
    docs = ({"docno": f"{i:05d}", "toks": {"all": 3, **toks}} for i, toks in enumerate(words))
    index = open_index(tmp_path / "i", "exact").indexer().index(docs)
    before = index.stats()
    assert before["postings"] > 300_000
    inverter = inversion.Inverter(tmp_path)
    tracemalloc.start()
    inverter.start_from(index.path, before["documents"])
    inverter.add({"all": 70_000, "new": 1})
    inverter.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
    assert index.indexer(mode="append").index([{"docno": "new", "toks": {"all": 70_000, "new": 1}}]) is index
    assert index.stats()["postings"] == before["postings"] + 2
    results = retrieved(index.retriever(2)(frame([{"all": 1.0, "new": 5.0}])), "q0")
    assert results == [("new", pytest.approx(700.05)), ("00000", pytest.approx(0.03))]


def test_made_from(tmp_path):
    index = open_index(tmp_path / "i", "exact")
    assert index.made_from is None
    with pytest.raises(TypeError, match="JSON"):
        index.indexer(made_from={"encoder": object()}).index(DOCS[:1])
    assert list(tmp_path.iterdir()) == []
    index.indexer(made_from={"encoder": "e", "fields": ("a", "b")}).index(DOCS[:5])
    assert open_index(tmp_path / "i", "exact").made_from == {"encoder": "e", "fields": ["a", "b"]}
    index.indexer(mode="append").index(DOCS[5:6])
    assert index.made_from is None  # what it says was true of the first five


@pytest.mark.parametrize("engine", ENGINES)
def test_overwrite_and_create(tmp_path, engine):
    index = open_index(tmp_path / "i", engine).indexer().index(DOCS[:5])
    with pytest.raises(FileExistsError, match="mode='overwrite'"):
        index.indexer().index(DOCS)
    assert len(index) == 5
    with pytest.raises(TypeError):
        index.indexer(mode="overwrite").index([*DOCS, None])
    assert len(index) == 5 and len(index.retriever()(QUERIES)) > 0
    index.indexer(mode="overwrite").index(DOCS)
    assert len(index) == 600
    pd.testing.assert_frame_equal(index.retriever(9)(QUERIES), open_index(tmp_path / "i", engine).retriever(9)(QUERIES))
    assert len(index.retriever(9)(QUERIES)) == 9 * len(QUERIES)
    assert [p.name for p in tmp_path.iterdir()] == ["i"]


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "thesis.txt").write_text("years of work")
    index = open_index(tmp_path / "i", "exact")
    for mode in ("create", "overwrite"):
        with pytest.raises(FileExistsError, match="no index of pyterrier_rescale"):
            index.indexer(mode=mode).index(DOCS)
    with pytest.raises(FileNotFoundError, match="holds no index written by pyterrier_rescale"):
        index.retriever()(QUERIES)
    assert (tmp_path / "i" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "f").write_text("a file")
    with pytest.raises(FileExistsError):
        open_index(tmp_path / "f", "exact").indexer().index(DOCS)
    (tmp_path / "empty").mkdir()
    assert len(open_index(tmp_path / "empty", "exact").indexer().index(DOCS[:3])) == 3


@pytest.mark.parametrize("name", ["data.csv", "inv.oices.txt", "fwd.eml", "data.meta.csv", "thesis.tex"])
def test_files_of_like_names_are_not_the_engines(tmp_path, name):
    """Terrier adds data.* to its own folders, PISA inv.* and fwd.*; no other engine does."""
    index = open_index(tmp_path / "i", "exact").indexer().index(DOCS)
    (tmp_path / "i" / name).write_text("years of work")
    with pytest.raises(FileExistsError, match=name):
        index.indexer(mode="overwrite").index(DOCS)
    assert (tmp_path / "i" / name).read_text() == "years of work" and len(open_index(tmp_path / "i")) == len(DOCS)


def test_what_is_added_to_an_index_does_not_tell_what_it_was_made_from(tmp_path):
    whole = open_index(tmp_path / "whole", "exact")
    whole.indexer(made_from={"encoder": "e", "corpus": "c"}).index(DOCS)
    part = whole.vectors()
    index = open_index(tmp_path / "i", "exact")
    index.indexer(mode="append").index(part)  # nothing is there yet: it is all there is
    assert index.made_from["corpus"] == "c"
    more = open_index(tmp_path / "more", "exact")
    more.indexer(made_from={"encoder": "e", "corpus": "d"}).index([{**DOCS[0], "docno": "another"}])
    index.indexer(mode="append").index(more.vectors())
    assert index.made_from is None and len(index) == len(DOCS) + 1
