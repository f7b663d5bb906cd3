"""One forward pass over a few texts that keeps what an audit and a calibration need, bounded in memory.

For max pooling the bias does not depend on the position: max_i z_iv = max_i w_v . t_i + b_v. So the pooled linear part
(N, V) and the bias (V,), kept apart, give the weights of every rescaled or shifted head. For a sum over positions, or
where only the largest logits of each count, t at every position is kept, and the head is computed for each k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._utils.checks import check_is_list
from .._utils.sampling import spread
from ..encoding.description import Description
from ..encoding.kernel import packed_head
from ..encoding.saved_folder import describe
from ..encoding.terms import Folding, fold_weights
from ..encoding.text_encoder import TextEncoder
from ..encoding.texts import check_texts
from ..heads.checkpoint import load_backbone
from ..heads.decoder import Head
from ..heads.rescaling import shift_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Fewer texts than this tell nothing about scores; more than that are not looked at.
MIN_TEXTS, MAX_TEXTS = 8, 512
_POSITIONS = 256  # of each kind (content, special) whose t is kept, over all documents together
_VOCAB_CHUNK = 1024  # rows of W per product


@dataclass(frozen=True, eq=False)
class Side:
    """What the pass left of the N queries, or of the N documents."""

    #: max_i w_v . t_i over content positions, (N, V) float32, without the bias; -inf where a text has none.
    content: np.ndarray
    #: The same over special positions ([CLS], [SEP], ...).
    special: np.ndarray
    #: Occurrences of each token id at content positions, (V,).
    counts: np.ndarray
    #: t at up to 256 content and special positions, (M, H), spread evenly over and within the texts.
    hidden: dict[str, np.ndarray]
    #: The text of each of those content positions, (M,).
    owners: np.ndarray
    #: t at all attended positions of each text, (L, H), where the weights of another k need it.
    positions: list[torch.Tensor] | None
    description: Description

    @property
    def pooled(self) -> np.ndarray:
        """max_i w_v . t_i over all attended positions, which is what the encoder computes; (N, V)."""
        return np.maximum(self.content, self.special)


@dataclass(frozen=True, eq=False)
class Probe:
    """What one forward pass over N queries and N documents left behind."""

    #: A side; the vectors (N, V) where queries need no model, or another one.
    queries: Side | np.ndarray
    documents: Side
    #: W, less the mean row where one was given, (V, H) float32.
    weight: np.ndarray
    #: b, (V,) float32; zeros where the head has none.
    bias: np.ndarray
    head: Head
    #: Rows whose id the tokenizer knows, bool (V,).
    used: np.ndarray
    #: Which terms are one, if any.
    folding: Folding | None = None

    def weights(self, side: Side | np.ndarray, k: float = 1.0, shift: np.ndarray | None = None) -> np.ndarray:
        """Term weights x (N, V) of a side as it is pooled, for a head divided by k.

        With ``shift`` (V,), added to the bias, the bias is divided, too.
        """
        if isinstance(side, np.ndarray):
            return side
        k, bias = np.float32(k), self.bias if shift is None else self.bias + shift
        if side.positions is None:  # with a shift divided last: the same terms fire at every k
            logits = self.after(side.pooled / k + bias if shift is None else (side.pooled + bias) / k)
            return self.folded(np.log1p(np.maximum(logits, 0, out=logits), out=logits), 0.0)
        rows, lengths = torch.cat(side.positions), torch.tensor([len(text) for text in side.positions])
        bias = bias if shift is None else bias / k
        weight, bias = (torch.from_numpy(part).to(rows) for part in (self.weight / k, bias))
        with torch.inference_mode():
            weights = packed_head(rows, lengths.to(rows.device), weight, bias, side.description, after=self.head.after)
        return self.folded(weights.cpu().numpy(), 0.0)

    def after(self, logits: np.ndarray) -> np.ndarray:
        """What the model makes of logits t W^T + b."""
        return logits if self.head.after is None else self.head.after(torch.from_numpy(logits)).numpy()

    def folded(self, values: np.ndarray, fill: float) -> np.ndarray:
        """The largest of each term's variants at its representative, ``fill`` at the others; (N, V)."""
        if self.folding is None:
            return values
        return fold_weights(torch.from_numpy(values), torch.from_numpy(self.folding.representatives), fill).numpy()


def load_encoder(
    model: Any, tokenizer: Any, encoding: Description | None, max_length: int | None, *,
    attention: str | None = None, need_tokenizer: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, Description]:
    """Model, tokenizer, and how texts are encoded: as ``encoding`` says, else as an encoder's folder was saved."""
    description = describe(model) if encoding is None else encoding
    if max_length is not None:
        description = description.replace(max_length=max_length)
    loaded, tokenizer = load_backbone(model, tokenizer, attention=attention, need_tokenizer=need_tokenizer)
    if description.shift is not None:
        loaded = shift_logits(loaded, description.shift, inplace=loaded is not model)
    return loaded, tokenizer, description.replace(shift=None)


