"""The sparse head: hidden states to term weights without ever holding the (B, L, V) logits.

With z_iv = w_v . t_i + b_v over the attended positions i of a text, the weight of term v is
x_v = log(1 + relu(max_i z_iv)) (``pooling="max"``; SPLADE v2, arXiv:2109.10086) or
x_v = sum_i log(1 + relu(z_iv)) (``pooling="sum"``; SPLADE, arXiv:2107.05720).

With ``activation="log1p_relu"`` log(1 + log(1 + relu(z))) stands in place of log(1 + relu(z)) (OpenSearch's v3 models).

log(1 + relu(.)) is monotone and b_v is the same at every position, so for the max both are applied once, to (B, V).
With ``position_top_k`` only the largest z of each position count (SPARSEUP, Linkup 2026: 12), and those equal to the
least of them; all others are -inf.

The decoder product is walked in blocks (:mod:`.blocks`), or screened where that is cheaper (:mod:`.screening`). The
gradient of a max touches one position per (text, term), and only where the relu is open: with S the (T, V) matrix of
one entry per open term, dH = S W, dW = S^T H and db = the column sums of S, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import blocks
from .blocks import TextGroup, accumulate_dtype, logit_blocks, sparse_product, text_groups
from .description import Description
from .screening import FEW_ROWS, Screen, make_screen


def pooled_positions(description: Description, ids: Tensor, attended: Tensor, special_ids: Sequence[int]) -> Tensor:
    """Positions of a batch that take part in pooling, bool (B, L); ``ids`` and ``attended`` are padded on the right."""
    attended = attended.bool()
    if description.special_positions:
        return attended
    special = (ids[..., None] == torch.tensor(special_ids, device=ids.device)).any(dim=2)
    content = attended & ~special
    content[:, 0] = False
    return content


def packed_head(
    rows: Tensor, lengths: Tensor, weight: Tensor, bias: Tensor | None, description: Description, *,
    screen: Screen | None = None, after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Term weights of a batch of texts, differentiable in ``rows``, ``weight`` and ``bias``.

    Args:
        rows: the decoder's input t at the pooled positions of all texts, text after text, shape (T, H).
        lengths: rows of each text, shape (B,).
        weight: the decoder's W, shape (V, H).
        bias: the decoder's b, shape (V,), or ``None``.
        description: says pooling, activation and ``position_top_k``.
        screen: of this very ``weight`` (:func:`.screening.make_screen`), to share between batches; by default one is
            made where it pays. Only the time depends on it.
        after: what the model does to its logits (``Head.after``): monotone, and 0 stays 0; ``None`` for nothing.

    Returns:
        x, shape (B, V), float32 (float64 for float64 input), >= 0; a text without rows gets zeros.
    """
    device = rows.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        rows, weight = rows.to(dtype), weight.to(dtype)
    screen = screen if weight.dtype == torch.float32 else None  # autocast: the product is in half precision anyway
    twice, top = description.activation == "log1p_relu", description.position_top_k
    if after is not None and description.pooling == "sum":
        raise ValueError("pooling must be 'max' for a model that scales or caps its logits, got 'sum'")
    with torch.autocast(device, enabled=False):
        if description.pooling == "sum":
            return _summed(rows, weight, bias, lengths, top, twice)
        # within a Function gradients are off, and needs_input_grad does not know whether they are outside
        weights = _MaxHead.apply(rows, weight, bias, lengths, top, screen, torch.is_grad_enabled())
        if after is not None:
            weights = after(weights.expm1()).log1p()
        return weights.log1p() if twice else weights


