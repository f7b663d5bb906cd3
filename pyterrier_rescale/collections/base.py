"""What every collection offers: documents, topics, qrels, training pairs, samples, texts for rerankers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import pandas as pd
import pyterrier as pt

from .._utils.checks import check_integer, warn
from .._utils.stages import Stage

FIELDS = ("text", "title", "body")


class Collection(ABC):
    """Documents with topics and qrels by split.

    A document is a dict of ``docno``, ``text``, ``title`` and ``body``, all str. ``text`` is what is encoded and
    indexed: title, a space and body where there is a title (as BEIR's evaluations do), else the body.
    """

    name: str  # as it was asked for, or the folder's

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels: train, dev, test first, then others by name."""

    @abstractmethod
    def corpus(self) -> Iterator[dict[str, Any]]:
        """Iterate over all documents, those of all splits; every call starts afresh."""

    @abstractmethod
    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries of a split: qid (str), query (str); a ValueError says which splits there are."""

    @abstractmethod
    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int)."""

    def all_topics(self) -> pd.DataFrame:
        """Return the queries of all splits."""
        return pd.concat([pd.DataFrame(columns=["qid", "query"]), *map(self.topics, self.splits)])

    def train_pairs(self, min_label: int = 1) -> list[tuple[str, str]]:
        """Return (query, document text) pairs to train on.

        They are the pairs of the train split; without one, and with a warning, the (title, body) pairs of all documents
        that have both, also of those that test topics look for. Pairs with a missing or blank text are left out, and
        counted in a warning.

        Args:
            min_label: judgements of a lower label are left out.

        Raises:
            ValueError: if no pair can be made.
        """
        if "train" in self.splits:
            qrels, topics = self.qrels("train"), self.topics("train")
            hint_at_levels(qrels, min_label, f"the train split of collection {self.name!r}")
            qrels = qrels[qrels["label"] >= min_label]
            queries, wanted = dict(zip(topics["qid"], topics["query"], strict=True)), set(qrels["docno"])
            texts = {doc["docno"]: doc["text"] for doc in self.corpus() if doc["docno"] in wanted}
            found = [(queries.get(q, ""), texts.get(d, "")) for q, d in zip(qrels["qid"], qrels["docno"], strict=True)]
            left_out = "judgements whose query or document is missing or blank"
        else:
            warn(
                f"collection {self.name!r} has no train split (it has {', '.join(self.splits) or 'no judgements'}): "
                "the training pairs are the documents' titles and bodies"
            )
            found = [(doc["title"], doc["body"]) for doc in self.corpus()]
            left_out = "documents without a title or without a body"
        pairs = [pair for pair in found if pair[0].strip() and pair[1].strip()]
        if not pairs:
            raise ValueError(
                f"collection {self.name!r} has no training pairs: it has neither a train split nor documents with a "
                f"title and a body; {len(found):,} {left_out}"
            )
        if len(pairs) < len(found):
            warn(f"collection {self.name!r}: train_pairs() left out {len(found) - len(pairs):,} {left_out}")
        return pairs

    def sample(
        self, n_docs: int | None = None, n_topics: int | None = None, seed: int = 0, *, split: str = "test"
    ) -> Collection:
        """Return a smaller collection with one split, the same on every machine for the same documents and topics.

        Documents relevant to the kept topics are kept; others fill up, chosen by a hash of seed and docno. Order is
        kept. Training pairs are not sampled: ``train_pairs()`` gives those of the whole collection.

        Args:
            n_docs: documents to keep; None: all.
            n_topics: topics to keep; None: all.
            seed: another seed gives another choice.
            split: the split whose topics are kept; the sample has no other.

        Raises:
            ValueError: if a number is below 1, or `n_docs` is too small for the relevant documents.
        """
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
        """Return documents by docno, those asked for at least.

        The first call reads the corpus, which then stays in memory; ir_datasets' collections look into their own store.
        """
        return self._by_docno

    @cached_property
    def _by_docno(self) -> dict[str, dict[str, Any]]:
        return {document["docno"]: document for document in self.corpus()}

    def check_split(self, split: str) -> None:
        """Raise a ValueError that lists the splits, if `split` is not one of them."""
        if split not in self.splits:
            available = ", ".join(map(repr, self.splits)) or "none: it has no qrels (in a folder qrels.csv)"
            raise ValueError(f"collection {self.name!r} has no split {split!r}; available: {available}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class SampledCollection(Collection):
    """A sample of a collection; made by `Collection.sample`, which explains the arguments."""

    splits: tuple[str, ...] = ()

    def __init__(self, base: Collection, n_docs: int | None, n_topics: int | None, seed: int, *, split: str):
        n_docs = check_integer("n_docs", n_docs, optional=True)
        n_topics = check_integer("n_topics", n_topics, optional=True)
        self.name = f"{base.name}-{n_docs or 'all'}-{n_topics or 'all'}-s{seed}"
        self.base, self.splits, self.docnos = base, (split,), None
        topics, qrels = base.topics(split), base.qrels(split)
        if n_topics is not None:
            chosen = sorted(topics["qid"], key=lambda qid: stable_rank(seed, "qid", qid))[:n_topics]
            topics = topics[topics["qid"].isin(chosen)]
        qrels = qrels[qrels["qid"].isin(set(topics["qid"]))]
        if n_docs is not None:
            docnos, relevant = [doc["docno"] for doc in base.corpus()], set(qrels["docno"][qrels["label"] > 0])
            if (needed := len(relevant.intersection(docnos))) > n_docs:
                raise ValueError(
                    f"n_docs must be at least {needed}, the number of documents relevant to the kept topics, got "
                    f"{n_docs}: ask for more documents or fewer topics"
                )
            docnos.sort(key=lambda docno: (docno not in relevant, stable_rank(seed, "docno", docno)))
            self.docnos = frozenset(docnos[:n_docs])
            qrels = qrels[qrels["docno"].isin(self.docnos)]
        self._topics, self._qrels = topics.reset_index(drop=True), qrels.reset_index(drop=True)

    def corpus(self) -> Iterator[dict[str, Any]]:
        """Iterate over the kept documents, in the order of the whole collection."""
        return (doc for doc in self.base.corpus() if self.docnos is None or doc["docno"] in self.docnos)

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the kept queries: qid (str), query (str)."""
        self.check_split(split)
        return self._topics.copy()

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of the kept queries on the kept documents: qid (str), docno (str), label (int)."""
        self.check_split(split)
        return self._qrels.copy()

    def train_pairs(self, min_label: int = 1) -> list[tuple[str, str]]:
        """Return the training pairs of the whole collection."""
        return self.base.train_pairs(min_label)


class TextLoader(Stage):
    """``docno`` -> ``+text, title, body``; made by `Collection.text_loader`, which explains the arguments."""

    _call, _label = "text_loader", "TextLoader"

    def __init__(self, collection: Any, fields: tuple[str, ...] = FIELDS, *, verbose: bool = False):
        self.collection = collection
        self.fields = fields
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the columns to a frame with ``docno``; rows and other columns stay."""
        pt.validate.columns(inp, includes=["docno"], context=self)
        docnos = inp["docno"].tolist()
        documents = self.collection.find(docnos) if docnos else {}
        if unknown := [docno for docno in dict.fromkeys(docnos) if docno not in documents]:
            raise ValueError(
                f"{self!r}: {len(unknown):,} docnos are not in the collection, such as "
                f"{', '.join(map(repr, unknown[:3]))}: are the results of another collection?"
            )
        columns = {field: [documents[docno][field] for docno in docnos] for field in self.fields}
        return inp.assign(**{name: pd.Series(values, inp.index, object) for name, values in columns.items()})


def stable_rank(seed: int, kind: str, identifier: str) -> int:
    """Return a 64-bit number that depends on the arguments alone, not on the process or machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{kind}:{identifier}".encode(), digest_size=8).digest(), "big")


def hint_at_levels(qrels: pd.DataFrame, min_label: int, what: str) -> None:
    """Warn where labels have several levels, all above 0, of which the lower ones may mean "not relevant"."""
    levels = sorted(set(qrels["label"]))
    if min_label == 1 and len(levels) > 1 and levels[0] > 0:
        warn(
            f"labels of {what} are {', '.join(map(str, levels))}, and never 0: all count as relevant, unless min_label "
            "says from which on they do"
        )


def order_splits(names: Iterable[str]) -> tuple[str, ...]:
    """Put train, dev and test first, then the others by name."""
    first = ("train", "dev", "test")
    return tuple(sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name)))
