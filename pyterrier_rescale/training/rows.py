"""Training data in one shape: rows of a query, its positive, hard negatives, and teacher scores where there are any."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .._utils.documents import has_surrogates

# Columns of texts and of ids; of each kind the first that is there is read.
_QUERIES, _POSITIVES = ("query", "anchor", "question"), ("positive", "text", "document", "passage", "answer")
_QUERY_IDS = ("qid", "query_id", "query-id")
_DOCUMENT_IDS = ("docno", "positive_id", "pos_id", "doc_id", "corpus-id")
_SCORES = ("scores", "score", "labels", "label", "relevance")
_NEGATIVE = re.compile(r"negatives?(_\d+)?")
_NEGATIVE_ID = re.compile(r"negative_(ids?|id_\d+|\d+_id)")


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
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    sizes = [len(parts), len(numbers), *map(len, parts)]
    return struct.pack(f"<{len(sizes)}q{len(numbers)}d", *sizes, *numbers) + b"".join(parts)


def text_id(text: str) -> int:
    """A 63-bit id of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def identifier(value: Any) -> str | None:
    """An id as a string; ``None`` for a missing one. Frames turn integers beside missing values into floats."""
    if _missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


class _Layout(NamedTuple):
    """Columns of an example."""

    query: str
    positive: str
    negatives: list[str]
    scores: str | None


class Reader:
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
        self._layouts: dict[tuple[Any, ...], _Layout] = {}
        self._known: dict[str, str] = {}  # each text or id once in memory

    def __call__(self, example: Any, number: int) -> Row | None:
        """The row of an example, the data's ``number``-th."""
        query, documents, scores = self._parts(example, number)
        values = [self._value(query, "query", number), *(self._value(text, "document", number) for text in documents)]
        for value, what in zip(values, ("query", *["document"] * len(documents)), strict=True):
            if value is None or not value.strip():
                missing = "missing" if value is None else "blank"
                self.skipped[f"a {missing} {what}{' id' if self.ids else ''}"] += 1
                return None
        if scores is None:
            return Row(values[0], tuple(values[1:]))
        return self._scored(values[0], tuple(values[1:]), _numbers(scores, number), number)

    def _parts(self, example: Any, number: int) -> tuple[Any, list[Any], Any]:
        if hasattr(example, "relevance") and hasattr(example, "_asdict"):
            example = example._asdict()  # a judgement of ir_datasets
        if isinstance(example, Mapping):
            names = tuple(example)
            layout = self._layouts.get(names) or self._layouts.setdefault(names, self._layout(names))
            negatives = []
            for name in layout.negatives:
                value = _plain(example[name])
                negatives.extend(value if isinstance(value, (list, tuple)) else [value])
            scores = None if layout.scores is None else example[layout.scores]
            return example[layout.query], [example[layout.positive], *negatives], scores
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

    def _layout(self, names: tuple[Any, ...]) -> _Layout:
        queries, positives = (_QUERY_IDS + _QUERIES, _DOCUMENT_IDS + _POSITIVES) if self.ids else (_QUERIES, _POSITIVES)
        query, positive, scores = (
            next((one for one in known if one in names), None) for known in (queries, positives, _SCORES)
        )
        text = [name for name in names if _NEGATIVE.fullmatch(str(name))]
        ids = [name for name in names if _NEGATIVE_ID.fullmatch(str(name))]
        negatives = ids or text if self.ids else text
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
        return _Layout(query, positive, negatives, scores)

    def _value(self, value: Any, what: str, number: int) -> str | None:
        if self.ids:
            value = identifier(value)
        if _missing(value):
            return None
        if not isinstance(value, str):
            raise TypeError(f"row {number} of data: {what} must be a string, got {value!r}"[:300])
        if has_surrogates(value):
            raise ValueError(f"row {number} of data: {what} holds half a character (a lone surrogate): {value!r:.80}")
        return self._known.setdefault(value, value)

    def _scored(self, query: str, documents: tuple[str, ...], scores: Any, number: int) -> Row | None:
        """A row with its teacher's scores; of a pair one number is its label, with one negative it is the margin."""
        if isinstance(scores, float) and len(documents) == 1:
            if math.isnan(scores):
                self.skipped["a missing label"] += 1
                return None
            if not scores.is_integer():
                raise ValueError(f"row {number} of data: the label of a pair must be a whole number, got {scores}")
            self.labels.add(int(scores))
            if scores < self.min_label:
                self.skipped[f"a label below {self.min_label}"] += 1
                return None
            return Row(query, documents)
        values = (scores, 0.0) if isinstance(scores, float) and len(documents) == 2 else scores
        if isinstance(values, float) or len(values) != len(documents):
            count = 1 if isinstance(values, float) else len(values)
            raise ValueError(
                f"row {number} of data: {len(documents)} documents need {len(documents)} scores, got {count}"
            )
        if not all(map(math.isfinite, values)):
            self.skipped["a missing teacher score"] += 1
            return None
        return Row(query, documents, tuple(values))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _numbers(value: Any, number: int) -> float | tuple[float, ...]:
    """A number, or several: of a file also ``"1.5"``, ``"[2, 1.5]"``, ``"2 1.5"``."""
    value = _plain(value)
    if isinstance(value, str):
        parts = re.split(r"[\s,]+", value.strip("[] \t"))
        value = parts if len(parts) > 1 else parts[0]
    if isinstance(value, (list, tuple)):
        return tuple(_numbers(one, number) for one in value)  # type: ignore[misc]
    try:
        return math.nan if _missing(value) else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"row {number} of data: a score must be a number, got {value!r}") from None
