"""Training data in one shape: rows of a query, its positive, hard negatives, and teacher scores where there are any.

Accepted are objects with ``train_pairs()`` (collections), iterables of tuples or dicts, pandas frames, Hugging Face
datasets, and files (:mod:`pyterrier_rescale.training.data.files`).
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from ..._utils.text_lines import has_surrogates

_SCORES = ("scores", "score", "labels", "label")


class Names(NamedTuple):
    """Column names that count as the query's and as the positive's; the first that is there does."""

    query: tuple[str, ...]
    positive: tuple[str, ...]


#: Columns that hold texts.
TEXTS = Names(("query", "anchor", "question"), ("positive", "text", "document", "passage", "answer"))
#: Columns that hold ids, where the texts stand elsewhere; those of texts will do, too.
IDS = Names(
    ("qid", "query_id", "query-id", *TEXTS.query),
    ("docno", "positive_id", "pos_id", "doc_id", "corpus-id", *TEXTS.positive),
)

#: Columns that hold ids whatever else there is.
ID_COLUMNS = ("qid", "query_id", "query-id", "docno", "doc_id", "corpus-id", "positive_id", "pos_id")
_NEGATIVE = re.compile(r"negative(s|_\d+)?")
_NEGATIVE_ID = re.compile(r"negative_(ids?|id_\d+|\d+_id)")
_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?\s*")


class Row(NamedTuple):
    """One training example: ``documents`` is the positive, then the negatives; ``scores`` are the teacher's of each."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None


class Facts:
    """What checks need to know of all rows, gathered in the one pass that reads them.

    Attributes:
        count: rows seen.
        negatives: smallest and largest number of negatives, and the first row with the smallest.
        unscored: the first row without teacher scores, or ``None``.
        queries, positives: ids of distinct texts, two of each at most.
        identical: whether the query is the positive in every row.
        contrasting: whether any row has a negative that is another text than its positive.
        relevant: ids of the positives of each query id.
    """

    def __init__(self) -> None:
        self.count = 0
        self.negatives = (0, 0, 0)
        self.unscored: int | None = None
        self.queries: set[int] = set()
        self.positives: set[int] = set()
        self.identical = True
        self.contrasting = False
        self.relevant: dict[int, set[int]] = defaultdict(set)
        self._digest = hashlib.blake2b(digest_size=8)
        self._numbers: dict[int, str] | None = None  # places whose text has been a number in every row, and one of them

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of every text and score of all rows, in their order."""
        return self._digest.hexdigest()

    def add(self, row: Row) -> None:
        """Take one more row into account."""
        negatives = len(row.documents) - 1
        least, most, first = self.negatives if self.count else (negatives, negatives, 0)
        self.negatives = (min(least, negatives), max(most, negatives), self.count if negatives < least else first)
        if row.scores is None and self.unscored is None:
            self.unscored = self.count
        query, positive = text_id(row.query), text_id(row.documents[0])
        for ids, one in ((self.queries, query), (self.positives, positive)):
            if len(ids) < 2:
                ids.add(one)
        self.identical = self.identical and query == positive
        self.contrasting = self.contrasting or any(text != row.documents[0] for text in row.documents[1:])
        self.relevant[query].add(positive)
        self.count += 1
        texts = (row.query, *row.documents)
        places = range(len(texts)) if self._numbers is None else self._numbers
        self._numbers = {i: texts[i] for i in places if i < len(texts) and _NUMBER.fullmatch(texts[i])}
        self._digest.update(packed((row.query, *row.documents), row.scores or ()))


    def refuse_numbers(self) -> None:
        """Raise ``ValueError`` where a query or document is a number in every row: an id, a label or a score."""
        for place, number in (self._numbers or {}).items():
            what = "query" if place == 0 else f"document {place}"
            raise ValueError(
                f"data hold ids or scores where texts are needed: the {what} of every row is a number, e.g. "
                f"{number!r}. Of ids and judgements (qrels) say where the texts stand, with texts=; scores go into a "
                "column 'score' or 'scores'"
            )


class Rows(Sequence[Row]):
    """Training rows in memory.

    Attributes:
        facts: about all of them.
        skipped: number of rows left out, by reason.
    """

    def __init__(self, rows: Iterable[Row], skipped: Mapping[str, int] | None = None) -> None:
        self._rows = list(rows)
        self.skipped = dict(skipped or {})
        self.facts = Facts()
        for row in self._rows:
            self.facts.add(row)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self._rows[index]

    def positives(self, query: str) -> set[int]:
        """Ids of the documents that any row calls relevant to the query."""
        return self.facts.relevant.get(text_id(query), set())


def packed(texts: Sequence[str], numbers: Sequence[float] = ()) -> bytes:
    """Texts and numbers as bytes that no others have, to be hashed."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    sizes = [len(parts), len(numbers), *map(len, parts)]
    return struct.pack(f"<{len(sizes)}q{len(numbers)}d", *sizes, *numbers) + b"".join(parts)


