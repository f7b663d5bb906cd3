"""The model while it is trained: a masked LM up to its decoder, then the sparse head; no (B, L, V) in memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
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
    """A masked LM with the pooling that ``description`` says; ``learned_k``: start of a trainable k that divides W."""

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
        self.log_k = None if learned_k is None else nn.Parameter(torch.tensor(math.log(learned_k), dtype=torch.float32))
        folding = Folding(tokenizer, self.vocab_size) if self.description.fold else None
        #: Terms: V, or as many as folding leaves.
        self.term_count = self.vocab_size if folding is None else folding.size
        representatives = None if folding is None else torch.from_numpy(folding.representatives)
        self.register_buffer("representatives", representatives, persistent=False)

    def tokenise(self, texts: list[str], max_length: int, *, queries: bool = False) -> dict[str, Any]:
        """One side of a batch: token ids and mask, (B, L); static queries have no special tokens."""
        features = self.tokenizer(
            texts, add_special_tokens=not queries or self.query_weights is None, truncation=True, max_length=max_length,
            padding=True, padding_side="right",  # on the left, positions would follow the other texts of the batch
            return_token_type_ids=False, return_tensors="pt",
        )  # fmt: skip
        return {**features.to(self.head.weight.device), "queries": queries}

    def forward(self, sides: Sequence[dict[str, Any]], mini_batch_size: int | None = None) -> list[torch.Tensor]:
        """The term weights x (B, V) of each side, as :meth:`tokenise` gives it.

        ``mini_batch_size`` texts run at a time, and again in the backward pass (GradCache, arXiv:2101.06983).
        """
        vectors = [
            self._static(side) if side["queries"] and self.query_weights is not None
            else self._encoded(side, mini_batch_size)
            for side in sides
        ]  # fmt: skip
        return [fold_weights(one, self.representatives) for one in vectors]

    def _encoded(self, side: dict[str, Any], mini_batch_size: int | None) -> torch.Tensor:
        """Weights (B, V) by the model: texts of like length run together, their positions go through one head."""
        ids, mask = side["input_ids"], side["attention_mask"]
        lengths = mask.sum(dim=1)
        pooled = pooled_positions(self.description, ids, mask, self.tokenizer.all_special_ids)
        tokens = _CPU_TOKENS if mask.device.type == "cpu" else mask.numel()
        parts = split(lengths, mini_batch_size or len(lengths), tokens)
        again = mini_batch_size is not None and len(parts) > 1 and torch.is_grad_enabled()
        rows = []
        for members in parts:
            longest = max(1, int(lengths[members[0]]))
            part = ids[members, :longest], mask[members, :longest], pooled[members, :longest]
            rows.append(checkpoint(self._hidden, *part, use_reentrant=False) if again else self._hidden(*part))
        hidden, order, head = torch.cat(rows), torch.cat(parts), self.head
        if self.log_k is not None:
            hidden = hidden * torch.exp(-self.log_k).to(hidden.dtype)  # t (W / k)^T = (t / k) W^T
        how = self.description.of_queries() if side["queries"] else self.description
        found = packed_head(hidden, pooled.sum(dim=1)[order], head.weight, head.bias, how, after=head.after)
        return found[torch.argsort(order)]

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """The decoder's input t at the pooled positions of some texts (B, L), text after text, (T, H)."""
        return head_input(self.mlm, input_ids=ids, attention_mask=mask)[pooled]

    def _static(self, side: dict[str, Any]) -> torch.Tensor:
        """relu(weight_v) where v is among the tokens of a text, else 0; (B, V)."""
        ids, mask = side["input_ids"], side["attention_mask"]
        present = self.query_weights.new_zeros(len(ids), self.vocab_size)
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
        """The masked LM, a learned k divided into W for good (and recorded), adapters merged into their layers."""
        for name, layer in list(self.mlm.named_modules()):
            if hasattr(layer, "get_base_layer"):  # of peft
                layer.merge()
                self.mlm.set_submodule(name, layer.get_base_layer())
        if self.log_k is not None:
            k = math.exp(float(self.log_k.detach()))
            with torch.no_grad():
                self.head.weight.div_(k)
            record(self.mlm, k=k)
            self.log_k = None
        return self.mlm


def split(lengths: torch.Tensor, size: int, tokens: int) -> list[torch.Tensor]:
    """Texts (positions) to run together, the longest first: at most ``size``, or ``tokens`` with padding."""
    order, parts = torch.argsort(lengths, descending=True, stable=True), []
    while len(order):
        count = min(size, max(1, tokens // max(1, int(lengths[order[0]]))))
        parts.append(order[:count])
        order = order[count:]
    return parts
