"""What a step minimises: a ranking loss on dot products, plus the ramped regularisers of queries and documents.

To add a loss, write a subclass of :class:`Loss` and one line in ``LOSSES``; its name is then an option of
``train(loss=...)`` and of the command line.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from .distributed import gather, world
from .regularizers import REGULARIZERS, ramp_share


class Targets(NamedTuple):
    """What the data say about a batch of B queries with D = B * (1 + n) documents."""

    positives: torch.Tensor  # ids of the documents that are no negatives of each query, (B, P), padded with -1
    document_ids: torch.Tensor  # (D,); equal texts have equal ids
    scores: torch.Tensor | None = None  # the teacher's of each query's own documents, (B, 1 + n)


class Loss:
    """A ranking loss; documents are ordered by query: its positive, then its n negatives."""

    #: Whether the data must carry teacher scores.
    needs_scores = False
    #: Hard negatives per query that the loss cannot do without.
    least_negatives = 0
    #: Whether the documents of the batch's other queries serve as negatives.
    in_batch = False
    #: Whether it divides the student's scores by the temperature, and not the teacher's.
    scaled_margins = False

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def __call__(self, queries: torch.Tensor, documents: torch.Tensor, targets: Targets) -> torch.Tensor:
        """The loss of queries (B, V) and documents (B * (1 + n), V), a scalar."""
        raise NotImplementedError


class InfoNCE(Loss):
    """Cross-entropy of the positive among the batch's documents, of all processes (arXiv:1807.03748, equation 4)."""

    in_batch = True

    def __call__(self, queries: torch.Tensor, documents: torch.Tensor, targets: Targets) -> torch.Tensor:
        """-mean_i log softmax(s(q_i, .) / temperature)[positive of i]."""
        rank, _ = world()
        own = len(documents) // len(queries)
        labels = torch.arange(len(queries), device=queries.device) * own + rank * len(documents)
        scores = queries @ gather(documents).t() / self.temperature
        # documents with the id of another positive of the query are no negatives of it
        others = (gather(targets.document_ids)[None, :, None] == targets.positives[:, None, :]).any(dim=-1)
        others[torch.arange(len(queries), device=queries.device), labels] = False
        return functional.cross_entropy(scores.masked_fill(others, float("-inf")), labels)


def own_scores(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Dot products of queries (B, V) with their own documents (B * (1 + n), V): (B, 1 + n)."""
    grouped = documents.view(len(queries), -1, documents.shape[1])
    return torch.bmm(grouped, queries[:, :, None]).squeeze(2)


class MarginMSE(Loss):
    """Squared error of the margins between positive and negatives, against the teacher's (arXiv:2010.02666)."""

    needs_scores = True
    least_negatives = 1
    scaled_margins = True

    def __call__(self, queries: torch.Tensor, documents: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Mean over queries and negatives of ((s+ - s-) - (t+ - t-))^2; scores are divided by the temperature."""
        scores = own_scores(queries, documents) / self.temperature
        teacher = targets.scores
        return functional.mse_loss(scores[:, :1] - scores[:, 1:], teacher[:, :1] - teacher[:, 1:])


class KLDistillation(Loss):
    """KL divergence from the teacher's to the student's distribution over each query's own documents."""

    needs_scores = True
    least_negatives = 1

    def __call__(self, queries: torch.Tensor, documents: torch.Tensor, targets: Targets) -> torch.Tensor:
        """mean_i KL(softmax(t_i / temperature) || softmax(s_i / temperature))."""
        student = functional.log_softmax(own_scores(queries, documents) / self.temperature, dim=1)
        teacher = functional.log_softmax(targets.scores / self.temperature, dim=1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


LOSSES: dict[str, type[Loss]] = {"infonce": InfoNCE, "margin_mse": MarginMSE, "kl": KLDistillation}


class Joint(Loss):
    """Sum of the losses that a ``TrainConfig`` names, each times its weight (as in splade-v3, arXiv:2403.06789)."""

    def __init__(self, config: Any) -> None:
        self.losses = [loss(config.temperature) for loss in config.losses]
        self.weights = config.loss_weights or [1.0] * len(self.losses)

    def __call__(self, queries: torch.Tensor, documents: torch.Tensor, targets: Targets) -> torch.Tensor:
        """sum_l weight_l loss_l."""
        return sum(w * loss(queries, documents, targets) for w, loss in zip(self.weights, self.losses, strict=True))


class StepParts(NamedTuple):
    """Parts of one micro-batch's objective; tensors are detached."""

    queries: torch.Tensor  # (B, V)
    documents: torch.Tensor  # (B * (1 + n), V)
    losses: torch.Tensor  # ranking loss, penalty of queries and of documents (not yet weighted), (3,)
    lambdas: tuple[float, float]  # weights of the penalties in force


class Objective(nn.Module):
    """ranking + share(step) * (lambda_q * R(queries) + lambda_d * R(documents)), as a ``TrainConfig`` says.

    With ``flops_threshold=N``, R sees zeros for documents of at most N active terms, which are sparse enough (the l0
    mask of arXiv:2504.14839); means are over all documents still.
    """

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.ranking = Joint(config)
        self.query_regularizer = REGULARIZERS[config.query_regularizer or config.regularizer](vocab_size)
        self.document_regularizer = REGULARIZERS[config.regularizer](vocab_size)

    def forward(
        self, queries: torch.Tensor, documents: torch.Tensor, targets: Targets, step: int
    ) -> tuple[torch.Tensor, StepParts]:
        """The objective of vectors (B, V) and (B * (1 + n), V) after ``step`` updates, a scalar, and its parts."""
        config, share = self.config, ramp_share(step, self.config.ramp_steps, self.config.ramp)
        ranking = self.ranking(queries, documents, targets)
        if config.queries == "static":  # their terms are those of the text whatever their weights
            lambda_q, query_penalty = 0.0, queries.new_zeros(())
        else:
            lambda_q, query_penalty = share * config.lambda_q, self.query_regularizer(queries)
        penalised = documents
        if config.flops_threshold is not None:
            penalised = documents * (torch.count_nonzero(documents, dim=1) > config.flops_threshold)[:, None]
        lambda_d, document_penalty = share * config.lambda_d, self.document_regularizer(penalised)
        losses = torch.stack([ranking.detach(), query_penalty.detach(), document_penalty.detach()]).float()
        parts = StepParts(queries.detach(), documents.detach(), losses, (lambda_q, lambda_d))
        return ranking + lambda_q * query_penalty + lambda_d * document_penalty, parts
