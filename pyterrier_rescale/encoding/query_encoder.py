"""Queries encoded otherwise than documents: pooled in another way, or without a model at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .folding import Folding
    from .text_encoder import TextEncoder


@dataclass(frozen=True, eq=False)
class QuerySide:
    """How queries are encoded; as documents are, where nothing is said.

    Attributes:
        pooling: ``"max"`` or ``"sum"`` over positions, or ``None``: the documents'.
        weights: static weights of all tokens, (V,) float32, all >= 0, or ``None``: the model gives them.
        max_length: tokens per query; ``None``: the documents'.
    """

    pooling: str | None = None
    weights: np.ndarray | None = None
    max_length: int | None = None

    @property
    def alike(self) -> bool:
        """Whether queries are encoded as documents are, but for their length."""
        return self.pooling is None and self.weights is None

    def encoder(self, documents: TextEncoder) -> TextEncoder | StaticEncoder:
        """The encoder of queries beside that of documents, which it shares model and tokenizer with.

        Raises:
            ValueError: if the static weights belong to another vocabulary.
        """
        if self.weights is not None:
            if len(self.weights) != documents.vocab_size:
                raise ValueError(
                    f"static query weights must be {documents.vocab_size}, one per row of the head, got "
                    f"{len(self.weights)}"
                )
            length = self.max_length or documents.max_length
            return StaticEncoder(documents.tokenizer, self.weights, length, documents.folding)
        pooling, max_length = self.pooling or documents.pooling, self.max_length or documents.max_length
        if (pooling, max_length) == (documents.pooling, documents.max_length):
            return documents
        encoder = copy.copy(documents)
        encoder.pooling, encoder.max_length = pooling, max_length
        return encoder


class StaticEncoder:
    """Inference-free query encoder: the weight of a token is its own, wherever it stands (arXiv:2411.04403).

    Equal to sentence-transformers' ``SparseStaticEmbedding``: x_v = weight_v where v is among the tokens, without
    special ones, else 0.

    Args:
        tokenizer: the tokenizer.
        weights: (V,).
        max_length: tokens per text.
        folding: which terms are one; default: none.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, weights: np.ndarray, max_length: int, folding: Folding | None = None
    ) -> None:
        self.tokenizer, self.weights, self.max_length, self.folding = tokenizer, weights, max_length, folding

    def encode(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """Term weights of N texts, (N, V), float32; ``batch_size`` is of no importance here.

        Raises:
            ValueError: for a text that is not a string, naming its position.
        """
        from .folding import fold_rows
        from .text_checks import check_texts
        from .text_encoder import token_ids

        texts = check_texts(texts)
        ids = token_ids(self.tokenizer, texts, self.max_length, special=False) if texts else []
        # a blank text has no terms, whatever the tokenizer makes of white space
        ids = [np.unique(row) if text.strip() else [] for row, text in zip(ids, texts, strict=True)]
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
        indices = np.concatenate([*ids, []]).astype(np.int32)
        shape = (len(texts), len(self.weights))
        vectors = csr_matrix((self.weights[indices].astype(np.float32), indices, indptr), shape=shape)
        vectors.eliminate_zeros()
        vectors = fold_rows(vectors, self.folding)
        if progress:
            progress(len(texts))
        return vectors
