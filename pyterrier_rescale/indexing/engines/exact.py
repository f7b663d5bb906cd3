"""Engine "exact": term-major sparse matrix in memory-mapped files, scored exhaustively by numba; no Java."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.sparse import vstack

from ..generation import Generation
from .base import Engine, Results

_RESULTS = 10_000_000  # of the queries of one call of the kernel, at most: 160 MB
_POSTINGS = 4_000_000  # that are sorted at a time: some 200 MB
_WORK = 500_000  # sums of a thread, at least, with 20 for each result: less costs more to start than it gains


class ExactEngine(Engine):
    """Scored exhaustively, term at a time: scores are exact up to the rounding of the documents' weights."""

    name = "exact"
    concurrent = True
    needs_terms = False

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        self.postings = read_inverted(folder)

    @classmethod
    def build(cls, folder: Path, generation: Generation) -> None:
        """See ``Engine``."""
        invert(folder, generation)

    def search_all(self, queries: list[dict[str, float]], k: int, threads: int = 1) -> Iterable[Results]:
        """See ``Engine``: one call of the kernel for each thread's share of the queries."""
        from .exact_kernel import search

        count, ranks = len(self.generation.docnos), self.generation.ranks
        k = min(k, count)
        threads = max(1, min(threads, len(queries) * (count + 20 * k) // _WORK))
        size = max(1, min(-(-len(queries) // threads), _RESULTS // k))
        # before any thread starts: each would wait for Python's lock, longer than it searches
        known = [self.generation.known(query) for query in queries]
        bounds = np.cumsum([0, *map(len, known)])
        terms = np.fromiter(chain.from_iterable(known), np.int64, bounds[-1])
        weights = np.fromiter(chain.from_iterable(map(dict.values, known)), np.float64, bounds[-1]) / self.scale

        def some(first: int) -> Results:
            return search(*self.postings, bounds[first : first + size + 1], terms, weights, ranks, k)

        parts = range(0, len(queries), size)
        with ThreadPoolExecutor(threads) as pool:
            yield from map(some, parts) if threads == 1 else pool.map(some, parts)


def invert(folder: Path, generation: Generation) -> None:
    """Write ``indptr.npy`` (V+1,), ``documents.npy`` and ``weights.npy`` (P,): by term, then by document number."""
    indptr = np.concatenate([[0], np.cumsum(generation.document_frequencies)])
    kinds = {"documents": np.int32, "weights": np.uint16 if generation.largest < 2**16 else np.uint32}
    # an entry more than there are postings, since empty files cannot be mapped
    documents, weights = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (int(indptr[-1]) + 1,))
        for name, kind in kinds.items()
    )
    place, first, blocks = indptr[:-1].copy(), 0, generation.whole_blocks()
    for block in blocks:
        part = [block]
        while sum(one.nnz for one in part) < _POSTINGS and (block := next(blocks, None)) is not None:
            part.append(block)
        by_term = vstack(part, format="csc")
        counts = np.diff(by_term.indptr)
        target = np.repeat(place - by_term.indptr[:-1], counts) + np.arange(by_term.nnz)
        documents[target], weights[target] = by_term.indices + first, by_term.data
        place += counts
        first += by_term.shape[0]
    np.save(folder / "indptr.npy", indptr)
    documents.flush()
    weights.flush()


def read_inverted(folder: Path) -> list[np.ndarray]:
    """(indptr, documents, weights) as ``invert`` wrote them, mapped."""
    # plain arrays on the mapped memory: slicing a memmap object costs as much as a short posting list
    names = ("indptr", "documents", "weights")
    return [np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in names]
