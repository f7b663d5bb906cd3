"""What a step minimises: the ranking loss plus the ramped regularisers of queries and documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .config import TrainConfig
from .losses import LOSSES, Targets
from .model import SparseHead
from .regularizers import REGULARIZERS
from .schedule import Ramp


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
        sides = [{**batch["query"], "queries": True}, batch["document"]]
        encoded = model({"sides": sides, "mini_batch_size": self.config.mini_batch_size})
        queries, documents = encoded["sentence_embeddings"]
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

    @property
    def module(self) -> SparseHead:
        """The module in training."""
        return next(part for part in self.model.modules() if isinstance(part, SparseHead))
