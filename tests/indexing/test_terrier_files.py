"""The files of engine "terrier": bit by bit, through Terrier's own readers, and beside what its indexers write."""

from __future__ import annotations

import io
import json
import os
import tracemalloc

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import frame, make_docs, make_queries, retrieved

from pyterrier_rescale._utils.java import start_java
from pyterrier_rescale.indexing.engines import bitcodes, inversion, open_index, terrier, terrier_files

UNICODE = ["\u00e9t\u00e9", "\u0120hello", "\u4e2d", "\u4e2d\u6587", "\ue000", "\ufffd", "\uff21", "Z", "a", "aa", "~"]


def docs_with_everything() -> list[dict]:
    """Empty documents at the start, in the middle and at the end; weights of one bit and of thousands; long docnos."""
    rng = np.random.default_rng(5)
    docs = [{"docno": "first", "toks": {}}, *make_docs(300, vocabulary=90, terms=25)]
    for i in range(60):
        words = rng.choice(UNICODE, 6, replace=False)
        weights = np.minimum(rng.pareto(0.6, 6) + 1, 50_000).astype(int)
        toks = dict(zip(words.tolist(), weights.tolist(), strict=True))
        docs.append({"docno": f"\u00fc{i}" * (1 + i % 4), "toks": toks})
    return [*docs, {"docno": "last", "toks": {}}]


DOCS = docs_with_everything()


def naive_code(gap: int, weight: int) -> str:
    digits = f"{gap:b}"
    return "0" * (len(digits) - 1) + digits + "0" * (weight - 1) + "1"


