"""Candidates scored by documents' vectors: neither a model nor a text is needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..._utils.checks import is_number
from ..._utils.stages import ALL_TOKS, schematic

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class VectorScorer(pt.Transformer):
    """Results with ``query_toks`` to scores: dot products with the candidates' vectors; made by ``.scorer()``.

    Where the query encoder kept only some terms (``max_terms``, ``min_weight``) for a quick first stage, its column
    ``query_toks_all`` is what is scored with.
    """

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
        column = ALL_TOKS if ALL_TOKS in inp.columns else "query_toks"
        scores = np.zeros(len(inp))
        if len(inp):
            rows = self.vectors.places.get_indexer(inp["docno"])
            if (rows < 0).any():
                docno = inp["docno"].iloc[int(np.flatnonzero(rows < 0)[0])]
                raise KeyError(f"candidate {docno!r} is not among the {len(self.vectors):,} vectors of {self!r}")
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
        matrix = self._matrix
        begins, counts = matrix.indptr[rows], np.diff(matrix.indptr)[rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = np.repeat(begins, counts) + within
        weights = matrix.data[entries].astype(np.float64)
        if self.vectors.quantised:  # what the index holds, not float32's nearest to it
            weights = np.rint(weights * self.vectors.quantised) / self.vectors.quantised
        products = query[matrix.indices[entries]] * weights
        return np.bincount(np.repeat(np.arange(len(rows)), counts), products, minlength=len(rows))

    def _checked(self, toks: Any, qid: Any) -> Mapping[str, float]:
        from ..engines.documents import parse_stamp

        if not isinstance(toks, Mapping):
            raise TypeError(f"query_toks of query {qid!r} must be a dict of term -> weight, got {toks!r}")
        stamp, known = parse_stamp(toks), self.vectors.vocabulary
        if stamp and known and stamp[0] != known:
            raise ValueError(f"query {qid!r} is of another vocabulary ({stamp[0]}) than the vectors ({known})")
        if stamp and stamp[1] != 1:
            raise ValueError(f"query {qid!r} was encoded at scale {stamp[1]:g}: use query_encoder(scale=1)")
        for term, weight in toks.items():
            if not is_number(weight):
                raise ValueError(f"query {qid!r}: the weight of {term!r} must be a finite number, got {weight!r}")
        return toks

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {term: number for number, term in enumerate(self.vectors.terms)}

    @cached_property
    def _matrix(self) -> csr_matrix:
        return self.vectors.to_csr()

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The box in a drawn pipeline."""
        return schematic(self, "vector scorer")

    def __repr__(self) -> str:
        return f"{self.vectors!r}.scorer()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VectorScorer) and self.vectors == other.vectors

    def __hash__(self) -> int:
        return hash(("VectorScorer", self.vectors))

    def __getstate__(self) -> dict[str, Any]:
        return {"vectors": self.vectors, "verbose": self.verbose}
