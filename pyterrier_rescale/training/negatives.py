"""Hard negatives: what BM25 in Terrier finds for a training query beside its positives."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from .rows import Row, Rows, text_id

# Results asked for beyond those wanted: room for the positives among them.
_SPARE = 20


def mine_negatives(rows: Rows, number: int, *, seed: int = 0, verbose: bool = False) -> Rows:
    """Add ``number`` hard negatives to every row: the best documents by BM25 that no row calls relevant to its query.

    A query's own text is no negative of it.

    The documents searched are all those in the rows. A query for which BM25 finds fewer gets random documents (of
    ``seed``) for the rest; how many is said in a warning. Teacher scores are dropped: mined documents have none.

    Raises:
        ValueError: if there are not enough different documents.
    """
    documents = list(dict.fromkeys(text for row in rows for text in row.documents))
    ids = [text_id(text) for text in documents]
    queries = list(dict.fromkeys(row.query for row in rows))
    ranked = _bm25(documents, queries, number + _SPARE, verbose)
    draw, known = random.Random(seed), set(ids)
    mined: list[Row] = []
    drawn = 0
    for row in rows:
        excluded = rows.no_negatives(row.query) | {text_id(text) for text in row.documents}
        others = len(documents) - len(excluded & known)
        if others < number:
            raise ValueError(
                f"mine_negatives must be at most {others}, the number of documents of data that may be negatives of "
                f"{row.query[:60]!r}, got {number}"
            )
        negatives = [place for place in ranked.get(row.query, []) if ids[place] not in excluded][:number]
        drawn += number - len(negatives)
        while len(negatives) < number:
            place = draw.randrange(len(documents))
            if ids[place] not in excluded and place not in negatives:
                negatives.append(place)
        mined.append(Row(row.query, (*row.documents, *(documents[place] for place in negatives))))
    if drawn:
        warnings.warn(
            f"BM25 found too few negatives: {drawn} of {number * len(mined)} are random documents", stacklevel=3
        )
    return Rows(mined, rows.skipped)


def _bm25(documents: list[str], queries: list[str], depth: int, verbose: bool) -> dict[str, list[int]]:
    """Places of the best documents of each query, best first."""
    from ..indexing.bm25 import bm25, build_bm25, choose_tokeniser

    def feed() -> Iterator[dict[str, str]]:
        return ({"docno": str(place), "text": text} for place, text in enumerate(documents))

    frame = pd.DataFrame({"qid": [str(number) for number in range(len(queries))], "query": queries})
    spread = documents[:: max(1, len(documents) // 1000)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        build_bm25(feed, path, tokeniser=choose_tokeniser(spread, queries), verbose=verbose)
        results = bm25(path, depth)(frame).sort_values(["qid", "rank"])
    ranked: dict[str, list[int]] = {}
    for qid, docno in zip(results["qid"], results["docno"], strict=True):
        ranked.setdefault(queries[int(qid)], []).append(int(docno))
    return ranked
