"""Hard negatives: what a retriever ranks high for a query and no row calls relevant to it."""

from __future__ import annotations

import os
import random
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.checks import warn
from ..indexing.bm25 import bm25, build_bm25, choose_tokeniser
from ..indexing.index import open_index
from ..splade import Splade
from .rows import Row, Rows, text_id

# Results beyond those wanted: room for the positives among them.
_SPARE = 20


def load_stage(named: Any) -> tuple[Any, str]:
    """A retriever or scorer, an encoder's hub name or folder loaded; and its weights' fingerprint, or else its name."""
    stage = Splade(named) if isinstance(named, (str, os.PathLike)) and named != "bm25" else named
    return stage, getattr(stage, "fingerprint", None) or re.sub(" at 0x[0-9a-fA-F]+", "", str(stage))


def mine_negatives(rows: Rows, number: int, *, retriever: Any = "bm25", seed: int = 0, verbose: bool = False) -> Rows:
    """Add hard negatives to every row: the retriever's best documents that are not relevant to its query.

    ``"bm25"`` and an encoder (``Splade``, ``LexicalEncoder``) search the documents of all rows; any other PyTerrier
    retriever gives results with their ``text``. Where it finds fewer, random documents of the rows are the rest, which
    a warning tells. Teacher scores are dropped.
    """
    documents = {text_id(text): text for row in rows for text in row.documents}
    queries = list(dict.fromkeys(row.query for row in rows))
    found = _search(retriever, list(documents.values()), queries, number + _SPARE, verbose)
    draw, everything = random.Random(seed), list(documents.values())
    mined, drawn = [], 0
    for row in rows:
        excluded = rows.no_negatives(row.query) | set(map(text_id, row.documents))
        negatives = [text for text in found[row.query] if text_id(text) not in excluded][:number]
        others = len(documents) - len(documents.keys() & (excluded | set(map(text_id, negatives))))
        if others < number - len(negatives):
            raise ValueError(
                f"mine_negatives must be at most {others + len(negatives)}, the number of documents that may be "
                f"negatives of {row.query[:60]!r}, got {number}"
            )
        drawn += number - len(negatives)
        while len(negatives) < number:
            text = draw.choice(everything)
            if text_id(text) not in excluded and text not in negatives:
                negatives.append(text)
        mined.append(Row(row.query, (*row.documents, *negatives)))
    if drawn:
        told = f"too few negatives were found: {drawn} of {number * len(mined)} are random documents"
        warn(told)
    return Rows(mined, rows.skipped)


def _search(
    retriever: Any, documents: list[str], queries: list[str], depth: int, verbose: bool
) -> dict[str, list[str]]:
    """The best documents of each query, best first; BM25 and encoders search the documents, docnos are their places."""

    def corpus() -> Any:
        return ({"docno": str(place), "text": text} for place, text in enumerate(documents))

    topics = pd.DataFrame({"qid": [str(number) for number in range(len(queries))], "query": queries})
    own = retriever == "bm25" or hasattr(retriever, "encode_docs")
    with tempfile.TemporaryDirectory() as folder:
        stage, path = retriever, Path(folder) / "index"
        if retriever == "bm25":
            tokeniser = choose_tokeniser(documents[:: max(1, len(documents) // 1000)], queries)
            build_bm25(corpus, path, tokeniser=tokeniser, verbose=verbose)
            stage = bm25(path, depth)
        elif own:
            index = open_index(path, "exact")
            (retriever.doc_encoder(verbose=verbose) >> index.indexer()).index(corpus())
            stage = retriever.query_encoder() >> index.retriever(depth)
        results = stage(topics)
    if own:
        results = results.assign(text=[documents[int(docno)] for docno in results["docno"]])
    pt.validate.columns(results, includes=["qid", "rank", "text"], context=stage)
    ranked = defaultdict(list)
    for qid, text in results.sort_values(["qid", "rank"])[["qid", "text"]].itertuples(index=False):
        ranked[queries[int(qid)]].append(text)
    return ranked
