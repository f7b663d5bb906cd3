"""The exact engine, splade-index's kernel and plain scipy on the same synthetic postings, in turns; results compared.

    python experiments/scale/exact.py --documents 5000 200000 1000000 8800000 --work FOLDER    # needs splade-index

Postings as those of run.py (Zipf's law over 30,000 terms, 150 draws per document, log-normal weights), written term by
term, without an indexer; what is in FOLDER is used again. Each contender answers all queries in one call; milliseconds
per query by the clock, the median of --rounds. splade-index adds float32 and gives ties in any order; scipy has one
thread and sorts nothing but the k best. Writes exact.csv into --output.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from run import queries
from scipy.sparse import csc_matrix
from splade_index.numba.retrieve_utils import _retrieve_numba_functional

from pyterrier_rescale.indexing.engines.exact import ExactEngine
from pyterrier_rescale.indexing.generation import Generation

TERMS, EXPONENT, DRAWS, SCALE = 30_000, 0.8, 150, 100


def write(folder: Path, n: int) -> None:
    """Arrays of an exact index of n documents."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, TERMS + 1) ** EXPONENT
    frequencies = rng.binomial(n, 1 - (1 - shares / shares.sum()) ** DRAWS)
    drawn = np.maximum(1, np.rint(SCALE * rng.lognormal(-0.5, 0.7, 1 << 20))).astype(np.uint16)
    most = int(frequencies.sum())
    documents = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.int32, (most,))
    weights = np.lib.format.open_memmap(folder / "weights.npy", "w+", np.uint16, (most,))
    end, indptr = 0, [0]
    for frequency in frequencies.tolist():
        often = frequency * 8 > n
        found = np.flatnonzero(rng.random(n, np.float32) < frequency / n) if often else rng.integers(0, n, frequency)
        found = np.sort(found)  # np.unique hashes, and takes ten times as long
        found = found[np.diff(found, prepend=-1) > 0][:frequency]
        documents[end : end + len(found)] = found
        first = int(rng.integers(len(drawn)))
        weights[end : end + len(found)] = drawn.take(np.arange(first, first + len(found)), mode="wrap")
        end += len(found)
        indptr.append(end)
    np.save(folder / "indptr.npy", np.array(indptr))


class Exact:
    def __init__(self, folder: Path, n: int) -> None:
        self.generation = Generation(folder, {"scale": SCALE})
        self.generation.columns, self.generation.docnos = {f"t{i}": i for i in range(TERMS)}, range(n)
        self.generation.ranks = np.random.default_rng(0).permutation(n).astype(np.int32)
        self.engine = ExactEngine(folder, self.generation)

    def __call__(self, asked: list[dict[str, float]], k: int, threads: int) -> list[np.ndarray]:
        found = []
        for counts, _, scores in self.engine.search_all(asked, k, threads):
            found += np.split(scores, np.cumsum(counts)[:-1])
        return found


class SpladeIndex:
    """Its kernel, on the same arrays; weights in float32, as it holds them."""

    def __init__(self, postings: list[np.ndarray], n: int) -> None:
        indptr, documents, weights = postings
        data = weights.astype(np.float32) / np.float32(SCALE)
        self.scores = {"data": data, "indptr": indptr, "indices": documents, "num_docs": n}

    def __call__(self, asked: list[dict[str, float]], k: int, threads: int) -> list[np.ndarray]:
        terms = [np.array([int(term[1:]) for term in query]) for query in asked]
        weights = [np.array(list(query.values()), dtype=np.float32) for query in asked]
        k = min(k, self.scores["num_docs"])
        _, scores = _retrieve_numba_functional(terms, weights, self.scores, k, n_threads=threads, show_progress=False)
        return [row[row > 0] for row in scores]


class Scipy:
    """Gathered columns times the weights, then a partial sort."""

    def __init__(self, postings: list[np.ndarray], n: int) -> None:
        indptr, documents, weights = postings
        self.matrix = csc_matrix((weights, documents, indptr), (n, TERMS), copy=False)

    def __call__(self, asked: list[dict[str, float]], k: int, threads: int) -> list[np.ndarray]:
        found = []
        for query in asked:
            scores = self.matrix[:, [int(term[1:]) for term in query]] @ (np.array(list(query.values())) / SCALE)
            k = min(k, len(scores))
            best = np.sort(scores[np.argpartition(scores, -k)[-k:]])[::-1]
            found.append(best[best > 0])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[5000, 1_000_000])
    parser.add_argument("--query-terms", type=int, nargs="+", default=[5, 30])
    parser.add_argument("--queries", type=int, default=50, help="in one call")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    a = parser.parse_args()
    rows = []
    for n in a.documents:
        folder = a.work / str(n)
        if not (folder / "indptr.npy").exists():
            write(folder, n)
        exact = Exact(folder, n)
        postings = exact.engine.postings
        systems = {"exact": exact, "splade-index": SpladeIndex(postings, n)}
        if n <= 1_000_000:  # a second per query beyond
            systems["scipy"] = Scipy(postings, n)
        for terms in a.query_terms:
            asked = queries(SimpleNamespace(queries=a.queries, query_terms=terms, terms=TERMS, exponent=EXPONENT))
            asked = asked["query_toks"].tolist()
            length = np.mean([sum(np.diff(postings[0])[int(term[1:])] for term in query) for query in asked])
            for k in (10, 1000):
                for threads in a.threads:
                    row = {"documents": n, "terms": terms, "postings": round(length), "top": k, "threads": threads}
                    rows.append(row | measure(systems, asked, k, threads, a.rounds))
                    print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
                    pd.DataFrame(rows).to_csv(a.output / "exact.csv", index=False)


def measure(systems: dict, asked: list[dict[str, float]], k: int, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds per query of each system, and how many times those of the exact engine splade-index takes."""
    times: dict[str, list[float]] = {name: [] for name in systems if threads == 1 or name != "scipy"}
    for number in range(rounds + 1):  # the first compiles
        found = {}
        for name in times:
            start = time.perf_counter()
            found[name] = systems[name](asked, k, threads)
            if number:
                times[name].append(1000 * (time.perf_counter() - start) / len(asked))
    for results in found.values():
        for ours, theirs in zip(found["exact"], results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-9)
    medians = {f"{name}, ms": round(float(np.median(values)), 3) for name, values in times.items()}
    return medians | {"splade-index / exact": round(medians["splade-index, ms"] / medians["exact, ms"], 2)}


if __name__ == "__main__":
    main()
