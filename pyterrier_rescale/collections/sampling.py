"""A smaller collection, chosen by stable hashes, that keeps what its topics look for."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from .base import Collection

if TYPE_CHECKING:
    import pandas as pd


def stable_rank(seed: int, kind: str, identifier: str) -> int:
    """Return a 64-bit number that depends on the arguments alone, not on the process or machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{kind}:{identifier}".encode(), digest_size=8).digest(), "big")


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
        for argument, value in (("n_docs", n_docs), ("n_topics", n_topics)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{argument} must be an int >= 1 or None, got {value!r}")
        base.check_split(split)
        self.base = base
        self.n_docs = n_docs
        self.n_topics = n_topics
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
        return (doc for doc in self.base.corpus() if doc["docno"] in keep)

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the kept queries: qid (str), query (str)."""
        self.check_split(split)
        return self._topics.copy()

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of kept queries on kept documents: qid (str), docno (str), label (int)."""
        self.check_split(split)
        qrels = self.base.qrels(split)
        kept = qrels["qid"].isin(set(self._topics["qid"])) & qrels["docno"].isin(self._docnos)
        return qrels[kept].reset_index(drop=True)

    def _judged_pairs(self, only: frozenset[str] | None = None) -> tuple[list[tuple[str, str]], dict[str, int]]:
        return self.base._judged_pairs(self._pair_docnos(only))

    def _title_pairs(self, only: frozenset[str] | None = None) -> tuple[list[tuple[str, str]], dict[str, int]]:
        # The sample has no train split of its own, so that the base class asks here for both kinds of pairs.
        only = self._pair_docnos(only)
        return self.base._judged_pairs(only) if "train" in self.base.splits else self.base._title_pairs(only)

    def _pair_docnos(self, only: frozenset[str] | None) -> frozenset[str] | None:
        if not self.pairs_in_sample:
            return only
        return self._docnos if only is None else self._docnos & only

    @cached_property
    def _topics(self) -> pd.DataFrame:
        topics = self.base.topics(self.split)
        if self.n_topics is None or self.n_topics >= len(topics):
            return topics
        keep = set(sorted(topics["qid"], key=lambda qid: stable_rank(self.seed, "qid", qid))[: self.n_topics])
        return topics[topics["qid"].isin(keep)].reset_index(drop=True)

    @cached_property
    def _docnos(self) -> frozenset[str]:
        every = (doc["docno"] for doc in self.base.corpus())
        if self.n_docs is None:
            return frozenset(every)
        qrels = self.base.qrels(self.split)
        qids = set(self._topics["qid"])
        relevant = set(qrels["docno"][(qrels["label"] > 0) & qrels["qid"].isin(qids)])
        every, again = itertools.tee(every)
        present = relevant.intersection(again)
        if len(present) > self.n_docs:
            raise ValueError(
                f"n_docs must be at least {len(present)}, the number of documents relevant to the kept topics, "
                f"got {self.n_docs}: ask for more documents or fewer topics"
            )
        others = (docno for docno in every if docno not in present)
        fill = heapq.nsmallest(
            self.n_docs - len(present), others, key=lambda docno: (stable_rank(self.seed, "docno", docno), docno)
        )
        return frozenset(present.union(fill))
