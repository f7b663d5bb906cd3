"""Documents per second, milliseconds per query, and size of every engine, taken in turns.

    python experiments/engines/run.py [--documents 50000] [--terms 140] [--queries 200] [--rounds 3]

Documents and queries are synthetic: terms drawn by a Zipf law, weights log-normal. "plain" rows are the recipes of the
packages' documentation. Indexing: the best round, and the least CPU time of all threads, Java's as well; retrieval:
the median round.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyterrier as pt  # noqa: E402

from pyterrier_rescale import open_index  # noqa: E402
from pyterrier_rescale._utils.java import start_java  # noqa: E402

VOCABULARY, EXPONENT = 30_000, 0.8


def zipf_terms(rng: np.random.Generator, count: int) -> np.ndarray:
    weights = np.arange(1, VOCABULARY + 1) ** -EXPONENT
    drawn = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(int(count * 1.6)))
    _, first = np.unique(drawn, return_index=True)
    return np.minimum(drawn[np.sort(first)][:count], VOCABULARY - 1)


def make_documents(count: int, terms: int) -> list[dict]:
    rng = np.random.default_rng(0)
    names = [f"x{t}" for t in range(VOCABULARY)]
    documents = []
    for number in range(count):
        drawn = np.unique(zipf_terms(rng, terms))
        weights = np.clip(np.rint(100 * rng.lognormal(-0.8, 0.7, len(drawn))), 1, 400).astype(int)
        toks = dict(zip([names[t] for t in drawn], weights.tolist(), strict=True))
        documents.append({"docno": f"document-{number}", "toks": toks})
    return documents


def make_queries(count: int, terms: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    toks = []
    for _ in range(count):
        drawn = np.unique(zipf_terms(rng, terms))
        toks.append({f"x{t}": float(w) for t, w in zip(drawn, rng.lognormal(-0.8, 0.7, len(drawn)), strict=True)})
    return pd.DataFrame({"qid": [f"q{i}" for i in range(count)], "query": "", "query_toks": toks})


class Ours:
    def __init__(self, engine: str):
        self.name, self.engine = engine, engine

    def index(self, path: Path, documents: list[dict]) -> int:
        self.path = path
        return open_index(path, self.engine).indexer().index(iter(documents)).size_bytes

    def retriever(self, k: int) -> pt.Transformer:
        return open_index(self.path, self.engine).retriever(k)


class PlainTerrier:
    name = "plain Terrier"

    def index(self, path: Path, documents: list[dict]) -> int:
        self.path = path
        pt.terrier.TerrierIndex(path).toks_indexer().index(iter(documents))
        return folder_size(path)

    def retriever(self, k: int) -> pt.Transformer:
        return pt.terrier.TerrierIndex(self.path).tf(num_results=k)


class PlainPisa:
    name = "plain PISA"

    def index(self, path: Path, documents: list[dict]) -> int:
        import pyterrier_pisa

        self.path = path
        index = pyterrier_pisa.PisaIndex(str(path), stemmer="none", stops="none")
        index.toks_indexer(scale=1.0).index(iter(documents))
        index.quantized()  # compresses
        return folder_size(path)

    def retriever(self, k: int) -> pt.Transformer:
        import pyterrier_pisa

        return pyterrier_pisa.PisaIndex(str(self.path), stemmer="none", stops="none").quantized(num_results=k)


def folder_size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--terms", type=int, default=140)
    parser.add_argument("--query-terms", type=int, default=30)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="name of an engine to measure (exact is, always)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.csv")
    options = parser.parse_args()

    start_java()
    documents, queries = (
        make_documents(options.documents, options.terms),
        make_queries(options.queries, options.query_terms),
    )
    systems = [PlainTerrier(), Ours("terrier"), PlainPisa(), Ours("pisa"), Ours("exact")]
    systems = [s for s in systems if s.name == "exact" or s.name in (options.only or [s.name])]
    times: dict[tuple[str, str], list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for system in systems:  # the JVM and the imports warm up outside the figures
            system.index(Path(folder) / f"warm-{system.name}", documents[:2000])
            system.retriever(1000)(queries.head(20))
        for number in range(options.rounds):
            for system in systems[number % len(systems) :] + systems[: number % len(systems)]:
                path = Path(folder) / system.name
                shutil.rmtree(path, ignore_errors=True)
                begun, cpu = time.perf_counter(), time.process_time()
                sizes[system.name] = system.index(path, documents)
                times.setdefault((system.name, "index"), []).append(time.perf_counter() - begun)
                times.setdefault((system.name, "cpu"), []).append(time.process_time() - cpu)
        retrievers = {(s.name, k): s.retriever(k) for s in systems for k in (10, 1000)}
        tops = {}
        for number in range(options.rounds + 1):  # the first is not counted
            for (name, k), retriever in retrievers.items():
                begun = time.perf_counter()
                found = retriever(queries)
                if number:
                    times.setdefault((name, str(k)), []).append((time.perf_counter() - begun) / len(queries))
                if k == 10:
                    tops[name] = set(zip(found["qid"], found["docno"], strict=True))
    postings = sum(len(d["toks"]) for d in documents)
    rows = []
    for system in systems:
        rows.append(
            {
                "engine": system.name,
                "documents/s": round(len(documents) / min(times[system.name, "index"])),
                "CPU ms/document": round(1000 * min(times[system.name, "cpu"]) / len(documents), 2),
                "ms/query, top 10": round(1000 * statistics.median(times[system.name, "10"]), 2),
                "ms/query, top 1000": round(1000 * statistics.median(times[system.name, "1000"]), 2),
                "MB": round(sizes[system.name] / 1e6, 1),
                "bytes/posting": round(sizes[system.name] / postings, 2),
                "top 10 as exact": round(len(tops[system.name] & tops["exact"]) / len(tops["exact"]), 4),
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(options.out, index=False)
    print(f"\n{len(documents)} documents, {postings / len(documents):.0f} postings each; {len(queries)} queries")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
