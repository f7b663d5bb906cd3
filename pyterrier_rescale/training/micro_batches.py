"""How the texts of a step run through the body: a few at a time, their word embeddings looked up once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

# Padded tokens that run through the body together on a CPU: with 2,048 a step held a tenth more and took as long.
_CPU_TOKENS = 512


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
