"""Vectors of fewer terms, without encoding again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...encoding.pruning import check_pruning, prune
from .base import Block, SparseVectors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class PrunedVectors(SparseVectors):
    """Each document's heaviest terms of other vectors; made by ``vectors.pruned(max_terms, min_weight)``."""

    def __init__(self, vectors: SparseVectors, max_terms: int | None, min_weight: float) -> None:
        self.vectors = vectors
        self.max_terms, self.min_weight = check_pruning(max_terms, min_weight)

    terms = property(lambda self: self.vectors.terms)
    readable = property(lambda self: self.vectors.readable)
    vocabulary = property(lambda self: self.vectors.vocabulary)
    quantised = property(lambda self: self.vectors.quantised)
    docnos = property(lambda self: self.vectors.docnos)

    @property
    def made_from(self) -> dict[str, Any] | None:
        """That of the vectors, and what was kept of them."""
        made_from = self.vectors.made_from
        return made_from and {**made_from, "pruned": [self.max_terms, self.min_weight]}

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.vectors)

    def blocks(self) -> Iterator[Block]:
        """All documents in order."""
        for docnos, vectors in self.vectors.blocks():
            yield Block(docnos, prune(vectors, self.max_terms, self.min_weight))

    def _row(self, place: int) -> csr_matrix:
        return prune(self.vectors._row(place), self.max_terms, self.min_weight)

    def __repr__(self) -> str:
        return f"{self.vectors!r}.pruned(max_terms={self.max_terms}, min_weight={self.min_weight:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrunedVectors) and (self.vectors, self.max_terms, self.min_weight) == (
            other.vectors, other.max_terms, other.min_weight,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.vectors, self.max_terms, self.min_weight))
