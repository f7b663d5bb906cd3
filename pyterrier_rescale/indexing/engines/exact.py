"""Engine "exact": term-major sparse matrix in memory-mapped files, scored exhaustively by numba; no Java."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..generation import Generation
from .base import Engine, Result, nothing, order_by_score
from .inversion import invert, read_inverted


class ExactEngine(Engine):
    """Scored exhaustively, term at a time: scores are exact up to the rounding of the documents' weights."""

    name = "exact"
    concurrent = True
    needs_terms = False

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        self.indptr, self.documents, self.weights = read_inverted(folder)

    @classmethod
    def build(cls, folder: Path, generation: Generation, **options: Any) -> None:
        """See ``Engine``."""
        invert(folder, generation)

    def search(self, weights: dict[str, float], k: int, **options: Any) -> Result:
        """See ``Engine``."""
        from .exact_kernel import best

        terms, query = self._known(weights)
        if not len(terms):
            return nothing()
        count = len(self.generation.docnos)
        spans = self.indptr[terms], self.indptr[terms + 1]
        numbers, scores = best(self.documents, self.weights, *spans, query, count, min(k, count))
        return order_by_score(numbers, scores, self.generation.ranks, k)

    def _known(self, weights: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """The query's known terms by column, and their weights in units of the documents' ones."""
        columns = self.generation.columns
        known = {columns[term]: weight / self.scale for term, weight in weights.items() if term in columns}
        return np.array(list(known)), np.array(list(known.values()))
