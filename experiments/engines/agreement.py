"""How far every engine's scores are from the encoders' own dot products, on real documents and for both tokenizers.

    python experiments/engines/agreement.py vaswani/ scifact/ nfcorpus/ --encoder NAME=FOLDER --encoder NAME=FOLDER

Without --encoder: small backbones pretrained here for --steps and calibrated, not trained further. Each condition runs
in a process of its own; "C, unset" is LC_ALL=C with a JVM that PyTerrier started without -Dfile.encoding.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

ENGINES = {"exact": 100, "exact, scale 10000": 10_000, "terrier": 100, "pisa": 100}


def encode(options: argparse.Namespace, folder: Path) -> list[str]:
    """Write documents, queries and exact scores of every encoder to the folder; return their names."""
    from pyterrier_rescale import load_collection

    collections = [load_collection(name) for name in options.collections]
    documents = [
        (f"{number}-{doc['docno']}", doc["text"])
        for number, collection in enumerate(collections)
        for doc in collection.corpus()
    ][: options.documents]
    docnos, texts = [docno for docno, _ in documents], [text for _, text in documents]
    share = options.queries // len(collections)
    topics = pd.concat([collection.topics("test")["query"].head(share) for collection in collections])
    names = []
    for family, splade in encoders(options, texts, folder):
        vectors, queries = splade.encode_docs(texts), splade.encode_queries(topics)
        truth = (queries @ vectors.T).toarray()
        print(f"{family}: {len(texts)} documents, {vectors.nnz / len(texts):.0f} active terms", flush=True)
        for terms in options.terms:
            names.append(f"{family}-{terms}")
            words = splade.term_map(terms)
            with open(folder / f"{names[-1]}.pickle", "wb") as out:
                pickle.dump((docnos, vectors, queries, words.terms, words.fingerprint, truth), out)
    return names


def encoders(options: argparse.Namespace, texts: list[str], folder: Path):
    """(name, Splade) of the encoders given, or of small backbones."""
    from pyterrier_rescale import Splade, calibrate, small_backbone

    for named in options.encoder:
        name, _, path = named.partition("=")
        yield name, Splade(path)
    if not options.encoder:
        settings = {"steps": options.steps} if options.steps else {}
        for family in ("bert", "modernbert"):
            backbone = str(small_backbone(family, texts, folder / "backbones", **settings))
            calibration = calibrate(backbone, texts[:: max(len(texts) // 256, 1)])
            yield family, Splade(calibration.apply(backbone), tokenizer=backbone)


def weights(vectors, terms: np.ndarray, stamp: str, scale: int | None = None) -> Iterator[dict]:
    """What the encoders of documents (with a scale) and queries put out, from vectors encoded once."""
    from pyterrier_rescale.encoding.terms import to_toks

    for row in range(vectors.shape[0]):
        part = vectors[row].astype(np.float64)
        if scale:
            part.data = np.rint(part.data * scale)
            part.eliminate_zeros()
        data = part.data.astype(np.int64) if scale else part.data
        yield from to_toks(terms, part.indptr, part.indices, data, f"{stamp}:{scale or 1:g}")


def check(folder: Path, name: str, condition: str) -> None:
    """Print a row per engine for one encoder in this process."""
    if condition == "C, unset":
        import pyterrier as pt

        pt.java.init()
    from pyterrier_rescale import open_index

    with open(folder / f"{name}.pickle", "rb") as file:
        docnos, vectors, queries, terms, stamp, truth = pickle.load(file)
    toks = list(weights(queries, terms, stamp))
    queries = pd.DataFrame({"qid": [f"q{i}" for i in range(len(toks))], "query_toks": toks})
    number = {docno: i for i, docno in enumerate(docnos)}
    for label, scale in ENGINES.items():
        with tempfile.TemporaryDirectory() as place:
            index = open_index(Path(place) / "i", label.split(",")[0], scale=scale)
            toks = weights(vectors, terms, stamp, scale)
            documents = ({"docno": d, "toks": t} for d, t in zip(docnos, toks, strict=True))
            try:
                index.indexer().index(documents)
            except ValueError as error:
                print(f"{name} | {condition} | {label} | refused: {error}"[:160], flush=True)
                continue
            results = index.retriever(10)(queries)
        rows = results["qid"].str[1:].astype(int).to_numpy()
        columns = results["docno"].map(number).to_numpy()
        errors = np.abs(results["score"].to_numpy() / truth[rows, columns] - 1)
        best = [set(np.argsort(-scores, kind="stable")[:10]) for scores in truth]
        kept = [len(best[r] & set(columns[rows == r])) for r in range(len(truth))]
        expected = sum(min(10, int((scores > 0).sum())) for scores in truth)
        print(
            f"{name} | {condition} | {label} | {errors.mean():.1e} | {errors.max():.1e} | {sum(kept) / expected:.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("collections", nargs="*", default=["docstrings"])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--terms", nargs="+", choices=["safe", "raw"], default=["safe", "raw"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--check", nargs=3, metavar=("FOLDER", "NAME", "CONDITION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        check(Path(options.check[0]), *options.check[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        names = encode(options, Path(folder))
        print("encoder, terms | locale, charset | engine | mean error of a score | largest | top 10 kept")
        for name, condition in itertools.product(names, ["as it is", "C, UTF-8", "C, unset"]):
            env = dict(os.environ) if condition == "as it is" else {**os.environ, "LC_ALL": "C"}
            command = [sys.executable, __file__, "--check", folder, name, condition]
            subprocess.run(command, env=env, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
