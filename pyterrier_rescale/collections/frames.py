"""Collections that are held in memory: one's own data from frames or lists of dicts, and samples of others."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .._utils.checks import check_integer
from .._utils.documents import as_documents
from .base import Collection, make_document, order_splits
from .files import check_id, check_label


class FrameCollection(Collection):
    """Documents, topics and judgements that are held in memory.

    Args:
        documents: frame, Hugging Face dataset, or dicts, with ``docno``, ``text`` and, if there is one, ``title``,
            which is put before the text; other keys come along.
        topics: frame or dicts with ``qid`` and ``query``, of all splits.
        qrels: frame or dicts with ``qid``, ``docno`` and ``label`` (whole numbers), which are those of split
            ``"test"``; or a dict of them by split, such as ``{"train": ..., "test": ...}``.
        name: of the collection.

    Raises:
        TypeError, ValueError: if a column is missing, or a value is no id, text or label.
    """

    def __init__(self, documents: Any, topics: Any = None, qrels: Any = None, *, name: str = "own-data"):
        self.name = name
        documents = as_documents(documents)
        self._documents = list(documents) if iter(documents) is documents else documents
        self._topics = _columns({} if topics is None else topics, ("qid", "query"), "topics")
        if qrels is None:
            qrels = {}
        by_split = qrels if isinstance(qrels, Mapping) else {"test": qrels}
        self._qrels = {split: _columns(rows, ("qid", "docno", "label"), "qrels") for split, rows in by_split.items()}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels."""
        return order_splits(self._qrels)

    def corpus(self) -> Iterator[dict[str, Any]]:
        """Iterate over the documents.

        Raises:
            ValueError: for a document without a docno or text, or a docno that was there before.
        """
        seen: set[str] = set()
        for number, row in enumerate(self._documents):
            docno = check_id(row.get("docno"), f"documents, row {number}: docno")
            if docno in seen:
                raise ValueError(f"documents, row {number}: docno {docno!r} was there before")
            seen.add(docno)
            if not isinstance(row.get("text"), str):
                raise ValueError(f"document {docno!r} must have a text that is a str, got {row.get('text')!r:.80}")
            title = row.get("title") if isinstance(row.get("title"), str) else ""  # a frame has NaN for none
            yield {**row, **make_document(docno, title, row.get("body", row["text"]))}

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries that the qrels of a split judge: qid (str), query (str)."""
        judged = set(self.qrels(split)["qid"])
        return self._topics[self._topics["qid"].isin(judged)].reset_index(drop=True)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int)."""
        self.check_split(split)
        return self._qrels[split].copy()


class SampledCollection(FrameCollection):
    """A sample of a collection; made by `Collection.sample`, which explains the arguments."""

    def __init__(self, base: Collection, n_docs: int | None, n_topics: int | None, seed: int, *, split: str):
        n_docs = check_integer("n_docs", n_docs, optional=True)
        n_topics = check_integer("n_topics", n_topics, optional=True)
        self.base, self.docnos = base, None
        topics, qrels = base.topics(split), base.qrels(split)
        if n_topics is not None:
            chosen = sorted(topics["qid"], key=lambda qid: stable_rank(seed, "qid", qid))[:n_topics]
            topics = topics[topics["qid"].isin(chosen)]
        qrels = qrels[qrels["qid"].isin(set(topics["qid"]))]
        if n_docs is not None:
            relevant = set(qrels["docno"][qrels["label"] > 0])
            self.docnos = _chosen_docnos(base, relevant, n_docs, seed)
            qrels = qrels[qrels["docno"].isin(self.docnos)]
        name = f"{base.name}-{n_docs or 'all'}-{n_topics or 'all'}-s{seed}"
        super().__init__([], topics, {split: qrels}, name=name)

    def corpus(self) -> Iterator[dict[str, Any]]:
        """Iterate over the kept documents, in the order of the whole collection."""
        return (doc for doc in self.base.corpus() if self.docnos is None or doc["docno"] in self.docnos)

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the kept queries: qid (str), query (str)."""
        self.check_split(split)
        return self._topics.copy()

    def train_pairs(self) -> list[tuple[str, str]]:
        """Return the training pairs of the whole collection."""
        return self.base.train_pairs()


def _chosen_docnos(base: Collection, relevant: set[str], number: int, seed: int) -> frozenset[str]:
    """The relevant docnos that the collection has, then those of the least hashes."""
    ranks = ((d["docno"] not in relevant, stable_rank(seed, "docno", d["docno"]), d["docno"]) for d in base.corpus())
    best = heapq.nsmallest(max(number, len(relevant)), ranks)
    needed = sum(not other for other, *_ in best)
    if needed > number:
        raise ValueError(
            f"n_docs must be at least {needed}, the number of documents relevant to the kept topics, got {number}: "
            "ask for more documents or fewer topics"
        )
    return frozenset(docno for *_, docno in best[:number])


def stable_rank(seed: int, kind: str, identifier: str) -> int:
    """Return a 64-bit number that depends on the arguments alone, not on the process or machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{kind}:{identifier}".encode(), digest_size=8).digest(), "big")


def _columns(rows: Any, columns: tuple[str, ...], what: str) -> pd.DataFrame:
    """The columns of a frame or of dicts; ids as str, labels as int."""
    frame = pd.DataFrame(rows)
    if len(frame) and not set(columns) <= set(frame.columns):
        raise ValueError(f"{what} must have the columns {', '.join(columns)}; got {', '.join(map(str, frame.columns))}")
    values: dict[str, list[Any]] = {}
    for name in columns:
        known = frame[name].tolist() if len(frame) else []
        values[name] = [_CHECKS[name](value, f"{what}, row {row}: {name}") for row, value in enumerate(known)]
    return pd.DataFrame(values).astype({name: "int64" if name == "label" else str for name in columns})


def _query(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a str, got {value!r}")
    return value


_CHECKS = {"qid": check_id, "docno": check_id, "query": _query, "label": check_label}