def as_pairs(texts: Iterable[Any]) -> tuple[list[str], list[str]]:
    """Queries and documents of equal number from texts or (query, document) pairs.

    The query of a single text is its first words: a quarter of them, between 3 and 12. The initial loss is then low,
    since each query is part of its document. Blank texts (and pairs with a blank side) are left out; of more than 512
    texts, 512 are kept, spread evenly. Fewer than 8 raise ``ValueError``.
    """
    check_is_list(texts, "strings or of (query, document) pairs")
    texts = list(texts)
    if texts and all(isinstance(text, (tuple, list)) for text in texts):
        queries = check_texts([query for query, _ in texts])
        documents = check_texts([document for _, document in texts])
    else:
        documents = check_texts(texts)
        queries = [" ".join(words[: max(3, min(12, len(words) // 4))]) for words in map(str.split, documents)]
    pairs = [pair for pair in zip(queries, documents, strict=True) if all(side.strip() for side in pair)]
    if len(pairs) < MIN_TEXTS:
        raise ValueError(f"texts must hold at least {MIN_TEXTS} texts that are not blank, got {len(pairs)}")
    kept = [pairs[place] for place in spread(len(pairs), MAX_TEXTS)]
    return [query for query, _ in kept], [document for _, document in kept]


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
    """Run the model once over N queries and N documents; with ``mean_row`` (H,) all is measured of W less this row.

    ``ValueError`` where the weights of queries are the model's times static ones, which cannot be told apart.
    """
    encoder = TextEncoder(model, tokenizer, description, device=device)
    if encoder.description.queries.times_model:
        raise ValueError("queries weighted by the model and by static weights together cannot be measured")
    of_queries = encoder.of_queries()
    weight, bias = encoder.head.weight.detach(), encoder.head.bias
    if mean_row is not None:
        weight = weight - torch.from_numpy(mean_row).to(weight)
    same_model = getattr(of_queries, "model", None) is encoder.model
    return Probe(
        _pass(of_queries, queries, weight) if same_model else of_queries.encode(queries).toarray(),
        _pass(encoder, documents, weight),
        weight.float().cpu().numpy(),
        np.zeros(len(weight), dtype=np.float32) if bias is None else bias.detach().float().cpu().numpy(),
        encoder.head,
        used_rows(encoder.tokenizer, len(weight)),
        encoder.folding,
    )


@torch.inference_mode()
def _pass(encoder: TextEncoder, texts: Sequence[str], weight: torch.Tensor) -> Side:
    pooled = {name: np.full((len(texts), len(weight)), -np.inf, dtype=np.float32) for name in ("content", "special")}
    hidden: dict[str, list[np.ndarray]] = {"content": [], "special": []}
    owners: list[np.ndarray] = []
    counts, how = np.zeros(len(weight), dtype=np.int64), encoder.description
    plain = (how.pooling, how.activation, how.position_top_k) == ("max", "relu", None)
    positions: list[Any] = [None] * len(texts)
    for batch in encoder.head_batches(texts):
        masks = {"content": batch.mask & ~batch.special, "special": batch.special}
        counts += np.bincount(batch.input_ids[masks["content"]].cpu().numpy(), minlength=len(weight))
        for start in range(0, len(weight), _VOCAB_CHUNK):
            terms = slice(start, start + _VOCAB_CHUNK)
            logits = (batch.hidden @ weight[terms].T).float()
            for name, mask in masks.items():
                largest = logits.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
                pooled[name][batch.texts, terms] = largest.cpu().numpy()
        for row, text in enumerate(batch.texts):
            if not plain:
                positions[text] = batch.hidden[row][batch.mask[row]].float()
            for name, mask in masks.items():
                where = mask[row].nonzero().ravel()
                where = where[spread(len(where), max(1, _POSITIONS // len(texts)))]
                hidden[name].append(batch.hidden[row, where].float().cpu().numpy())
            owners.append(np.full(len(hidden["content"][-1]), text))
    if encoder.folding is not None:
        counts = np.bincount(encoder.folding.representatives, weights=counts, minlength=len(counts)).astype(np.int64)
    kept = {name: np.concatenate(parts) for name, parts in hidden.items()}
    return Side(**pooled, counts=counts, hidden=kept, owners=np.concatenate(owners),
                positions=None if plain else positions, description=how)  # fmt: skip
