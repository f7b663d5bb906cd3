"""A query that is a document of the collection finds itself first. Such a hit says nothing, so it is dropped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
import pyterrier as pt

from .._utils.checks import warn
from .._utils.stages import schematic


def own_documents(
    topics: pd.DataFrame, documents: Iterable[Mapping[str, Any]], field: str = "text"
) -> frozenset[str]:
    """The ids of the topics that are documents: the docno is the qid, and the text is the query (title aside).

    Equal ids alone mean nothing: many collections number both topics and documents from 1 on.
    """
    queries = {qid: _plain(query) for qid, query in zip(topics["qid"], topics["query"], strict=True)}
    own = set()
    for document in documents:
        if query := queries.get(document["docno"]):
            text, title = document.get(field) or "", document.get("title") or ""
            body = document.get("body") or text.removeprefix(title)
            if query in map(_plain, (text, body, f"{title} {text}")):
                own.add(document["docno"])
    return frozenset(own)


class WithoutOwnDocuments(pt.Transformer):
    """Drops each query's own document from its results (see :func:`own_documents`), and says so once.

    Args:
        documents: gives a fresh iterator over the documents at each call; it is called where a query finds its id.
        num_results: of the other results, so many are kept per query.
        field: the documents' text.
    """

    def __init__(
        self, documents: Callable[[], Iterable[Mapping[str, Any]]], num_results: int, field: str = "text"
    ) -> None:
        self.documents, self.num_results, self.field = documents, num_results, field
        self._known: dict[tuple[str, str], bool] = {}

    def __repr__(self) -> str:
        return f"WithoutOwnDocuments(num_results={self.num_results})"

    def own(self, topics: pd.DataFrame) -> frozenset[str]:
        """The ids of the topics that are documents; says so at the first that there are."""
        pairs = set(zip(topics["qid"], topics["query"], strict=True))
        if not pairs <= self._known.keys():
            told, found = any(self._known.values()), own_documents(topics, self.documents(), self.field)
            self._known |= {pair: pair[0] in found for pair in pairs}
            if found and not told:
                warn(
                    f"queries that are documents themselves, such as {min(found)!r}: each one's own document is left "
                    "out of its results"
                )  # fmt: skip
        return frozenset(pair[0] for pair in pairs if self._known[pair])

    def transform(self, results: pd.DataFrame) -> pd.DataFrame:
        """Drop the rows of own documents; ranks close up."""
        pt.validate.columns(results, includes=["qid", "query", "docno", "rank"], context=self)
        hits = results[results["qid"] == results["docno"]]
        rewritten = [name for name in hits if re.fullmatch(r"query_\d+", name)]  # the last one is as it was asked
        if rewritten:
            hits = hits.assign(query=hits[max(rewritten, key=lambda name: int(name[6:]))])
        dropped = hits[hits["qid"].isin(self.own(hits))]
        if len(dropped):
            results = results.drop(index=dropped.index)
            results = results.assign(rank=results.groupby("qid")["rank"].rank(method="first").astype(int) - 1)
        return results[results["rank"] < self.num_results]

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The box in a drawn pipeline, made offline."""
        return schematic(self, "own documents out")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
