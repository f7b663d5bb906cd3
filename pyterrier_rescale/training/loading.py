"""Training data of any accepted form, as rows of texts, and whether they suit what is to be learnt."""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.files import expand
from ..collections import load_collection
from ..collections.base import hint_at_levels
from ..collections.files import numbered_lines
from ..encoding.texts import check_texts
from .config import TrainConfig
from .distributed import world
from .losses import LOSSES
from .rows import Reader, Row, Rows, identifier

# A field that a spreadsheet has quoted, as it held quotes.
_QUOTED = re.compile(r'"([^"]|"")*"')
_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?\s*")
_ENDINGS = tuple(ending + packed for packed in ("", ".gz") for ending in (".jsonl", ".tsv", ".csv", ".txt"))


def load_rows(data: Any, texts: Any = None, *, columns: Sequence[str] | None = None, min_label: int = 1) -> Rows:
    """Read training data of any accepted form; rows with missing or blank texts are dropped and counted.

    Files are ``.jsonl`` (objects with ``query``, ``positive``, ``negatives`` or ``negative*``, ``scores``; or lists as
    in ``train``), or ``.tsv``, ``.csv`` and ``.txt`` (tab-separated) with such a header, compressed or not. Memory
    holds each text once.

    Args:
        data: as for ``train``.
        texts: where the texts stand, if the data hold ids: a collection (the topics of all its splits), or
            ``(documents, topics)``: dicts or a frame with docno and text, and a frame with qid and query or a dict of
            queries by qid. Judgements (qrels) are such data.
        columns: names of the columns of a file without a header.
        min_label: of pairs with a label, those below it are left out.

    Raises:
        TypeError: if ``data`` or ``texts`` has no accepted form.
        ValueError: if columns are wrong, a text or score is none, or no row is left.
        FileNotFoundError: if a file or folder does not exist.
    """
    if isinstance(data, Rows):
        return data
    reader = Reader(ids=texts is not None, min_label=min_label)
    examples = enumerate(_examples(data, columns, min_label, reader.ids))
    found = [row for row in (reader(example, number) for number, example in examples) if row is not None]
    rows = Rows(found if texts is None else _with_texts(found, texts, reader.skipped), reader.skipped)
    hint_at_levels(pd.DataFrame({"label": list(reader.labels)}), min_label, "data")
    if reader.unused:
        warnings.warn(f"columns of data that are not used: {', '.join(sorted(reader.unused))}", stacklevel=3)
    dropped = sum(rows.skipped.values())
    if dropped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in rows.skipped.items())
        warnings.warn(f"{dropped} training rows dropped ({reasons}); {len(rows)} are left", stacklevel=3)
    if not len(rows):
        what = f"all {dropped} rows were dropped" if dropped else "it is empty"
        raise ValueError(f"data must hold at least one pair of a query and a document, but {what}")
    _refuse_numbers(rows)
    return rows


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


def _refuse_numbers(rows: Rows) -> None:
    """Raise ``ValueError`` where a query or document is a number in every row: an id, a label or a score."""
    places = range(len(rows[0].documents) + 1)
    for row in rows:
        texts = (row.query, *row.documents)
        places = [place for place in places if place < len(texts) and _NUMBER.fullmatch(texts[place])]
    if places:
        what = f"document {places[0]}" if places[0] else "query"
        raise ValueError(
            f"data hold ids or scores where texts are needed: the {what} of every row is a number. If they are ids, "
            "say where the texts stand, with texts=; scores go into a column 'scores'"
        )


def _examples(data: Any, columns: Sequence[str] | None, min_label: int, ids: bool) -> Iterable[Any]:
    """Tuples or dicts of any form."""
    if isinstance(data, (str, os.PathLike)):
        path = expand(data)
        if path.is_file() or path.name.endswith(_ENDINGS):
            return _file_examples(path, columns, ids)
        data = load_collection(os.fspath(data))
    if hasattr(data, "train_pairs"):
        if ids:
            raise TypeError(f"data must hold ids where texts is given, got the collection {data!r}: leave texts out")
        return data.train_pairs() if min_label == 1 else data.train_pairs(min_label=min_label)
    if hasattr(data, "itertuples"):
        return (dict(zip(data.columns, values, strict=True)) for values in data.itertuples(index=False, name=None))
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        split = ", one split of it, e.g. data['train']," if hasattr(data, "column_names") else ""
        raise TypeError(
            f"data must be a collection with train_pairs(), an iterable of (query, positive[, negative, ...]), a "
            f"frame, a Hugging Face Dataset{split} or a file, got {type(data).__name__}"
        )
    return data


def _with_texts(rows: list[Row], texts: Any, skipped: Counter[str]) -> Iterator[Row]:
    """Rows of ids as rows of their texts, each text once in memory; those without all their texts are counted."""
    if hasattr(texts, "corpus") and hasattr(texts, "topics"):
        topics = pd.concat([texts.topics(split) for split in texts.splits])
    elif isinstance(texts, (tuple, list)) and len(texts) == 2:
        documents, topics = texts
        topics = pd.DataFrame(topics.items(), columns=["qid", "query"]) if isinstance(topics, Mapping) else topics
        texts = load_collection(documents=documents)
    else:
        raise TypeError(f"texts must be a collection or a tuple (documents, topics), got {type(texts).__name__}")
    if not {"qid", "query"} <= set(getattr(topics, "columns", ())):
        raise ValueError("texts: topics must be a frame with columns qid and query, or a dict of queries by qid")
    queries = {identifier(qid): query for qid, query in zip(topics["qid"], topics["query"], strict=True)}
    wanted = {docno for row in rows for docno in row.documents}
    found = {one["docno"]: one["text"] for one in texts.corpus() if one["docno"] in wanted}
    check_texts(found.values(), "document {1}", list(found))
    for row in rows:
        known = [queries.get(row.query), *map(found.get, row.documents)]
        for text, what in zip(known, ("query", *["document"] * len(row.documents)), strict=True):
            if not isinstance(text, str) or not text.strip():
                skipped[f"a blank {what}" if isinstance(text, str) else f"a {what} id that texts does not know"] += 1
                break
        else:
            yield Row(known[0], tuple(known[1:]), row.scores)


def _file_examples(path: Path, columns: Sequence[str] | None, ids: bool) -> Iterator[Any]:
    """Dicts and tuples of a training file."""
    if not path.is_file():
        raise FileNotFoundError(f"data file {str(path)!r} does not exist")
    if not path.name.endswith(_ENDINGS):
        raise ValueError(f"data file must end in {', '.join(_ENDINGS)}, got {path.name!r}")
    lines = (line for _, line in numbered_lines(path))
    if ".jsonl" in path.suffixes:
        for line in filter(str.strip, lines):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{str(path)!r}: not JSON: {line[:80]!r} ({error})") from error
        return
    if ".csv" in path.suffixes:
        records = filter(None, csv.reader(f"{line}\n" for line in lines))
    else:
        records = (_fields(line, ids) for line in lines if line.strip())
    names = columns or next(records, ())
    for values in records:
        if len(values) != len(names):
            raise ValueError(f"{str(path)!r}: {len(values)} fields, columns are {', '.join(names)}: {values!r:.120}")
        yield dict(zip(names, values, strict=True))


def _fields(line: str, ids: bool) -> list[str]:
    """Fields of a line of a TSV; ids may be apart by spaces, as in TREC's qrels. Quotes of a spreadsheet are undone."""
    fields = line.split() if ids and "\t" not in line else line.split("\t")
    return [field[1:-1].replace('""', '"') if _QUOTED.fullmatch(field) else field for field in fields]
