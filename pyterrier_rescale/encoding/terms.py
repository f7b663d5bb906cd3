"""The terms of a vocabulary: what an index calls them, and which entries are one term.

Raw tokens lose data in the engines: above 60 UTF-8 bytes they corrupt Terrier's lexicon, under a non-UTF-8 JVM every
``G-dot`` term goes unmatched, PISA lower-cases queries only. Safe terms are ``[a-z0-9]+``: word starts that read so
already stay as they are, all other tokens become ``x<id>``.

Cased vocabularies hold a word up to six times (``apple``, ``Apple``, ``APPLE``, each with and without the mark of a
word start), and the weight of a text's word is spread over entries that no query may share (arXiv:2607.00004). Folded
as in SPARSEUP (Linkup, 2026, ``vocab_fold=case_space``), some 34,000 of ModernBERT's 50,000 are left. A folded term's
weight is the largest of its variants', after pooling; it stands at one variant's token id, the other columns are zero.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from .._utils.checks import check_choice

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MODES = ("safe", "raw")
_ROWS = 128  # made dicts at a time
_READABLE = re.compile(r"[a-z0-9]{1,20}\Z")
_NUMBERED = re.compile(r"x[0-9]+\Z")
# Marks of a continuation in WordPiece, and of a word start in byte-level BPE and SentencePiece.
_CONTINUES, _WORD_STARTS = "##", ("\u0120", "\u2581")


def tokens_by_id(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str | None]:
    """Tokens by id, (V,); ``None`` where there is none (padding rows)."""
    tokens: list[str | None] = [None] * vocab_size
    for token, index in tokenizer.get_vocab().items():
        if 0 <= index < vocab_size:
            tokens[index] = token
    return tokens


def word_start(tokens: list[str | None]) -> str:
    """The word-start mark that this vocabulary uses: the one that most tokens carry, if any carries one."""
    counts = {
        mark: sum(token is not None and token.startswith(mark) for token in tokens)
        for mark in (_CONTINUES, *_WORD_STARTS)
    }
    mark = max(counts, key=counts.__getitem__)
    return mark if mark in _WORD_STARTS and counts[mark] else ""


def word_of(token: str | None, mark: str) -> str | None:
    """The word that a word-start token spells, or ``None`` for a continuation or an absent token."""
    if token is None:
        return None
    if mark:
        return token[len(mark) :] if token.startswith(mark) else None
    return None if token.startswith(_CONTINUES) else token


class Folding:
    """Which entries of a vocabulary are variants of one term.

    Variants have the same lower-case text, once the mark of a word start (of byte-level BPE and SentencePiece) is taken
    off. WordPiece marks what continues a word instead: ``##apple`` stays another term than ``apple``. Special tokens,
    padding rows, and pieces of a character are variants of nothing.

    Attributes:
        representatives: token id that stands for each, (V,) int64: the variant in lower case, with the mark of a word
            start, of the lowest id, as far as there is one.
        words: text of the term that an entry stands for, where one of its variants starts a word, else ``None``; (V,).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        tokens = tokens_by_id(tokenizer, vocab_size)
        mark, added = word_start(tokens), tokenizer.get_added_vocab()
        special = set(tokenizer.all_special_ids)
        variants: dict[str, list[tuple[bool, bool, int]]] = {}
        for index, token in enumerate(tokens):
            if token is None or index in special:
                continue
            text = token if token in added else tokenizer.convert_tokens_to_string([token])
            text = text.removeprefix(" ")
            if text and "\ufffd" not in text:
                place = text != text.lower(), word_of(token, mark) is None, index
                variants.setdefault(text.lower(), []).append(place)
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


def fold_weights(
    weights: torch.Tensor, representatives: torch.Tensor | None, fill: float = 0.0
) -> torch.Tensor:
    """Each term's largest weight among its variants, at its representative; (B, V), differentiable.

    ``fill``, which no weight is below, stands at the other variants; without ``representatives`` nothing is folded.
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
    entries = vectors.tocoo()
    largest = pd.Series(entries.data).groupby([entries.row, folding.representatives[entries.col]]).max()
    rows, columns = (largest.index.get_level_values(level) for level in (0, 1))
    return csr_matrix((largest.to_numpy(), (rows, columns)), shape=vectors.shape)


class TermMap:
    """The terms of a tokenizer's vocabulary, one for each of the decoder's V rows, padding rows included.

    They are ``"safe"``, or ``"raw"``: the tokens themselves, for interoperation.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, mode: str = "safe", *, folding: Folding | None = None
    ) -> None:
        self.mode, self.folding = check_choice("terms", mode, MODES), folding
        self._tokens = tokens = tokens_by_id(tokenizer, vocab_size)
        self._start = word_start(tokens)
        #: Terms by token id, an object array (V,).
        self.terms = np.array([self._term(index, token) for index, token in enumerate(tokens)], dtype=object)

    def _term(self, index: int, token: str | None) -> str:
        if self.mode == "raw":
            return f"[row {index}]" if token is None else token
        word = word_of(token, self._start) if self.folding is None else self.folding.words[index]
        if word is not None and _READABLE.match(word) and not _NUMBERED.match(word):
            return word
        return f"x{index}"

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token id by term: the inverse of ``terms``."""
        return {term: index for index, term in enumerate(self.terms)}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that differ between vocabularies (and between safe and raw terms, folded and not)."""
        digest = hashlib.sha256()
        for index, (term, token) in enumerate(zip(self.terms, self._tokens, strict=True)):
            digest.update(f"{index}\0{term}\0{token}\n".encode())
        if self.folding is not None:
            digest.update(self.folding.representatives.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def readable(self, index: int, tokenizer: PreTrainedTokenizerBase) -> str:
        """A token for people: words as they are, continuations with a leading ``##``, bytes decoded."""
        token = self._tokens[index]
        if token is None:
            return f"[row {index}]"
        if self.folding is not None and self.folding.words[index] is not None:
            return str(self.folding.words[index])
        decoded = tokenizer.convert_tokens_to_string([token]).strip()
        text = decoded if decoded and "\ufffd" not in decoded else token
        whole = index in tokenizer.all_special_ids or word_of(token, self._start) is not None
        return text if whole else f"##{text.removeprefix(_CONTINUES)}"


class Toks(dict):
    """A ``{term: weight}`` dict that knows its vocabulary and scale, for the guards of the index engines.

    It equals, prints and pickles as a plain dict; ``vocab`` is ``"<fingerprint>:<scale>"``, or ``None``.
    """

    __slots__ = ("vocab",)

    def __init__(self, items: Iterable[tuple[str, float]] = (), vocab: str | None = None) -> None:
        super().__init__(items)
        self.vocab = vocab

    def __reduce__(self) -> tuple[type, tuple[dict, str | None]]:
        return Toks, (dict(self), self.vocab)


def to_toks(terms: np.ndarray, vectors: csr_matrix, vocab: str | None = None) -> Iterator[Toks]:
    """The rows of vectors (N, V) as ``{term: weight}`` dicts, which take ten times the memory: some rows at a time."""
    for start in range(0, vectors.shape[0], _ROWS):
        rows = vectors[start : start + _ROWS]
        names, values, bounds = terms[rows.indices].tolist(), rows.data.tolist(), rows.indptr.tolist()
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            yield Toks(zip(names[begin:end], values[begin:end], strict=True), vocab)
