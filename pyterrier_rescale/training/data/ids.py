"""Training data of ids (MS MARCO's triples): the texts stand in a collection, and memory holds each text once."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..._utils.documents import as_documents
from ..._utils.paths import expand
from ..._utils.text_lines import has_surrogates
from .rows import IDS, Facts, Row, Rows, examples_of, negative_columns, parse, say_skipped, teacher_scores


class IdRows(Rows):
    """Rows of ids with their texts.

    Args:
        data: as for ``train``, with ids in place of texts: an iterable of ``(qid, docno[, docno, ...][, scores])``
            (also ``ir_datasets``' docpairs), judgements (qrels: TREC's file, BEIR's, a frame; a label above 0 makes a
            pair), a frame or Hugging Face Dataset, or a ``.tsv`` or ``.jsonl`` file,
            compressed or not; columns ``qid``, ``docno``, ``negative*`` and their like.
        texts: where the texts stand: a collection (the topics of all its splits), or ``(documents, topics)``: dicts or
            a frame with docno and text, and a frame with qid and query or a dict of queries by qid.

    Raises:
        TypeError, ValueError, FileNotFoundError: if either has no accepted form, or no row has all its texts.
    """

    def __init__(self, data: Any, texts: Any) -> None:
        documents, queries = _sources(texts)
        places: tuple[dict[str, int], dict[str, int]] = {}, {}  # of queries and documents, by id
        skipped: Counter[str] = Counter()
        self._ids, self._ends, self._scores = array("q"), array("q", [0]), array("d")
        self._score_ends = array("q", [0])
        for number, example in enumerate(_examples(data)):
            query, positives, scores = _judgement(example) or parse(example, number, IDS)
            if len(positives) == 1 and scores is not None and not hasattr(scores, "__len__"):
                if not _is_relevant(scores, number):
                    skipped["a label that is not above 0"] += 1
                    continue
                scores = None
            ids = [identifier(query), *map(identifier, positives)]
            values = None if scores is None else teacher_scores(scores, len(positives), number)
            if None in ids:
                skipped["a missing id"] += 1
            elif scores is not None and values is None:
                skipped["a missing teacher score"] += 1
            else:
                self._ids.append(places[0].setdefault(ids[0], len(places[0])))
                self._ids.extend(places[1].setdefault(one, len(places[1])) for one in ids[1:])
                self._scores.extend(values or ())
                self._ends.append(len(self._ids))
                self._score_ends.append(len(self._scores))
        self._queries = _texts(queries, places[0])
        self._documents = _texts(documents, places[1])
        self._keep(skipped)
        self.skipped = dict(skipped)
        self.facts = Facts()
        for row in self:
            self.facts.add(row)
        say_skipped(skipped, len(self))
        if not len(self):
            given = f"all {sum(skipped.values())} rows were dropped; its first ids are {_first(places)}"
            raise ValueError(
                f"data must hold at least one row of ids that texts knows, but {given if skipped else 'it is empty'}"
            )

    def _keep(self, skipped: Counter[str]) -> None:
        """Note the rows that have all their texts, and count the others."""
        self._rows = array("q")
        for number in range(len(self._ends) - 1):
            begin, end = self._ends[number], self._ends[number + 1]
            found = [self._queries[self._ids[begin]], *(self._documents[place] for place in self._ids[begin + 1 : end])]
            blank = [text is not None and not text.strip() for text in found]
            if found[0] is None:
                skipped["a query id that texts does not know"] += 1
            elif None in found:
                skipped["a document id that texts does not know"] += 1
            elif any(blank):
                skipped[f"a blank {'query' if blank[0] else 'document'}"] += 1
            else:
                self._rows.append(number)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        number = self._rows[index]
        begin, end = self._ends[number], self._ends[number + 1]
        scores = tuple(self._scores[self._score_ends[number] : self._score_ends[number + 1]])
        documents = tuple(self._documents[place] for place in self._ids[begin + 1 : end])
        return Row(self._queries[self._ids[begin]], documents, scores or None)  # type: ignore[arg-type]


def _judgement(example: Any) -> tuple[Any, list[Any], Any] | None:
    """Query, document and label of a judgement: a row of qrels, ``ir_datasets``' or a frame's; ``None`` otherwise."""
    if not isinstance(example, Mapping):
        if hasattr(example, "relevance") and hasattr(example, "doc_id"):
            return example.query_id, [example.doc_id], example.relevance
        return None
    if "relevance" in example and not negative_columns(example, IDS):
        query, positives, _ = parse({k: v for k, v in example.items() if k != "relevance"}, 0, IDS)
        return query, positives, example["relevance"]
    if "rank" in example and not negative_columns(example, IDS):
        raise ValueError("data hold a run (column 'rank'): what was retrieved is not what is relevant; give qrels")
    return None


def _is_relevant(label: Any, number: int) -> bool:
    """Whether a label is above 0.

    Raises:
        ValueError: for one that is no integer, as a score is.
    """
    if label is None or label != label or float(label) != int(label):
        raise ValueError(f"row {number} of data: a judgement's label must be an integer, got {label!r}")
    return int(label) > 0


def _examples(data: Any) -> Iterator[Any]:
    if isinstance(data, (str, os.PathLike)):
        from .files import check_file, file_examples

        path = expand(data)
        check_file(path)
        return file_examples(path, IDS)
    if hasattr(data, "train_pairs"):
        raise TypeError(f"data must hold ids where texts is given, got the collection {data!r}: leave texts out")
    return examples_of(data, IDS)


def identifier(value: Any) -> str | None:
    """An id as a string; ``None`` for a missing one. Frames turn integers beside missing values into floats."""
    if value is None or type(value).__name__ == "NAType" or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _sources(texts: Any) -> tuple[Iterable[tuple[Any, Any]], Iterable[tuple[Any, Any]]]:
    """(docno, text) of all documents and (qid, query) of all topics, to be read once."""
    if hasattr(texts, "corpus") and hasattr(texts, "topics"):
        splits = [texts.topics(split) for split in texts.splits]
        return (
            ((document["docno"], document["text"]) for document in texts.corpus()),
            (pair for topics in splits for pair in zip(topics["qid"], topics["query"], strict=True)),
        )
    if not isinstance(texts, (tuple, list)) or len(texts) != 2:
        raise TypeError(f"texts must be a collection or a tuple (documents, topics), got {type(texts).__name__}")
    documents, topics = texts
    documents = as_documents(documents)
    if not isinstance(topics, Mapping) and not {"qid", "query"} <= set(getattr(topics, "columns", ())):
        raise ValueError("texts: topics must be a frame with columns 'qid' and 'query', or a dict of queries by qid")
    pairs = topics.items() if isinstance(topics, Mapping) else zip(topics["qid"], topics["query"], strict=True)
    return (_document(document) for document in documents), pairs


def _document(document: Any) -> tuple[Any, Any]:
    if not isinstance(document, Mapping) or "docno" not in document or "text" not in document:
        raise ValueError(f"texts: documents must be dicts with docno and text, got {document!r}"[:300])
    return document["docno"], document["text"]


def _texts(pairs: Iterable[tuple[Any, Any]], places: Mapping[str, int]) -> list[str | None]:
    """The texts of the ids wanted, in their places; ``None`` for an id without one."""
    texts: list[str | None] = [None] * len(places)
    for name, text in pairs:
        place = places.get(identifier(name) or "")
        if place is None or not isinstance(text, str):
            continue
        if has_surrogates(text):
            raise ValueError(f"texts: that of {name!r} holds a lone surrogate, half of a character: {text!r:.80}")
        if texts[place] not in (None, text):
            both = f"{texts[place]!r:.60} and {text!r:.60}"
            raise ValueError(f"texts: {name!r} occurs twice, with different texts: {both}")
        texts[place] = text
    return texts


def _first(places: tuple[dict[str, int], dict[str, int]]) -> str:
    return " and ".join(repr(next(iter(known))) for known in places if known) or "missing"
