"""Vocabulary to index terms and back: an injective map that no engine, charset or query parser can damage.

Raw tokens lose data in the engines: above 60 UTF-8 bytes they corrupt Terrier's lexicon, under a non-UTF-8 JVM every
``G-dot`` term goes unmatched, PISA lower-cases queries only. Safe terms are ``[a-z0-9]+``: word starts that read so
already stay as they are, all other tokens become ``x<id>``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .vocabulary import CONTINUES, tokens_by_id, word_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .folding import Folding

MODES = ("safe", "raw")
_READABLE = re.compile(r"[a-z0-9]{1,20}\Z")
_NUMBERED = re.compile(r"x[0-9]+\Z")


class TermMap:
    """The terms of a tokenizer's vocabulary.

    Args:
        tokenizer: the tokenizer.
        vocab_size: V, rows of the decoder; rows beyond the tokenizer's (padding) get terms, too.
        mode: ``"safe"`` or ``"raw"`` (the tokens themselves, for interoperation).
        folding: which tokens are variants of one term; default: none.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        mode: str = "safe",
        *,
        folding: Folding | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"terms must be 'safe' or 'raw', got {mode!r}")
        self.mode, self.folding = mode, folding
        self._tokens = tokens = tokens_by_id(tokenizer, vocab_size)
        self._start = word_start(tokens)
        #: Terms by token id, an object array (V,).
        self.terms = np.array([self._term(index, token) for index, token in enumerate(tokens)], dtype=object)

    def _term(self, index: int, token: str | None) -> str:
        if self.mode == "raw":
            return f"[row {index}]" if token is None else token
        word = self.word(token) if self.folding is None else self.folding.words[index]
        if word is not None and _READABLE.match(word) and not _NUMBERED.match(word):
            return word
        return f"x{index}"

    def word(self, token: str | None) -> str | None:
        """The word that a word-start token spells, or ``None`` for a continuation or an absent token."""
        if token is None:
            return None
        if self._start:
            return token[len(self._start) :] if token.startswith(self._start) else None
        return None if token.startswith(CONTINUES) else token

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
        text = token[2:] if not self._start and token.startswith(CONTINUES) else token
        if self._start:
            decoded = tokenizer.convert_tokens_to_string([token]).strip()
            text = decoded if decoded and "\ufffd" not in decoded else token
        is_special = index in tokenizer.all_special_ids
        return text if is_special or self.word(token) is not None else f"##{text}"


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


def to_toks(
    terms: np.ndarray, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, vocab: str | None = None
) -> list[Toks]:
    """CSR rows as ``{term: weight}`` dicts: one gather for all rows, then ``dict(zip(...))`` per row."""
    names = terms[indices].tolist()
    values = data.tolist()
    bounds = indptr.tolist()
    return [
        Toks(zip(names[begin:end], values[begin:end], strict=True), vocab)
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]