@pytest.mark.parametrize("chunk", [1, 64, 1000, 2**26])
def test_bits_are_gamma_and_unary(chunk, monkeypatch):
    monkeypatch.setattr(bitcodes, "CHUNK_BITS", chunk)
    rng = np.random.default_rng(1)
    out, expected, positions = io.BytesIO(), "", []
    bits = bitcodes.PostingBits(out)
    for size in (1, 700, 0, 3, 300):
        gaps = np.floor(2 ** (rng.random(size) * 31)).astype(np.int64)
        weights = np.floor(2 ** (rng.random(size) * 9)).astype(np.int64)
        if size == 3:
            gaps[:], weights[:] = [1, 2**31 - 1, 2**30], [1, 1, 5000]
        found = bits.append(gaps, weights)
        for gap, weight in zip(gaps.tolist(), weights.tolist(), strict=True):
            positions.append(len(expected))
            expected += naive_code(gap, weight)
        assert found.tolist() == positions[len(positions) - size :]
        assert bits.position == len(expected)
    bits.close()
    padded = expected + "0" * (-len(expected) % 8)
    assert out.getvalue() == int(padded, 2).to_bytes(len(padded) // 8, "big") + b"\0"


def test_bits_by_hand():
    """Gaps 1 and 5 (1, 00101) with weights 3 and 1 (001, 1): 1 001 00101 1, then zeros."""
    out = io.BytesIO()
    bits = bitcodes.PostingBits(out)
    assert bits.append(np.array([1, 5]), np.array([3, 1])).tolist() == [0, 4]
    bits.close()
    assert out.getvalue() == bytes([0b10010010, 0b11000000, 0])


def by_terrier(path, docs) -> dict[str, str]:
    """Index with Terrier's single-pass indexer; returns the properties it wrote."""
    start_java()
    path.mkdir()
    (path / "docs.jsonl").write_text("".join(json.dumps({"docno": d["docno"], "toks": d["toks"]}) + "\n" for d in docs))
    properties = pt.java.J.Properties()
    for key, value in {
        "termpipelines": "",
        "FieldTags.process": "",
        "indexer.meta.forward.keys": "docno",
        "indexer.meta.forward.keylens": "64",
        "indexer.meta.reverse.keys": "",
    }.items():
        properties.put(key, value)
    java = pt.terrier.J
    java.ApplicationSetup.getProperties().putAll(properties)
    documents = java.JsonlPretokenisedIterator(str(path / "docs.jsonl"))
    java.ParallelIndexer.buildParallelTokenised(
        [documents], os.path.realpath(path), java.BasicSinglePassIndexer, java.StructureMerger
    )
    return read_properties(path)


def read_properties(path) -> dict[str, str]:
    lines = (path / "data.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_same_bytes_as_terriers_own_indexer(tmp_path):
    theirs = by_terrier(tmp_path / "theirs", DOCS)
    ours = read_properties(open_index(tmp_path / "ours").indexer().index(iter(DOCS)).path)
    for name in ("inverted.bf", "lexicon.fsomapfile", "document.fsarrayfile"):
        assert (tmp_path / "ours" / f"data.{name}").read_bytes() == (tmp_path / "theirs" / f"data.{name}").read_bytes()
    changed = {key for key in theirs | ours if theirs.get(key) != ours.get(key)}
    assert changed == {
        "index.created",
        "index.lexicon.bsearchshortcut",
        "index.lexicon.data-source",
        "index.meta.entry-length",
        "index.meta.value-lengths",
    }


@pytest.mark.parametrize(("run", "chunk", "bits"), [(10_000_000, 2**20, 2**26), (500, 7, 2**26), (41, 1000, 300)])
def test_terrier_reads_what_was_written(tmp_path, monkeypatch, run, chunk, bits):
    """Every posting, statistic and docno comes out of Terrier's readers, however many pieces it was written in."""
    monkeypatch.setattr(inversion.Inverter.__init__, "__defaults__", (run,))
    monkeypatch.setattr(terrier_files, "CHUNK_POSTINGS", chunk)
    monkeypatch.setattr(bitcodes, "CHUNK_BITS", bits)
    path = open_index(tmp_path / "i").indexer().index(iter(DOCS)).path
    index = pt.terrier.TerrierIndex(path).index_obj()
    expected = {}
    for number, doc in enumerate(DOCS):
        for term, weight in doc["toks"].items():
            expected.setdefault(term, []).append((number, weight))
    names = []
    for place, entry in enumerate(index.getLexicon()):
        names.append(entry.getKey())
        value, postings = entry.getValue(), expected[entry.getKey()]
        weights = [weight for _, weight in postings]
        assert decoded(index.getInvertedIndex().getPostings(value)) == postings
        statistics = (value.getTermId(), value.getDocumentFrequency(), value.getFrequency())
        assert statistics == (place, len(postings), sum(weights))
        assert value.getMaxFrequencyInDocuments() == max(weights)
        assert index.getLexicon()[entry.getKey()].getTermId() == place
    assert names == sorted(expected)
    for term in ("", "0", "x", "x9999", "zz", "\uffff"):
        assert index.getLexicon().getLexiconEntry(term) is None
    stream = index.getIndexStructureInputStream("inverted")
    for name in names:
        assert decoded(stream.next()) == expected[name]
    lengths = [index.getDocumentIndex().getDocumentLength(i) for i in range(len(DOCS))]
    assert lengths == [sum(d["toks"].values()) for d in DOCS]
    entries = [index.getDocumentIndex().getDocumentEntry(i).getNumberOfEntries() for i in range(len(DOCS))]
    assert entries == [len(d["toks"]) for d in DOCS]
    stats = index.getCollectionStatistics()
    assert stats.getNumberOfDocuments() == len(DOCS)
    assert stats.getNumberOfUniqueTerms() == len(expected)
    assert stats.getNumberOfPointers() == sum(entries)
    assert stats.getNumberOfTokens() == sum(lengths)
    assert [index.getMetaIndex().getItem("docno", i) for i in range(len(DOCS))] == [d["docno"] for d in DOCS]
    index.close()


def decoded(postings) -> list[tuple[int, int]]:
    found = []
    while postings.next() != postings.END_OF_LIST:
        found.append((postings.getId(), postings.getFrequency()))
    return found


def test_docnos_of_all_lengths(tmp_path):
    """Zstandard frames with the content's size in one byte and in four; characters of one to four bytes."""
    docnos = ["a", "b" * 85, "\u00e9" * 300, "\u4e2d" * 10_000, "\U0001f600" * 10_000, "c" * 10_000, "d"]
    for number in range(1, len(docnos) + 1):
        docs = [{"docno": docno, "toks": {"t": 1 + i}} for i, docno in enumerate(docnos[:number])]
        path = open_index(tmp_path / f"i{number}").indexer().index(docs).path
        index = pt.terrier.TerrierIndex(path).index_obj()
        assert [index.getMetaIndex().getItem("docno", i) for i in range(number)] == docnos[:number]
        stream = index.getIndexStructureInputStream("meta")
        assert [stream.next()[0] for _ in range(number)] == docnos[:number]
        index.close()
        plain = pt.terrier.TerrierIndex(path).tf()(frame([{"t": 1.0}]))
        assert plain["docno"].tolist() == docnos[:number][::-1]


def test_plain_pyterrier_ranks_alike_on_both(tmp_path):
    """Tf and BM25, of weighted and of plain queries, on our index and on the one of PyTerrier's own recipe."""
    docs = [d for d in DOCS if len(d["docno"]) < 20]
    ours = pt.terrier.TerrierIndex(open_index(tmp_path / "ours").indexer().index(docs).path)
    pt.terrier.TerrierIndex(tmp_path / "theirs").toks_indexer().index(docs)
    theirs = pt.terrier.TerrierIndex(tmp_path / "theirs")
    queries = make_queries(8, vocabulary=90, terms=5)
    words = pd.DataFrame({"qid": ["1", "2"], "query": ["x1 x2 x3", "x5 nosuchterm x80"]})
    for topics in (queries, words):
        for model in ("tf", "bm25"):
            found, expected = (getattr(index, model)(num_results=50)(topics) for index in (ours, theirs))
            assert len(expected) > 50
            pd.testing.assert_frame_equal(found.drop(columns="docid"), expected.drop(columns="docid"))
    for text in ("getNumberOfDocuments", "getNumberOfPointers", "getNumberOfTokens", "getAverageDocumentLength"):
        a, b = (getattr(index.index_obj().getCollectionStatistics(), text)() for index in (ours, theirs))
        assert a == b


def test_huge_weights(tmp_path):
    """A weight takes as many bits: two megabytes for the largest, across any number of the reader's buffers."""
    largest = 2**24 - 1
    docs = [
        {"docno": "a", "toks": {"s": 7, "t": largest, "u": 1}},
        {"docno": "b", "toks": {"t": 1}},
        {"docno": "c", "toks": {"t": largest, "u": 70_000, "v": 3}},
    ]
    index = open_index(tmp_path / "i", scale=1).indexer().index(docs)
    assert (index.path / "data.inverted.bf").stat().st_size == pytest.approx((2 * largest + 70_000) / 8, abs=16)
    for retriever in (index.retriever(), pt.terrier.TerrierIndex(index.path).tf()):
        results = retriever(frame([{"t": 1.0}, {"u": 1.0}, {"v": 1.0}, {"s": 1.0}]))
        assert retrieved(results, "q0") == [("a", largest), ("c", largest), ("b", 1)]
        assert retrieved(results, "q1") == [("c", 70_000), ("a", 1)]
        assert retrieved(results, "q2") == [("c", 3)] and retrieved(results, "q3") == [("a", 7)]


def test_sums_beyond_an_int_are_the_largest_int(tmp_path):
    """Terrier's own indexers let a term's sum of weights overflow to a negative number."""
    statistics = terrier_files.TermStatistics(*(np.array([n]) for n in (2**40 + 5, 2**33, 9)))
    terrier_files.write_lexicon(tmp_path, ["t"], np.array([3]), statistics)
    entry = (tmp_path / "data.lexicon.fsomapfile").read_bytes()
    assert entry[:3] == b"\x01t\0"
    assert np.frombuffer(entry[61:77], dtype=">i4").tolist() == [0, 2**31 - 1, 3, 9]
    assert entry[77:] == (2**37).to_bytes(8, "big") + b"\x05"


def test_memory_is_bounded(tmp_path, monkeypatch):
    """Ten times as many postings do not take more memory."""
    monkeypatch.setattr(terrier_files, "CHUNK_POSTINGS", 2**12)
    monkeypatch.setattr(bitcodes, "CHUNK_BITS", 2**16)
    peaks = []
    for count in (20_000, 200_000):
        indptr = np.array([0, count // 2, count])
        numbers = np.concatenate([np.arange(count // 2), np.arange(count // 2)]).astype(np.int32)
        weights = np.full(count, 300, dtype=np.uint16)
        tracemalloc.start()
        terrier_files.write_inverted(tmp_path, indptr, numbers, weights)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2**21


def test_lost_postings_are_noticed(tmp_path, monkeypatch):
    def lossy(*args):
        terms = terrier_files.write_inverted(*args)
        terms.sums[0] -= 1
        return terms

    monkeypatch.setattr(terrier, "write_inverted", lossy)
    with pytest.raises(RuntimeError, match="does not hold what it was given"):
        open_index(tmp_path / "i").indexer().index(DOCS)
    assert list(tmp_path.iterdir()) == []
