"""Training data of any accepted form, as rows of texts."""

from __future__ import annotations

import csv
import json
import math
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
from .rows import Row, Rows

# Columns of texts and of ids; of each kind the first that is there is read.
_QUERIES, _POSITIVES = ("query", "anchor", "question"), ("positive", "text", "document", "passage", "answer")
_QUERY_IDS = ("qid", "query_id", "query-id")
_DOCUMENT_IDS = ("docno", "positive_id", "pos_id", "doc_id", "corpus-id")
_SCORES = ("scores", "score", "labels", "label", "relevance")
_NEGATIVE = re.compile(r"negatives?(_\d+)?")
_NEGATIVE_ID = re.compile(r"negative_(ids?|id_\d+|\d+_id)")
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
    reader = _Reader(ids=texts is not None, min_label=min_label)
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
    places = range(1 + len(rows[0].documents))  # of a text that is a number in every row: an id, a label or a score
    for row in rows:
        row_texts = (row.query, *row.documents)
        places = [place for place in places if place < len(row_texts) and _NUMBER.fullmatch(row_texts[place])]
    if places:
        what = f"document {places[0]}" if places[0] else "query"
        raise ValueError(
            f"data hold ids or scores where texts are needed: the {what} of every row is a number. If they are ids, "
            "say where the texts stand, with texts=; scores go into a column 'scores'"
        )
    return rows


def _examples(data: Any, columns: Sequence[str] | None, min_label: int, ids: bool) -> Iterable[Any]:
    """Tuples or dicts of any form."""
    if isinstance(data, (str, os.PathLike)):
        path = expand(data)
        if path.is_file() or path.name.endswith(_ENDINGS):
            return _file_examples(path, columns, ids)
        data = load_collection(os.fspath(data))
    if hasattr(data, "train_pairs"):
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


def _file_examples(path: Path, columns: Sequence[str] | None, ids: bool) -> Iterator[Any]:
    """Dicts and tuples of a training file."""
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


