"""The vectors that an index holds, read back from it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Block, SparseVectors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ..engines.postings import Postings
    from ..engines.searcher import Searcher

_DOCUMENTS = 4096  # per block


class IndexVectors(SparseVectors):
    """Document vectors as an index holds them: whole multiples of 1 / scale; made by ``index.vectors()``.

    They are those that the index has when they are first used. Columns are the index's own numbers of its terms.
    """

    def __init__(self, index: Any) -> None:
        self.index = index

    @cached_property
    def _searcher(self) -> Searcher:
        return self.index.searcher()

    @cached_property
    def _postings(self) -> Postings:
        return self._searcher.postings()

    terms = property(lambda self: self._postings.terms)
    readable = terms  # an index knows no other names of its terms
    vocabulary = property(lambda self: self._searcher.meta["fingerprint"])
    quantised = property(lambda self: self._searcher.meta["scale"])
    made_from = property(lambda self: self._searcher.meta["made_from"])

    @cached_property
    def docnos(self) -> list[str]:
        """The docnos, in order."""
        return list(self._searcher.docnos)

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._searcher.docnos)

    def blocks(self) -> Iterator[Block]:
        """All documents in order, up to 4,096 at a time."""
        first = 0
        for matrix in self._postings.blocks(len(self), _DOCUMENTS):
            yield Block(self.docnos[first : first + matrix.shape[0]], self._unscaled(matrix))
            first += matrix.shape[0]

    def rows(self, docnos: Any) -> csr_matrix:
        """Vectors of documents, those of the index that is there now."""
        if "_searcher" in vars(self) and self.index.searcher() is not self._searcher:
            for name in set(vars(self)) - {"index"}:
                del vars(self)[name]
        return super().rows(docnos)

    def _row(self, place: int) -> csr_matrix:
        return self._unscaled(self._postings.row(place))

    def _unscaled(self, matrix: csr_matrix) -> csr_matrix:
        vectors = matrix.astype(np.float64)
        # float32 gives a whole weight back exactly up to 2**22
        vectors.data = (vectors.data / self.quantised).astype(
            np.float32 if matrix.data.max(initial=0) < 2**22 else np.float64
        )
        return vectors

    def __repr__(self) -> str:
        return f"{self.index!r}.vectors()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IndexVectors) and self.index == other.index

    def __hash__(self) -> int:
        return hash(("IndexVectors", self.index))

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexVectors, (self.index,)
