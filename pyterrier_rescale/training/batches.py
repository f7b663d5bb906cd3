"""Batches: which rows, in which order, tokenised.

The order depends on the seed and the epoch alone. With several processes each takes its part of one global batch, so
that a step sees the rows that one process with the global batch size would see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from .data.rows import Row, Rows, text_id
from .distributed import world
from .model import SparseHead


class GlobalBatches(Sampler[list[int]]):
    """Shuffled full batches of row numbers; the last rows of an epoch that do not fill one wait for the next epoch."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.rank, self.processes = world()
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        step = self.batch_size * self.processes
        for start in range(self.rank * self.batch_size, len(self) * step, step):
            yield order[start : start + self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.epoch = epoch


class Collator:
    """Rows to tensors: token ids of queries and documents, ids of the texts, teacher scores."""

    def __init__(
        self, rows: Rows, module: SparseHead, *, negatives: int, max_length: int, query_max_length: int
    ) -> None:
        self.rows, self.module, self.negatives = rows, module, negatives
        self.max_length, self.query_max_length = max_length, query_max_length

    def __call__(self, batch: list[Row]) -> dict[str, Any]:
        """``query`` and ``document`` features, ``positives`` (B, P), ``document_ids`` (D,), ``scores`` (B, 1 + n)."""
        documents = [text for row in batch for text in row.documents[: 1 + self.negatives]]
        known = [sorted(self.rows.positives(row.query) | {text_id(row.documents[0])}) for row in batch]
        width = max(map(len, known))
        result: dict[str, Any] = {
            "query": self.module.tokenise([row.query for row in batch], self.query_max_length, queries=True),
            "document": self.module.tokenise(documents, self.max_length),
            "positives": torch.tensor([ids + [-1] * (width - len(ids)) for ids in known]),
            "document_ids": torch.tensor([text_id(text) for text in documents]),
        }
        if all(row.scores is not None for row in batch):
            result["scores"] = torch.tensor([row.scores[: 1 + self.negatives] for row in batch])
        return result


class Loader(DataLoader):
    """A DataLoader that hands the epoch on to its batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.batch_sampler.set_epoch(epoch)
