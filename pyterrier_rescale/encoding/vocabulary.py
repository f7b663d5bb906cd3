"""A tokenizer's vocabulary by id, and how it marks where words start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Mark of a word start in byte-level BPE, which is a space, and of a continuation in WordPiece.
BYTE_LEVEL, CONTINUES = "\u0120", "##"
_SENTENCE_PIECE = "\u2581"


def tokens_by_id(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str | None]:
    """Tokens by id, (V,); ``None`` where there is none (padding rows)."""
    tokens: list[str | None] = [None] * vocab_size
    for token, index in tokenizer.get_vocab().items():
        if 0 <= index < vocab_size:
            tokens[index] = token
    return tokens


def word_start(tokens: list[str | None]) -> str:
    """The word-start mark that this vocabulary uses: the one that most tokens carry, if any carries one."""
    present = [token for token in tokens if token is not None]
    counts = {mark: sum(token.startswith(mark) for token in present) for mark in (BYTE_LEVEL, _SENTENCE_PIECE)}
    mark = max(counts, key=counts.__getitem__)
    continuations = sum(token.startswith(CONTINUES) for token in present)
    return mark if counts[mark] > continuations else ""
