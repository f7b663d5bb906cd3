"""Engine "exact": term-major sparse matrix in memory-mapped files, scored exhaustively with scipy; no Java."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..generation import Generation
from .base import Engine, Result, nothing, order_by_score
from .inversion import invert, read_inverted

# Documents scored at a time: their sums (2 MB) stay in the processor's caches.
BLOCK = 1 << 18
NEARLY = 1 - 1e-9  # of a score: what `order_by_score` may round to a tie with it


class ExactEngine(Engine):
    """Scored exhaustively, term at a time: scores are exact up to the rounding of the documents' weights."""

    name = "exact"
    concurrent = True
    needs_terms = False

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        self._local = threading.local()
        self.indptr, self.documents, self.weights = read_inverted(folder)

    @classmethod
    def build(cls, folder: Path, generation: Generation, **options: Any) -> None:
        """See ``Engine``."""
        invert(folder, generation)

    def search(self, weights: dict[str, float], k: int, **options: Any) -> Result:
        """See ``Engine``."""
        columns = self.generation.columns
        known = [(columns[term], weight) for term, weight in weights.items() if term in columns]
        if not known:
            return nothing()
        best = Best(k)
        for first, scores in self._scores([t for t, _ in known], np.array([w for _, w in known]) / self.scale):
            best.add(first, scores)
        return order_by_score(*best.all(), self.generation.ranks, k)

    def _scores(self, terms: list[int], weights: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(first document, dot products of the documents from there on), block by block; none without postings."""
        from scipy import sparse

        rows = min(BLOCK, len(self.generation.docnos))
        places = self._places(terms, rows)
        ends = np.cumsum(np.diff(places, axis=0), axis=1)
        documents, values = self._buffers(int(ends[:, -1].max()))
        matrix = sparse.csc_matrix((rows, len(terms)), dtype=np.float64)
        for block in np.flatnonzero(ends[:, -1]).tolist():
            spans = [slice(a, b) for a, b in zip(places[block].tolist(), places[block + 1].tolist(), strict=True)]
            # Set one by one: the constructor would check every index, which takes longer than the product.
            matrix.indptr = np.concatenate([[0], ends[block]]).astype(np.int32)
            matrix.indices, matrix.data = (buffer[: ends[block, -1]] for buffer in (documents, values))
            np.concatenate([self.documents[span] for span in spans], out=matrix.indices)
            np.concatenate([self.weights[span] for span in spans], out=matrix.data, casting="unsafe")
            if block:
                matrix.indices -= block * rows
            yield block * rows, matrix @ weights

    def _places(self, terms: list[int], rows: int) -> np.ndarray:
        """Where each term's postings of each block of documents begin, and last, where they end (blocks + 1, T)."""
        begins, ends = self.indptr[terms], self.indptr[np.add(terms, 1)]
        firsts = np.arange(rows, len(self.generation.docnos), rows, dtype=np.int32)  # of all blocks but the first
        inner = np.empty((len(firsts), len(terms)), dtype=np.int64)
        if len(firsts):
            for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
                inner[:, i] = begin + np.searchsorted(self.documents[begin:end], firsts)
        return np.vstack([begins, inner, ends])

    def _buffers(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """This thread's room for `size` postings and more; kept, as fresh memory costs more than filling it."""
        held = getattr(self._local, "buffers", None)
        if held is None or len(held[0]) < size:
            held = self._local.buffers = (np.empty(size * 2, dtype=np.int32), np.empty(size * 2))
        return held


class Best:
    """Collects all documents with a score > 0 that is at least the k-th best, from scores that come in blocks."""

    def __init__(self, k: int):
        self._k = k
        self._threshold = 0.0
        self._held, self._limit = 0, k
        self._numbers: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []

    def add(self, first: int, scores: np.ndarray) -> None:
        """Look at the scores of documents first, first + 1, ..."""
        found = top_candidates(scores, self._k, self._threshold)
        self._numbers.append(found + first)
        self._scores.append(scores[found])
        self._held += len(found)
        if self._held >= self._limit:
            numbers, scores = self.all()
            self._numbers, self._scores, self._held = [numbers], [scores], len(numbers)
            self._limit = 2 * len(numbers)
            self._threshold = scores.min() * NEARLY

    def all(self) -> Result:
        """They and their scores; more than k with ties, and with what `order_by_score` may round to a tie."""
        if not self._numbers:
            return nothing()
        numbers, scores = np.concatenate(self._numbers), np.concatenate(self._scores)
        best = top_candidates(scores, self._k)
        return numbers[best], scores[best]


def top_candidates(scores: np.ndarray, k: int, threshold: float = 0.0) -> np.ndarray:
    """Numbers of all documents with a score > 0 that is at least the k-th best; unordered, more than k with ties.

    Args:
        scores: of all documents.
        k: how many are wanted.
        threshold: no document below it is wanted. Without one, one estimated from every 16th score spares the
            selection most documents; when it is too high, all are looked at.
    """
    found = None
    if not threshold and len(scores) > 32 * k:
        sample = scores[::16]
        place = max(len(sample) - (k // 16 + k // 40 + 16), 0)
        estimate = np.partition(sample, place)[place]
        if estimate > 0:
            found = np.flatnonzero(scores >= estimate * NEARLY)
    if found is None or len(found) < k:
        found = np.flatnonzero(scores >= threshold if threshold else scores > 0)
    if len(found) <= k:
        return found
    values = scores[found]
    kth = np.partition(values, len(values) - k)[len(values) - k]
    return found[values >= kth * NEARLY]
