"""The module that stands in for MLM logits and SpladePooling in a SparseEncoder: same vectors, no (B, L, V)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding.description import Description, QuerySide
from ..encoding.kernel import packed_head
from ..encoding.terms import Folding, fold_weights
from ..heads.decoder import find_head, head_input
from ..heads.provenance import record
from .activations import keeping

# Padded tokens that run through the body together on a CPU: with 2,048 a step held a tenth more and took as long.
_CPU_TOKENS = 512


class SparseHead(InputModule):
    """A masked LM up to its decoder, then the sparse head kernel.

    Args:
        model: the masked LM.
        tokenizer: its tokenizer.
        description: how logits become weights; static weights of queries are trained.
        learned_k: start of a trainable k that divides W (``rescale="learned"``), or ``None``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        description: Description | None = None,
        *,
        learned_k: float | None = None,
    ) -> None:
        super().__init__()
        self.mlm = model
        self.head = find_head(model)
        self.tokenizer = tokenizer
        self.description = description or Description()
        weights = self.description.queries.weights
        self.query_weights = None if weights is None else nn.Parameter(torch.tensor(weights))
        self.max_length = self.description.max_length or 256
        #: Activations that are kept for the backward pass, one of ``activations.KEPT``.
        self.kept = "all"
        self.log_k = None if learned_k is None else nn.Parameter(torch.tensor(math.log(learned_k)))
        folding = Folding(tokenizer, self.get_embedding_dimension()) if self.description.fold else None
        #: Terms: V, or as many as folding leaves.
        self.term_count = self.get_embedding_dimension() if folding is None else folding.size
        representatives = None if folding is None else torch.from_numpy(folding.representatives)
        self.register_buffer("representatives", representatives, persistent=False)

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """Token ids and mask, (B, L), padded to the longest text."""
        return self.tokenise(list(inputs), self.max_length)

    def tokenise(self, texts: list[str], max_length: int, *, queries: bool = False) -> dict[str, torch.Tensor]:
        """Token ids and mask, (B, L), of texts cut to ``max_length`` tokens; static queries have no special ones."""
        return dict(
            self.tokenizer(
                texts,
                add_special_tokens=not queries or self.query_weights is None,
                truncation=True,
                max_length=max_length,
                padding=True,
                padding_side="right",  # as TextEncoder pads; on the left, positions would follow the batch mates
                return_token_type_ids=False,
                return_tensors="pt",
            )
        )

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add ``sentence_embedding``, the term weights x (B, V), or ``sentence_embeddings`` of several sides.

        Args:
            features: ``input_ids`` and ``attention_mask`` (B, L), and ``queries``: true where the texts are queries. Or
                ``sides``, a list of such, which share one lookup of embeddings and one head, so that W has one gradient
                of each; with ``mini_batch_size``, so many texts at a time, whose activations are computed again in
                the backward pass: GradCache (arXiv:2101.06983), where memory holds one mini-batch.
        """
        if "sides" in features:
            features["sentence_embeddings"] = self._encode(features["sides"], features.get("mini_batch_size"))
        else:
            (features["sentence_embedding"],) = self._encode([features], None)
        return features

    def _encode(self, sides: list[dict[str, Any]], mini_batch_size: int | None) -> list[torch.Tensor]:
        vectors: list[Any] = [None] * len(sides)
        pooled: dict[bool, list[int]] = {}
        asked = self.description.of_queries()
        alike = self.description.queries.alike
        for number, side in enumerate(sides):
            queries = side.get("queries", False)
            if queries and self.query_weights is not None:
                vectors[number] = self._static(side["input_ids"], side["attention_mask"])
            else:
                pooled.setdefault(queries and not alike, []).append(number)
        encoded = [number for numbers in pooled.values() for number in numbers]
        lookup = SharedLookup(self.mlm.get_input_embeddings(), [sides[number]["input_ids"] for number in encoded])
        for otherwise, numbers in pooled.items():
            rows, lengths, orders = [], [], []
            for number in numbers:
                ids, mask = sides[number]["input_ids"], sides[number]["attention_mask"]
                parts = split(mask, mini_batch_size)
                for members in parts:
                    longest = _last_attended(mask[members]) if len(parts) > 1 else mask.shape[1]
                    part = ids[members, :longest], mask[members, :longest], lookup
                    again = mini_batch_size is not None and len(parts) > 1 and torch.is_grad_enabled()
                    rows.append(checkpoint(self.hidden, *part, use_reentrant=False) if again else self.hidden(*part))
                    lengths.append(part[1].sum(dim=1))
                orders.append(torch.argsort(torch.cat(parts)))
            hidden = torch.cat(rows)
            if self.log_k is not None:
                # t (W / k)^T = (t / k) W^T: the division is done where it is cheap
                hidden = hidden * torch.exp(-self.log_k).to(hidden.dtype)
            how = asked if otherwise else self.description
            head = self.head
            found = packed_head(hidden, torch.cat(lengths), head.weight, head.bias, how, after=head.after)
            for number, order, part in zip(numbers, orders, found.split([len(o) for o in orders]), strict=True):
                vectors[number] = part[order]
        return [fold_weights(part, self.representatives) for part in vectors]

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor, lookup: SharedLookup | None = None) -> torch.Tensor:
        """The decoder's input t at the attended positions of some texts (B, L), text after text, (T, H)."""
        with nullcontext() if lookup is None else lookup(), keeping(self.mlm, self.kept):
            return head_input(self.mlm, input_ids=ids, attention_mask=mask)[mask.bool()]

    def _static(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """relu(weight_v) where v is among the tokens of a text, else 0; (B, V)."""
        present = torch.zeros(len(ids), self.get_embedding_dimension(), device=ids.device)
        # ids of a batch of empty texts come as floats
        present = present.scatter_add(1, ids.long(), mask.to(present.dtype)).clamp_max(1)
        return present * torch.relu(self.query_weights)

    def query_side(self) -> QuerySide:
        """How queries are encoded, as it is now."""
        side = self.description.queries
        if self.query_weights is None:
            return side
        return dataclasses.replace(side, weights=torch.relu(self.query_weights.detach()).float().cpu().numpy())

    def described(self) -> Description:
        """The description of the encoder as it is now."""
        return self.description.replace(queries=self.query_side())

    def fold(self) -> PreTrainedModel:
        """The masked LM with a learned k divided into W for good (and recorded); the same object where none is."""
        if self.log_k is not None:
            k = math.exp(float(self.log_k.detach()))
            with torch.no_grad():
                self.head.weight.div_(k)
            record(self.mlm, k=k)
            self.log_k = None
        return self.mlm

    def get_embedding_dimension(self) -> int:
        """V."""
        return self.head.weight.shape[0]

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Not used: encoders are saved in the standard layout by ``encoding.saved_folder``."""
        raise NotImplementedError("save with pyterrier_rescale.encoding.saved_folder.save_encoder")


def _last_attended(mask: torch.Tensor) -> int:
    """Columns of a mask (B, L) up to the last that any text attends to, wherever it is padded; at least 1."""
    columns = mask.bool().any(dim=0).nonzero()
    return int(columns.max()) + 1 if len(columns) else 1


def split(mask: torch.Tensor, size: int | None = None) -> list[torch.Tensor]:
    """Texts (positions) to run together: at most ``size``; on a CPU sorted by length and of some hundred tokens.

    There the time goes with the padded tokens, and small activations stay in the cache. A mask (B, L) that is not
    padded on the right is split as it is.
    """
    size = size or len(mask)
    lengths = mask.sum(dim=1)
    order = torch.arange(len(mask), device=mask.device)
    right_padded = bool((mask.bool() == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all())
    if mask.device.type != "cpu" or not right_padded:
        return [order] if size >= len(mask) else list(order.split(size))
    order = torch.argsort(lengths, descending=True, stable=True)
    parts, begin = [], 0
    while begin < len(order):
        count = min(size, max(1, _CPU_TOKENS // max(1, int(lengths[order[begin]]))))
        parts.append(order[begin : begin + count])
        begin += count
    return parts


class SharedLookup:
    """The word embeddings of a step's distinct tokens, looked up once for all parts.

    The gradient of a lookup is a (V, H) matrix. With a lookup per part there are as many of them, each zeroed, filled
    and added up; here it is one, and each part's is of the distinct tokens only.

    Args:
        embeddings: the model's.
        ids: all token ids of the step, any shapes.
    """

    def __init__(self, embeddings: nn.Module, ids: Sequence[torch.Tensor]) -> None:
        self.embeddings = embeddings
        self.rows: torch.Tensor | None = None
        weight = getattr(embeddings, "weight", None)
        trained = isinstance(embeddings, nn.Embedding) and weight.requires_grad and torch.is_grad_enabled()
        if not ids or not trained:
            return
        tokens = torch.unique(torch.cat([part.flatten() for part in ids]))
        self.rows = embeddings(tokens)
        self.places = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
        self.places[tokens] = torch.arange(len(tokens), device=weight.device)

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
