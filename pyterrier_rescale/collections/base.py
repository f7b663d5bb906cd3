"""What every collection offers, and the training pairs that all of them make in the same way."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from .._utils.checks import check_integer
from .sampling import choose_docnos, choose_qids
from .store import DocumentStore

if TYPE_CHECKING:
    import pandas as pd

    from .text_loader import TextLoader


class Collection(ABC):
    """Documents with topics and qrels by split.

    A document is a dict of ``docno``, ``text``, ``title`` and ``body``, all str. ``text`` is what is encoded and
    indexed: title, a space and body where there is a title (as BEIR's evaluations do), else the body.

    Attributes:
        name: as it was asked for, or the folder's name.
    """

    name: str

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels: train, dev, test first, then others by name."""

    @abstractmethod
    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over all documents, those of all splits; every call starts afresh."""

    @abstractmethod
    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries of a split: qid (str), query (str).

        Raises:
            ValueError: if there is no such split.
        """

    @abstractmethod
    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int).

        Raises:
            ValueError: if there is no such split.
        """

    def train_pairs(self) -> list[tuple[str, str]]:
        """Return (query, document text) pairs to train on.

        They are the pairs of the train split with a label above 0; without a train split, the (title, body) pairs of
        the documents that have both. Those come from the corpus, hence also from what test topics look for.

        Pairs whose ids are in neither the queries nor the corpus, or whose text is blank, are left out, counted, and
        told in one warning.

        Raises:
            ValueError: if no pair can be made.
        """
        pairs, left_out = self._pairs()
        reasons = [f"{count:,} {reason}" for reason, count in left_out.items() if count]
        if not pairs:
            raise ValueError(
                f"collection {self.name!r} has no training pairs: it has neither a train split nor documents with "
                f"a title and a body{' (' + ', '.join(reasons) + ')' if reasons else ''}"
            )
        if reasons:
            warnings.warn(f"collection {self.name!r}: train_pairs() left out {', '.join(reasons)}", stacklevel=2)
        return pairs

    def sample(
        self,
        n_docs: int | None = None,
        n_topics: int | None = None,
        seed: int = 0,
        *,
        split: str = "test",
        pairs_in_sample: bool = False,
    ) -> SampledCollection:
        """Return a smaller collection with one split, the same on every machine for the same documents and topics.

        The documents relevant to the kept topics are kept; others fill up, chosen by a hash of seed and docno.
        Order is kept. Training pairs stay those of the whole collection unless `pairs_in_sample`.

        Args:
            n_docs: documents to keep; None: all.
            n_topics: topics to keep; None: all.
            seed: another seed gives another choice.
            split: the split whose topics are kept; the sample has no other.
            pairs_in_sample: keep only the training pairs whose document is in the sample.

        Raises:
            ValueError: if a number is below 1, or `n_docs` is too small for the relevant documents.
        """
        return SampledCollection(self, n_docs, n_topics, seed, split=split, pairs_in_sample=pairs_in_sample)

    def text_loader(
        self, fields: Literal["*"] | str | Iterable[str] = "*", *, verbose: bool = False
    ) -> TextLoader:
        """Return a stage that adds the documents' texts to results, e.g. for ``splade.scorer()``.

        The corpus is read once, at the first frame that has rows, into a temporary database of its size on disk
        (ir_datasets' collections use that package's own); memory holds only the documents of the frame.

        Args:
            fields: columns to add; ``"*"``: text, title and body. Other keys of the documents can be named.
            verbose: for PyTerrier's protocol of text loaders; nothing is shown.

        Raises:
            TypeError: if `fields` is neither a name nor names.
            ValueError: from the stage, if the collection lacks a docno, or a document lacks a field.

        Example:
            >>> pipeline = splade.query_encoder() >> index.retriever(100) >> collection.text_loader() >> other.scorer()
        """
        from .text_loader import FIELDS, TextLoader

        names = FIELDS if fields == "*" else (fields,) if isinstance(fields, str) else tuple(fields)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise TypeError(f"fields must be '*', a name, or a list of names, got {fields!r}")
        return TextLoader(self, names, verbose=verbose)

    def find(self, docnos: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the documents of those docnos that the collection has, by docno; see `text_loader`."""
        return self._store.find(docnos)

    @cached_property
    def _store(self) -> DocumentStore:
        return DocumentStore(self)

    def check_split(self, split: str) -> None:
        """Raise a ValueError that lists the splits, if `split` is not one of them."""
        if split not in self.splits:
            available = ", ".join(map(repr, self.splits)) or "none: it has no qrels"
            raise ValueError(f"collection {self.name!r} has no split {split!r}; available: {available}")

    def __repr__(self) -> str:
        """Return the class and name."""
        return f"{type(self).__name__}({self.name!r})"

    def _pairs(self, only: frozenset[str] | None = None) -> tuple[list[tuple[str, str]], dict[str, int]]:
        """Pairs, of the documents with these docnos alone if they are given, and how many were left out for what."""
        return self._judged_pairs(only) if "train" in self.splits else self._title_pairs(only)

    def _judged_pairs(self, only: frozenset[str] | None) -> tuple[list[tuple[str, str]], dict[str, int]]:
        qrels = self.qrels("train")
        qrels = qrels[qrels["label"] > 0]
        if only is not None:
            qrels = qrels[qrels["docno"].isin(only)]
        topics = self.topics("train")
        queries = dict(zip(topics["qid"], topics["query"], strict=True))
        wanted = set(qrels["docno"])
        texts = {doc["docno"]: doc["text"] for doc in self.corpus() if doc["docno"] in wanted}
        left_out = {"whose query is missing": 0, "whose document is missing": 0, "with a blank query or document": 0}
        pairs = []
        for qid, docno in zip(qrels["qid"], qrels["docno"], strict=True):
            if qid not in queries:
                left_out["whose query is missing"] += 1
            elif docno not in texts:
                left_out["whose document is missing"] += 1
            elif not queries[qid].strip() or not texts[docno].strip():
                left_out["with a blank query or document"] += 1
            else:
                pairs.append((queries[qid], texts[docno]))
        return pairs, left_out

    def _title_pairs(self, only: frozenset[str] | None) -> tuple[list[tuple[str, str]], dict[str, int]]:
        pairs, blank = [], 0
        for doc in self.corpus():
            if only is not None and doc["docno"] not in only:
                continue
            if doc["title"].strip() and doc["body"].strip():
                pairs.append((doc["title"], doc["body"]))
            else:
                blank += 1
        return pairs, {"documents without a title or without a body": blank}


