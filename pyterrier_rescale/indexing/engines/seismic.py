"""Engine "seismic": approximate retrieval by Seismic (the extra `seismic`), candidates scored exactly.

Bruch, Nardini, Rulli and Venturini, "Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse
Representations", SIGIR 2024.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ..._utils.checks import check_integer, check_share
from ...encoding.pruning import whole_weights
from ..generation import Generation
from .base import NOTHING, Engine, Result, order_by_score, silenced

_NAME, _FILE = "seismic", "seismic.index.seismic"  # what Seismic makes of the name
SMALL_VOCABULARY = 65_535  # terms beyond are numbers of more than 16 bits, which only its large classes hold


class SeismicEngine(Engine):
    """Clusters of each term's heaviest postings, in memory.

    Seismic finds the candidates; their scores are true dot products, worked out from the whole weights. It can miss
    documents: ``experiments/scale`` states the share of the exact top that the default options find.

    The indexer's option ``n_postings``: how many postings are kept of a term on average: 3,500 to 6,000 for ten
    million documents, 60,000 and more for a hundred million. The retriever's, of which smaller numbers are faster and
    find less: ``query_cut``, how many of the query's heaviest terms are looked up (all count in the scores), and
    ``heap_factor``, above 0, up to 1, as Seismic defines it.
    """

    name = "seismic"
    concurrent = True
    needs_terms = False

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        with silenced():
            self._opened = _class("Index", generation).load(str(folder / _FILE))
        self._string = importlib.import_module("seismic").get_seismic_string()

    @classmethod
    def build(cls, folder: Path, generation: Generation, *, n_postings: int = 3500) -> None:
        """See ``Engine``."""
        check_integer("n_postings", n_postings)
        dataset = _class("Dataset", generation)(dim=max(1, len(generation.terms)))
        first = 0
        for block in generation.whole_blocks():
            # Seismic leaves out documents without terms, so they are known to it by number, and its weights overflow
            # above 65,504, so they are shares of the largest.
            numbers = [str(number) for number in range(first, first + block.shape[0])]
            values = (block.data / generation.largest).astype(np.float32)
            columns, ends = (array.astype(np.int64) for array in (block.indices, block.indptr))
            dataset.add_documents_by_id(numbers, columns, values, ends)
            first += block.shape[0]
        with silenced():
            index = _class("Index", generation).build_from_dataset(dataset, n_postings=n_postings)
            index.save(str(folder / _NAME))

    def search(
        self, weights: dict[str, float], k: int, *, query_cut: int = 20, heap_factor: float = 0.8
    ) -> Result:
        """See ``Engine``; the candidates are Seismic's."""
        query_cut, heap_factor = check_integer("query_cut", query_cut), check_share("heap_factor", heap_factor)
        known = self.generation.known(weights)
        if not known:
            return NOTHING
        terms, query = np.array(list(known)), np.array(list(known.values()))
        # Some more, since its scores are not quite these.
        wanted = min(k + 16, len(self.generation.docnos))
        shares = (query / query.max()).astype(np.float32)
        found = self._opened.search("", terms.astype(self._string), shares, wanted, query_cut, heap_factor, 0, True)
        numbers = np.array([int(number) for _, _, number in found], dtype=np.int64)
        whole = whole_weights(self.generation.rows_at(numbers), self.scale)
        scores = whole[:, terms] @ (query / self.scale)
        shared = scores > 0
        return order_by_score(numbers[shared], scores[shared], self.generation.ranks, k)


def _class(kind: str, generation: Generation) -> Any:
    large = "LV" if len(generation.terms) > SMALL_VOCABULARY else ""
    return getattr(importlib.import_module("seismic"), f"Seismic{kind}{large}")
