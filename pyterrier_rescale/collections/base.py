"""What every collection offers: documents, topics, judgements, training pairs, samples, texts by docno."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from .text_loader import FIELDS, DocumentStore, TextLoader

if TYPE_CHECKING:
    import pandas as pd


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
        if "train" in self.splits:
            qrels, topics = self.qrels("train"), self.topics("train")
            qrels = qrels[qrels["label"] > 0]
            queries, wanted = dict(zip(topics["qid"], topics["query"], strict=True)), set(qrels["docno"])
            texts = {doc["docno"]: doc["text"] for doc in self.corpus() if doc["docno"] in wanted}
            found = [(queries.get(q, ""), texts.get(d, "")) for q, d in zip(qrels["qid"], qrels["docno"], strict=True)]
            left_out = "judgements whose query or document is missing or blank"
        else:
            found = [(doc["title"], doc["body"]) for doc in self.corpus()]
            left_out = "documents without a title or without a body"
        pairs = [pair for pair in found if pair[0].strip() and pair[1].strip()]
        if not pairs:
            raise ValueError(
                f"collection {self.name!r} has no training pairs: it has neither a train split nor documents with a "
                f"title and a body; {len(found):,} {left_out}"
            )
        if len(pairs) < len(found):
            warnings.warn(
                f"collection {self.name!r}: train_pairs() left out {len(found) - len(pairs):,} {left_out}", stacklevel=2
            )
        return pairs

    def sample(
        self, n_docs: int | None = None, n_topics: int | None = None, seed: int = 0, *, split: str = "test"
    ) -> Collection:
        """Return a smaller collection with one split, the same on every machine for the same documents and topics.

        The documents relevant to the kept topics are kept; others fill up, chosen by a hash of seed and docno.
        Order is kept. Training pairs stay those of the whole collection.

        Args:
            n_docs: documents to keep; None: all.
            n_topics: topics to keep; None: all.
            seed: another seed gives another choice.
            split: the split whose topics are kept; the sample has no other.

        Raises:
            ValueError: if a number is below 1, or `n_docs` is too small for the relevant documents.
        """
        from .frames import SampledCollection

        return SampledCollection(self, n_docs, n_topics, seed, split=split)

    def text_loader(self, fields: Literal["*"] | str | Iterable[str] = "*", *, verbose: bool = False) -> TextLoader:
        """Return a stage that adds the documents' texts to results, e.g. for ``splade.scorer()``; see `find`.

        Args:
            fields: columns to add; ``"*"``: text, title and body. Other keys of the documents can be named.
            verbose: for PyTerrier's protocol of text loaders; nothing is shown.

        Raises:
            KeyError: from the stage, if a document lacks a field.
            ValueError: from the stage, if the collection lacks a docno.

        Example:
            >>> pipeline = splade.query_encoder() >> index.retriever(100) >> collection.text_loader() >> other.scorer()
        """
        names = FIELDS if fields == "*" else (fields,) if isinstance(fields, str) else tuple(fields)
        return TextLoader(self, names, verbose=verbose)

    def find(self, docnos: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the documents of those docnos that the collection has, by docno.

        At the first call the corpus is read once into a temporary database of its size on disk (ir_datasets'
        collections use that package's own), so memory holds only what is asked for.
        """
        return self._store.find(docnos)

    @cached_property
    def _store(self) -> DocumentStore:
        return DocumentStore(self.corpus())

    def __getstate__(self) -> dict[str, Any]:
        """All but the temporary database, which another process makes for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_store"}

    def check_split(self, split: str) -> None:
        """Raise a ValueError that lists the splits, if `split` is not one of them."""
        if split not in self.splits:
            available = ", ".join(map(repr, self.splits)) or "none: it has no qrels"
            raise ValueError(f"collection {self.name!r} has no split {split!r}; available: {available}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def make_document(docno: str, title: str, body: str) -> dict[str, str]:
    """Return a document as `Collection.corpus` gives them."""
    return {"docno": docno, "text": f"{title} {body}" if title else body, "title": title, "body": body}


def order_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Put train, dev and test first, then the others by name."""
    first = ("train", "dev", "test")
    return tuple(sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name)))
