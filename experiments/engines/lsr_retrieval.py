"""Engines as retrieval approaches of lsr-benchmark (pip install lsr-benchmark), called as its own scripts are.

``python lsr_retrieval.py --dataset DIR --embedding DIR --output DIR --k 10 --engine exact``: index and retrieval are
tracked as it tracks its own (``index-metadata.yml``, ``retrieval-metadata.yml``), the run is ``run.txt.gz``.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pandas as pd
from lsr_benchmark.click import retrieve_command
from lsr_benchmark.irds import embeddings
from tirex_tracker import ExportFormat, register_metadata, tracking

from pyterrier_rescale import open_index

SCALE = 100


@retrieve_command()
@click.option("--engine", type=click.Choice(["exact", "terrier", "pisa"]), default="exact")
def main(dataset: str, embedding: str, output: Path, k: int, engine: str) -> None:
    """Index an embedding's documents, and retrieve for its queries."""
    output.mkdir(parents=True, exist_ok=True)
    tag = f"pyterrier-rescale-{engine}-{k}"
    register_metadata({"actor": {"team": "pyterrier-rescale"}, "tag": tag})
    queries = pd.DataFrame([
        {"qid": qid, "query_toks": {f"x{term}": float(weight) for term, weight in zip(terms, weights, strict=True)}}
        for qid, terms, weights in embeddings(dataset, embedding, "query")
    ])  # fmt: skip
    documents = [
        {"docno": docno, "toks": {f"x{t}": n for t, w in zip(terms, weights, strict=True) if (n := round(SCALE * w))}}
        for docno, terms, weights in embeddings(dataset, embedding, "doc")
    ]
    with TemporaryDirectory() as folder:
        index = open_index(f"{folder}/index", engine, scale=SCALE)
        with tracking(export_file_path=output / "index-metadata.yml", export_format=ExportFormat.IR_METADATA):
            index.indexer().index(documents)
        with tracking(export_file_path=output / "retrieval-metadata.yml", export_format=ExportFormat.IR_METADATA):
            results = index.retriever(k)(queries)
    with gzip.open(output / "run.txt.gz", "wt") as run:
        for row in results.itertuples():
            run.write(f"{row.qid} Q0 {row.docno} {row.rank + 1} {row.score} {tag}\n")


if __name__ == "__main__":
    main()
