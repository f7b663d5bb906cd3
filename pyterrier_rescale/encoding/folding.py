"""Fold a vocabulary: surface forms that differ in case, or in the mark of a word start, are one term.

Cased vocabularies hold a word up to six times (``apple``, ``Apple``, ``APPLE``, each with and without the mark of a
word start), and the weight of a text's word is spread over entries that no query may share (arXiv:2607.00004). Folded
as in SPARSEUP (Linkup, 2026, ``vocab_fold=case_space``), some 34,000 of ModernBERT's 50,000 are left. A folded term's
weight is the largest of its variants', after pooling; it stands at one variant's token id, the other columns are zero.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from .vocabulary import BYTE_LEVEL, CONTINUES, tokens_by_id, word_start

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

FOLDS = ("case",)


class Folding:
    """Which entries of a vocabulary are variants of one term.

    Variants have the same lower-case text, once the mark of a word start (of byte-level BPE and SentencePiece) is taken
    off. WordPiece marks what continues a word instead: ``##apple`` stays another term than ``apple``. Special tokens,
    padding rows, and pieces of a character are variants of nothing.

    Args:
        tokenizer: the tokenizer.
        vocab_size: V.

    Attributes:
        representatives: token id that stands for each, (V,) int64: the variant in lower case, with the mark of a word
            start, of the lowest id, as far as there is one.
        words: text of the term that an entry stands for, where one of its variants starts a word, else ``None``; (V,).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        tokens = tokens_by_id(tokenizer, vocab_size)
        mark = word_start(tokens)
        added = tokenizer.get_added_vocab() if hasattr(tokenizer, "get_added_vocab") else {}
        special = set(tokenizer.all_special_ids)
        variants: dict[str, list[tuple[bool, bool, int]]] = {}
        for index, token in enumerate(tokens):
            text = None if token is None or index in special else _text(token, mark, literal=token in added)
            if text is None:
                continue
            starts = token.startswith(mark) if mark else not token.startswith(CONTINUES)
            text = text.removeprefix(" ") if mark else text
            if text:
                variants.setdefault(text.lower(), []).append((text != text.lower(), not starts, index))
        self.representatives = np.arange(vocab_size)
        self.words: list[str | None] = [None] * vocab_size
        for text, members in variants.items():
            first = min(members)[2]
            self.representatives[[index for *_, index in members]] = first
            if text.strip() and not all(inside for _, inside, _ in members):
                self.words[first] = text

    @property
    def represents(self) -> np.ndarray:
        """Which entries stand for a term, bool (V,)."""
        return self.representatives == np.arange(len(self.representatives))

    @property
    def size(self) -> int:
        """Terms that are left."""
        return int(self.represents.sum())


def make_folding(fold: str | None, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Folding | None:
    """The folding that is asked for, or ``None``."""
    return None if fold is None else Folding(tokenizer, vocab_size)


def fold_weights(
    weights: torch.Tensor, representatives: torch.Tensor | None, fill: float = 0.0
) -> torch.Tensor:
    """Each term's largest weight among its variants, at its representative; (B, V), differentiable.

    Args:
        weights: of all entries, (B, V), >= ``fill``.
        representatives: (V,), or ``None``: nothing is folded.
        fill: what stands at the other variants.
    """
    import torch

    if representatives is None:
        return weights
    places = representatives.expand_as(weights)
    return torch.full_like(weights, fill).scatter_reduce(1, places, weights, "amax")


def fold_rows(vectors: csr_matrix, folding: Folding | None) -> csr_matrix:
    """The same of a CSR matrix (N, V) without explicit zeros."""
    if folding is None or not vectors.nnz:
        return vectors
    rows = np.repeat(np.arange(vectors.shape[0]), np.diff(vectors.indptr))
    columns = folding.representatives[vectors.indices]
    order = np.lexsort((columns, rows))
    rows, columns, data = rows[order], columns[order], vectors.data[order]
    first = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])])
    indptr = np.searchsorted(rows[first], np.arange(vectors.shape[0] + 1))
    largest = np.maximum.reduceat(data, first)
    return csr_matrix((largest, columns[first].astype(vectors.indices.dtype), indptr), shape=vectors.shape)


def _text(token: str, mark: str, *, literal: bool) -> str | None:
    """What a token spells, a space where it starts a word; ``None`` for a piece of a character."""
    if literal or not mark:
        return token
    if mark != BYTE_LEVEL:
        return token.replace(mark, " ")
    try:
        return bytes(_byte_alphabet()[letter] for letter in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return None


@cache
def _byte_alphabet() -> dict[str, int]:
    """Bytes by the letters that stand for them in byte-level BPE (GPT-2): printable ones by themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
