"""An engine's index, opened for queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from pandas.api.extensions import ExtensionArray

if TYPE_CHECKING:
    from .postings import Postings

Result = tuple[np.ndarray, np.ndarray]  # (document numbers, scores)


class Searcher:
    """Ranks documents for weighted terms.

    Attributes:
        docnos: a pandas array (N,) of str, by document number.
        ranks: (N,) each document's place in docno order.
        meta: our part of the manifest of the index that was opened.
    """

    docnos: ExtensionArray
    ranks: np.ndarray
    meta: dict[str, Any]

    def search(self, weights: dict[str, float], num_results: int) -> Result:
        """The best documents, best first, ties in docno order.

        Args:
            weights: {term: weight > 0}, not empty.
            num_results: at most so many documents; only documents that share a term with the query count.
        """
        raise NotImplementedError

    def postings(self) -> Postings:
        """All postings of the index, read back from the engine."""
        raise NotImplementedError

    def search_all(
        self,
        queries: list[dict[str, float]],
        num_results: int,
        threads: int,
        progress: Callable[[Iterable], Iterable],
        **options: Any,
    ) -> list[Result]:
        """`search` for every query, in order; queries without terms find nothing.

        Args:
            queries: of any number of terms each.
            num_results: at most so many documents per query.
            threads: how many queries run at once.
            progress: wraps an iterator over the queries' results, to show how far it is.
            options: the engine's own, for `search`.
        """

        def one(weights: dict[str, float]) -> Result:
            return self.search(weights, num_results, **options) if weights else nothing()

        if threads == 1:
            return list(progress(map(one, queries)))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:
            return list(progress(pool.map(one, queries)))


def nothing() -> Result:
    """The result of a query that matches no document."""
    return np.empty(0, dtype=np.int64), np.empty(0)


def order_by_score(numbers: np.ndarray, scores: np.ndarray, ranks: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` by score, ties in docno order (`ranks`); scores are rounded to twelve digits of the largest.

    Equal sums differ in their last bits by the order of addition: unrounded, they would not tie.
    """
    if len(scores):
        decimals = 12 - int(np.ceil(np.log10(scores.max())))
        scores = np.round(scores, decimals) if decimals <= 308 else scores  # 1e309 is infinite: scores become NaN
    order = np.argsort(-scores, kind="stable")
    if len(scores) > 1 and (np.diff(scores[order]) == 0).any():
        order = np.lexsort((ranks[numbers], -scores))
    order = order[:k]
    return numbers[order], scores[order]
