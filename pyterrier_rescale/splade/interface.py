"""What the stages need of an encoder: a Splade has it, a LexicalEncoder, and whatever else is to be one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ..encoding.terms import TermMap


class SparseEncoder(Protocol):
    """Texts to sparse vectors over a vocabulary whose terms are known.

    Attributes:
        batch_size: texts per batch at most.
        text_field: column of the documents' text.
        verbose: show progress bars.
        encoder: holds the ``tokenizer`` and ``max_length``.
        fingerprint: hex digits that differ between encoders of different vectors.
    """

    batch_size: int
    text_field: str
    verbose: bool
    encoder: Any
    fingerprint: str

    def encode_docs(self, texts: Iterable[str]) -> csr_matrix:
        """Document vectors, (N, V)."""

    def encode_queries(self, texts: Iterable[str]) -> csr_matrix:
        """Query vectors, (N, V)."""

    def term_map(self, terms: str = "safe") -> TermMap:
        """The terms of the vocabulary, by token id."""

    def _encode(self, texts: list[str], batch_size: int | None, verbose: bool | None, unit: str) -> csr_matrix:
        """Vectors of ``unit`` "doc" or "query"."""