def _pooled(
    rows: Tensor, weight: Tensor, bias: Tensor | None, lengths: Tensor, top: int | None, screen: Screen | None, *,
    with_positions: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Weights log1p(relu(max_i w_v . t_i + b_v)) (B, V), and the row of each maximum that is open (B, V).

    Only an open term has a value and a gradient. Where few are open, screening finds them in a cheap product, and
    a second small product over the few gives value and position; else one full product gives all.
    """
    dtype = accumulate_dtype(rows.dtype)
    groups = text_groups(lengths)
    shape = len(lengths), len(weight)
    positions = torch.zeros(shape, dtype=torch.int32, device=rows.device) if with_positions else None
    if top is None:
        if screen is None and len(rows) >= FEW_ROWS:
            screen = make_screen(weight.detach())
        candidates = None if screen is None else screen.candidates(rows, lengths, bias)
        if candidates is not None:
            weights = rows.new_zeros(shape)
            _fill(weights, positions, candidates, rows, weight, bias, groups)
            return weights, positions
    weights = rows.new_full(shape, -torch.inf, dtype=dtype)
    # which are a position's largest depends on the bias; the maximum over positions does not
    for group, terms, logits in logit_blocks(rows, weight, groups, None if top is None else bias, top=top):
        if positions is None:
            best = logits.amax(dim=1)
        else:
            best, where = logits.max(dim=1)
            where = torch.minimum(where, group.lengths[:, None] - 1)  # padding repeats a text's last row
            positions[group.texts, terms] = (where + group.starts[:, None]).to(torch.int32)
        weights[group.texts, terms] = best.to(dtype)
    if bias is not None and top is None:
        weights += bias.to(dtype)
    return weights.clamp_min_(0).log1p_(), positions


def _fill(
    weights: Tensor, positions: Tensor | None, wanted: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None,
    groups: list[TextGroup],
) -> None:  # fmt: skip
    """Compute the wanted (text, term) pairs in full precision, one small product per text; in place."""
    for group in groups:
        for text, start, length in zip(
            group.texts.tolist(), group.starts.tolist(), group.lengths.tolist(), strict=True
        ):
            (terms,) = wanted[text].nonzero(as_tuple=True)
            if not len(terms):
                continue
            logits = weight.index_select(0, terms) @ rows[start : start + length].t()
            best, where = logits.max(dim=1)
            best = best.to(weights.dtype)
            if bias is not None:
                best += bias[terms].to(weights.dtype)
            weights[text, terms] = best.clamp_min_(0).log1p_()
            if positions is not None:
                positions[text, terms] = (where + start).to(torch.int32)


class _MaxHead(torch.autograd.Function):
    """x = log1p(relu(max_i t_i W^T + b)) with the exact sparse backward."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, lengths: Tensor, top: int | None,
        screen: Screen | None, with_gradient: bool,
    ) -> Tensor:  # fmt: skip
        needs_gradient = with_gradient and any(ctx.needs_input_grad[:3])
        weights, positions = _pooled(rows, weight, bias, lengths, top, screen, with_positions=needs_gradient)
        if needs_gradient:
            ctx.save_for_backward(rows, weight, weights, positions)
            ctx.bias_dtype = None if bias is None else bias.dtype
        return weights

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, weights, positions = ctx.saved_tensors
        want_rows, want_weight, want_bias = ctx.needs_input_grad[:3]
        texts, terms = weights.nonzero(as_tuple=True)
        # dx/dz of an open term is 1 / (1 + z) = exp(-x)
        entries = gradient[texts, terms] * torch.exp(-weights[texts, terms])
        source = positions[texts, terms].long()
        d_rows = d_weight = d_bias = None
        if want_rows:
            d_rows = sparse_product(source, terms, entries, weight, len(rows))
        if want_weight:
            d_weight = sparse_product(terms, source, entries, rows, len(weight))
        if want_bias:
            d_bias = entries.new_zeros(len(weight)).index_add_(0, terms, entries).to(ctx.bias_dtype)
        return d_rows, d_weight, d_bias, None, None, None, None


def _summed(
    rows: Tensor, weight: Tensor, bias: Tensor | None, lengths: Tensor, top: int | None, twice: bool
) -> Tensor:
    """Weights sum_i log1p(relu(t_i W^T + b)), with ``twice`` log1p again; the backward computes each block anew."""
    total = torch.zeros(len(lengths), len(weight), dtype=accumulate_dtype(rows.dtype), device=rows.device)
    biases = weight.new_zeros(len(weight)) if bias is None else bias
    for group in text_groups(lengths):
        padded, real = rows[group.index], group.real()[..., None]
        limit, chunk = blocks.least_of_largest(padded, weight, bias, top), blocks.chunk_size(padded, weight)
        parts = [
            checkpoint(_block_sum, padded, *part, limit, real, twice, use_reentrant=False, preserve_rng_state=False)
            for part in zip(weight.split(chunk), biases.split(chunk), strict=True)
        ]
        total = total.index_add(0, group.texts, torch.cat(parts, dim=1).to(total.dtype))
    return total


def _block_sum(
    padded: Tensor, weight: Tensor, bias: Tensor, limit: Tensor | None, real: Tensor, twice: bool
) -> Tensor:
    logits = padded @ weight.t() + bias.to(padded.dtype)
    if limit is not None:
        logits = logits.masked_fill(logits < limit, 0)
    weights = logits.relu().log1p()
    weights = weights.log1p() if twice else weights
    return (weights.view(*real.shape[:2], -1) * real).sum(dim=1, dtype=accumulate_dtype(padded.dtype))
