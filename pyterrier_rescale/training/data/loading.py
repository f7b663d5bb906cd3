"""Training data of any accepted form, as rows."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from .files import open_data
from .ids import IdRows
from .rows import Row, Rows, clean, examples_of, parse, say_skipped


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
