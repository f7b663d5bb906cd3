"""The sparse head where only the k largest logits of each position take part in pooling (SPARSEUP, Linkup 2026: k=12).

Which they are is found without a gradient, walking the vocabulary with the k largest so far, so that no (T, V) logits
are held. At most k entries (position, term, z) are left per position, and only those with z > 0 make a weight: for the
max the largest of each text and term, for the sum all. The gradients are products with the sparse S of these entries.
"""

from __future__ import annotations

from typing import Any

import torch

from .blocks import CPU_BLOCK, GPU_BLOCK, accumulate_dtype, sparse_product
from .description import Description

# Terms of a block: wide enough that the k largest of it are cheaper than the product.
_WIDTH = 4096


def top_k_head(
    rows: torch.Tensor,
    lengths: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    description: Description,
) -> torch.Tensor:
    """Term weights x (B, V), differentiable; arguments as for :func:`.kernel.packed_head`, 1 <= k < V.

    With K_i the k terms with the largest logits z_iv at position i, x_v = log(1 + relu(max z_iv)) or
    sum log(1 + relu(z_iv)), over the positions i whose K_i holds v.
    """
    twice = description.activation == "log1p_relu"
    return _TopKHead.apply(rows, weight, bias, lengths, description.pooling, description.position_top_k, twice)


def activation_slope(logits: torch.Tensor, twice: bool) -> torch.Tensor:
    """d/dz of log(1 + z), or ``twice`` of log(1 + log(1 + z)), for z >= 0."""
    slope = (1 + logits).reciprocal()
    return slope / (1 + logits.log1p()) if twice else slope


class _TopKHead(torch.autograd.Function):
    """Entries forward, products with them backward."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lengths: torch.Tensor,
        pooling: str,
        k: int,
        twice: bool,
    ) -> torch.Tensor:
        twice = twice and pooling == "sum"  # for the max it is applied to the result
        source, terms, logits = _entries(rows, weight, bias, k)
        texts = torch.arange(len(lengths), device=rows.device).repeat_interleave(lengths)
        places = texts[source] * len(weight) + terms
        weights = logits.new_zeros(len(lengths) * len(weight))
        if pooling == "sum":
            weights.index_add_(0, places, logits.log1p().log1p() if twice else logits.log1p())
        else:
            weights.scatter_reduce_(0, places, logits, "amax")
        if any(ctx.needs_input_grad[:3]):
            if pooling == "max":
                kept = _first_largest(logits, places, weights)
                source, terms, logits, places = source[kept], terms[kept], logits[kept], places[kept]
            ctx.save_for_backward(rows, weight, source, terms, logits, places)
            ctx.bias_dtype, ctx.twice = None if bias is None else bias.dtype, twice
        if pooling == "max":
            weights.log1p_()
        return weights.view(len(lengths), len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, source, terms, logits, places = ctx.saved_tensors
        want_rows, want_weight, want_bias = ctx.needs_input_grad[:3]
        entries = gradient.reshape(-1)[places] * activation_slope(logits, ctx.twice)
        d_rows = d_weight = d_bias = None
        if want_rows:
            d_rows = sparse_product(source, terms, entries, weight, len(rows))
        if want_weight:
            d_weight = sparse_product(terms, source, entries, rows, len(weight))
        if want_bias:
            d_bias = entries.new_zeros(len(weight)).index_add_(0, terms, entries).to(ctx.bias_dtype)
        return d_rows, d_weight, d_bias, None, None, None, None


def _entries(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, term and logit (E,) of the k largest logits of each row, those that are above zero (or not a number)."""
    dtype = accumulate_dtype(rows.dtype)
    block = CPU_BLOCK if rows.device.type == "cpu" else GPU_BLOCK
    width = min(len(weight), max(_WIDTH, 4 * k))
    height = max(1, block // width)
    workspace = rows.new_empty(min(height, max(1, len(rows))) * width)
    parts = [(rows.new_zeros(0, dtype=torch.long),) * 2 + (rows.new_zeros(0, dtype=dtype),)]
    for start in range(0, len(rows), height):
        part = rows[start : start + height]
        best = ids = None
        for begin in range(0, len(weight), width):
            columns = weight[begin : begin + width].t()
            logits = workspace[: len(part) * columns.shape[1]].view(len(part), -1)
            torch.mm(part, columns, out=logits)
            logits = logits.to(dtype)
            if bias is not None:
                logits += bias[begin : begin + width].to(dtype)
            values, where = logits.topk(min(k, logits.shape[1]), dim=1, sorted=False)
            where += begin
            if best is not None:
                values, where = torch.cat([best, values], dim=1), torch.cat([ids, where], dim=1)
                values, chosen = values.topk(min(k, values.shape[1]), dim=1, sorted=False)
                where = where.gather(1, chosen)
            best, ids = values, where
        row, place = (~(best <= 0)).nonzero(as_tuple=True)
        parts.append((row + start, ids[row, place], best[row, place]))
    source, terms, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return source, terms, logits


def _first_largest(logits: torch.Tensor, places: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Which entries are the largest of their place, the first where there are several; bool (E,)."""
    numbers = torch.arange(len(logits), device=logits.device)
    candidates = torch.where(logits == largest[places], numbers, len(logits))
    first = torch.full_like(largest, len(logits), dtype=torch.long)
    first.scatter_reduce_(0, places, candidates, "amin")
    return first[places] == numbers
