"""What an engine holds, read back: postings by term, and from them documents in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix


class Postings(NamedTuple):
    """All postings of an index, by term, within a term by document.

    Attributes:
        terms: (V,) of str.
        indptr: where each term's postings begin (V+1,).
        documents: number of each posting's document (P,), ascending within a term.
        weights: whole weight of each posting (P,).
    """

    terms: np.ndarray
    indptr: np.ndarray
    documents: np.ndarray
    weights: np.ndarray

    def blocks(self, count: int, size: int) -> Iterator[csr_matrix]:
        """The weights of `count` documents as matrices of up to `size` rows (n, V); holds one block's postings."""
        begin = self.indptr[:-1].astype(np.int64)
        for first in range(0, count, size):
            last = min(first + size, count)
            end = self._places(begin, last)
            yield self._block(begin, end, first, last)
            begin = end

    def row(self, number: int) -> csr_matrix:
        """One document's weights (1, V)."""
        begin = self._places(self.indptr[:-1].astype(np.int64), number)
        return self._block(begin, self._places(begin, number + 1), number, number + 1)

    def _block(self, begin: np.ndarray, end: np.ndarray, first: int, last: int) -> csr_matrix:
        counts = end - begin
        indptr = np.concatenate([[0], np.cumsum(counts)])
        entries = np.repeat(begin - indptr[:-1], counts) + np.arange(indptr[-1])
        rows, weights = self.documents[entries] - first, self.weights[entries].astype(np.int64)
        return csc_matrix((weights, rows, indptr), shape=(last - first, len(counts))).tocsr()

    def _places(self, begin: np.ndarray, document: int) -> np.ndarray:
        """Of each term the place of its first posting, from `begin` on, in that document or a later one."""
        low, high = begin.copy(), self.indptr[1:].astype(np.int64)
        while True:
            undecided = np.flatnonzero(low < high)
            if not len(undecided):
                return low
            middle = (low[undecided] + high[undecided]) // 2
            less = self.documents[middle] < document
            low[undecided[less]] = middle[less] + 1
            high[undecided[~less]] = middle[~less]
