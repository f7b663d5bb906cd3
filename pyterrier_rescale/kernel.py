"""The sparse head: hidden states to term weights without ever holding the (B, L, V) logits.

With z_iv = w_v . t_i + b_v over the attended positions i of a text, the weight of term v is
x_v = log(1 + relu(max_i z_iv)) (``pooling="max"``; SPLADE v2, arXiv:2109.10086) or
x_v = sum_i log(1 + relu(z_iv)) (``pooling="sum"``; SPLADE, arXiv:2107.05720).

log(1 + relu(.)) is monotone and b_v is the same at every position, so for the max both are applied once, to (B, V).
The decoder product is walked in blocks that fit the cache (CPU) or a fixed workspace (GPU). The gradient of a max
touches one position per (text, term), and only where the relu is open: with S the (T, V) matrix of one entry per
open term, dH = S W, dW = S^T H and db = the column sums of S, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

POOLINGS = ("max", "sum")

# Elements of one block of logits. On CPUs 1 MB stays in the second-level cache, and reusing one small buffer avoids
# the page faults of fresh large ones; on GPUs a launch must be large enough to fill the chip.
_CPU_BLOCK = 1 << 18
_GPU_BLOCK = 1 << 26
_CPU_VOCAB_CHUNK = 1024


def sparse_head(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor,
    pooling: str = "max",
) -> torch.Tensor:
    """Term weights of a batch of texts, differentiable in ``hidden``, ``weight`` and ``bias``.

    Args:
        hidden: the decoder's input t, shape (B, L, H).
        weight: the decoder's W, shape (V, H).
        bias: the decoder's b, shape (V,), or ``None``.
        mask: nonzero at attended positions, shape (B, L).
        pooling: ``"max"`` or ``"sum"`` over attended positions.

    Returns:
        x, shape (B, V), float32 (float64 for float64 input), >= 0; a text without attended positions gets zeros.

    Raises:
        ValueError: for an unknown pooling or shapes that do not fit.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be 'max' or 'sum', got {pooling!r}")
    if hidden.dim() != 3 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be (B, L, H) and weight (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if mask.shape != hidden.shape[:2]:
        raise ValueError(f"mask must be {tuple(hidden.shape[:2])} like hidden, got {tuple(mask.shape)}")
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    mask = mask.bool()
    rows = hidden[mask]  # (T, H): padding never reaches the product
    lengths = mask.sum(dim=1).tolist()
    with torch.autocast(device, enabled=False):
        if pooling == "sum":
            return _SumHead.apply(rows, weight, bias, lengths)
        return _MaxHead.apply(rows, weight, bias, lengths)


def _accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _text_groups(lengths: list[int], limit: int) -> Iterator[tuple[int, int, int, int]]:
    """Consecutive texts of at most ``limit`` rows together: (first text, end text, first row, end row)."""
    first = row = start = 0
    for text, length in enumerate(lengths):
        if row + length - start > limit and text > first:
            yield first, text, start, row
            first, start = text, row
        row += length
    if len(lengths) > first:
        yield first, len(lengths), start, row


def _blocks(rows: torch.Tensor, vocab_size: int, lengths: list[int]) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Vocabulary chunk size and text groups, such that a block of logits is bounded whatever B and L."""
    if rows.device.type == "cpu":
        chunk = min(_CPU_VOCAB_CHUNK, vocab_size)
        limit = max(1, _CPU_BLOCK // chunk)
    else:
        chunk = max(1, min(vocab_size, _GPU_BLOCK // max(1, len(rows))))
        limit = max(1, len(rows))
    return chunk, list(_text_groups(lengths, limit))


def _logit_blocks(
    rows: torch.Tensor, weight: torch.Tensor, lengths: list[int]
) -> Iterator[tuple[slice, tuple[int, int, int, int], torch.Tensor]]:
    """Yield (vocabulary slice, text group, t W^T of that block); the tensor is valid until the next step."""
    chunk, groups = _blocks(rows, len(weight), lengths)
    largest = max((end - start for _, _, start, end in groups), default=0)
    workspace = rows.new_empty(largest * chunk)
    for begin in range(0, len(weight), chunk):
        terms = slice(begin, min(begin + chunk, len(weight)))
        columns = weight[terms].t()
        for group in groups:
            _, _, start, end = group
            logits = workspace[: (end - start) * columns.shape[1]].view(end - start, columns.shape[1])
            torch.mm(rows[start:end], columns, out=logits)
            yield terms, group, logits


def _spans(lengths: list[int], group: tuple[int, int, int, int]) -> Iterator[tuple[int, slice]]:
    """Texts of a group that have rows, each with its rows relative to the group's first."""
    first, stop, _, _ = group
    row = 0
    for text in range(first, stop):
        if lengths[text]:
            yield text, slice(row, row + lengths[text])
        row += lengths[text]


def _pooled_max(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lengths: list[int], with_positions: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """max_i w_v . t_i + b_v (B, V) and, where asked for, the row of each maximum that is open (B, V).

    Only an open term has a gradient, so only its position is looked for: a plain maximum over all terms and a search
    in the few open columns cost a fraction of one maximum with positions.
    """
    values = rows.new_full((len(lengths), len(weight)), float("-inf"), dtype=_accumulate_dtype(rows.dtype))
    positions = torch.zeros(values.shape, dtype=torch.int32, device=rows.device) if with_positions else None
    for terms, group, logits in _logit_blocks(rows, weight, lengths):
        start = group[2]
        for text, span in _spans(lengths, group):
            block = logits[span]
            best = values[text, terms]
            best.copy_(block.amax(dim=0))
            if bias is not None:
                best += bias[terms].to(best.dtype)
            if positions is None:
                continue
            (open_terms,) = (best > 0).nonzero(as_tuple=True)
            if 5 * len(open_terms) < 2 * len(best):  # where both were seen to cost the same
                where = block.index_select(1, open_terms).max(dim=0).indices
                positions[text, terms][open_terms] = where.to(torch.int32) + (start + span.start)
            else:
                positions[text, terms] = block.max(dim=0).indices.to(torch.int32) + (start + span.start)
    return values, positions


class _MaxHead(torch.autograd.Function):
    """x = log1p(relu(max_i t_i W^T + b)) with the exact sparse backward."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lengths: list[int]
    ) -> torch.Tensor:
        needs_gradient = any(ctx.needs_input_grad[:3])
        values, positions = _pooled_max(rows, weight, bias, lengths, needs_gradient)
        weights = values.clamp_min_(0).log1p_()
        if needs_gradient:
            ctx.save_for_backward(rows, weight, weights, positions)
            ctx.bias_dtype = None if bias is None else bias.dtype
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, weights, positions = ctx.saved_tensors
        texts, terms = weights.nonzero(as_tuple=True)
        # d log1p(z) / dz = 1 / (1 + z) = exp(-x)
        entries = gradient[texts, terms] * torch.exp(-weights[texts, terms])
        source = positions[texts, terms].long()
        d_rows = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_rows = _sparse_product(source, terms, entries, weight, len(rows))
        if ctx.needs_input_grad[1]:
            d_weight = _sparse_product(terms, source, entries, rows, len(weight))
        if ctx.needs_input_grad[2]:
            d_bias = torch.zeros(len(weight), dtype=entries.dtype, device=entries.device)
            d_bias = d_bias.index_add_(0, terms, entries).to(ctx.bias_dtype)
        return d_rows, d_weight, d_bias, None


def _sparse_product(
    out_rows: torch.Tensor, in_rows: torch.Tensor, entries: torch.Tensor, dense: torch.Tensor, size: int
) -> torch.Tensor:
    """S @ dense for S of shape (size, len(dense)) with S[out_rows, in_rows] += entries; shape (size, H).

    A weighted embedding bag over the entries sorted by output row: one fused pass without temporaries of
    (entries, H), where an index_add would need one and a sparse matrix product was seen to be slower.
    """
    order = torch.argsort(out_rows, stable=True)
    kept, counts = torch.unique_consecutive(out_rows[order], return_counts=True)
    product = torch.zeros(size, dense.shape[1], dtype=dense.dtype, device=dense.device)
    if len(kept):
        offsets = counts.cumsum(0) - counts
        sums = functional.embedding_bag(
            in_rows[order], dense, offsets, mode="sum", per_sample_weights=entries[order].to(dense.dtype)
        )
        product.index_copy_(0, kept, sums)
    return product


class _SumHead(torch.autograd.Function):
    """x = sum_i log1p(relu(t_i W^T + b)); the backward computes the logits again, block by block."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lengths: list[int]
    ) -> torch.Tensor:
        total = torch.zeros(
            len(lengths), len(weight), dtype=_accumulate_dtype(rows.dtype), device=rows.device
        )
        for terms, group, logits in _logit_blocks(rows, weight, lengths):
            if bias is not None:
                logits += bias[terms].to(logits.dtype)
            logits.clamp_min_(0).log1p_()
            for text, span in _spans(lengths, group):
                torch.sum(logits[span], dim=0, dtype=total.dtype, out=total[text, terms])
        ctx.save_for_backward(rows, weight, bias)
        ctx.lengths = lengths
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, bias = ctx.saved_tensors
        want_rows, want_weight, want_bias = ctx.needs_input_grad[:3]
        d_rows = torch.zeros_like(rows) if want_rows else None
        d_weight = torch.zeros_like(weight) if want_weight else None
        d_bias = torch.zeros_like(bias) if want_bias else None
        for terms, group, logits in _logit_blocks(rows, weight, ctx.lengths):
            start, end = group[2:]
            if bias is not None:
                logits += bias[terms].to(logits.dtype)
            slope = torch.where(logits > 0, (1 + logits).reciprocal_(), 0)
            for text, span in _spans(ctx.lengths, group):
                slope[span] *= gradient[text, terms].to(slope.dtype)
            if want_rows:
                d_rows[start:end].addmm_(slope, weight[terms])
            if want_weight:
                d_weight[terms].addmm_(slope.t(), rows[start:end])
            if want_bias:
                d_bias[terms] += slope.sum(dim=0).to(d_bias.dtype)
        return d_rows, d_weight, d_bias, None
