"""Training data of any accepted form, as rows of texts."""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._utils.checks import warn
from .._utils.files import expand
from ..collections import load_collection
from ..collections.base import hint_at_levels
from ..collections.files import COLUMNS, JSON_LINES, csv_cells, numbered_lines, unquoted
from ..encoding.texts import check_texts
from .rows import Row, Rows

# Names of columns; of each kind the first that is there is read.
_QUERIES, _POSITIVES = ("query", "anchor", "question"), ("positive", "text", "document", "passage", "answer")
_QUERY_IDS = tuple(name for name in COLUMNS["qid"] if name not in ("_id", "id"))
_DOCUMENT_IDS = (*(name for name in COLUMNS["docno"] if name not in ("_id", "id")), "positive_id")
_SCORES = ("scores", "score", "labels", "label", "relevance")
_NEGATIVE = re.compile(r"negatives?(_\d+)?")
_NEGATIVE_ID = re.compile(r"negative_(ids?|id_\d+|\d+_id)")
_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?\s*")
#: The file that ``score`` writes into its folder.
ROWS_FILE = "rows.jsonl"
_ENDINGS = tuple(ending + packed for packed in ("", ".gz") for ending in (".jsonl", ".ndjson", ".tsv", ".csv", ".txt"))


def load_rows(data: Any, texts: Any = None, *, columns: Sequence[str] | None = None, min_label: int = 1) -> Rows:
    """Read training data of any accepted form; rows with missing or blank texts are dropped and counted.

    Files are ``.jsonl`` or ``.ndjson`` (objects with ``query``, ``positive``, ``negatives`` or ``negative*``,
    ``scores``; or lists as in ``train``), or ``.csv``, and ``.tsv`` or ``.txt`` (apart by tabs), with a header,
    gzipped or not.

    Args:
        data: as for ``train``.
        texts: where the texts stand, if the data hold ids: a collection (all its topics), or ``(documents, topics)``:
            dicts or a frame with docno and text, and a frame with qid and query or a dict of queries by qid. Judgements
            (qrels) are such data.
        columns: names of the columns of a file without a header.
        min_label: of pairs with a label, those below it are left out.

    Raises:
        TypeError, ValueError, FileNotFoundError: for data or texts of no accepted form, or no row that is left.
    """
    if isinstance(data, Rows):
        return data
    skipped: Counter[str] = Counter()
    rows = list(_rows(_examples(data, columns, min_label), texts is not None, min_label, skipped))
    if texts is not None:
        rows = list(_with_texts(rows, texts, skipped))
    dropped = skipped.total()
    if dropped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in skipped.items())
        warn(f"{dropped} training rows dropped ({reasons}); {len(rows)} are left")
    if not rows:
        what = f"all {dropped} rows were dropped" if dropped else "it is empty"
        raise ValueError(f"data must hold at least one pair of a query and a document, but {what}")
    if all(_NUMBER.fullmatch(row.query) or _NUMBER.fullmatch(row.documents[-1]) for row in rows):
        raise ValueError(
            "data hold ids or scores where texts are needed: the query or the last document of every row is a number. "
            "If they are ids, say where the texts stand, with texts=; scores go into a column 'scores'"
        )
    return Rows(rows, skipped)


def _examples(data: Any, columns: Sequence[str] | None, min_label: int) -> Iterable[Any]:
    """Tuples or dicts of any form."""
    if isinstance(data, (str, os.PathLike)):
        path = expand(data)
        path = path / ROWS_FILE if (path / ROWS_FILE).is_file() else path
        if path.is_file() or path.name.lower().endswith(_ENDINGS):
            return _file_examples(path, columns)
        data = load_collection(os.fspath(data))
    if hasattr(data, "train_pairs"):
        return data.train_pairs() if min_label == 1 else data.train_pairs(min_label=min_label)
    if hasattr(data, "itertuples"):
        return (dict(zip(data.columns, values, strict=True)) for values in data.itertuples(index=False, name=None))
    if hasattr(data, "to_dicts"):  # Polars
        return data.to_dicts()
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be a collection with train_pairs(), an iterable of (query, positive[, negative, ...]), a "
            f"frame, a split of a Hugging Face Dataset or a file, got {type(data).__name__}"
        )
    return data


