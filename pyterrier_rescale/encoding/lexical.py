"""Term weights without a model: a tokenizer's own pieces, with static weights, weighted by IDF, or as BM25 does.

What a SPLADE encoder adds to its own vocabulary is measured against these, on the same pieces of the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from .._utils.checks import check_is_list
from .terms import Folding, fold_rows
from .texts import check_texts, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTINGS = ("tokens", "bm25")
_WINDOW = 4096  # texts tokenised at a time


class StaticEncoder:
    """The weight of a token is its own: x_v = weight_v s(tf_v) for its tf_v occurrences in a text.

    By default s is 1 wherever a token stands: inference-free queries (arXiv:2411.04403), equal to
    sentence-transformers' ``SparseStaticEmbedding``. With BM25's k1 and b it is
    tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)); with ``k1=None`` tf.

    Args:
        tokenizer: the tokenizer.
        weights: (V,); tokens of weight 0 count for nothing, towards a text's length neither.
        max_length: tokens per text.
        folding: which terms are one; default: none.
        special: add special tokens, which count towards ``max_length``.
        k1: saturation of the term frequency.
        b: share of the length normalisation.
        mean_length: tokens per text of the corpus.
        times: a model's encoder, whose weights are multiplied by these, at a text's own tokens (splade-v3-lexical).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, weights: np.ndarray, max_length: int, folding: Folding | None = None,
        *, special: bool = False, k1: float | None = 0.0, b: float = 0.0, mean_length: float = 1.0,
        times: Any = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.weights, self.max_length = tokenizer, weights, max_length
        self.folding, self.special, self.times = folding, special, times
        self.k1, self.b, self.mean_length = k1, b, mean_length

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.weights)

    def encode(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """Term weights of N texts, (N, V), float32."""
        ids = token_ids(self.tokenizer, list(texts), self.max_length, special=self.special)
        # a blank text has no pieces, whatever the tokenizer makes of white space
        ids = [row if text.strip() else [] for row, text in zip(ids, texts, strict=True)]
        indices = np.concatenate([*ids, []]).astype(np.int64)
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
        found = csr_matrix(((self.weights[indices] != 0) * 1.0, indices, indptr), shape=(len(texts), self.vocab_size))
        found.sum_duplicates()
        found.eliminate_zeros()
        counts, factor = found.data, found.data
        if self.k1 is not None:
            lengths = np.repeat(np.asarray(found.sum(axis=1)).ravel(), np.diff(found.indptr))
            norm = self.k1 * (1 - self.b + self.b * lengths / self.mean_length)
            factor = counts * (self.k1 + 1) / (counts + norm)
        found.data = self.weights[found.indices] * factor
        found = fold_rows(found.astype(np.float32), self.folding)
        if self.times is not None:
            return csr_matrix(found.multiply(self.times.encode(texts, batch_size=batch_size, progress=progress)))
        if progress:
            progress(len(texts))
        return found


def count_encoder(tokenizer: PreTrainedTokenizerBase, max_length: int) -> StaticEncoder:
    """How often each piece occurs among the tokens that a model would see; special ones count for nothing."""
    weights = np.ones(max(tokenizer.get_vocab().values()) + 1)
    weights[[i for i in tokenizer.all_special_ids if i < len(weights)]] = 0
    return StaticEncoder(tokenizer, weights, max_length, special=True, k1=None)


@dataclass(frozen=True, eq=False)
class TokenStatistics:
    """What a corpus says of a vocabulary's pieces.

    Attributes:
        idf: log(1 + (N - df_v + .5) / (df_v + .5)) over N texts, (V,) float64; 0 for special tokens.
        mean_length: pieces per text that has any, special tokens aside.
        texts: N, blank texts included.
    """

    idf: np.ndarray
    mean_length: float
    texts: int

    def __repr__(self) -> str:
        return f"<{self.texts} texts>"


def token_statistics(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_length: int) -> TokenStatistics:
    """IDF and mean length of pieces over texts, which are read once, a few thousand at a time.

    Raises:
        TypeError: if ``texts`` is one string, a mapping or a frame.
        ValueError: if there is no text.
    """
    check_is_list(texts, "strings", "idf_from")
    counter = count_encoder(tokenizer, max_length)
    frequencies = np.zeros(counter.vocab_size)
    number = filled = length = 0
    rest = iter(texts)
    while part := check_texts(islice(rest, _WINDOW), "idf_from, text {1}", range(number, number + _WINDOW)):
        counts = counter.encode(part)
        frequencies += np.bincount(counts.indices, minlength=len(frequencies))
        length += int(counts.sum(dtype=np.int64))
        filled += int(np.count_nonzero(np.diff(counts.indptr)))
        number += len(part)
    if not number:
        raise ValueError("idf_from must hold at least one text")
    idf = inverse_frequencies(frequencies, number) * counter.weights
    return TokenStatistics(idf, length / max(1, filled), number)


def inverse_frequencies(frequencies: np.ndarray, number: int) -> np.ndarray:
    """BM25's IDF, (V,), of document frequencies (V,) in a number of documents; never below 0."""
    return np.log1p((number - frequencies + 0.5) / (frequencies + 0.5))
