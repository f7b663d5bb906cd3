"""Engine "pisa": PISA's compressed inverted index with MaxScore, through pyterrier-pisa (the extra `pisa`)."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..generation import Generation
from .base import LibraryEngine, Result, silenced

QUERY_LEVELS = 1000  # whole numbers that a query's weights are rounded to: PISA takes a weight as so many repetitions


class PisaEngine(LibraryEngine):
    """A PISA index of whole weights. PISA knows documents by number here."""

    name = "pisa"
    batch = 100  # a call fills arrays of k for each

    def __init__(self, folder: Path, generation: Generation) -> None:
        super().__init__(folder, generation)
        self.terms = set((folder / "fwd.terms").read_text(encoding="utf-8").split("\n")[:-1])
        self._opened = _retriever(folder)

    @classmethod
    def check_term(cls, term: str) -> None:
        """See ``Engine``."""
        if not term or term != term.lower() or any(c.isspace() for c in term) or "\0" in term:
            raise ValueError(
                f"engine 'pisa' cannot hold terms that are empty or have upper case letters, white space or NUL, "
                f"got {term!r}; doc_encoder(terms='safe') makes terms that it can"
            )

    @classmethod
    def build(cls, folder: Path, generation: Generation) -> None:
        """See ``Engine``."""
        documents = ({"docno": str(number), "toks": toks} for number, toks in enumerate(generation.toks()))
        with silenced():
            _index(folder).toks_indexer(scale=1.0).index(documents)
            _retriever(folder)  # which compresses the collection
        for name in ("inv.docs", "inv.freqs", "inv.sizes"):
            (folder / name).unlink()

    def prepare(self, weights: dict[str, float]) -> tuple[dict[str, float], float]:
        """See ``LibraryEngine``; weights are whole multiples of a unit, terms that PISA does not know are left out."""
        known = {term: weight for term, weight in weights.items() if term in self.terms}
        unit = max(known.values(), default=1.0) / QUERY_LEVELS
        whole = {term: float(round(weight / unit)) for term, weight in known.items()}
        return {term: weight for term, weight in whole.items() if weight}, unit / self.scale

    def match(self, queries: list[dict[str, float]], k: int) -> list[Result]:
        """See ``LibraryEngine``."""
        retriever = copy.copy(self._opened)  # with the same opened files, and a number of results of its own
        retriever.num_results = k
        frame = pd.DataFrame({"qid": [str(i) for i in range(len(queries))], "query_toks": queries})
        found = retriever.transform(frame)
        numbers = found["docno"].to_numpy().astype(np.int64)
        scores = found["score"].to_numpy().astype(np.float64)
        ends = np.cumsum(np.bincount(found["qid"].astype(int), minlength=len(queries)))
        return list(zip(np.split(numbers, ends[:-1]), np.split(scores, ends[:-1]), strict=True))


def _index(folder: Path) -> Any:
    return importlib.import_module("pyterrier_pisa").PisaIndex(str(folder), stemmer="none", stops="none")


def _retriever(folder: Path) -> Any:
    """PISA's own retriever on weights, without a second scaling."""
    return _index(folder).quantized(num_results=1, query_algorithm="maxscore", toks_scale=1.0)
