"""What a step minimises: the ranking loss plus the ramped regularisers of queries and documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..screening import Screen, make_screen
from .config import TrainConfig
from .losses import LOSSES, Targets
from .module import SparseHead
from .regularizers import REGULARIZERS
from .schedule import Ramp

# Padded tokens that run through the body together on a CPU.
_CPU_TOKENS = 2048


@dataclass
class StepParts:
    """Parts of one micro-batch's objective; tensors are detached.

    Attributes:
        queries, documents: term weights, (B, V) and (B * (1 + n), V).
        ranking, query_penalty, document_penalty: scalars, penalties not yet weighted.
        share: of lambda in force.
    """

    queries: torch.Tensor
    documents: torch.Tensor
    ranking: torch.Tensor
    query_penalty: torch.Tensor
    document_penalty: torch.Tensor
    share: float


class Objective(nn.Module):
    """ranking + share(step) * (lambda_q * R(queries) + lambda_d * R(documents))."""

    def __init__(self, model: nn.Module, config: TrainConfig, vocab_size: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.ranking = LOSSES[config.loss](config.temperature)
        self.query_regularizer = REGULARIZERS[config.query_regularizer or config.regularizer](vocab_size)
        self.document_regularizer = REGULARIZERS[config.regularizer](vocab_size)
        self.ramp = Ramp(config.ramp_steps, config.ramp)
        self.parts: list[StepParts] = []

    def forward(self, model: nn.Module, batch: dict[str, Any], step: int) -> torch.Tensor:
        """The objective of a batch at an optimizer step, a scalar; its parts are added to ``parts``.

        ``model`` is the (perhaps DDP-wrapped) SparseEncoder.
        """
        screen = self._screen()
        queries = self._encode(model, batch["query"], screen, queries=True)
        documents = self._encode(model, batch["document"], screen)
        targets = Targets(batch["positives"], batch["document_ids"], batch.get("scores"))
        ranking = self.ranking(queries, documents, targets)
        static = self.module.query_weights is not None
        query_penalty = queries.new_zeros(()) if static else self.query_regularizer(queries)
        document_penalty = self.document_regularizer(documents)
        share = self.ramp(step)
        self.parts.append(
            StepParts(
                queries.detach(), documents.detach(), ranking.detach(),
                query_penalty.detach(), document_penalty.detach(), share,
            )
        )  # fmt: skip
        penalty = self.config.query_lambda * query_penalty + self.config.lambda_d * document_penalty
        return ranking + share * penalty

    def _screen(self) -> Screen | None:
        """One screen of W for the whole step, where screening pays."""
        if "max" not in (self.module.pooling, self.module.query_pooling) or self.config.bf16:
            return None
        return make_screen(self.module.head.weight.detach())

    @property
    def module(self) -> SparseHead:
        """The module in training."""
        return next(part for part in self.model.modules() if isinstance(part, SparseHead))

    def _encode(
        self, model: nn.Module, features: dict[str, torch.Tensor], screen: Screen | None, *, queries: bool = False
    ) -> torch.Tensor:
        """Term weights of a side, texts of similar lengths together where that saves padding.

        With ``mini_batch_size`` activations are computed again in the backward pass. That is GradCache
        (arXiv:2101.06983): the loss sees the whole batch, memory holds one mini-batch.
        """
        ids, mask, size = features["input_ids"], features["attention_mask"], self.config.mini_batch_size

        def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            part = {"input_ids": ids, "attention_mask": mask, "screen": screen, "queries": queries}
            return model(part)["sentence_embedding"]

        if queries and self.module.query_weights is not None:
            return run(ids, mask)  # no activations to save
        parts = _parts(mask, len(ids) if size is None else size)
        if len(parts) == 1:
            return run(ids, mask)
        vectors = []
        for members in parts:
            longest = int(mask[members].sum(dim=1).max())
            part = ids[members, :longest], mask[members, :longest]
            vectors.append(run(*part) if size is None else checkpoint(run, *part, use_reentrant=False))
        return torch.cat(vectors)[torch.argsort(torch.cat(parts))]


def _parts(mask: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Texts (positions) to run together: at most ``size``; on a CPU sorted by length and of some thousand tokens.

    There the time goes with the padded tokens, and small activations stay in the cache. A mask that is not padded on
    the right is split as it is.
    """
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
