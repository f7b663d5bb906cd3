"""Hard negatives: what a retriever ranks high for a query and no row calls relevant to it."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path

import pandas as pd

from ..indexing.bm25 import bm25, build_bm25, choose_tokeniser
from .rows import Row, Rows, text_id

# Results beyond those wanted: room for the positives among them.
_SPARE = 20


def mine_negatives(rows: Rows, number: int, *, seed: int = 0, verbose: bool = False) -> Rows:
    """Add hard negatives to every row: the best of all rows' documents by BM25 that are not relevant to its query.

    Where BM25 finds fewer, random documents are the rest, which a warning tells. Teacher scores are dropped.
    """
    documents = {text_id(text): text for row in rows for text in row.documents}
    queries = list(dict.fromkeys(row.query for row in rows))
    found = _bm25(list(documents.values()), queries, number + _SPARE, verbose)
    draw, everything = random.Random(seed), list(documents.values())
    mined, drawn = [], 0
    for row in rows:
        excluded = rows.no_negatives(row.query) | set(map(text_id, row.documents))
        others = len(documents) - len(documents.keys() & excluded)
        if others < number:
            raise ValueError(
                f"mine_negatives must be at most {others}, the number of documents of data that may be negatives of "
                f"{row.query[:60]!r}, got {number}"
            )
        negatives = [text for text in found[row.query] if text_id(text) not in excluded][:number]
        drawn += number - len(negatives)
        while len(negatives) < number:
            text = draw.choice(everything)
            if text_id(text) not in excluded and text not in negatives:
                negatives.append(text)
        mined.append(Row(row.query, (*row.documents, *negatives)))
    if drawn:
        told = f"BM25 found too few negatives: {drawn} of {number * len(mined)} are random documents"
        warnings.warn(told, stacklevel=3)
    return Rows(mined, rows.skipped)


def _bm25(documents: list[str], queries: list[str], depth: int, verbose: bool) -> dict[str, list[str]]:
    """The best documents of each query by Terrier's BM25, best first."""
    topics = pd.DataFrame({"qid": [str(number) for number in range(len(queries))], "query": queries})
    tokeniser = choose_tokeniser(documents[:: max(1, len(documents) // 1000)], queries)
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        named = lambda: ({"docno": str(place), "text": text} for place, text in enumerate(documents))  # noqa: E731
        build_bm25(named, index, tokeniser=tokeniser, verbose=verbose)
        results = bm25(index, depth)(topics).sort_values(["qid", "rank"])
    ranked = defaultdict(list)
    for qid, docno in zip(results["qid"], results["docno"], strict=True):
        ranked[queries[int(qid)]].append(documents[int(docno)])
    return ranked