def text_id(text: str) -> int:
    """A 63-bit id of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def say_skipped(skipped: Mapping[str, int], kept: int) -> None:
    """Warn about rows that were left out, with the reasons."""
    if skipped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in skipped.items())
        warnings.warn(f"{sum(skipped.values())} training rows dropped ({reasons}); {kept} are left", stacklevel=4)


def examples_of(data: Any, names: Names = TEXTS) -> Iterator[Any]:
    """Tuples or dicts of any accepted in-memory form.

    Raises:
        TypeError: if ``data`` has no accepted form.
        ValueError: if columns are wrong.
    """
    if hasattr(data, "train_pairs"):
        return iter(data.train_pairs())
    columns = getattr(data, "column_names", None)  # a Hugging Face dataset
    if isinstance(columns, Mapping):
        raise ValueError(f"data must be one split, e.g. data['train'], got a DatasetDict of {', '.join(columns)}")
    if columns is None and hasattr(data, "columns") and hasattr(data, "itertuples"):
        columns = list(data.columns)
    if columns is not None:
        return _from_columns(data, list(columns), names)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise TypeError(
            "data must be a collection with train_pairs(), an iterable of (query, positive[, negative, ...]), a frame, "
            f"a Hugging Face Dataset or a file, got {type(data).__name__}"
        )
    return iter(data)


def _from_columns(data: Any, columns: list[str], names: Names) -> Iterator[dict[str, Any]]:
    check_columns(columns, names)
    if hasattr(data, "itertuples"):
        for values in data.itertuples(index=False, name=None):
            yield dict(zip(columns, values, strict=True))
    else:
        yield from data


def check_columns(columns: Iterable[str], names: Names = TEXTS) -> None:
    """Raise ``ValueError`` unless there are a query and a positive column."""
    columns = list(columns)
    negative_columns(columns, names)
    if names is TEXTS and not set(TEXTS.query) & set(columns) and set(ID_COLUMNS) & set(columns):
        raise ValueError(
            f"data hold ids, not texts, in columns {', '.join(map(str, columns))} (qrels?): say where the texts stand, "
            "with texts="
        )
    for known, what in zip(names, names._fields, strict=True):
        if not set(known) & set(columns):
            raise ValueError(
                f"data has no {what} column (one of {', '.join(known)}); its columns are {', '.join(map(str, columns))}"
            )


def negative_columns(columns: Iterable[str], names: Names = TEXTS) -> list[str]:
    """The columns that hold negatives: ``negative``, ``negatives``, ``negative_<n>``; of ids also ``negative_id``.

    Raises:
        ValueError: for another column that is called negative, naming it: it may hold anything.
    """
    called = [name for name in columns if isinstance(name, str) and "negative" in name.lower()]
    found = [name for name in called if _NEGATIVE.fullmatch(name)]
    if names is IDS:
        return [name for name in called if _NEGATIVE_ID.fullmatch(name)] or found
    others = [name for name in called if name not in found]
    if others:
        raise ValueError(
            f"data has {', '.join(others)}: negatives are read from negative, negatives and negative_<n> alone; "
            "rename or drop the others"
        )
    return found


def parse(example: Any, number: int, names: Names = TEXTS) -> tuple[Any, list[Any], Any]:
    """Query, documents and scores of a tuple or dict, unchecked."""
    if isinstance(example, Mapping):
        return _parse_columns(example, names)
    if isinstance(example, (str, bytes)) or not isinstance(example, Sequence):
        raise TypeError(
            f"row {number} of data must be a tuple (query, positive[, negative, ...]), got {example!r}"[:300]
        )
    if names is TEXTS and hasattr(example, "relevance") and hasattr(example, "doc_id"):
        raise ValueError("data hold judgements (qrels), ids and no texts: say where the texts stand, with texts=")
    parts = list(example)
    scores = parts.pop() if parts and _is_scores(parts[-1], names) else None
    if len(parts) < 2:
        what = "text(s)" if names is TEXTS else "id(s)"
        raise ValueError(f"row {number} of data must hold a query and a positive, got {len(parts)} {what}")
    return parts[0], parts[1:], scores


def _parse_columns(example: Mapping[str, Any], names: Names) -> tuple[Any, list[Any], Any]:
    check_columns(example, names)
    query, positive = (next(example[name] for name in known if name in example) for known in names)
    negatives: list[Any] = []
    for name in negative_columns(example, names):
        value = example[name]
        negatives.extend(value if isinstance(value, (list, tuple)) else [value])
    scores = next((example[name] for name in _SCORES if name in example), None)
    return query, [positive, *negatives], scores


def _is_scores(value: Any, names: Names) -> bool:
    if isinstance(value, (str, bytes)) or (names is IDS and isinstance(value, Integral)):
        return False  # an integer may be an id
    if isinstance(value, (int, float)):
        return not math.isnan(value)
    return isinstance(value, Sequence) or hasattr(value, "tolist")


def clean(parts: tuple[Any, list[Any], Any], number: int, skipped: Counter[str]) -> Row | None:
    """A checked row, or ``None`` (counted in ``skipped``) where a text is missing or blank."""
    query, documents, scores = parts
    for text, what in ((query, "query"), *((document, "document") for document in documents)):
        if not isinstance(text, str):
            # pandas' NA has no truth value, so it is told by name
            if text is None or type(text).__name__ == "NAType" or text != text:
                skipped[f"a missing {what}"] += 1
                return None
            raise TypeError(f"row {number} of data: {what} must be a string, got {text!r}"[:300])
        if not text.strip():
            skipped[f"a blank {what}"] += 1
            return None
        if has_surrogates(text):
            raise ValueError(f"row {number} of data: {what} holds a lone surrogate, half of a character: {text!r:.80}")
    if scores is not None:
        values = teacher_scores(scores, len(documents), number)
        if values is None:
            skipped["a missing teacher score"] += 1
            return None
        return Row(query, tuple(documents), values)
    return Row(query, tuple(documents))


def teacher_scores(scores: Any, documents: int, number: int) -> tuple[float, ...] | None:
    """A score per document, or ``None`` where one is missing; one number is a margin.

    Raises:
        ValueError: if there are more or fewer scores than documents.
    """
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    if isinstance(scores, (int, float)):
        if documents != 2:
            raise ValueError(
                f"row {number} of data: one score is the margin between a positive and one negative, but there are "
                f"{documents} documents; give a list of {documents} scores"
            )
        scores = [scores, 0.0]
    if len(scores) != documents:
        raise ValueError(f"row {number} of data: {documents} documents need {documents} scores, got {len(scores)}")
    if any(score is None or not math.isfinite(score) for score in scores):
        return None
    return tuple(map(float, scores))
