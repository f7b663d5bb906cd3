"""Term weights without a model: a tokenizer's own pieces, weighted by IDF or as BM25 does.

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


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> csr_matrix:
    """How often each piece occurs among the first ``max_length`` tokens of each text, (N, V) float64.

    The tokens are those that a model would see; special ones ([CLS], [SEP], unknown) are counted for nothing.
    """
    from .text_checks import check_texts
    from .text_encoder import token_ids

    texts = check_texts(texts)
    size = vocabulary_size(tokenizer)
    ids = token_ids(tokenizer, texts, max_length) if texts else []
    # a blank text has no pieces, whatever the tokenizer makes of white space
    ids = [row if text.strip() else [] for row, text in zip(ids, texts, strict=True)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    indices = np.concatenate([*ids, []]).astype(np.int64)
    data = (~np.isin(indices, tokenizer.all_special_ids)).astype(np.float64)
    counts = csr_matrix((data, indices, indptr), shape=(len(texts), size))
    counts.sum_duplicates()
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
    while part := list(islice(rest, _WINDOW)):
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


class LexicalSide:
    """The encoder of one side, queries or documents, of the interface that stages and ``explain`` use.

    - ``"tokens"``: x_v = idf_v where v is among the pieces, on both sides.
    - ``"bm25"``: x_v = idf_v tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)) in documents, tf in queries, so
      that the dot product is BM25's score.

    Args:
        tokenizer: the tokenizer.
        statistics: of the corpus.
        weighting: ``"tokens"`` or ``"bm25"``.
        query: whether this is the query side.
        max_length: tokens per text, special ones included.
        k1: saturation of the term frequency.
        b: share of the length normalisation.
    """

    #: Pieces are terms as they are.
    folding = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        statistics: TokenStatistics,
        *,
        weighting: str,
        query: bool,
        max_length: int,
        k1: float,
        b: float,
    ) -> None:
        self.tokenizer, self.statistics, self.weighting, self.query = tokenizer, statistics, weighting, query
        self.max_length, self.k1, self.b = max_length, k1, b

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.statistics.idf)

    def encode(
        self, texts: Sequence[str], *, batch_size: int | None = None, progress: Callable[[int], Any] | None = None
    ) -> csr_matrix:
        """Term weights of N texts, (N, V), float32; ``batch_size`` is of no importance here.

        Raises:
            ValueError: for a text that is not a string, naming its position.
        """
        weights = token_counts(self.tokenizer, texts, self.max_length)
        if self.weighting == "tokens":
            weights.data = self.statistics.idf[weights.indices]
        elif not self.query:
            frequencies = weights.data
            lengths = np.repeat(np.asarray(weights.sum(axis=1)).ravel(), np.diff(weights.indptr))
            norm = self.k1 * (1 - self.b + self.b * lengths / self.statistics.mean_length)
            weights.data = self.statistics.idf[weights.indices] * frequencies * (self.k1 + 1) / (frequencies + norm)
        if progress:
            progress(weights.shape[0])
        return csr_matrix(weights, dtype=np.float32)