class _Reader:
    """Turns an example of any form into a row of texts, or of ids as strings; ``None`` where something is missing.

    Attributes:
        skipped: rows left out, by reason.
        unused: columns that were not read.
        labels: of pairs, all that occur.
    """

    def __init__(self, *, ids: bool, min_label: int) -> None:
        self.ids, self.min_label = ids, min_label
        self.skipped: Counter[str] = Counter()
        self.unused: set[str] = set()
        self.labels: set[int] = set()
        self._columns: dict[tuple[Any, ...], tuple[str, str, list[str], str | None]] = {}
        self._known: dict[str, str] = {}  # each text or id once in memory

    def __call__(self, example: Any, number: int) -> Row | None:
        """The row of an example, the data's ``number``-th."""
        query, documents, scores = self._parts(example, number)
        values = [_identifier(value) if self.ids else value for value in (query, *documents)]
        for place, value in enumerate(values):
            missing = _missing(value)
            if missing or (isinstance(value, str) and not value.strip()):
                what = f"a {'missing' if missing else 'blank'} {'document' if place else 'query'}"
                return self._skip(f"{what} id" if self.ids else what)
        check_texts(values, f"row {number} of data: text {{0}}")
        query, *documents = (self._known.setdefault(value, value) for value in values)
        if scores is None:
            return Row(query, tuple(documents))
        scores = _numbers(scores)
        if isinstance(scores, float) and len(documents) == 1:  # a label
            if math.isnan(scores):
                return self._skip("a missing label")
            if not scores.is_integer():
                raise ValueError(f"row {number} of data: the label of a pair must be a whole number, got {scores}")
            self.labels.add(int(scores))
            if scores < self.min_label:
                return self._skip(f"a label below {self.min_label}")
            return Row(query, tuple(documents))
        if isinstance(scores, float):  # with one negative, the margin
            scores = (scores, 0.0) if len(documents) == 2 else (scores,)
        if len(scores) != len(documents):
            count = len(documents)
            raise ValueError(f"row {number} of data: {count} documents need {count} scores, got {len(scores)}")
        if not all(map(math.isfinite, scores)):
            return self._skip("a missing teacher score")
        return Row(query, tuple(documents), scores)

    def _skip(self, reason: str) -> None:
        self.skipped[reason] += 1

    def _parts(self, example: Any, number: int) -> tuple[Any, list[Any], Any]:
        if hasattr(example, "relevance") and hasattr(example, "_asdict"):
            example = example._asdict()  # a judgement of ir_datasets
        if isinstance(example, Mapping):
            names = tuple(example)
            if names not in self._columns:
                self._columns[names] = self._choose(names)
            query, positive, negatives, scores = self._columns[names]
            documents = [example[positive]]
            for value in (_plain(example[name]) for name in negatives):
                documents.extend(value if isinstance(value, (list, tuple)) else [value])
            return example[query], documents, None if scores is None else example[scores]
        if isinstance(example, (str, bytes)) or not isinstance(example, Sequence):
            raise TypeError(
                f"row {number} of data must be a tuple (query, positive[, negative, ...]), got {example!r}"[:300]
            )
        parts = [_plain(value) for value in example]
        kinds = (list, tuple, float) if self.ids else (list, tuple, float, int)  # an integer may be an id
        scores = parts.pop() if parts and isinstance(parts[-1], kinds) and not _missing(parts[-1]) else None
        if len(parts) < 2:
            raise ValueError(f"row {number} of data must hold a query and a positive, got {example!r}"[:300])
        return parts[0], parts[1:], scores

    def _choose(self, names: tuple[Any, ...]) -> tuple[str, str, list[str], str | None]:
        """The columns of query, positive, negatives and scores."""
        queries, positives = (_QUERY_IDS + _QUERIES, _DOCUMENT_IDS + _POSITIVES) if self.ids else (_QUERIES, _POSITIVES)
        query, positive, scores = (
            next((one for one in known if one in names), None) for known in (queries, positives, _SCORES)
        )
        negatives = [name for name in names if self.ids and _NEGATIVE_ID.fullmatch(str(name))]
        negatives = negatives or [name for name in names if _NEGATIVE.fullmatch(str(name))]
        for column, known, what in ((query, queries, "query"), (positive, positives, "positive")):
            if column is None:
                hint = "name those of a file without a header with columns="
                if not self.ids and {*_QUERY_IDS, *_DOCUMENT_IDS} & set(names):
                    hint = "if they hold ids, say where the texts stand, with texts="
                raise ValueError(
                    f"data has no {what} column (one of {', '.join(known)}); its columns are "
                    f"{', '.join(map(str, names))}: {hint}"
                )
        if self.ids and "rank" in names and not negatives:
            raise ValueError("data hold a run (column 'rank'): what was retrieved is not what is relevant; give qrels")
        used = {query, positive, scores, *negatives, *_QUERY_IDS, *_DOCUMENT_IDS, "iteration"}
        used |= {*queries, *positives} if self.ids else set()
        self.unused |= {str(name) for name in names if name not in used}
        return query, positive, negatives, scores


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
    queries = {_identifier(qid): query for qid, query in zip(topics["qid"], topics["query"], strict=True)}
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


def _identifier(value: Any) -> str | None:
    """An id as a string; ``None`` for a missing one. Frames turn integers beside missing values into floats."""
    if _missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _numbers(value: Any) -> float | tuple[float, ...]:
    """A number, or several: of a file also ``"1.5"``, ``"[2, 1.5]"``, ``"2 1.5"``."""
    value = _plain(value)
    if isinstance(value, str):
        parts = re.split(r"[\s,]+", value.strip("[] \t"))
        value = parts if len(parts) > 1 else parts[0]
    if isinstance(value, (list, tuple)):
        return tuple(map(_numbers, value))  # type: ignore[arg-type]
    return math.nan if _missing(value) else float(value)
