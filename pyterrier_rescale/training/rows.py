"""Training rows, and checks that they suit the loss."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .._utils.checks import warn
from .config import TrainConfig
from .distributed import world


class Row(NamedTuple):
    """One training example: ``documents`` is the positive, then the negatives; ``scores`` are the teacher's of each."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None


class Rows(Sequence[Row]):
    """Training rows in memory; ``skipped``: rows left out, by reason; ``fingerprint``: of all texts and scores."""

    def __init__(
        self, rows: Iterable[Row], skipped: Mapping[str, int] | None = None,
        no_negatives: Mapping[int, set[int]] | None = None,
    ) -> None:  # fmt: skip
        self._rows = list(rows)
        self.skipped = dict(skipped or {})
        self._no_negatives: dict[int, set[int]] = defaultdict(set, no_negatives or {})
        digest = hashlib.blake2b(digest_size=8)
        for row in self._rows:
            self._no_negatives[text_id(row.query)].add(text_id(row.documents[0]))
            digest.update(repr(row).encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self._rows[index]

    def no_negatives(self, query: str) -> set[int]:
        """Ids of the documents that are no negatives of a query: relevant by any row or teacher, or its own text."""
        own = text_id(query)
        return self._no_negatives.get(own, set()) | {own}


def text_id(text: str) -> int:
    """A 63-bit id of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def fitting_rows(rows: Rows, config: TrainConfig) -> tuple[Rows, int]:
    """The rows without false negatives, and how many negatives of each training will use.

    Raises:
        ValueError: for rows that do not suit the options.
    """
    losses, (_, processes) = config.losses, world()
    needed = max(loss.least_negatives for loss in losses)
    unscored = next((place for place, row in enumerate(rows) if row.scores is None), None)
    if config.negative_margin is not None and unscored is None:
        rows = without_false_negatives(rows, config.negative_margin, config.negatives)
    negatives = [len(row.documents) - 1 for row in rows] or [0]
    least, most = min(negatives), max(negatives)
    used = least if config.negatives is None else config.negatives
    batch = config.batch_size * processes
    for wrong, why in (
        (config.negative_margin is not None and unscored is not None,
         f"negative_margin needs teacher scores, and row {unscored} of data has none"),
        (used > least,
         f"negatives must be at most {least}, as many as row {negatives.index(least)} of data has, got {used}"),
        (used < needed,
         f"loss={config.loss!r} needs at least {needed} negative(s) per query, got {used}"),
        (any(loss.needs_scores for loss in losses) and unscored is not None,
         f"loss={config.loss!r} needs teacher scores, and row {unscored} of data has none"),
        (len(rows) < batch,
         f"batch_size must be at most {len(rows) // processes}, the number of training rows (by {processes} "
         f"process(es)), got {config.batch_size}"),
        (any(loss.in_batch for loss in losses) and not used and batch < 2,
         f"batch_size must be at least 2 for loss={config.loss!r} without hard negatives, got {config.batch_size}"),
        (all(row.query == row.documents[0] for row in rows), "queries of data are their documents: check the columns"),
    ):  # fmt: skip
        if wrong:
            raise ValueError(why)
    if config.negatives is None and least < most:
        warn(f"rows of data have {least} to {most} negatives: {least} of each are used")
    return rows, used


def without_false_negatives(rows: Rows, margin: float, wanted: int | None) -> Rows:
    """Rows without negatives that the teacher scores above the positive's score less the margin.

    Rows that keep fewer than ``wanted`` (``None``: one) are left out, which a warning tells. No dropped negative and no
    positive of such a row becomes a negative of its query by another row of the batch.
    """
    kept, no_negatives = [], defaultdict(set)
    for row in rows:
        best = row.scores[0] - margin
        places = [0] + [place for place in range(1, len(row.documents)) if row.scores[place] <= best]
        dropped = (text for place, text in enumerate(row.documents) if place == 0 or place not in places)
        no_negatives[text_id(row.query)].update(map(text_id, dropped))
        if len(places) > (1 if wanted is None else wanted):
            kept.append(Row(row.query, *(tuple(one[place] for place in places) for one in row[1:])))
    if len(kept) < len(rows):
        warn(f"negative_margin={margin} leaves {len(kept)} of {len(rows)} rows enough negatives")
    return Rows(kept, rows.skipped, no_negatives)
