"""Engine "seismic": approximate retrieval by Seismic (the extra `seismic`), candidates scored exactly.

Bruch, Nardini, Rulli and Venturini, "Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse
Representations", SIGIR 2024.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..._utils.checks import check_integer, check_share
from .documents import DocumentStream
from .exact import ExactEngine, ExactSearcher
from .inversion import Inverter
from .postings import Postings
from .quiet import silenced
from .roles import EngineIndexer, EngineRetriever
from .searcher import Result, nothing, order_by_score

NAME, FILE = "seismic", "seismic.index.seismic"  # what Seismic makes of the name
SMALL_VOCABULARY = 65_535  # terms beyond are numbers of more than 16 bits, which only its large classes hold
N_POSTINGS = 3500  # Seismic's own default, good up to some ten million documents
_BLOCK = 50_000  # documents handed over at a time


class SeismicEngine(ExactEngine):
    """The files of an exact index, and beside them Seismic's: clusters of each term's heaviest postings, in memory.

    Seismic holds weights in 16-bit floats and finds the candidates; their scores are then worked out from the whole
    weights, so they are true dot products. What it can miss are documents: `experiments/scale` states the share of the
    exact top that the default arguments find.
    """

    ARTIFACT_FORMAT = "rescale_seismic"
    engine = "seismic"
    modes = ("create", "overwrite")

    def indexer(
        self,
        *,
        mode: str = "create",
        verbose: bool = False,
        made_from: Mapping[str, Any] | None = None,
        bits: int | None = None,
        n_postings: int = N_POSTINGS,
        n_knn: int = 0,
    ) -> EngineIndexer:
        """See `EngineIndex.indexer`; mode "append" is not to be had.

        `n_postings`: how many postings Seismic keeps of a term on average: 3,500 to 6,000 for ten million documents,
        60,000 and more for a hundred million. `n_knn`: how many near neighbours of each document are kept, for
        `retriever(n_knn=...)`; takes a search per document.
        """
        options = {
            "n_postings": check_integer("n_postings", n_postings),
            "n_knn": check_integer("n_knn", n_knn, 0),
        }
        return EngineIndexer(self, mode=mode, verbose=verbose, made_from=made_from, bits=bits, options=options)

    def retriever(
        self,
        num_results: int = 1000,
        *,
        threads: int = 1,
        verbose: bool = False,
        query_cut: int = 20,
        heap_factor: float = 0.8,
        n_knn: int = 0,
    ) -> EngineRetriever:
        """See `EngineIndex.retriever`; smaller numbers of the last three are faster and find less.

        `query_cut`: so many of the query's heaviest terms are looked up (all count in the scores). `heap_factor`, above
        0, up to 1: a cluster is left out if this share of its summary's score, or less, reaches the best found so far;
        towards 1 more clusters are looked at. `n_knn`: so many near neighbours of each document found are looked at,
        too; the index must hold them.
        """
        if not check_share("heap_factor", heap_factor):
            raise ValueError("heap_factor must be above 0, got 0: Seismic would look at nothing")
        options = {
            "query_cut": check_integer("query_cut", query_cut),
            "heap_factor": float(heap_factor),
            "n_knn": check_integer("n_knn", n_knn, 0),
        }
        return EngineRetriever(self, num_results, threads=threads, verbose=verbose, options=options)

    def _prepare(self) -> None:
        _seismic()

    def _write(
        self, folder: Path, stream: DocumentStream, old: dict | None, n_postings: int = N_POSTINGS, n_knn: int = 0
    ) -> dict[str, Any]:
        extra = super()._write(folder, stream, old)
        vocabulary, *arrays = Inverter.read(folder)
        postings = Postings(np.array(list(vocabulary), dtype=object), *arrays)
        large = "LV" if len(vocabulary) > SMALL_VOCABULARY else ""
        dataset = getattr(_seismic(), f"SeismicDataset{large}")(dim=max(1, len(vocabulary)))
        largest = float(postings.weights.max(initial=1))
        first = given = 0
        for block in postings.blocks(len(stream.docnos), _BLOCK):
            # Seismic leaves out documents without terms, so they are known to it by number, and its weights overflow
            # above 65,504, so they are shares of the largest.
            numbers = [str(number) for number in range(first, first + block.shape[0])]
            values = (block.data / largest).astype(np.float32)
            columns, ends = (array.astype(np.int64) for array in (block.indices, block.indptr))
            given += int((np.diff(ends) > 0).sum())
            dataset.add_documents_by_id(numbers, columns, values, ends)
            first += block.shape[0]
        if dataset.len != given:
            raise RuntimeError(f"Seismic took {dataset.len} of {given} documents that have terms")
        with silenced():
            index = getattr(_seismic(), f"SeismicIndex{large}").build_from_dataset(
                dataset, n_postings=n_postings, nknn=n_knn
            )
            index.save(str(folder / NAME))
        return {**extra, "n_postings": n_postings, "n_knn": n_knn}

    def _load(self, meta: dict) -> SeismicSearcher:
        return SeismicSearcher(self.path, meta["scale"])


class SeismicSearcher(ExactSearcher):
    """The opened files of an exact index and Seismic's."""

    def __init__(self, path: Path, scale: float):
        super().__init__(path, scale)
        large = "LV" if len(self.vocabulary) > SMALL_VOCABULARY else ""
        with silenced():
            self._opened = getattr(_seismic(), f"SeismicIndex{large}").load(str(path / FILE))
        self._string = _seismic().get_seismic_string()

    def search(
        self, weights: dict[str, float], num_results: int, *, query_cut: int, heap_factor: float, n_knn: int
    ) -> Result:
        """See `Searcher`; the candidates are Seismic's."""
        if n_knn > self.meta["n_knn"]:
            raise ValueError(
                f"n_knn must be at most {self.meta['n_knn']}, which the index was built with, got {n_knn}: "
                f"index with indexer(n_knn={n_knn})"
            )
        known = [(self.vocabulary[t], w) for t, w in weights.items() if t in self.vocabulary]
        if not known:
            return nothing()
        terms, values = np.array([t for t, _ in known]), np.array([w for _, w in known])
        # Some more, since its scores are not quite these.
        wanted = min(num_results + 16, len(self.docnos))
        shares = (values / values.max()).astype(np.float32)
        found = self._opened.search("", terms.astype(self._string), shares, wanted, query_cut, heap_factor, n_knn, True)
        # Of the postings' type: else a search among them would convert them all.
        numbers = np.sort(np.array([int(number) for _, _, number in found], dtype=self.documents.dtype))
        scores = self._scores_of(numbers, terms, values / self.scale)
        shared = scores > 0  # neighbours (n_knn) may share no term with the query
        numbers, scores = numbers[shared], scores[shared]
        return order_by_score(numbers, scores, self.ranks, num_results)

    def _scores_of(self, numbers: np.ndarray, terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The dot products of some documents, by ascending number."""
        scores = np.zeros(len(numbers))
        for term, weight in zip(terms.tolist(), weights.tolist(), strict=True):
            begin, end = self.indptr[term], self.indptr[term + 1]
            documents = self.documents[begin:end]
            places = np.searchsorted(documents, numbers)
            places[places == len(documents)] = 0
            hits = documents[places] == numbers
            scores[hits] += weight * self.weights[begin:end][places[hits]]
        return scores


def _seismic() -> Any:
    try:
        return importlib.import_module("seismic")
    except ImportError as error:
        raise ImportError(
            f"engine 'seismic' needs pyseismic-lsr: pip install pyterrier-rescale[seismic] ({error})"
        ) from error
