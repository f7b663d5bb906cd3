"""Files of judgements in BEIR's format."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from .._utils.text_lines import numbered_lines
from .ids import check_id

# What a header may call the three columns; hyphens stand for underscores, too.
_NAMES = {
    "query-id": ("query-id", "qid", "query", "topic-id"),
    "corpus-id": ("corpus-id", "docno", "doc-id", "docid", "document-id", "pid", "passage-id"),
    "score": ("score", "label", "relevance", "rel"),
}


def read_qrels(file: Path) -> pd.DataFrame:
    """Read judgements: qid (str), docno (str), label (int), in the order of the file.

    The columns are found by the header's names, in any order; without a header they are query-id, corpus-id, score.
    A judgement that is repeated counts once, with a warning.

    Raises:
        ValueError: for a header that lacks a column, a line of another form, an id with white space, a score that is
            no whole number, or two scores of one pair; the message names file and line.
    """
    qids: list[str] = []
    docnos: list[str] = []
    labels: list[int] = []
    numbers: list[int] = []
    columns: list[int] | None = None
    width = 3
    for number, line in numbered_lines(file):
        if not line or line.isspace():
            continue
        cells = line.split("\t")
        if columns is None:
            header = _header(cells, f"{file}, line {number}")
            columns, width = header or [0, 1, 2], len(cells) if header else 3
            if header:
                continue
        where = f"{file}, line {number}"
        qid, docno, score = (cells[column] for column in columns) if len(cells) == width else ("", "", "")
        if not qid or not docno or not _is_int(score):
            raise ValueError(
                f"{where}: must be query-id, corpus-id and a whole score with tabs between, got {line[:80]!r}"
            )
        qids.append(check_id(qid, f"{where}: query-id"))
        docnos.append(check_id(docno, f"{where}: corpus-id"))
        labels.append(int(float(score)))
        numbers.append(number)
    frame = pd.DataFrame({"qid": qids, "docno": docnos}, dtype=str)
    return _without_repeats(frame.assign(label=pd.Series(labels, dtype="int64")), numbers, file)


def _header(cells: list[str], where: str) -> list[int] | None:
    """The places of query-id, corpus-id and score, or None for a line of data."""
    if len(cells) == 3 and _is_int(cells[2]):
        return None
    names = [cell.strip().lower().replace("_", "-") for cell in cells]
    found = [next((names.index(name) for name in known if name in names), None) for known in _NAMES.values()]
    if all(place is None for place in found):
        return None
    if missing := [name for name, place in zip(_NAMES, found, strict=True) if place is None]:
        raise ValueError(f"{where}: the header must name query-id, corpus-id and score; it lacks {', '.join(missing)}")
    return found  # type: ignore[return-value]


def _without_repeats(frame: pd.DataFrame, numbers: list[int], file: Path) -> pd.DataFrame:
    repeated = frame.duplicated(["qid", "docno"])
    if not repeated.any():
        return frame
    pairs = frame[frame.duplicated(["qid", "docno"], keep=False)]
    for (qid, docno), labels in pairs.groupby(["qid", "docno"], sort=False)["label"]:
        first, other = labels.index[0], (labels != labels.iloc[0]).idxmax()
        if labels[first] != labels[other]:
            raise ValueError(
                f"{file}, line {numbers[other]}: scores document {docno!r} for query {qid!r} {labels[other]}, but line "
                f"{numbers[first]} scores it {labels[first]}"
            )
    warnings.warn(f"{file}: {int(repeated.sum()):,} judgements are repeated; each counts once", stacklevel=2)
    return frame[~repeated].reset_index(drop=True)


def _is_int(cell: str) -> bool:
    try:
        return float(cell).is_integer()
    except ValueError:
        return False
