"""Engine "exact": term-major sparse matrix in memory-mapped files, scored exhaustively by numba; no Java."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..generation import Generation
from .base import Engine, Results
from .inversion import invert, read_inverted

_RESULTS = 10_000_000  # of the queries of one call of the kernel, at most: 160 MB


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

    def search_all(
        self, queries: list[dict[str, float]], k: int, threads: int = 1, **options: Any
    ) -> Iterable[Results]:
        """See ``Engine``: one call of the kernel for each thread's share of the queries."""
        from .exact_kernel import search

        k, ranks = min(k, len(self.generation.docnos)), self.generation.ranks
        size = max(1, min(-(-len(queries) // threads), _RESULTS // k))

        def some(first: int) -> Results:
            known = [self.known(query) for query in queries[first : first + size]]
            bounds = np.cumsum([0, *map(len, known)])
            terms = np.fromiter(chain.from_iterable(known), np.int64, bounds[-1])
            weights = np.fromiter(chain.from_iterable(query.values() for query in known), np.float64, bounds[-1])
            postings = self.indptr, self.documents, self.weights
            return search(*postings, bounds, terms, weights / self.scale, ranks, k)

        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(some, range(0, len(queries), size))
