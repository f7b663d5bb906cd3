"""One forward pass over a few texts that keeps what an audit and a calibration need, bounded in memory.

For max pooling the bias does not depend on the position: max_i z_iv = max_i w_v . t_i + b_v. So the pooled linear part
(N, V) and the bias (V,), kept apart, give the weights of every rescaled or shifted head without another pass. For a sum
over positions, or where only the largest logits of each count, they do not: of such a side t at every position is kept,
and the head is computed for each k. Static queries are the same whatever the head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .._utils.checks import check_integer, check_is_list
from .._utils.sampling import spread
from ..encoding.folding import Folding, fold_weights
from ..encoding.head_options import HeadOptions
from ..encoding.kernel import packed_head
from ..encoding.query_encoder import QuerySide, StaticEncoder
from ..encoding.text_checks import check_texts, position_limit
from ..encoding.text_encoder import HeadBatch, TextEncoder
from .head_statistics import term_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Fewer texts than this tell nothing about scores.
MIN_TEXTS = 8
# Positions of each kind (content, special) whose t is kept, over all documents together.
_POSITIONS = 256
# Rows of W per product: bounds the logits of one batch to a few MB.
_VOCAB_CHUNK = 1024
# Words of a text that stand for its query where no queries are given.
_QUERY_WORDS = (3, 12)


class Positions(NamedTuple):
    """The decoder's input at all attended positions of one side's texts, on the device of the pass.

    Attributes:
        rows: t, text after text, (T, H).
        lengths: positions of each text, (N,).
        special: which are those of special tokens, bool (T,).
        pooling: ``"max"`` or ``"sum"``.
    """

    rows: torch.Tensor
    lengths: torch.Tensor
    special: torch.Tensor
    pooling: str

    def at(self, kind: str) -> Positions:
        """Those of special tokens, or the others, for their maximum."""
        wanted = self.special if kind == "special" else ~self.special
        lengths = torch.stack([part.sum() for part in wanted.split(self.lengths.tolist())])
        return Positions(self.rows[wanted], lengths, self.special[wanted], "max")


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
        positions: of a side that needs them (``"queries"``, ``"documents"``).
        static_queries: vectors of queries that need no model, (N, V), or ``None``.
        position_top_k: how many logits of each position take part, or ``None``.
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
    positions: dict[str, Positions] = field(default_factory=dict)
    static_queries: np.ndarray | None = None
    position_top_k: int | None = None
    folding: Folding | None = None

    def weights(self, side: str, k: float = 1.0, shift: np.ndarray | None = None) -> np.ndarray:
        """Term weights x (N, V) of ``"queries"`` or ``"documents"`` as they are pooled, for a head divided by k.

        With ``shift`` (V,), added to the bias, the bias is divided, too.
        """
        if side == "queries" and self.static_queries is not None:
            return self.static_queries
        bias = self.bias if shift is None else self.bias + shift
        if side not in self.positions:
            return self.folded(term_weights(getattr(self, side), bias, k, bias_divided=shift is not None), 0.0)
        bias = bias if shift is None else bias / np.float32(k)
        return self._head(self.positions[side], self.weight / np.float32(k), bias)

    def weights_at(self, kind: str) -> np.ndarray:
        """Maximum over ``"special"`` or ``"content"`` positions alone of each document's weights, (N, V)."""
        if self.position_top_k is None:
            return self.folded(term_weights(getattr(self, kind), self.bias, 1.0, bias_divided=False), 0.0)
        return self._head(self.positions["documents"].at(kind), self.weight, self.bias)

    def _head(self, at: Positions, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        matrix, vector = (torch.from_numpy(part).to(at.rows) for part in (weight, bias))
        with torch.inference_mode():
            weights = packed_head(
                at.rows, at.lengths, matrix, vector, at.pooling, position_top_k=self.position_top_k
            )
        return self.folded(weights.float().cpu().numpy(), 0.0)

    def folded(self, values: np.ndarray, fill: float) -> np.ndarray:
        """The largest of each term's variants at its representative, ``fill`` at the others; (N, V)."""
        if self.folding is None:
            return values
        representatives = torch.from_numpy(self.folding.representatives)
        return fold_weights(torch.from_numpy(values), representatives, fill).numpy()

    @property
    def term_count(self) -> int:
        """Terms: V, or as many as folding leaves."""
        return len(self.bias) if self.folding is None else self.folding.size

    @property
    def documents(self) -> np.ndarray:
        """max_i w_v . t_i over all attended positions of each document, which is what the encoder computes; (N, V)."""
        return np.maximum(self.content, self.special)


def as_pairs(texts: Iterable[Any], sample: int, seed: int) -> tuple[list[str], list[str]]:
    """Queries and documents of equal number from texts or (query, document) pairs.

    A single text is the document, and its first words are the query: a quarter of them, between 3 and 12. Scores of
    queries against OTHER documents are then what they would be; the initial loss is somewhat low, since each query is
    part of its document. Give pairs to measure what training will see. Blank texts (and pairs with a blank side) are
    left out; of more than ``sample`` texts, a random ``sample`` are kept, in their order.

    Raises:
        TypeError: if ``texts`` is one string or not iterable.
        ValueError: for an element that is neither a string nor a pair of strings, or fewer than 8 texts.
    """
    check_integer("sample", sample, 2)
    check_is_list(texts, "strings or of (query, document) pairs")
    texts = list(texts)
    if texts and all(isinstance(text, (tuple, list)) for text in texts):
        wrong = [position for position, text in enumerate(texts) if len(text) != 2]
        if wrong:
            raise ValueError(f"texts must hold pairs (query, document), element {wrong[0]} has {len(texts[wrong[0]])}")
        queries, documents = (check_texts([text[side] for text in texts]) for side in (0, 1))
    else:
        documents = check_texts(texts)
        queries = [leading_words(text) for text in documents]
    pairs = list(zip(queries, documents, strict=True))
    keep = [i for i, pair in enumerate(pairs) if all(side.strip() for side in pair)]
    if len(keep) < MIN_TEXTS:
        raise ValueError(f"texts must hold at least {MIN_TEXTS} texts that are not blank, got {len(keep)}")
    if len(keep) > sample:
        keep = sorted(np.random.default_rng(seed).choice(keep, size=sample, replace=False))
    return [pairs[i][0] for i in keep], [pairs[i][1] for i in keep]


def leading_words(text: str) -> str:
    """The first quarter of a text's words, at least 3 and at most 12."""
    words = text.split()
    least, most = _QUERY_WORDS
    return " ".join(words[: max(least, min(most, len(words) // 4))])


def used_rows(tokenizer: PreTrainedTokenizerBase | None, vocab_size: int) -> np.ndarray:
    """Rows of W whose id the tokenizer knows, bool (V,); all of them without a tokenizer."""
    if tokenizer is None:
        return np.ones(vocab_size, dtype=bool)
    used = np.zeros(vocab_size, dtype=bool)
    used[[i for i in tokenizer.get_vocab().values() if i < vocab_size]] = True
    return used


def run_probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    max_length: int = 256,
    batch_size: int = 32,
    lowercase: bool = False,
    device: Any = None,
    mean_row: np.ndarray | None = None,
    pooling: str = "max",
    query_side: QuerySide | None = None,
    options: HeadOptions | None = None,
) -> Probe:
    """Run the model once over N queries and N documents; it is left on its device and in its mode.

    With ``mean_row`` (H,) everything is measured of W less this row. Documents are pooled by ``pooling``, queries as
    ``query_side`` says (default: as documents), both under the head's ``options``. Memory: three (N, V) float32 arrays
    and one batch, and t at every position of a side that needs them; the (B, L, V) logits never exist.
    """
    encoder = TextEncoder(
        model, tokenizer, max_length=min(max_length, position_limit(model) or max_length),
        batch_size=batch_size, lowercase=lowercase, device=device, pooling=pooling, options=options,
    )  # fmt: skip
    with torch.inference_mode():
        weight = encoder.head.weight
        if mean_row is not None:
            weight = weight - torch.from_numpy(mean_row).to(weight)
        return _collect(encoder, _query_encoder(encoder, query_side), queries, documents, weight)


def _query_encoder(documents: TextEncoder, side: QuerySide | None) -> TextEncoder | StaticEncoder:
    """The encoder of queries, cut to their own length where they have one."""
    side = side or QuerySide()
    if side.max_length is not None:
        limit = position_limit(documents.model) or side.max_length
        side = dataclasses.replace(side, max_length=min(side.max_length, limit))
    return side.encoder(documents)


def _collect(
    encoder: TextEncoder,
    query_encoder: TextEncoder | StaticEncoder,
    queries: Sequence[str],
    documents: Sequence[str],
    weight: torch.Tensor,
) -> Probe:
    size, vocab_size = len(documents), encoder.vocab_size
    names = ("queries", "content", "special")
    pooled = {name: np.full((size, vocab_size), -np.inf, dtype=np.float32) for name in names}
    static = query_encoder.encode(queries).toarray() if isinstance(query_encoder, StaticEncoder) else None
    rows: dict[str, dict[int, Any]] = {"queries": {}, "documents": {}}
    poolings = {"documents": encoder.pooling, "queries": getattr(query_encoder, "pooling", "max")}
    if isinstance(query_encoder, TextEncoder):
        for batch in query_encoder.head_batches(queries):
            pooled["queries"][batch.texts] = _pool(batch, batch.mask, weight)
            _keep_positions(rows["queries"], batch, query_encoder)
    counts = np.zeros(vocab_size, dtype=np.int64)
    kept: dict[str, list[np.ndarray]] = {"content": [], "special": []}
    owners: list[np.ndarray] = []
    for batch in encoder.head_batches(documents):
        content = batch.mask & ~batch.special
        _keep_positions(rows["documents"], batch, encoder)
        for name, mask in (("content", content), ("special", batch.special)):
            pooled[name][batch.texts] = _pool(batch, mask, weight)
            for row, text in enumerate(batch.texts):
                where = mask[row].nonzero().ravel()
                if name == "content":
                    counts += np.bincount(batch.input_ids[row, where].cpu().numpy(), minlength=vocab_size)[:vocab_size]
                where = where[spread(len(where), max(1, _POSITIONS // size))]
                kept[name].append(batch.hidden[row, where].float().cpu().numpy())
                if name == "content":
                    owners.append(np.full(len(where), text))
    bias = encoder.head.bias
    if encoder.folding is not None:
        counts = np.bincount(encoder.folding.representatives, weights=counts, minlength=vocab_size).astype(np.int64)
    return Probe(
        **pooled,
        weight=weight.detach().float().cpu().numpy(),
        bias=np.zeros(vocab_size, dtype=np.float32) if bias is None else bias.detach().float().cpu().numpy(),
        used=used_rows(encoder.tokenizer, vocab_size),
        counts=counts,
        content_hidden=np.concatenate(kept["content"]),
        content_text=np.concatenate(owners),
        special_hidden=np.concatenate(kept["special"]),
        positions={side: _in_order(texts, poolings[side]) for side, texts in rows.items() if texts},
        static_queries=static,
        position_top_k=encoder.options.position_top_k,
        folding=encoder.folding,
    )


def _keep_positions(rows: dict[int, Any], batch: HeadBatch, encoder: TextEncoder) -> None:
    if encoder.pooling == "sum" or encoder.options.position_top_k is not None:
        for row, text in enumerate(batch.texts):
            mask = batch.mask[row]
            rows[int(text)] = batch.hidden[row][mask].float(), batch.special[row][mask]


def _in_order(texts: dict[int, Any], pooling: str) -> Positions:
    rows, special = zip(*(texts[number] for number in sorted(texts)), strict=True)
    lengths = torch.tensor([len(part) for part in rows], device=rows[0].device)
    return Positions(torch.cat(rows), lengths, torch.cat(special), pooling)


def _pool(batch: HeadBatch, mask: torch.Tensor, weight: torch.Tensor) -> np.ndarray:
    """max_i w_v . t_i of the texts of a batch over the positions of a mask, (n, V); -inf without a position."""
    rows, lengths = batch.hidden[mask], mask.sum(dim=1).tolist()
    pooled = torch.full((len(lengths), len(weight)), -torch.inf, device=rows.device)
    for start in range(0, len(weight), _VOCAB_CHUNK):
        terms = slice(start, start + _VOCAB_CHUNK)
        logits = (rows @ weight[terms].T).float()
        for text, span in enumerate(logits.split(lengths)):
            if len(span):
                torch.amax(span, dim=0, out=pooled[text, terms])
    return pooled.cpu().numpy()
