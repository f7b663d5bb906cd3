"""Exports: read back by the formats' own readers where there are some, else compared with their text."""

from __future__ import annotations

import json
import re
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from vector_stub import StubEncoder, make_documents

import pyterrier_rescale
from pyterrier_rescale import encode, open_index
from pyterrier_rescale.encoding.terms import Toks
from pyterrier_rescale.indexing.export.databases import sparsevec
from pyterrier_rescale.indexing.export.opensearch import dense_numbers, mapping, query_body
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
    assert query_body({})["query"] == {"match_none": {}}, "an empty neural_sparse query is an error"


def read_bulk(folder):
    lines = [json.loads(line) for file in sorted(folder.glob("bulk-*")) for line in file.read_text().splitlines()]
    return {line["docno"]: line for line in lines[1::2]}


def test_opensearch_ann_has_the_ceilings_that_the_weights_need(vectors, tmp_path):
    queries = pd.DataFrame({"qid": ["q1"], "query_toks": [{"t7": 20.5, "t3": 2.0}]})
    export(vectors, tmp_path / "out", "opensearch-ann", queries=queries)
    found = json.loads((tmp_path / "out" / "mapping.json").read_text())
    assert found["settings"] == {"index": {"sparse": True}}
    ceilings = found["mappings"]["properties"]["vector"]["method"]["parameters"]
    assert ceilings["quantization_ceiling_ingest"] == DENSE.max() and ceilings["quantization_ceiling_search"] == 20.5
    numbers = json.loads((tmp_path / "out" / "terms.json").read_text())
    occurring = [f"t{i}" for i in np.flatnonzero(DENSE.any(axis=0))]
    assert sorted(numbers.values()) == list(range(len(occurring))) and set(numbers) == set(occurring)
    documents = read_bulk(tmp_path / "out")
    for number, row in enumerate(DENSE):
        expected = {str(numbers[f"t{i}"]): row[i] for i in np.flatnonzero(row)}
        assert documents[f"d{number}"]["vector"] == pytest.approx(expected, rel=1e-6)
    query = json.loads((tmp_path / "out" / "queries.jsonl").read_text())["vector"]
    assert query == {str(numbers["t7"]): 20.5, str(numbers["t3"]): 2.0}
    body = query_body(query, "opensearch-ann")["query"]["neural_sparse"]["vector"]
    assert body == {"query_tokens": query, "method_parameters": {"top_n": 2, "k": 10}}
    export(vectors, tmp_path / "without", "opensearch-ann")
    found = json.loads((tmp_path / "without" / "mapping.json").read_text())
    assert found["mappings"]["properties"]["vector"]["method"]["parameters"]["quantization_ceiling_search"] == 16


