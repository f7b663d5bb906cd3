"""The exact engine against plain scipy, on synthetic postings; the results are compared, too.

    python experiments/scale/exact.py --documents 1000000 --work FOLDER

Postings as those of run.py (Zipf's law over 30,000 terms, 150 draws per document, log-normal weights), written term by
term, without an indexer; what is in FOLDER is used again. One thread, processor's time, in turns, the best of --rounds
per query; medians over queries.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from run import queries
from scipy.sparse import csc_matrix

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
        found = np.unique(found)[:frequency]
        documents[end : end + len(found)] = found
        weights[end : end + len(found)] = np.resize(np.roll(drawn, -int(rng.integers(len(drawn)))), len(found))
        end += len(found)
        indptr.append(end)
    np.save(folder / "indptr.npy", np.array(indptr))


def by_scipy(matrix: csc_matrix, query: dict[str, float], k: int) -> np.ndarray:
    """Scores of the k best documents: gathered columns times the weights, then a partial sort."""
    scores = matrix[:, [int(term[1:]) for term in query]] @ (np.array(list(query.values())) / SCALE)
    return np.sort(scores[np.argpartition(scores, -k)[-k:]])[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--query-terms", type=int, nargs="+", default=[5, 30, 1000])
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    a = parser.parse_args()
    folder = a.work / str(a.documents)
    if not (folder / "indptr.npy").exists():
        write(folder, a.documents)
    generation = Generation(folder, {"scale": SCALE})
    generation.columns, generation.docnos = {f"t{i}": i for i in range(TERMS)}, range(a.documents)
    generation.ranks = np.random.default_rng(0).permutation(a.documents).astype(np.int32)
    engine = ExactEngine(folder, generation)
    matrix = csc_matrix((engine.weights, engine.documents, engine.indptr), (a.documents, TERMS), copy=False)
    for terms in a.query_terms:
        asked = queries(SimpleNamespace(queries=a.queries, query_terms=terms, terms=TERMS, exponent=EXPONENT))
        asked = asked["query_toks"].tolist()
        postings = np.median([sum(np.diff(engine.indptr)[int(term[1:])] for term in query) for query in asked])
        for k in (10, 1000):
            engine.search(asked[0], k)  # compiled
            times = np.full((2, len(asked), a.rounds), np.inf)
            for turn in range(a.rounds):
                for number, query in enumerate(asked):
                    start = time.process_time()
                    _, ours = engine.search(query, k)
                    middle = time.process_time()
                    theirs = by_scipy(matrix, query, k)
                    times[:, number, turn] = middle - start, time.process_time() - middle
                    np.testing.assert_allclose(ours, theirs[theirs > 0], rtol=1e-9)
            ours, theirs = 1000 * np.median(times.min(axis=2), axis=1)
            print(
                f"{a.documents:,} documents, {terms} terms, {postings:,.0f} postings, top {k}: exact {ours:.2f} ms, "
                f"scipy {theirs:.2f} ms, {theirs / ours:.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
