"""Build time, memory, size, query times and recall of every installed engine, on synthetic vectors of SPLADE's kind.

    python experiments/scale/run.py --documents 1000000 --postings 150 --work FOLDER

Each engine is built and asked in a process of its own, whose peak memory is told. Terms follow Zipf's law, weights a
log-normal one. Writes results.csv and figure.png into --output. Engines: --engines exact,seismic,pisa,terrier.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
NEEDS = {"exact": None, "seismic": "seismic", "pisa": "pyterrier_pisa", "terrier": None}
BLOCK = 2000


def vectors(count: int, postings: int, terms: int, exponent: float, seed: int):
    """Yield {term: weight} with `postings` draws of terms each; equal draws are one posting."""
    rng = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, terms + 1) ** exponent)
    names = np.array([f"t{i}" for i in range(terms)], dtype=object)
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        drawn = np.searchsorted(shares, rng.random((size, postings)) * shares[-1])
        weights = rng.lognormal(-0.5, 0.7, (size, postings))
        for row, values in zip(drawn, weights, strict=True):
            yield dict(zip(names[row].tolist(), values.tolist(), strict=True))


def documents(a: argparse.Namespace):
    for number, toks in enumerate(vectors(a.documents, a.postings, a.terms, a.exponent, 0)):
        yield {"docno": f"d{number}", "toks": {t: max(1, round(100 * w)) for t, w in toks.items()}}


def queries(a: argparse.Namespace):
    import pandas as pd

    # Queries ask for rarer terms than documents hold on average.
    toks = list(vectors(a.queries, a.query_terms, a.terms, a.exponent * 0.8, 1))
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(toks))], "query": "", "query_toks": toks})


def measure(engine: str, a: argparse.Namespace) -> dict:
    from pyterrier_rescale import open_index

    index = open_index(Path(a.work) / engine, engine)
    built = None
    if not index.built:
        start = time.perf_counter()
        index.indexer().index(documents(a))
        built = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    topics = queries(a)
    row = {
        "engine": engine, "documents": len(index), "postings": index.stats()["postings"], "build_s": built,
        "peak_gb": memory, "index_mb": index.size_bytes / 1e6,
    }  # fmt: skip
    found = {}
    for k in (10, 1000):
        retriever = index.retriever(k)
        retriever(topics[:3])  # opens
        times, docnos = [], []
        for i in range(len(topics)):
            start = time.perf_counter()
            docnos.append(retriever(topics[i : i + 1])["docno"].tolist())
            times.append(1000 * (time.perf_counter() - start))
        row |= {f"ms_p50_top{k}": np.median(times), f"ms_p99_top{k}": np.percentile(times, 99)}
        found[str(k)] = docnos
    return {"row": row, "found": found}


def add_recall(results: dict[str, dict]) -> list[dict]:
    """Rows, with the share of the exact top 10 and top 1000 that each engine found."""
    for result in results.values():
        for k in ("10", "1000"):
            exact = results.get("exact", {}).get("found", {}).get(k)
            if exact:
                pairs = zip(exact, result["found"][k], strict=True)
                result["row"][f"recall{k}"] = np.mean([len(set(x) & set(y)) / len(x) for x, y in pairs if x])
    return [result["row"] for result in results.values()]


def draw(table, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = ["build_s", "peak_gb", "index_mb", "ms_p50_top10", "ms_p99_top10", "recall10"]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), constrained_layout=True)
    for axis, column in zip(axes.flat, shown, strict=True):
        bars = axis.bar(table["engine"], table[column].fillna(0).astype(float))
        axis.bar_label(bars, fmt="%.3g")
        axis.set_title(column)
    figure.suptitle(f"{table['documents'].max():,} documents, {table['postings'].max():,} postings")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--postings", type=int, default=150, help="draws of terms per document")
    parser.add_argument("--terms", type=int, default=30_000)
    parser.add_argument("--exponent", type=float, default=0.8, help="of Zipf's law")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--query-terms", type=int, default=30)
    parser.add_argument("--engines", default=None, help="comma-separated; default: every one installed")
    parser.add_argument("--work", required=True, help="folder of the indexes; those that are there are kept")
    parser.add_argument("--output", default=str(HERE), help="folder of results.csv and figure.png")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        result = measure(a.one, a)
        (Path(a.work) / f"{a.one}.json").write_text(json.dumps(result, default=float))
        return
    import pandas as pd

    installed = [e for e, module in NEEDS.items() if module is None or importlib.util.find_spec(module)]
    results = {}
    Path(a.work).mkdir(parents=True, exist_ok=True)
    Path(a.output).mkdir(parents=True, exist_ok=True)
    for engine in a.engines.split(",") if a.engines else installed:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", engine], check=True)
        results[engine] = json.loads((Path(a.work) / f"{engine}.json").read_text())
        table = pd.DataFrame(add_recall(results))
        table.round(4).to_csv(Path(a.output) / "results.csv", index=False)
        draw(table.assign(recall10=table.get("recall10")), Path(a.output) / "figure.png")
        print(table.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
