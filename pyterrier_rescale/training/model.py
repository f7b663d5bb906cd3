"""The model while it is trained: a masked LM up to its decoder, then the sparse head; no (B, L, V) in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding.description import Description
from ..encoding.kernel import packed_head, pooled_positions
from ..encoding.terms import Folding, fold_weights
from ..heads.decoder import find_head, head_input
from ..heads.provenance import record

# Padded tokens that run through the body together on a CPU: small activations stay in its cache.
_CPU_TOKENS = 512


class SparseHead(nn.Module):
    """A masked LM with the pooling of a SPLADE encoder, for training.

    Args:
        model: the masked LM.
        tokenizer: its tokenizer.
        description: how logits become weights; static weights of queries are where their training starts.
        learned_k: start of a trainable k that divides W (``rescale="learned"``), or ``None``.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, description: Description | None = None, *,
        learned_k: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mlm = model
        self.head = find_head(model)
        self.vocab_size: int = self.head.weight.shape[0]
        self.tokenizer = tokenizer
        self.description = description or Description()
        weights = self.description.queries.weights
        self.query_weights = None if weights is None else nn.Parameter(torch.from_numpy(weights).float())
        self.log_k = None if learned_k is None else nn.Parameter(torch.tensor(math.log(learned_k)))
        folding = Folding(tokenizer, self.vocab_size) if self.description.fold else None
        #: Terms: V, or as many as folding leaves.
        self.term_count = self.vocab_size if folding is None else folding.size
        representatives = None if folding is None else torch.from_numpy(folding.representatives)
        self.register_buffer("representatives", representatives, persistent=False)

    def tokenise(self, texts: list[str], max_length: int, *, queries: bool = False) -> dict[str, Any]:
        """One side of a batch: token ids and mask, (B, L), of texts cut to ``max_length`` tokens.

        Static queries have no special tokens.
        """
        features = self.tokenizer(
            texts,
            add_special_tokens=not queries or self.query_weights is None,
            truncation=True,
            max_length=max_length,
            padding=True,
            padding_side="right",  # on the left, positions would follow the other texts of the batch
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return {**features, "queries": queries}

    def forward(self, sides: Sequence[dict[str, Any]], mini_batch_size: int | None = None) -> list[torch.Tensor]:
        """The term weights x (B, V) of each side, as :meth:`tokenise` gives it.

        All sides share one lookup of embeddings and one head for each pooling, so that W has one gradient of each.
        With ``mini_batch_size``, so many texts run at a time, and again in the backward pass: GradCache
        (arXiv:2101.06983), where memory holds one mini-batch.
        """
        vectors: list[Any] = [None] * len(sides)
        asked, alike = self.description.of_queries(), self.description.queries.alike
        pooled: dict[bool, list[int]] = {}  # whether otherwise than documents
        for number, side in enumerate(sides):
            if side["queries"] and self.query_weights is not None:
                vectors[number] = self._static(side["input_ids"], side["attention_mask"])
            else:
                pooled.setdefault(side["queries"] and not alike, []).append(number)
        encoded = [sides[number]["input_ids"] for numbers in pooled.values() for number in numbers]
        lookup = SharedLookup(self.mlm.get_input_embeddings(), encoded)
        for otherwise, numbers in pooled.items():
            rows, lengths, orders = [], [], []
            for number in numbers:
                ids, mask = sides[number]["input_ids"], sides[number]["attention_mask"]
                parts = split(mask.sum(dim=1), mini_batch_size, _CPU_TOKENS if mask.device.type == "cpu" else None)
                for members in parts:
                    part_mask = mask[members]
                    longest = max(1, int(part_mask.sum(dim=1).max())) if len(parts) > 1 else mask.shape[1]
                    part = ids[members, :longest], part_mask[:, :longest], lookup
                    again = mini_batch_size is not None and len(parts) > 1 and torch.is_grad_enabled()
                    rows.append(checkpoint(self._hidden, *part, use_reentrant=False) if again else self._hidden(*part))
                    lengths.append(self._pooled(*part[:2]).sum(dim=1))
                orders.append(torch.argsort(torch.cat(parts)))
            hidden = torch.cat(rows)
            if self.log_k is not None:
                hidden = hidden * torch.exp(-self.log_k).to(hidden.dtype)  # t (W / k)^T = (t / k) W^T
            how = asked if otherwise else self.description
            head = self.head
            found = packed_head(hidden, torch.cat(lengths), head.weight, head.bias, how, after=head.after)
            for number, order, part in zip(numbers, orders, found.split([len(o) for o in orders]), strict=True):
                vectors[number] = part[order]
        return [fold_weights(part, self.representatives) for part in vectors]

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor, lookup: SharedLookup) -> torch.Tensor:
        """The decoder's input t at the pooled positions of some texts (B, L), text after text, (T, H)."""
        with lookup():
            return head_input(self.mlm, input_ids=ids, attention_mask=mask)[self._pooled(ids, mask)]

    def _pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return pooled_positions(self.description, ids, mask, self.tokenizer.all_special_ids)

    def _static(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """relu(weight_v) where v is among the tokens of a text, else 0; (B, V)."""
        present = torch.zeros(len(ids), self.vocab_size, device=ids.device)
        # ids of a batch of empty texts come as floats
        present = present.scatter_add(1, ids.long(), mask.to(present.dtype)).clamp_max(1)
        return present * torch.relu(self.query_weights)

    def described(self) -> Description:
        """The description of the encoder as it is now."""
        if self.query_weights is None:
            return self.description
        weights = torch.relu(self.query_weights.detach()).float().cpu().numpy()
        return self.description.replace(queries=dataclasses.replace(self.description.queries, weights=weights))

    def fold(self) -> PreTrainedModel:
        """The masked LM with a learned k divided into W for good (and recorded); the same object where none is."""
        if self.log_k is not None:
            k = math.exp(float(self.log_k.detach()))
            with torch.no_grad():
                self.head.weight.div_(k)
            record(self.mlm, k=k)
            self.log_k = None
        return self.mlm


def split(lengths: torch.Tensor, size: int | None, tokens: int | None) -> list[torch.Tensor]:
    """Texts (positions) to run together, at most ``size``; with ``tokens`` sorted by length, so many padded ones."""
    size = size or len(lengths)
    if tokens is None:
        return list(torch.arange(len(lengths), device=lengths.device).split(size))
    order, parts = torch.argsort(lengths, descending=True, stable=True), []
    while len(order):
        count = min(size, max(1, tokens // max(1, int(lengths[order[0]]))))
        parts.append(order[:count])
        order = order[count:]
    return parts


class SharedLookup:
    """The word embeddings of a step's distinct tokens, looked up once for all parts.

    The gradient of a lookup is a (V, H) matrix. A lookup for each part would give as many of them; so there is one, and
    each part's gradient is of the distinct tokens only. On a CPU a step takes three quarters of the time.

    Args:
        embeddings: the model's.
        ids: all token ids of the step, any shapes.
    """

    def __init__(self, embeddings: nn.Module, ids: Sequence[torch.Tensor]) -> None:
        self.embeddings = embeddings
        self.rows: torch.Tensor | None = None
        trained = isinstance(embeddings, nn.Embedding) and embeddings.weight.requires_grad and torch.is_grad_enabled()
        if ids and trained:
            tokens = torch.unique(torch.cat([part.flatten() for part in ids]))
            self.rows = embeddings(tokens)
            self.places = torch.zeros(len(embeddings.weight), dtype=torch.long, device=tokens.device)
            self.places[tokens] = torch.arange(len(tokens), device=tokens.device)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Let the embeddings answer with the rows that were looked up."""
        rows = self.rows
        if rows is None:
            yield
            return
        hook = self.embeddings.register_forward_hook(
            lambda _, given, __: functional.embedding(self.places[given[0]], rows)
        )
        try:
            yield
        finally:
            hook.remove()
