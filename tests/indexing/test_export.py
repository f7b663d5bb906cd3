"""Exports: read back by the formats' own readers where there are some, else compared with their text."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode
from pyterrier_rescale.encoding.terms import Toks
from pyterrier_rescale.indexing.export.opensearch import mapping, query_body
from pyterrier_rescale.indexing.export.run import FORMATS, export

DENSE = StubEncoder().encode_docs([d["text"] for d in make_documents(60)]).toarray()
QUERIES = pd.DataFrame({"qid": ["q1", "q2"], "query_toks": [{"t7": 0.5, "t3": 2.0, "nowhere": 1.0}, {}]})


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return encode(StubEncoder(), make_documents(60), tmp_path_factory.mktemp("v") / "v", shard_size=25, verbose=False)


def whole(row, scale=100.0):
    """{term: rounded weight} of a row."""
    rounded = np.rint(row.astype(np.float64) * scale).astype(int)
    return {f"t{i}": int(rounded[i]) for i in np.flatnonzero(rounded)}


def test_anserini(vectors, tmp_path):
    export(vectors, tmp_path / "out", "anserini", scale=10, queries=QUERIES)
    lines = (tmp_path / "out" / "corpus" / "docs-00000.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [d["id"] for d in found] == [f"d{i}" for i in range(60)]
    assert [d["vector"] for d in found] == [whole(row, 10) for row in DENSE]
    queries = [line.split("\t") for line in (tmp_path / "out" / "queries.tsv").read_text().splitlines()]
    assert queries[0][0] == "q1" and queries[0][1].split().count("t3") == 20 and queries[1] == ["q2", ""]


@pytest.mark.parametrize("name", ["out.ciff", "out.ciff.gz"])
def test_ciff_by_its_own_reader(vectors, tmp_path, name):
    pytest.importorskip("ciff_toolkit", reason="ciff-toolkit is not installed")
    from ciff_toolkit.read import CiffReader

    export(vectors, tmp_path / name, "ciff")
    with CiffReader(tmp_path / name) as reader:
        header = reader.header
        lists = list(reader.read_postings_lists())
        documents = list(reader.read_documents())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    expected = [whole(row) for row in DENSE]
    assert [(d.docid, d.collection_docid, d.doclength) for d in documents] == [
        (i, f"d{i}", sum(toks.values())) for i, toks in enumerate(expected)
    ]
    found = [{} for _ in range(60)]
    for postings in lists:
        place = 0
        for posting in postings.postings:
            place += posting.docid
            found[place][postings.term] = posting.tf
        assert postings.df == len(postings.postings) and postings.cf == sum(p.tf for p in postings.postings)
    assert found == expected
    names = [postings.term for postings in lists]
    assert names == sorted(names)
    total = sum(sum(toks.values()) for toks in expected)
    assert (header.num_docs, header.num_postings_lists, header.total_terms_in_collection) == (60, len(names), total)
    assert header.average_doclength == pytest.approx(total / 60)


def test_opensearch_lines_mappings_and_bodies(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.export.PART_BYTES", 4000)
    export(vectors, tmp_path / "out", "opensearch", queries=QUERIES)
    lines = [
        json.loads(line)
        for name in sorted((tmp_path / "out").glob("bulk-*.jsonl"))
        for line in name.read_text().splitlines()
    ]
    sizes = [file.stat().st_size for file in sorted((tmp_path / "out").glob("bulk-*.jsonl"))]
    assert len(sizes) > 2 and max(sizes) < 4500
    assert lines[::2] == [{"index": {"_id": f"d{i}"}} for i in range(60)]
    for document, row in zip(lines[1::2], DENSE, strict=True):
        assert document["vector"] == pytest.approx({f"t{i}": row[i] for i in np.flatnonzero(row)}, rel=1e-6)
    bodies = json.loads((tmp_path / "out" / "query.json").read_text())
    assert set(bodies) == {"opensearch", "elasticsearch", "rank_feature"}
    saved = json.loads((tmp_path / "out" / "elasticsearch-mapping.json").read_text())
    assert saved == mapping("elasticsearch") and saved["mappings"]["properties"]["vector"] == {
        "type": "sparse_vector", "index_options": {"prune": False},
    }  # fmt: skip
    assert mapping("opensearch")["mappings"]["properties"]["vector"] == {"type": "rank_features"}
    toks = {"t3": 2, "t7": 0.5}
    assert query_body(toks)["query"] == {"neural_sparse": {"vector": {"query_tokens": {"t3": 2.0, "t7": 0.5}}}}
    assert query_body(toks, "elasticsearch")["query"]["sparse_vector"] == {
        "field": "vector", "query_vector": toks, "prune": False,
    }  # fmt: skip
    clauses = query_body(toks, "rank_feature", size=3)["query"]["bool"]["should"]
    assert clauses[0] == {"rank_feature": {"field": "vector.t3", "linear": {}, "boost": 2.0}}
    with pytest.raises(ValueError, match="kind must be one of"):
        query_body(toks, "solr")


def test_lsr_benchmark_as_its_loader_reads(vectors, tmp_path):
    export(vectors, tmp_path / "out", "lsr-benchmark", queries=QUERIES)

    def load(side):  # what lsr_benchmark.irds.embeddings does
        arrays = np.load(tmp_path / "out" / side / f"{side}-embeddings.npz")
        ids = (tmp_path / "out" / side / f"{side}-ids.txt").read_text().strip().split("\n")
        ends = arrays["indptr"]
        return [
            (i, arrays["indices"][a:b].astype("U30"), arrays["data"][a:b])
            for i, a, b in zip(ids, ends[:-1], ends[1:], strict=True)
        ]

    documents, queries = load("doc"), load("query")
    assert [d for d, _, _ in documents] == [f"d{i}" for i in range(60)]
    dense = np.zeros_like(DENSE)
    for row, (_, tokens, weights) in enumerate(documents):
        dense[row, tokens.astype(int)] = weights
    assert (dense == DENSE).all()
    assert [(q, t.tolist(), w.tolist()) for q, t, w in queries] == [("q1", ["3", "7"], [2.0, 0.5]), ("q2", [], [])]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_left_alone_and_a_home_folder_is_found(vectors, tmp_path, monkeypatch, format):
    monkeypatch.setenv("HOME", str(tmp_path))
    if format == "ciff":
        pytest.importorskip("ciff_toolkit", reason="ciff-toolkit is not installed")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(FileExistsError):
        export(vectors, tmp_path / "mine", format)
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "thesis.tex"]
    assert export(vectors, "~/out", format) == tmp_path / "out" and (tmp_path / "out").exists()


def stamped(stamp):
    return pd.DataFrame({"qid": ["q1"], "query_toks": [Toks([("t7", 0.5)], stamp)]})


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"format": "lucene"}, ValueError, "format"),
        ({"format": "anserini", "scale": 0}, ValueError, "scale"),
        ({"format": "opensearch", "scale": 100}, ValueError, "scale"),
        ({"format": "ciff", "queries": QUERIES}, ValueError, "queries"),
        ({"format": "anserini", "queries": QUERIES[["qid"]]}, KeyError, "query_toks"),
        ({"format": "anserini", "queries": stamped("another:1")}, ValueError, "query 'q1'.*vocabulary"),
        ({"format": "lsr-benchmark", "queries": stamped("stub-terms:100")}, ValueError, "query 'q1'.*scale 100"),
    ],
)
def test_what_is_refused(vectors, tmp_path, options, error, named):
    with pytest.raises(error, match=named):
        export(vectors, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_ciff_in_several_passes(vectors, tmp_path, monkeypatch):
    """Memory is bounded by reading the vectors several times: the file is the same."""
    pytest.importorskip("ciff_toolkit", reason="ciff-toolkit is not installed")
    export(vectors, tmp_path / "one.ciff", "ciff")
    monkeypatch.setattr("pyterrier_rescale.indexing.export.ciff._POSTINGS", 50)
    export(vectors, tmp_path / "many.ciff", "ciff")
    assert (tmp_path / "one.ciff").read_bytes() == (tmp_path / "many.ciff").read_bytes()
