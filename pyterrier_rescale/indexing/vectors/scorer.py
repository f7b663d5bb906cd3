"""Candidates scored by documents' vectors: neither a model nor a text is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..._utils.stages import ALL_TOKS
from .stage import VectorStage


class VectorScorer(VectorStage):
    """Results with ``query_toks`` to scores: dot products with the candidates' vectors; made by ``.scorer()``.

    Where the query encoder kept only some terms (``max_terms``, ``min_weight``) for a quick first stage, its column
    ``query_toks_all`` is what is scored with.
    """

    _call, _label = "scorer", "vector scorer"

    def __init__(self, vectors: Any, *, verbose: bool = False) -> None:
        self.vectors = vectors
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Score each row, and rank per query; other columns stay.

        Raises:
            KeyError: a candidate that is not among the vectors.
            ValueError, TypeError: query weights that are no numbers, or of another vocabulary.
        """
        pt.validate.columns(inp, includes=["qid", "docno", "query_toks"], context=self)
        self._look_again()
        column = ALL_TOKS if ALL_TOKS in inp.columns else "query_toks"
        scores = np.zeros(len(inp))
        if len(inp):
            rows = self._places(inp["docno"])
            queries = inp[column].tolist()
            groups: dict[int, list[int]] = {}
            for position, toks in enumerate(queries):
                groups.setdefault(id(toks), []).append(position)
            for positions in groups.values():
                scores[positions] = self._scores(queries[positions[0]], rows[positions], inp["qid"].iloc[positions[0]])
        return pt.model.add_ranks(inp.assign(score=scores))

    def _scores(self, toks: Any, rows: np.ndarray, qid: Any) -> np.ndarray:
        query = np.zeros(len(self.vectors.terms))
        for term, weight in self._checked(toks, qid).items():
            column = self._columns.get(term)
            if column is not None:
                query[column] = weight
        counts, columns, weights = self._entries(rows)
        return np.bincount(np.repeat(np.arange(len(rows)), counts), query[columns] * weights, minlength=len(rows))

