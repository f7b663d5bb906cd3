"""Training data in one shape: rows of texts, whether they suit what is to be learnt, and hard negatives for them."""

from __future__ import annotations

import hashlib
import random
import struct
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .config import TrainConfig
from .distributed import world
from .losses import LOSSES

# Results of BM25 beyond those wanted: room for the positives among them.
_SPARE = 20


class Row(NamedTuple):
    """One training example: ``documents`` is the positive, then the negatives; ``scores`` are the teacher's of each."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None


class Rows(Sequence[Row]):
    """Training rows in memory.

    Attributes:
        skipped: number of rows left out, by reason.
        fingerprint: sixteen hex digits of every text and score of all rows, in their order.
    """

    def __init__(self, rows: Iterable[Row], skipped: Mapping[str, int] | None = None) -> None:
        self._rows = list(rows)
        self.skipped = dict(skipped or {})
        self._relevant: dict[int, set[int]] = defaultdict(set)
        digest = hashlib.blake2b(digest_size=8)
        for row in self._rows:
            self._relevant[text_id(row.query)].add(text_id(row.documents[0]))
            digest.update(packed((row.query, *row.documents), row.scores or ()))
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self._rows[index]

    def no_negatives(self, query: str) -> set[int]:
        """Ids of the documents that are no negatives of a query: relevant to it by any row, or the query's own text."""
        own = text_id(query)
        return self._relevant.get(own, set()) | {own}


def packed(texts: Sequence[str], numbers: Sequence[float] = ()) -> bytes:
    """Texts and numbers as bytes that no others have, to be hashed."""
    parts = [text.encode() for text in texts]
    sizes = [len(parts), len(numbers), *map(len, parts)]
    return struct.pack(f"<{len(sizes)}q{len(numbers)}d", *sizes, *numbers) + b"".join(parts)


def text_id(text: str) -> int:
    """A 63-bit id of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def check_rows(rows: Rows, config: TrainConfig) -> int:
    """Check that the rows suit the loss and fill a batch.

    Returns:
        n, the number of hard negatives per query in every row that training will use.

    Raises:
        ValueError: if there are too few rows, negatives or teacher scores, or nothing to learn from them.
    """
    loss, (_, processes) = LOSSES[config.loss], world()
    negatives = [len(row.documents) - 1 for row in rows]
    least, most, first = min(negatives), max(negatives), negatives.index(min(negatives))
    unscored = next((place for place, row in enumerate(rows) if row.scores is None), None)
    used = least if config.negatives is None else config.negatives
    batch = config.batch_size * processes
    for wrong, why in (
        (used > least, f"negatives must be at most {least}, the number that row {first} of data has, got {used}"),
        (used < loss.least_negatives,
         f"loss={config.loss!r} needs at least {loss.least_negatives} negative(s) per query, got {used}"),
        (loss.needs_scores and unscored is not None,
         f"loss={config.loss!r} needs teacher scores, and row {unscored} of data has none"),
        (len(rows) < batch,
         f"batch_size must be at most {len(rows) // processes}, the number of training rows (by {processes} "
         f"process(es)), got {config.batch_size}"),
        (config.loss == "infonce" and not used and batch < 2,
         f"batch_size must be at least 2 for loss='infonce' without hard negatives, got {config.batch_size}"),
        (all(row.query == row.documents[0] for row in rows),
         "the query and the document of every pair of data are the same text: check the columns"),
    ):  # fmt: skip
        if wrong:
            raise ValueError(why)
    if config.negatives is None and least < most:
        warnings.warn(f"rows of data have {least} to {most} negatives: {least} of each are used", stacklevel=3)
    return used


def mine_negatives(rows: Rows, number: int, *, seed: int = 0, verbose: bool = False) -> Rows:
    """Add ``number`` hard negatives to every row: the best documents by BM25 that no row calls relevant to its query.

    The documents searched are all those in the rows; a query's own text is no negative of it. A query for which BM25
    finds fewer gets random documents (of ``seed``) for the rest, which a warning tells. Teacher scores are dropped.

    Raises:
        ValueError: if there are not enough different documents.
    """
    documents = list(dict.fromkeys(text for row in rows for text in row.documents))
    ids = [text_id(text) for text in documents]
    ranked = _bm25(documents, list(dict.fromkeys(row.query for row in rows)), number + _SPARE, verbose)
    draw, known = random.Random(seed), set(ids)
    mined: list[Row] = []
    drawn = 0
    for row in rows:
        excluded = rows.no_negatives(row.query) | {text_id(text) for text in row.documents}
        others = len(known - excluded)
        if others < number:
            raise ValueError(
                f"mine_negatives must be at most {others}, the number of documents of data that may be negatives of "
                f"{row.query[:60]!r}, got {number}"
            )
        negatives = [place for place in ranked[row.query] if ids[place] not in excluded][:number]
        drawn += number - len(negatives)
        while len(negatives) < number:
            place = draw.randrange(len(documents))
            if ids[place] not in excluded and place not in negatives:
                negatives.append(place)
        mined.append(Row(row.query, (*row.documents, *(documents[place] for place in negatives))))
    if drawn:
        told = f"BM25 found too few negatives: {drawn} of {number * len(mined)} are random documents"
        warnings.warn(told, stacklevel=3)
    return Rows(mined, rows.skipped)


def _bm25(documents: list[str], queries: list[str], depth: int, verbose: bool) -> dict[str, list[int]]:
    """Places of the best documents of each query by Terrier's BM25, best first."""
    from ..indexing.bm25 import bm25, build_bm25, choose_tokeniser

    frame = pd.DataFrame({"qid": [str(number) for number in range(len(queries))], "query": queries})
    sample = documents[:: max(1, len(documents) // 1000)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        build_bm25(
            lambda: ({"docno": str(place), "text": text} for place, text in enumerate(documents)), path,
            tokeniser=choose_tokeniser(sample, queries), verbose=verbose,
        )  # fmt: skip
        results = bm25(path, depth)(frame).sort_values(["qid", "rank"])
    ranked: dict[str, list[int]] = defaultdict(list)
    for qid, docno in zip(results["qid"], results["docno"], strict=True):
        ranked[queries[int(qid)]].append(int(docno))
    return ranked