def _file_examples(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    """Dicts and tuples of a training file."""
    endings = {ending.lower() for ending in path.suffixes}
    if not path.name.lower().endswith(_ENDINGS):
        raise ValueError(f"data file must end in {', '.join(_ENDINGS)}, got {path.name!r}")
    lines = (line for _, line in numbered_lines(path))
    if endings & JSON_LINES:
        for line in filter(str.strip, lines):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{str(path)!r}: not JSON: {line[:80]!r} ({error})") from error
        return
    if ".csv" in endings:
        records = (cells for _, cells in csv_cells(path))
    else:
        records = (list(map(unquoted, line.split("\t"))) for line in lines if line.strip())
    names = columns or next(records, ())
    for number, values in enumerate(records):
        if number == 0 and [cell.strip().lower() for cell in values] == [name.lower() for name in names]:
            continue  # the header, which columns repeat
        if len(values) != len(names):
            raise ValueError(f"{str(path)!r}: {len(values)} fields, columns are {', '.join(names)}: {values!r:.120}")
        yield dict(zip(names, values, strict=True))


def _rows(examples: Iterable[Any], ids: bool, min_label: int, skipped: Counter[str]) -> Iterator[Row]:
    """Rows of texts, or of ids as strings; where something is missing, the reason is counted instead."""
    columns: dict[tuple[Any, ...], tuple[str, list[str], str | None]] = {}
    known: dict[str, str] = {}  # each text or id once in memory
    labels: set[int] = set()
    for number, example in enumerate(examples):
        if hasattr(example, "relevance") and hasattr(example, "_asdict"):
            example = example._asdict()  # a judgement of ir_datasets
        if isinstance(example, Mapping):
            names = tuple(example)
            if names not in columns:
                columns[names] = _columns(names, ids)
            query, texts, score = columns[names]
            values, scores = [example[query]], None if score is None else _plain(example[score])
            for name in texts:
                several = _several(example[name], str(name))
                if name == texts[0] and len(several) > 1:
                    told = f"{name} holds {len(several)} texts, expected one: make a row of each"
                    raise ValueError(f"row {number} of data: {told}")
                values += several or [None] * (name == texts[0])
        else:
            values, scores = _values(example, number, ids)
        values = [_identifier(value) for value in values] if ids else values
        missing = [_missing(value) or (isinstance(value, str) and not value.strip()) for value in values]
        if any(missing):
            skipped[f"a missing or blank {'query' if missing[0] else 'document'}{' id' if ids else ''}"] += 1
            continue
        check_texts(values, f"row {number} of data: text {{0}}")
        query, *documents = (known.setdefault(value, value) for value in values)
        try:
            numbers = () if scores is None else _numbers(scores)
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {number} of data: a score must be a number, got {scores!r:.80}") from error
        if not all(map(math.isfinite, numbers)):
            skipped["a missing label or score"] += 1
            continue
        if len(documents) == len(numbers) == 1:
            (label,), numbers = numbers, ()
            if not label.is_integer():
                raise ValueError(f"row {number} of data: the label of a pair must be a whole number, got {label}")
            labels.add(int(label))
            if label < min_label:
                skipped[f"a label below {min_label}"] += 1
                continue
        elif len(documents) == 2 and len(numbers) == 1:
            numbers = (numbers[0], 0.0)  # the margin
        if numbers and len(numbers) != len(documents):
            count = len(documents)
            raise ValueError(f"row {number} of data: {count} documents need {count} scores, got {len(numbers)}")
        yield Row(query, tuple(documents), numbers or None)
    hint_at_levels(pd.DataFrame({"label": list(labels)}), min_label, "data")


def _values(example: Any, number: int, ids: bool) -> tuple[list[Any], Any]:
    """Query and documents of a tuple, and its scores."""
    is_row = isinstance(example, Sequence) and not isinstance(example, (str, bytes))
    values = list(map(_plain, example)) if is_row else []
    numbered = ids and any(isinstance(docno, int) for docno in values[1:2])  # then an integer at the end is an id, too
    kinds = (list, tuple, float) if numbered else (list, tuple, float, int)
    scores = values.pop() if values and isinstance(values[-1], kinds) and not _missing(values[-1]) else None
    if len(values) < 2:
        raise TypeError(f"row {number} of data must be a tuple (query, positive[, negative, ...]), got {example!r:.99}")
    return values, scores


def _columns(names: tuple[Any, ...], ids: bool) -> tuple[str, list[str], str | None]:
    """The columns of the query, of the positive and negatives, and of scores."""
    keys = {name: str(name).strip().lower().replace("-", "_") for name in names}
    real: dict[str, Any] = {}  # of several spellings the exact one, else the first
    for name, key in keys.items():
        real[key] = name if key == name else real.get(key, name)
    queries, positives = (_QUERY_IDS + _QUERIES, _DOCUMENT_IDS + _POSITIVES) if ids else (_QUERIES, _POSITIVES)
    query, positive, scores = (
        next((real[one] for one in known if one in real), None) for known in (queries, positives, _SCORES)
    )
    negatives = [name for one, name in real.items() if ids and _NEGATIVE_ID.fullmatch(one)]
    negatives = negatives or [name for one, name in real.items() if _NEGATIVE.fullmatch(one)]
    if query is None or positive is None:
        hint = "name those of a file without a header with columns="
        if not ids and {*_QUERY_IDS, *_DOCUMENT_IDS} & set(real):
            hint = "if they hold ids, say where the texts stand, with texts="
        if "title" in real:
            hint = "documents train as a collection: load_collection(documents=...), or documents.csv in a folder"
        what, wanted = ("query", queries) if query is None else ("positive", positives)
        found = ", ".join(map(str, names))
        raise ValueError(f"data has no {what} column (one of {', '.join(wanted)}); its columns are {found}: {hint}")
    used = {scores, *negatives, *queries, *positives, *_QUERY_IDS, *_DOCUMENT_IDS, "iteration"}
    unused = sorted(
        str(name) for name, key in keys.items() if name not in used and (real[key] != name or key not in used)
    )
    if unused:
        warn(f"columns of data that are not used: {', '.join(unused)}")
    return query, [positive, *negatives], scores


def _with_texts(rows: list[Row], texts: Any, skipped: Counter[str]) -> Iterator[Row]:
    """Rows of ids as rows of their texts, each text once in memory; those without all their texts are counted."""
    texts = load_collection(texts) if isinstance(texts, (str, os.PathLike)) else texts
    if hasattr(texts, "corpus") and hasattr(texts, "all_topics"):
        topics = texts.all_topics()
    elif isinstance(texts, (tuple, list)) and len(texts) == 2:
        documents, topics = texts
        topics = pd.DataFrame(topics.items(), columns=["qid", "query"]) if isinstance(topics, Mapping) else topics
        texts = load_collection(documents=documents)
    else:
        raise TypeError(f"texts must be a collection or a tuple (documents, topics), got {type(texts).__name__}")
    if not {"qid", "query"} <= set(getattr(topics, "columns", ())):
        raise ValueError("texts: topics must be a frame with columns qid and query, or a dict of queries by qid")
    queries = dict(zip(map(_identifier, topics["qid"]), topics["query"], strict=True))
    wanted = {docno for row in rows for docno in row.documents}
    found = {one["docno"]: one["text"] for one in texts.corpus() if one["docno"] in wanted}
    check_texts(found.values(), "document {1}", list(found))
    for row in rows:
        known = [queries.get(row.query), *map(found.get, row.documents)]
        blank = [not isinstance(text, str) or not text.strip() for text in known]
        if any(blank):
            skipped[f"a {'query' if blank[0] else 'document'} that texts does not have, or a blank one"] += 1
        else:
            yield Row(known[0], tuple(known[1:]), row.scores)


def _identifier(value: Any) -> str | None:
    """An id as a string; ``None`` for a missing one. Frames turn integers beside missing values into floats."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return None if _missing(value) else str(value).strip()


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _several(value: Any, name: str) -> Sequence[Any]:
    """The texts or ids of a column; a CSV file's ``negatives`` are a list that is written out."""
    value = _plain(value)
    if isinstance(value, str) and value.startswith("[") and name.strip().lower() in ("negatives", "negative_ids"):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    return value if isinstance(value, (list, tuple)) else [value]


def _numbers(value: Any) -> tuple[float, ...]:
    """The numbers in a label, a score or a list of them; in a file they may be written as JSON."""
    value = json.loads(value) if isinstance(value, str) else value
    return tuple(np.atleast_1d(np.asarray(math.nan if _missing(value) else value, dtype=float)).tolist())