def test_more_terms_than_opensearch_tells_apart(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.export.opensearch._SLOTS", 4)
    # frequent 9 .. 1 and one that does not occur; the rarest ones share slots with the next rare ones
    numbers, share = dense_numbers(np.array([9, 8, 7, 6, 0, 5, 4]))
    assert numbers.tolist() == [0, 1, 2, 3, -1, 7, 6] and (numbers % 4).tolist()[-2:] == [3, 2]
    assert share == (7 + 6 + 5 + 4) / 39
    with pytest.warns(UserWarning, match="% of the weights share a number"):
        export(vectors, tmp_path / "out", "opensearch-ann")


def test_raw_terms_are_the_tokenizers_own(vectors, tmp_path):
    export(vectors, tmp_path / "a", "anserini", terms="raw", queries=QUERIES)
    lines = (tmp_path / "a" / "corpus" / "docs-00000.jsonl").read_text().splitlines()
    raw = [{f"##.{t[1:]}": w for t, w in whole(row).items()} for row in DENSE]
    assert [json.loads(line)["vector"] for line in lines] == raw
    assert set((tmp_path / "a" / "queries.tsv").read_text().split()) == {"q1", "q2", "##.3", "##.7"}
    export(vectors, tmp_path / "o", "opensearch", terms="raw")
    assert set(read_bulk(tmp_path / "o")["d41"]["vector"]) == {t.replace(".", "__") for t in raw[41]}, "no dots there"
    index = open_index(tmp_path / "i", "exact").indexer().index([{"docno": "d1", "toks": {"a": 3}}])
    with pytest.raises(ValueError, match="terms='raw'"):
        export(index, tmp_path / "out", "anserini", terms="raw")


@pytest.mark.parametrize("format", ["opensearch", "opensearch-ann", "anserini", "qdrant", "pgvector"])
def test_texts_and_titles_so_that_hits_can_be_read(vectors, tmp_path, format):
    documents = [{"docno": f"d{i}", "body": f"words\tof\n{i} \\", "head": f"title {i}"} for i in range(60)]
    export(vectors, tmp_path / "out", format, documents=iter(documents), text="body", title="head")
    written = "".join(file.read_text() for file in (tmp_path / "out").rglob("*") if file.is_file())
    escaped = "words\\tof\\n59 \\\\"
    assert escaped in written and "title 59" in written
    for wrong in (documents[:10], documents[::-1]):
        with pytest.raises(ValueError, match="documents must be those that were encoded"):
            export(vectors, tmp_path / "other", format, documents=wrong, text="body", title="head")
    for names in ({"title": "head"}, {"text": "body", "title": "haed"}):
        with pytest.raises(ValueError, match="document 'd0' lacks '.*'; it has docno, body, head"):
            export(vectors, tmp_path / "other", format, documents=documents, **names)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("format", ["anserini", "opensearch"])
def test_queries_that_lucene_would_not_answer(vectors, tmp_path, monkeypatch, format):
    monkeypatch.setattr("pyterrier_rescale.indexing.export.run._CLAUSES", 1)
    with pytest.warns(UserWarning, match="1 of 2 queries have more than"):
        export(vectors, tmp_path / "long", format, queries=QUERIES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(vectors, tmp_path / "cut", format, queries=QUERIES, max_terms=1)
    written = "".join(file.read_text() for file in (tmp_path / "cut").glob("queries.*"))
    assert "t3" in written and "t7" not in written


def test_qdrant_in_local_mode(vectors, tmp_path, monkeypatch):
    client = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed").QdrantClient(":memory:")
    from qdrant_client.models import PointStruct, SparseVector, SparseVectorParams

    monkeypatch.setattr("pyterrier_rescale.indexing.export.PART_BYTES", 4000)
    export(vectors, tmp_path / "out", "qdrant", queries=QUERIES)
    collection = json.loads((tmp_path / "out" / "collection.json").read_text())["sparse_vectors"]
    client.create_collection(
        "c", vectors_config={}, sparse_vectors_config={name: SparseVectorParams(**p) for name, p in collection.items()}
    )
    files = sorted((tmp_path / "out").glob("points-*.json"))
    assert len(files) > 1
    for file in files:
        client.upsert("c", [PointStruct(**point) for point in json.loads(file.read_text())["points"]])
    body = json.loads((tmp_path / "out" / "queries.jsonl").read_text().splitlines()[0])
    assert body.pop("qid") == "q1"
    points = client.query_points("c", **{**body, "query": SparseVector(**body["query"])}).points
    scores = 0.5 * DENSE[:, 7] + 2 * DENSE[:, 3]
    assert [p.score for p in points] == pytest.approx(sorted(scores, reverse=True)[:10], rel=1e-6)
    assert [scores[int(p.payload["docno"][1:])] for p in points] == pytest.approx([p.score for p in points], rel=1e-6)


def test_pgvectors_text(vectors, tmp_path):
    assert sparsevec({4: 2.0, 0: 0.5}, 5) == "{1:0.5,5:2}/5"
    export(vectors, tmp_path / "out", "pgvector", queries=QUERIES)
    rows = [line.split("\t") for line in (tmp_path / "out" / "documents.tsv").read_text().splitlines()]
    for number, (row, (docno, title, text, vector)) in enumerate(zip(DENSE, rows, strict=True)):
        pairs = [pair.split(":") for pair in vector[1 : vector.index("}")].split(",") if pair]
        assert {int(i) - 1: float(w) for i, w in pairs} == pytest.approx(
            {i: row[i] for i in np.flatnonzero(row)}, rel=1e-6
        )
        assert (docno, title, text) == (f"d{number}", "", "") and vector.endswith("}/50")
    assert (tmp_path / "out" / "queries.tsv").read_text() == "q1\t{4:2,8:0.5}/50\nq2\t{}/50\n"


def test_documents_that_hnsw_refuses(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.export.databases._HNSW", 5)
    with pytest.warns(UserWarning, match=f"{(np.count_nonzero(DENSE, axis=1) > 5).sum()} documents have more"):
        export(vectors, tmp_path / "out", "pgvector")


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


def test_the_shards_are_an_engine_without_an_engine(vectors):
    """The how-to's queries of DuckDB and Polars, and the folder in the readers that it names."""
    for module in ("duckdb", "polars"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    page = Path(pyterrier_rescale.__file__).parent / "pt_docs" / "how-to.rst"
    code = re.search(r"^   import duckdb\n(   .*\n|\n)+", page.read_text(encoding="utf-8"), re.MULTILINE).group(0)
    splade = StubEncoder()
    splade.encode_queries = splade.encode_docs
    names = {"splade": splade, "vectors": vectors}
    exec(textwrap.dedent(code).replace("why is the sky blue?", "w1 w2 w3 w5 w8"), names)
    scores = (DENSE @ splade.encode_docs(["w1 w2 w3 w5 w8"]).toarray().T).ravel()
    for found in (names["by_duckdb"], names["by_polars"].to_pandas()):
        assert found["score"].tolist() == pytest.approx(sorted(scores, reverse=True)[:10], rel=1e-5)
        assert [scores[int(docno[1:])] for docno in found["docno"]] == pytest.approx(found["score"].tolist(), rel=1e-5)
    assert len(pd.read_parquet(vectors.shards_path)) == 60


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
        ({"format": "qdrant", "terms": "raw"}, ValueError, "terms"),
        ({"format": "anserini", "terms": "tokens"}, ValueError, "terms"),
        ({"format": "anserini", "queries": QUERIES, "max_terms": 0}, ValueError, "max_terms"),
        ({"format": "anserini", "queries": QUERIES[["qid"]]}, KeyError, "query_toks"),
        ({"format": "anserini", "queries": stamped("another:1")}, ValueError, "query 'q1'.*vocabulary"),
        ({"format": "lsr-benchmark", "queries": stamped("stub-terms:100")}, ValueError, "query 'q1'.*scale 100"),
    ],
)
def test_what_is_refused(vectors, tmp_path, options, error, named):
    with pytest.raises(error, match=named):
        export(vectors, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())
