"""Training data of any accepted form, as rows, and whether they suit what is to be learnt."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from typing import Any

from ..config import TrainConfig
from ..distributed import world
from ..losses import LOSSES
from .files import open_data
from .ids import IdRows
from .rows import Facts, Row, Rows, clean, examples_of, parse, say_skipped


def load_rows(data: Any, texts: Any = None) -> Rows:
    """Read training data of any accepted form; rows with missing or blank texts are dropped and counted.

    With ``texts`` the data hold ids, see :class:`~pyterrier_rescale.training.data.ids.IdRows`.

    Raises:
        TypeError: if ``data`` has no accepted form.
        ValueError: if columns are wrong, or no row is left.
        FileNotFoundError: if a file or folder does not exist.
    """
    if isinstance(data, Rows):
        return data
    if texts is not None:
        return IdRows(data, texts)
    if isinstance(data, (str, os.PathLike)):
        data = open_data(data)
        if isinstance(data, Rows):
            data.facts.refuse_numbers()
            return data
    skipped: Counter[str] = Counter()
    rows: list[Row] = []
    for number, example in enumerate(examples_of(data)):
        row = clean(parse(example, number), number, skipped)
        if row is not None:
            rows.append(row)
    say_skipped(skipped, len(rows))
    if not rows:
        what = f"all {sum(skipped.values())} rows were dropped" if skipped else "it is empty"
        raise ValueError(f"data must hold at least one pair of texts, but {what}")
    made = Rows(rows, skipped)
    made.facts.refuse_numbers()
    return made


def check_rows(rows: Rows, config: TrainConfig) -> int:
    """Check that the rows suit the loss and fill a batch.

    Returns:
        n, the number of hard negatives per query in every row that training will use.

    Raises:
        ValueError: if there are too few rows, negatives or teacher scores, or nothing to learn from them.
    """
    loss = LOSSES[config.loss]
    least, most, first = rows.facts.negatives
    wanted = least if config.negatives is None else config.negatives
    if wanted > least:
        raise ValueError(f"negatives must be at most {least}, the number that row {first} of data has, got {wanted}")
    if config.negatives is None and least < most:
        warnings.warn(
            f"rows of data have {least} to {most} negatives: {least} are used of each (option negatives=)",
            stacklevel=3,
        )
    if wanted < loss.least_negatives:
        raise ValueError(
            f"loss={config.loss!r} needs at least {loss.least_negatives} negative(s) per query, got {wanted}"
        )
    if loss.needs_scores and rows.facts.unscored is not None:
        raise ValueError(f"loss={config.loss!r} needs teacher scores, and row {rows.facts.unscored} of data has none")
    _check_size(len(rows), config, wanted)
    _check_texts(rows.facts, config, wanted)
    return wanted


def _check_size(size: int, config: TrainConfig, negatives: int) -> None:
    processes = world()[1]
    needed = config.batch_size * processes
    if size < needed:
        raise ValueError(
            f"batch_size must be at most {size // processes}, the number of training rows"
            f"{f' divided by {processes} processes' if processes > 1 else ''}, got {config.batch_size}"
        )
    if config.loss == "infonce" and not negatives and needed < 2:
        raise ValueError(
            f"batch_size must be at least 2 for loss='infonce' without hard negatives, got {config.batch_size}: a "
            "batch of one document has nothing to tell it from"
        )


def _check_texts(facts: Facts, config: TrainConfig, negatives: int) -> None:
    if config.loss == "infonce" and not negatives and min(len(facts.queries), len(facts.positives)) == 1:
        what = "documents" if len(facts.positives) == 1 else "queries"
        raise ValueError(
            f"the {what} of data are all the same text: there is nothing to learn from {facts.count} such pairs"
        )
    if negatives and not facts.contrasting:
        raise ValueError("every negative of data is the same text as its positive: check the columns")
    if facts.identical:
        raise ValueError("the query and the document of every pair of data are the same text: check the columns")
