"""One forward pass over a few texts that keeps what an audit and a calibration need, bounded in memory.

For max pooling the bias does not depend on the position: max_i z_iv = max_i w_v . t_i + b_v. So the pooled linear part
(N, V) and the bias (V,), kept apart, give the weights of every rescaled or shifted head without another pass. For a sum
over positions, or where only the largest logits of each count, they do not: of such a side t at every position is kept,
and the head is computed for each k. Static queries are the same whatever the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._utils.checks import check_is_list
from .._utils.sampling import spread
from ..encoding.description import Description
from ..encoding.kernel import packed_head
from ..encoding.saved_folder import describe
from ..encoding.terms import Folding, fold_weights
from ..encoding.text_encoder import HeadBatch, TextEncoder
from ..encoding.texts import check_texts
from ..heads.checkpoint import load_backbone
from ..heads.rescaling import shift_logits
from .head_statistics import term_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Fewer texts than this tell nothing about scores; more than that are not looked at.
MIN_TEXTS, MAX_TEXTS = 8, 512
# Positions of each kind (content, special) whose t is kept, over all documents together.
_POSITIONS = 256
# Rows of W per product: bounds the logits of one batch to a few MB.
_VOCAB_CHUNK = 1024


@dataclass(frozen=True)
class Probe:
    """What one forward pass over N queries and N documents left behind.

    Attributes:
        queries: max_i w_v . t_i over all attended positions of each query, (N, V) float32, without the bias.
        content: the same for the documents over content positions; -inf where a text has none.
        special: the same over special positions ([CLS], [SEP], ...); -inf where a text has none.
        weight: W, less the mean row where one was given, (V, H) float32.
        bias: b, (V,) float32; zeros where the head has none.
        used: rows whose id the tokenizer knows, bool (V,).
        counts: occurrences of each token id at content positions of the documents, (V,).
        content_hidden: t at up to 256 content positions, (M, H), spread evenly over and within the documents.
        content_text: the document of each of them, (M,).
        special_hidden: t at up to 256 special positions, (M', H).
        static_queries: vectors of queries that need no model, (N, V), or ``None``.
        positions: t at all attended positions of each text, (L, H), of a side that needs it, and its description.
        folding: which terms are one, or ``None``.
    """

    queries: np.ndarray
    content: np.ndarray
    special: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    used: np.ndarray
    counts: np.ndarray
    content_hidden: np.ndarray
    content_text: np.ndarray
    special_hidden: np.ndarray
    static_queries: np.ndarray | None = None
    positions: dict[str, tuple[list[torch.Tensor], Description]] = field(default_factory=dict)
    folding: Folding | None = None

    @property
    def documents(self) -> np.ndarray:
        """max_i w_v . t_i over all attended positions of each document, which is what the encoder computes; (N, V)."""
        return np.maximum(self.content, self.special)

    @property
    def term_count(self) -> int:
        """Terms: V, or as many as folding leaves."""
        return len(self.bias) if self.folding is None else self.folding.size

    def weights(self, side: str, k: float = 1.0, shift: np.ndarray | None = None) -> np.ndarray:
        """Term weights x (N, V) of ``"queries"`` or ``"documents"`` as they are pooled, for a head divided by k.

        With ``shift`` (V,), added to the bias, the bias is divided, too.
        """
        if side == "queries" and self.static_queries is not None:
            return self.static_queries
        bias = self.bias if shift is None else self.bias + shift
        if side not in self.positions:
            return self.folded(term_weights(getattr(self, side), bias, k, bias_divided=shift is not None), 0.0)
        texts, description = self.positions[side]
        rows, lengths = torch.cat(texts), torch.tensor([len(text) for text in texts])
        weight = torch.from_numpy(self.weight / np.float32(k)).to(rows)
        bias = torch.from_numpy(bias if shift is None else bias / np.float32(k)).to(rows)
        with torch.inference_mode():
            weights = packed_head(rows, lengths.to(rows.device), weight, bias, description)
        return self.folded(weights.cpu().numpy(), 0.0)

    def folded(self, values: np.ndarray, fill: float) -> np.ndarray:
        """The largest of each term's variants at its representative, ``fill`` at the others; (N, V)."""
        if self.folding is None:
            return values
        representatives = torch.from_numpy(self.folding.representatives)
        return fold_weights(torch.from_numpy(values), representatives, fill).numpy()


def load_encoder(
    model: Any, tokenizer: Any, encoding: Description | None, max_length: int | None, *, need_tokenizer: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, Description]:
    """Model, tokenizer, and how texts are encoded: as ``encoding`` says, else as an encoder's folder was saved."""
    description = describe(model) if encoding is None else encoding
    if max_length is not None:
        description = description.replace(max_length=max_length)
    loaded, tokenizer = load_backbone(model, tokenizer, need_tokenizer=need_tokenizer)
    if description.shift is not None:
        loaded = shift_logits(loaded, description.shift, inplace=loaded is not model)
    return loaded, tokenizer, description.replace(shift=None)


def as_pairs(texts: Iterable[Any]) -> tuple[list[str], list[str]]:
    """Queries and documents of equal number from texts or (query, document) pairs.

    A single text is the document, and its first words are the query: a quarter of them, between 3 and 12. Scores of
    queries against OTHER documents are then what they would be; the initial loss is somewhat low, since each query is
    part of its document. Give pairs to measure what training will see. Blank texts (and pairs with a blank side) are
    left out; of more than 512 texts, 512 are kept, spread evenly.

    Raises:
        TypeError: if ``texts`` is one string or not iterable.
        ValueError: for an element that is neither a string nor a pair of strings, or fewer than 8 texts.
    """
    check_is_list(texts, "strings or of (query, document) pairs")
    texts = list(texts)
    if texts and all(isinstance(text, (tuple, list)) for text in texts):
        wrong = [number for number, text in enumerate(texts) if len(text) != 2]
        if wrong:
            raise ValueError(f"texts must hold pairs (query, document), element {wrong[0]} has {len(texts[wrong[0]])}")
        queries, documents = (check_texts([text[side] for text in texts]) for side in (0, 1))
    else:
        documents = check_texts(texts)
        queries = [leading_words(text) for text in documents]
    pairs = [pair for pair in zip(queries, documents, strict=True) if all(side.strip() for side in pair)]
    if len(pairs) < MIN_TEXTS:
        raise ValueError(f"texts must hold at least {MIN_TEXTS} texts that are not blank, got {len(pairs)}")
    kept = [pairs[place] for place in spread(len(pairs), MAX_TEXTS)]
    return [query for query, _ in kept], [document for _, document in kept]


def leading_words(text: str) -> str:
    """The first quarter of a text's words, at least 3 and at most 12."""
    words = text.split()
    return " ".join(words[: max(3, min(12, len(words) // 4))])


def used_rows(tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> np.ndarray:
    """Rows of W whose id the tokenizer knows, bool (V,); all of them without a tokenizer."""
    if tokenizer is None:
        return np.ones(vocab_size, dtype=bool)
    return np.isin(np.arange(vocab_size), list(tokenizer.get_vocab().values()))


def run_probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    description: Description | None = None,
    mean_row: np.ndarray | None = None,
    device: Any = None,
) -> Probe:
    """Run the model once over N queries and N documents; it is left on its device and in its mode.

    With ``mean_row`` (H,) everything is measured of W less this row. Memory: three (N, V) float32 arrays and one batch,
    and t at every position of a side that needs them; the (B, L, V) logits never exist.

    Raises:
        ValueError: where the weights of queries are the model's times static ones, which cannot be told apart.
    """
    encoder = TextEncoder(model, tokenizer, description, device=device)
    if encoder.description.queries.times_model:
        raise ValueError("queries weighted by the model and by static weights together cannot be measured")
    query_encoder = encoder.of_queries()
    weight, bias, folding = encoder.head.weight.detach(), encoder.head.bias, encoder.folding
    if mean_row is not None:
        weight = weight - torch.from_numpy(mean_row).to(weight)
    found = _pass(encoder, documents, weight)
    if getattr(query_encoder, "model", None) is not encoder.model:  # static, or of another model
        static, asked = query_encoder.encode(queries).toarray(), found
    else:
        static, asked = None, _pass(query_encoder, queries, weight)
    counts = found.counts
    if folding is not None:
        counts = np.bincount(folding.representatives, weights=counts, minlength=len(counts)).astype(np.int64)
    return Probe(
        queries=np.maximum(asked.content, asked.special),
        content=found.content,
        special=found.special,
        weight=weight.float().cpu().numpy(),
        bias=np.zeros(len(weight), dtype=np.float32) if bias is None else bias.detach().float().cpu().numpy(),
        used=used_rows(encoder.tokenizer, len(weight)),
        counts=counts,
        content_hidden=np.concatenate(found.hidden["content"]),
        content_text=np.concatenate(found.owners),
        special_hidden=np.concatenate(found.hidden["special"]),
        static_queries=static,
        positions={name: one.positions for name, one in (("queries", asked), ("documents", found)) if one.positions},
        folding=folding,
    )


class _Side:
    """What :class:`Probe` needs of the texts of one side."""

    def __init__(self, size: int, vocab_size: int) -> None:
        self.content, self.special = np.full((2, size, vocab_size), -np.inf, dtype=np.float32)
        self.positions: Any = None
        self.counts = np.zeros(vocab_size, dtype=np.int64)
        self.hidden: dict[str, list[np.ndarray]] = {"content": [], "special": []}
        self.owners: list[np.ndarray] = []


@torch.inference_mode()
def _pass(encoder: TextEncoder, texts: Sequence[str], weight: torch.Tensor) -> _Side:
    side = _Side(len(texts), len(weight))
    how = encoder.description
    if (how.pooling, how.activation, how.position_top_k) != ("max", "relu", None):
        side.positions = [None] * len(texts), how
    for batch in encoder.head_batches(texts):
        masks = {"content": batch.mask & ~batch.special, "special": batch.special}
        side.counts += np.bincount(batch.input_ids[masks["content"]].cpu().numpy(), minlength=len(weight))
        for name, mask in masks.items():
            getattr(side, name)[batch.texts] = _pool(batch, mask, weight)
        for row, text in enumerate(batch.texts):
            if side.positions:
                side.positions[0][text] = batch.hidden[row][batch.mask[row]].float()
            for name, mask in masks.items():
                where = mask[row].nonzero().ravel()
                where = where[spread(len(where), max(1, _POSITIONS // len(texts)))]
                side.hidden[name].append(batch.hidden[row, where].float().cpu().numpy())
                if name == "content":
                    side.owners.append(np.full(len(where), text))
    return side


def _pool(batch: HeadBatch, mask: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    """max_i w_v . t_i of the texts of a batch over the positions of a mask, (n, V); -inf without a position."""
    rows, lengths = batch.hidden[mask], mask.sum(dim=1).tolist()
    pooled = torch.full((len(lengths), len(weight)), -torch.inf, dtype=torch.float32, device=rows.device)
    for start in range(0, len(weight), _VOCAB_CHUNK):
        terms = slice(start, start + _VOCAB_CHUNK)
        logits = (rows @ weight[terms].T).float()
        for text, span in enumerate(logits.split(lengths)):
            if len(span):
                torch.amax(span, dim=0, out=pooled[text, terms])
    return pooled.cpu().numpy()
