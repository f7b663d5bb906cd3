"""Attention with dropout on a CPU that keeps for the backward pass what cannot be computed again cheaply.

torch has no fused kernel for it there: its plain formula keeps five tensors of the size of the (L, L) probabilities or
of the queries per layer, a third of what a BERT-like body's step holds, and fresh memory costs page faults. Here a few
texts are worked on at a time, in the cache; kept are queries, keys, values, and which probabilities were dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: The name under which transformers knows it.
NAME = "pyterrier_rescale_dropout"
# Probabilities that are worked on together: 1 MB.
_BLOCK = 1 << 18


@contextmanager
def lean_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model whose attention is transformers' ``sdpa`` use :func:`dropout_attention` meanwhile.

    Other implementations, and versions of transformers without a registry of them, are left as they are.
    """
    before = getattr(model.config, "_attn_implementation", None)
    if before != "sdpa" or not _register():
        yield
        return
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _register() -> bool:
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask
    except ImportError:
        return False
    AttentionInterface.register(NAME, dropout_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return True


def dropout_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """dropout(softmax(Q K^T scaling)) V for transformers' ``AttentionInterface``; all else goes to its ``sdpa``.

    Args:
        module: the layer.
        query: Q, (B, A, L, D), A heads of width D.
        key: K, the same.
        value: V, the same.
        attention_mask: true where a position may be looked at, or added to the scores; (B or 1, 1, L or 1, L).
        dropout: share of the probabilities that is dropped.
        scaling: default: D^(-1/2).
        is_causal: whether a position looks back alone; default: as the layer says.
        **others: as transformers has them.

    Returns:
        (B, L, A, D), and ``None`` for the probabilities.
    """
    causal = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    plain = query.shape == key.shape == value.shape and query.dtype == torch.float32 and query.device.type == "cpu"
    special = any(others.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    if not plain or dropout == 0 or causal or special:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **others
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    return _DropoutAttention.apply(query, key, value, attention_mask, dropout, scale), None


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
        dropout: float, scale: float,
    ) -> torch.Tensor:  # fmt: skip
        size, heads, length, width = query.shape
        out = query.new_empty(size, length, heads, width)
        kept = torch.empty(size, heads, length, length, dtype=torch.bool)
        for texts in _blocks(query):
            probabilities = _probabilities(query[texts], key[texts], mask, texts, scale)
            kept[texts].bernoulli_(1 - dropout)
            probabilities.mul_(kept[texts].flatten(0, 1))
            found = torch.bmm(probabilities, value[texts].flatten(0, 1)).mul_(1 / (1 - dropout))
            out[texts] = found.view(-1, heads, length, width).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask, kept)
        ctx.dropout, ctx.scale = dropout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask, kept = ctx.saved_tensors
        size, heads, length, width = query.shape
        # laid out as the projections' outputs are
        d_query, d_key, d_value = (query.new_empty(size, length, heads, width).transpose(1, 2) for _ in range(3))
        for texts in _blocks(query):
            q, k, v = (part[texts].flatten(0, 1) for part in (query, key, value))
            d_out = gradient[texts].transpose(1, 2).flatten(0, 1).mul(1 / (1 - ctx.dropout))
            probabilities = _probabilities(query[texts], key[texts], mask, texts, ctx.scale)
            chosen = kept[texts].flatten(0, 1)
            d_probabilities = torch.bmm(d_out, v.transpose(1, 2)).mul_(chosen)
            d_value[texts] = torch.bmm((probabilities * chosen).transpose(1, 2), d_out).view_as(d_value[texts])
            # of the softmax: P (dP - sum(P dP))
            d_scores = d_probabilities.mul_(probabilities)
            d_scores.addcmul_(probabilities, d_scores.sum(dim=-1, keepdim=True), value=-1).mul_(ctx.scale)
            d_query[texts] = torch.bmm(d_scores, k).view_as(d_query[texts])
            d_key[texts] = torch.bmm(d_scores.transpose(1, 2), q).view_as(d_key[texts])
        return d_query, d_key, d_value, None, None, None


def _blocks(query: torch.Tensor) -> Iterator[slice]:
    """Texts (slices) whose probabilities fit a block."""
    size, heads, length, _ = query.shape
    step = max(1, _BLOCK // max(1, heads * length * length))
    for begin in range(0, size, step):
        yield slice(begin, begin + step)


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, texts: slice, scale: float
) -> torch.Tensor:
    """softmax(Q K^T scale) of some texts, (n * A, L, L); zeros for a position that may look at none."""
    size, heads, length, _ = query.shape
    scores = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)).mul_(scale)
    scores = scores.view(size, heads, length, length)
    if mask is not None:
        mask = mask[texts] if len(mask) > 1 else mask
        if mask.dtype == torch.bool:
            blind = ~mask.any(dim=-1, keepdim=True)
            scores.masked_fill_(~(mask | blind), -math.inf)
        else:
            blind = None
            scores += mask
    probabilities = scores.softmax(dim=-1)
    if mask is not None and blind is not None and blind.any():
        probabilities.masked_fill_(blind, 0)
    return probabilities.flatten(0, 1)
