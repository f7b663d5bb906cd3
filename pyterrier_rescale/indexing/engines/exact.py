"""Engine "exact": term-major sparse matrix in memory-mapped files, scored exhaustively with scipy; no Java."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from . import storage
from .base import EngineIndex
from .documents import DocumentStream
from .inversion import Inverter
from .postings import Postings
from .searcher import Result, Searcher, nothing, order_by_score


class ExactEngine(EngineIndex):
    """An index scored exhaustively, term at a time: scores are exact up to the rounding of the documents' weights.

    Files: `indptr.npy` (V+1), `documents.npy` and `weights.npy` (one entry per posting, ordered by term, then by
    document), the terms, the docnos.
    """

    ARTIFACT_FORMAT = "rescale_exact"
    engine = "exact"
    concurrent = True
    modes = ("create", "overwrite", "append")

    def _check_term(self, term: str) -> None:
        """Every str that UTF-8 can hold is a term."""

    def _write(self, folder: Path, stream: DocumentStream, old: dict | None) -> dict[str, Any]:
        inverter = Inverter(folder)
        if old:
            inverter.start_from(self.path, old["documents"])
        for _, toks in stream:
            inverter.add(toks)
        inverter.finish()
        return {"terms": len(inverter.vocabulary)}

    def _load(self, meta: dict) -> ExactSearcher:
        return ExactSearcher(self.path, meta["scale"])


class ExactSearcher(Searcher):
    """The opened files of an exact index."""

    def __init__(self, path: Path, scale: float):
        self.docnos, self.ranks = storage.read_docnos(path)
        self.scale = scale
        self._local = threading.local()
        self.vocabulary, self.indptr, self.documents, self.weights = Inverter.read(path)

    def search(self, weights: dict[str, float], num_results: int) -> Result:
        """See `Searcher`."""
        known = [(self.vocabulary[t], w) for t, w in weights.items() if t in self.vocabulary]
        if not known:
            return nothing()
        scores = self._scores([t for t, _ in known], np.array([w for _, w in known]) / self.scale)
        best = top_candidates(scores, num_results)
        return order_by_score(best, scores[best], self.ranks, num_results)

    def postings(self) -> Postings:
        """The memory-mapped files themselves."""
        terms = np.array(list(self.vocabulary), dtype=object)
        return Postings(terms, self.indptr, self.documents, self.weights)

    def _scores(self, terms: list[int], weights: np.ndarray) -> np.ndarray:
        """The dot products of all documents (N,)."""
        from scipy import sparse

        spans = list(zip(self.indptr[terms].tolist(), self.indptr[np.add(terms, 1)].tolist(), strict=True))
        ends = np.cumsum([b - a for a, b in spans])
        indices, data = self._buffers(int(ends[-1]))
        matrix = sparse.csc_matrix((len(self.docnos), len(terms)), dtype=np.float64)
        # Set one by one: the constructor would check every index, which takes longer than the product.
        matrix.indptr = np.concatenate([[0], ends]).astype(np.int32)
        matrix.indices = np.concatenate([self.documents[a:b] for a, b in spans], out=indices)
        matrix.data = np.concatenate([self.weights[a:b] for a, b in spans], out=data, casting="unsafe")
        return matrix @ weights

    def _buffers(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """This thread's room for `size` postings; kept, as fresh memory costs more than filling it."""
        held = getattr(self._local, "buffers", None)
        if held is None or len(held[0]) < size:
            held = self._local.buffers = (np.empty(size * 2, dtype=np.int32), np.empty(size * 2))
        return held[0][:size], held[1][:size]


def top_candidates(scores: np.ndarray, k: int) -> np.ndarray:
    """Numbers of all documents with a score > 0 that is at least the k-th best; unordered, more than k with ties.

    A threshold estimated from every 16th score spares the selection most documents; when it is too high, all are
    looked at.
    """
    found = None
    if len(scores) > 32 * k:
        sample = scores[::16]
        place = max(len(sample) - (k // 16 + k // 40 + 16), 0)
        threshold = np.partition(sample, place)[place]
        if threshold > 0:
            found = np.flatnonzero(scores >= threshold)
    if found is None or len(found) < k:
        found = np.flatnonzero(scores > 0)
    if len(found) <= k:
        return found
    values = scores[found]
    kth = np.partition(values, len(values) - k)[len(values) - k]
    return found[values >= kth * (1 - 1e-9)]  # what `order_by_score` may round to a tie
