"""What the stages that read candidates' vectors share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..._utils.checks import is_number
from ..._utils.stages import Stage

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class VectorStage(Stage):
    """Results with ``query_toks`` and ``docno``, and the documents' vectors, which are held once they are needed."""

    vectors: Any
    _maker = "vectors"

    def _look_again(self) -> None:
        """Let go of an index's vectors where another index is at its path by now: its retriever answers from that."""
        index = getattr(self.vectors, "index", None)
        read = vars(self.vectors).get("_searcher")
        if index is not None and read is not None and index.searcher() is not read:
            self.vectors = index.vectors()
            for held in ("_columns", "_matrix"):
                vars(self).pop(held, None)

    def _places(self, docnos: pd.Series) -> np.ndarray:
        """Rows of the documents in the matrix, (n,); KeyError for one that is not there."""
        rows = self.vectors.places.get_indexer(docnos)
        if (rows < 0).any():
            docno = docnos.iloc[int(np.flatnonzero(rows < 0)[0])]
            raise KeyError(f"candidate {docno!r} is not among the {len(self.vectors):,} vectors of {self!r}")
        return rows

    def _entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some rows of the matrix, one after the other: terms each, columns, weights (float64)."""
        matrix = self._matrix
        begins, counts = matrix.indptr[rows], np.diff(matrix.indptr)[rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = np.repeat(begins, counts) + within
        weights = matrix.data[entries].astype(np.float64)
        if self.vectors.quantised:  # what the index holds, not float32's nearest to it
            weights = np.rint(weights * self.vectors.quantised) / self.vectors.quantised
        return counts, matrix.indices[entries], weights

    def _checked(self, toks: Any, qid: Any) -> Mapping[str, float]:
        return check_query(toks, qid, self.vectors.vocabulary)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {term: number for number, term in enumerate(self.vectors.terms)}

    @cached_property
    def _matrix(self) -> csr_matrix:
        return self.vectors.to_csr()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_columns", "_matrix")}


def check_query(toks: Any, qid: Any, vocabulary: str | None) -> Mapping[str, float]:
    """A query's weights, if they are unscaled numbers for terms of the vectors' vocabulary.

    Raises:
        TypeError: they are no dict.
        ValueError: they are scaled, of another vocabulary, or not finite.
    """
    from ..engines.documents import parse_stamp

    if not isinstance(toks, Mapping):
        raise TypeError(f"query_toks of query {qid!r} must be a dict of term -> weight, got {toks!r}")
    stamp = parse_stamp(toks)
    if stamp and vocabulary and stamp[0] != vocabulary:
        raise ValueError(f"query {qid!r} is of another vocabulary ({stamp[0]}) than the vectors ({vocabulary})")
    if stamp and stamp[1] != 1:
        raise ValueError(f"query {qid!r} was encoded at scale {stamp[1]:g}: use query_encoder(scale=1)")
    for term, weight in toks.items():
        if not is_number(weight):
            raise ValueError(f"query {qid!r}: the weight of {term!r} must be a finite number, got {weight!r}")
    return toks
