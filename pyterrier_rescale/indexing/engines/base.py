"""What an engine is: ``build`` writes files from vectors, the constructor opens them, ``search`` ranks documents."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..generation import Generation

Result = tuple[np.ndarray, np.ndarray]  # document numbers, scores
Results = tuple[np.ndarray, np.ndarray, np.ndarray]  # of some queries: how many each has; all numbers; all scores
NOTHING: Result = (np.empty(0, dtype=np.int64), np.empty(0))  # of a query that matches no document
_NEARLY = 1 - 1e-9  # of a score: what `order_by_score` may round to a tie with it


class Engine:
    """One engine's files in a folder, opened for queries; ``generation`` has the vectors that they were built from."""

    name: ClassVar[str]
    concurrent: ClassVar[bool] = False  # whether several threads may search at once
    needs_terms: ClassVar[bool] = True  # whether an index of empty documents alone cannot be held

    def __init__(self, folder: Path, generation: Generation) -> None:
        # The generation holds its engine: a proxy, so that both go, and files are closed, when a handle lets go of it.
        self.folder, self.generation = folder, weakref.proxy(generation)
        self.scale: float = generation.content["scale"]

    @classmethod
    def check_term(cls, term: str) -> None:
        """Raise ``ValueError`` for a term that the engine cannot hold."""

    @classmethod
    def build(cls, folder: Path, generation: Generation) -> None:
        """Write the files for all documents, by ``generation.whole_blocks()``; the folder is there and empty.

        Keyword-only arguments of this and of ``search`` are options of the indexer and of the retriever.
        """
        raise NotImplementedError

    def search(self, weights: dict[str, float], k: int) -> Result:
        """The k best documents that share a term with {term: weight > 0}, best first, ties in docno order.

        Their scores are the dot products. Terms may be unknown.
        """
        raise NotImplementedError

    def search_all(
        self, queries: list[dict[str, float]], k: int, threads: int = 1, **options: Any
    ) -> Iterable[Results]:
        """The results of many queries, in order, some queries at a time; ``options`` are those of ``search``."""

        def one(weights: dict[str, float]) -> Results:
            return joined([self.search(weights, k, **options) if weights else NOTHING])

        with ThreadPoolExecutor(threads) as pool:
            yield from map(one, queries) if threads == 1 else pool.map(one, queries)


class LibraryEngine(Engine):
    """An engine of another library: it takes some queries at a time, and breaks ties by document number."""

    batch: ClassVar[int] = 1  # queries at a time
    most_results: ClassVar[int] = 2**31 - 1  # of a query

    def prepare(self, weights: dict[str, float]) -> tuple[dict[Any, float], float]:
        """The query as the library takes it, empty where no term is known; and what makes its scores true ones."""
        raise NotImplementedError

    def match(self, queries: list[dict[Any, float]], k: int) -> list[Result]:
        """The library's k best documents of each prepared query, best first, ties in any order."""
        raise NotImplementedError

    def search_all(self, queries: list[dict[str, float]], k: int, threads: int = 1) -> Iterable[Results]:
        """See ``Engine``."""
        if k > self.most_results:
            raise ValueError(f"num_results must be at most {self.most_results} with engine {self.name!r}, got {k}")
        k = min(k, len(self.generation.docnos))
        for first in range(0, len(queries), self.batch):
            yield joined(self._search_batch(queries[first : first + self.batch], k))

    def _search_batch(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        prepared, factors = zip(*(self.prepare(query) if query else ({}, 1.0) for query in queries), strict=True)
        results = [NOTHING] * len(queries)
        todo, wanted = [i for i, query in enumerate(prepared) if query], min(k + 16, self.most_results)
        while todo:
            undecided = []
            for i, (numbers, scores) in zip(todo, self.match([prepared[i] for i in todo], wanted), strict=True):
                # ask for more where what is cut off scores as much as what is kept
                if len(numbers) == wanted < self.most_results and scores[k - 1] * _NEARLY <= scores[-1]:
                    undecided.append(i)
                else:
                    results[i] = order_by_score(numbers, scores * factors[i], self.generation.ranks, k)
            todo, wanted = undecided, min(2 * wanted, self.most_results)
        return results


def joined(results: list[Result]) -> Results:
    """Results of some queries, one after the other."""
    numbers, scores = zip(*results, strict=True)
    return np.array([len(part) for part in numbers]), np.concatenate(numbers), np.concatenate(scores)


def order_by_score(numbers: np.ndarray, scores: np.ndarray, ranks: np.ndarray, k: int) -> Result:
    """The best ``k`` by score, ties in docno order (``ranks``); scores are rounded to twelve digits of the largest.

    Equal sums differ in their last bits by the order of addition: unrounded, they would not tie.
    """
    from .exact_kernel import ordered

    return ordered(numbers, scores, ranks, k)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop what native code prints, past Python, to stdout and stderr in the block."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        yield
    finally:
        for fd, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, fd)
            os.close(saved)
        os.close(sink)
