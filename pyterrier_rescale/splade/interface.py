"""What the stages need of an encoder: a Splade has it, a LexicalEncoder, and whatever else is to be one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ..encoding.terms import TermMap


class SparseEncoder(Protocol):
    """Texts to sparse vectors over a vocabulary whose terms are known.

    Attributes:
        batch_size: texts per batch at most.
        text_field: column of the documents' text.
        verbose: show progress bars.
        encoder: of documents; holds the ``tokenizer`` and ``max_length``.
        queries_encoder: of queries, likewise.
        fingerprint: hex digits that differ between encoders of different vectors.
    """

    batch_size: int
    text_field: str
    verbose: bool
    encoder: Any
    queries_encoder: Any
    fingerprint: str

    def encode_docs(self, texts: Iterable[str]) -> csr_matrix:
        """Document vectors, (N, V)."""

    def encode_queries(self, texts: Iterable[str]) -> csr_matrix:
        """Query vectors, (N, V)."""

    def term_map(self, terms: str = "safe") -> TermMap:
        """The terms of the vocabulary, by token id."""

    def _encode(self, texts: list[str], batch_size: int | None, verbose: bool | None, unit: str) -> csr_matrix:
        """Vectors of ``unit`` "doc" or "query", of texts that have been checked."""


def top_terms(row: csr_matrix, encoder: SparseEncoder, n: int) -> list[tuple[str, float]]:
    """The n heaviest terms of a vector, (1, V), with their weights, readable, heaviest first."""
    terms, tokenizer = encoder.term_map(), encoder.encoder.tokenizer
    best = np.lexsort((row.indices, -row.data))[:n]
    return [(terms.readable(int(row.indices[i]), tokenizer), float(row.data[i])) for i in best]


def call_of(encoder: SparseEncoder) -> str:
    """The call that makes an encoder: its class and the arguments that are not the defaults."""
    _, first, *others = inspect.signature(type(encoder).__init__).parameters.values()
    source = getattr(encoder, first.name)
    shown = [repr(str(source)) if isinstance(source, (str, os.PathLike)) else f"<{type(source).__name__}>"]
    for parameter in others:
        name = parameter.name
        value = getattr(encoder, f"_{name}", getattr(encoder, name))
        value = tuple(value) if isinstance(value, (list, np.ndarray)) else value
        told = name not in ("verbose", "tokenizer") or isinstance(value, str)
        if told and value != parameter.default:
            shown.append(f"{name}={value!r:.80}")
    return f"{type(encoder).__name__}({', '.join(shown)})"