class SampledCollection(Collection):
    """A sample of a collection; made by `Collection.sample`, which explains the arguments.

    The choice is made once, at the first use, in one pass over the corpus.
    """

    def __init__(
        self,
        base: Collection,
        n_docs: int | None,
        n_topics: int | None,
        seed: int = 0,
        *,
        split: str = "test",
        pairs_in_sample: bool = False,
    ):
        base.check_split(split)
        self.base = base
        self.n_docs = check_integer("n_docs", n_docs, optional=True)
        self.n_topics = check_integer("n_topics", n_topics, optional=True)
        self.seed = seed
        self.split = split
        self.pairs_in_sample = pairs_in_sample
        self.name = f"{base.name}-{n_docs or 'all'}-{n_topics or 'all'}-s{seed}"

    @property
    def splits(self) -> tuple[str, ...]:
        """The one split that was sampled."""
        return (self.split,)

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the kept documents, in the order of the whole collection."""
        keep = self._docnos
        return self.base.corpus() if keep is None else (doc for doc in self.base.corpus() if doc["docno"] in keep)

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the kept queries: qid (str), query (str)."""
        self.check_split(split)
        return self._topics.copy()

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of kept queries on kept documents: qid (str), docno (str), label (int)."""
        self.check_split(split)
        qrels = self.base.qrels(split)
        kept = qrels["qid"].isin(set(self._topics["qid"]))
        if self._docnos is not None:
            kept &= qrels["docno"].isin(self._docnos)
        return qrels[kept].reset_index(drop=True)

    def _pairs(self, only: frozenset[str] | None = None) -> tuple[list[tuple[str, str]], dict[str, int]]:
        if self.pairs_in_sample and self._docnos is not None:
            only = self._docnos if only is None else self._docnos & only
        return self.base._pairs(only)

    @cached_property
    def _topics(self) -> pd.DataFrame:
        topics = self.base.topics(self.split)
        if self.n_topics is None or self.n_topics >= len(topics):
            return topics
        return topics[topics["qid"].isin(choose_qids(topics["qid"], self.n_topics, self.seed))].reset_index(drop=True)

    @cached_property
    def _docnos(self) -> frozenset[str] | None:
        """The docnos kept; None: all."""
        if self.n_docs is None:
            return None
        qrels = self.base.qrels(self.split)
        relevant = qrels["docno"][(qrels["label"] > 0) & qrels["qid"].isin(set(self._topics["qid"]))]
        return choose_docnos((doc["docno"] for doc in self.base.corpus()), set(relevant), self.n_docs, self.seed)


def make_document(docno: str, title: str, body: str) -> dict[str, str]:
    """Return a document as `Collection.corpus` gives them."""
    return {"docno": docno, "text": f"{title} {body}" if title else body, "title": title, "body": body}


def order_splits(names: set[str]) -> tuple[str, ...]:
    """Put train, dev and test first, then the others by name."""
    first = ("train", "dev", "test")
    return tuple(sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name)))
