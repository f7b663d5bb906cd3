"""How texts are batched, and how the (T, V) logits are walked: groups of similar lengths, chunks of the vocabulary.

T counts the attended tokens of all texts. Texts of a group are padded to its longest by repeating their own last
token: that never changes a maximum, so a whole block is pooled by one call, without a mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# On CPUs a block of 2,048 x 512 logits: large enough for the matrix product's full rate, small enough to be pooled out
# of the cache; one buffer is reused, as fresh large ones cost page faults. On GPUs a launch must fill the chip.
_CPU_BLOCK, _GPU_BLOCK = 1 << 20, 1 << 26
_VOCAB_CHUNK = 512  # at least
# A group ends where the next text is this much shorter than the first, unless there are too few rows for the product.
_SIMILAR = 0.8
_FEW_ROWS = 256
# Padded tokens of one batch of a model on a CPU: a hidden state of a few MB, which keeps the layers' temporaries in the
# cache, and few texts together, which are of nearly equal lengths. A text shorter than this share of the longest is
# better off in the next batch.
_CPU_TOKENS, _BATCH_SIMILAR = 1024, 0.85


def text_batches(
    lengths: np.ndarray, batch_size: int, budget: int | None = None, *, alike: bool = False
) -> Iterator[np.ndarray]:
    """Positions of the texts of each batch for a model, the longest first: a batch too large fails at once.

    Of texts of ``lengths`` (N,) tokens, at most ``batch_size`` make a batch, and at most ``budget`` padded tokens
    (default: what suits a CPU); with ``alike`` only texts of one length, so that none is padded.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = max(1, min(batch_size, (budget or _CPU_TOKENS) // longest))
        if budget is None:  # half a budget will do where more texts would be padded
            similar = np.count_nonzero(lengths[order[start : start + size]] >= _BATCH_SIMILAR * longest)
            size = min(size, max(similar, math.ceil(_CPU_TOKENS / 2 / longest)))
        if alike:
            size = np.count_nonzero(lengths[order[start : start + size]] == lengths[order[start]])
        yield order[start : start + size]
        start += size


class TextGroup(NamedTuple):
    """n texts, padded to the L tokens of the longest."""

    texts: Tensor  # the texts' positions in the batch, (n,)
    lengths: Tensor  # their tokens, (n,)
    starts: Tensor  # the row of each text's first token among the T rows, (n,)
    index: Tensor  # row of every padded position, (n * L,)
    length: int  # L

    def real(self) -> Tensor:
        """Which padded positions are a text's own, bool (n, L)."""
        return torch.arange(self.length, device=self.lengths.device) < self.lengths[:, None]


def text_groups(lengths: Tensor, limit: int | None = None) -> list[TextGroup]:
    """Group texts of similar ``lengths`` (B,), which lie in consecutive rows; those without tokens are left out.

    A group has at most ``limit`` padded rows, by default what fits a block.
    """
    device = lengths.device
    limit = limit or _block(device) // _VOCAB_CHUNK
    lengths = lengths.cpu()
    starts = lengths.cumsum(0) - lengths
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[lengths[order] > 0]
    sizes = lengths[order].tolist()
    groups, begin = [], 0
    for end in range(1, len(sizes) + 1):
        rows = (end - begin) * sizes[begin]
        if end < len(sizes) and rows + sizes[begin] <= limit:
            if sizes[end] >= _SIMILAR * sizes[begin] or rows < _FEW_ROWS:
                continue
        texts = order[begin:end]
        own, first = lengths[texts], starts[texts]
        index = first[:, None] + torch.minimum(torch.arange(sizes[begin]), own[:, None] - 1)
        parts = [part.to(device) for part in (texts, own, first, index.flatten())]
        groups.append(TextGroup(*parts, sizes[begin]))
        begin = end
    return groups


def _block(device: torch.device) -> int:
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


def few_sizes(size: int) -> int:
    """The next of few numbers of rows: 16 of each power of two, at least 32 apart."""
    step = max(32, 1 << (size - 1).bit_length() >> 5)
    return -(-size // step) * step


def logit_blocks(
    rows: Tensor, weight: Tensor, groups: list[TextGroup], bias: Tensor | None = None, *, top: int | None = None,
    few_shapes: bool = False,
) -> Iterator[tuple[TextGroup, slice, Tensor]]:  # fmt: skip
    """Walk the logits t W^T + b block by block.

    Args:
        rows: t, shape (T, H).
        weight: W, shape (V, H), of the same type.
        groups: of the T rows.
        bias: b, shape (V,); default: none is added.
        top: logits below a row's ``top`` largest become -inf. Every row is walked twice for it: first for its limit.
        few_shapes: repeat the last row until the number of rows is one of :func:`few_sizes`, for products that are
            compiled for each shape anew. What is yielded is without them.

    Yields:
        (group, vocabulary slice, logits (n, L, C)); logits are valid until the next step.
    """
    for group in groups:
        index, used = group.index, len(group.index)
        if few_shapes:
            index = torch.cat([index, index[-1:].expand(few_sizes(used) - used)])
        padded = rows[index]
        limit = least_of_largest(padded, weight, bias, top)
        for terms, logits in _products(padded, weight, bias):
            if limit is not None:
                logits.masked_fill_(logits < limit, -torch.inf)
            yield group, terms, logits[:used].view(len(group.texts), group.length, -1)


@torch.no_grad()
def least_of_largest(padded: Tensor, weight: Tensor, bias: Tensor | None, top: int | None) -> Tensor | None:
    """Each row's ``top``-th largest logit, (rows, 1); ``None`` where all logits count."""
    if top is None or top >= len(weight):
        return None
    best = padded.new_empty(len(padded), 0)
    for _, logits in _products(padded, weight, bias):
        best = torch.cat([best, logits.topk(min(top, logits.shape[1])).values], dim=1)
        best = best.topk(min(top, best.shape[1])).values
    return best[:, -1:]


def chunk_size(padded: Tensor, weight: Tensor) -> int:
    """Terms of a block; always the same, so that a second walk gives the same numbers."""
    return min(len(weight), max(_VOCAB_CHUNK, _block(padded.device) // len(padded)))


def _products(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """(vocabulary slice, logits (rows, C)); logits are valid until the next step."""
    chunk = chunk_size(padded, weight)
    workspace = padded.new_empty(len(padded) * chunk)
    for begin in range(0, len(weight), chunk):
        terms = slice(begin, min(begin + chunk, len(weight)))
        columns = weight[terms].t()
        logits = workspace[: len(padded) * columns.shape[1]].view(len(padded), columns.shape[1])
        torch.mm(padded, columns, out=logits)
        if bias is not None:
            logits += bias[terms].to(logits.dtype)
        yield terms, logits


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What weights are computed in, for rows of a type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sparse_product(out_rows: Tensor, in_rows: Tensor, entries: Tensor, dense: Tensor, size: int) -> Tensor:
    """S @ dense for S of shape (size, len(dense)) with S[out_rows, in_rows] += entries; shape (size, H).

    A weighted embedding bag over the entries sorted by output row: one fused pass without temporaries of
    (entries, H), where an index_add would need one and a sparse matrix product was seen to be slower.
    """
    order = torch.argsort(out_rows, stable=True)
    counts = torch.bincount(out_rows, minlength=size)
    return functional.embedding_bag(
        in_rows[order],
        dense,
        counts.cumsum(0) - counts,  # an empty bag gives a row of zeros
        mode="sum",
        per_sample_weights=entries[order].to(dense.dtype),
    )
