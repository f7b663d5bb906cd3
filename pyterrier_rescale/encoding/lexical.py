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


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """V: one more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def count_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, size: int, *, special: bool
) -> csr_matrix:
    """How often each token occurs in each text, (N, size) float64; no token in a blank text.

    With ``special``, special tokens are added, and count towards ``max_length``.
    """
    ids = token_ids(tokenizer, list(texts), max_length, special=special)
    # a blank text has no pieces, whatever the tokenizer makes of white space
    ids = [row if text.strip() else [] for row, text in zip(ids, texts, strict=True)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    indices = np.concatenate([*ids, []]).astype(np.int64)
    counts = csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(texts), size))
    counts.sum_duplicates()
    return counts


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> csr_matrix:
    """How often each piece occurs among the first ``max_length`` tokens of each text, (N, V) float64.

    The tokens are those that a model would see; special ones ([CLS], [SEP], unknown) are counted for nothing.
    """
    counts = count_tokens(tokenizer, texts, max_length, vocabulary_size(tokenizer), special=True)
    counts.data[np.isin(counts.indices, tokenizer.all_special_ids)] = 0
    counts.eliminate_zeros()
    return counts


def token_statistics(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], max_length: int) -> TokenStatistics:
    """IDF and mean length of pieces over texts, which are read once, a few thousand at a time.

    Raises:
        TypeError: if ``texts`` is one string, a mapping or a frame.
        ValueError: if there is no text that is not blank.
    """
    check_is_list(texts, "strings", "idf_from")
    frequencies = np.zeros(vocabulary_size(tokenizer))
    number = filled = blank = 0
    length = 0.0
    rest = iter(texts)
    while part := check_texts(islice(rest, _WINDOW), "idf_from, text {0} of its window"):
        counts = token_counts(tokenizer, part, max_length)
        frequencies += np.bincount(counts.indices, minlength=len(frequencies))
        length += counts.sum()
        filled += int(np.count_nonzero(np.diff(counts.indptr)))
        number += len(part)
        blank += sum(not text.strip() for text in part)
    if blank == number:
        raise ValueError("idf_from must hold at least one text that is not blank")
    idf = inverse_frequencies(frequencies, number)
    idf[[i for i in tokenizer.all_special_ids if i < len(idf)]] = 0.0
    # where the tokenizer knows no piece of any text, all vectors are zero, whatever the mean
    return TokenStatistics(idf, length / filled if filled else 1.0, number)


def inverse_frequencies(frequencies: np.ndarray, number: int) -> np.ndarray:
    """BM25's IDF, (V,), of document frequencies (V,) in a number of documents; never below 0."""
    return np.log1p((number - frequencies + 0.5) / (frequencies + 0.5))


class StaticEncoder:
    """The weight of a token is its own, wherever it stands: x_v = weight_v where v is among the tokens, else 0.

    Inference-free queries (arXiv:2411.04403), equal to sentence-transformers' ``SparseStaticEmbedding``.

    Args:
        tokenizer: the tokenizer.
        weights: (V,).
        max_length: tokens per text.
        folding: which terms are one; default: none.
        special: add special tokens, which count towards ``max_length``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, weights: np.ndarray, max_length: int, folding: Folding | None = None,
        *, special: bool = False,
    ) -> None:  # fmt: skip
        self.tokenizer, self.weights, self.max_length = tokenizer, weights, max_length
        self.folding, self.special = folding, special

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.weights)

    def encode(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """Term weights of N texts, (N, V), float32; ``batch_size`` is of no importance here."""
        vectors = count_tokens(self.tokenizer, texts, self.max_length, self.vocab_size, special=self.special)
        self._weigh(vectors)
        vectors.eliminate_zeros()
        if progress:
            progress(len(texts))
        return fold_rows(csr_matrix(vectors, dtype=np.float32), self.folding)

    def _weigh(self, counts: csr_matrix) -> None:
        counts.data = self.weights[counts.indices].astype(np.float64)


class ProductEncoder:
    """A model's weights times static ones, at a text's own tokens alone (splade-v3-lexical)."""

    def __init__(self, model: Any, static: StaticEncoder) -> None:
        self.model, self.static = model, static
        self.tokenizer, self.max_length, self.folding = model.tokenizer, model.max_length, model.folding

    def encode(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """As :meth:`.text_encoder.TextEncoder.encode`."""
        vectors = self.model.encode(texts, batch_size=batch_size, progress=progress)
        return csr_matrix(vectors.multiply(self.static.encode(texts)), dtype=np.float32)


class Bm25Encoder(StaticEncoder):
    """One side of BM25: the dot product of a query's and a document's vector is BM25's score.

    x_v = idf_v tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)) in documents, tf in queries.

    Args:
        tokenizer: the tokenizer.
        statistics: of the corpus.
        max_length: tokens per text, special ones included.
        query: whether this is the query side.
        k1: saturation of the term frequency.
        b: share of the length normalisation.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, statistics: TokenStatistics, max_length: int, *, query: bool,
        k1: float, b: float,
    ) -> None:  # fmt: skip
        super().__init__(tokenizer, statistics.idf, max_length, special=True)
        self.mean_length, self.query, self.k1, self.b = statistics.mean_length, query, k1, b

    def _weigh(self, counts: csr_matrix) -> None:
        counts.data[np.isin(counts.indices, self.tokenizer.all_special_ids)] = 0
        if self.query:
            return
        frequencies = counts.data
        lengths = np.repeat(np.asarray(counts.sum(axis=1)).ravel(), np.diff(counts.indptr))
        norm = self.k1 * (1 - self.b + self.b * lengths / self.mean_length)
        counts.data = self.weights[counts.indices] * frequencies * (self.k1 + 1) / np.maximum(frequencies + norm, 1e-9)
