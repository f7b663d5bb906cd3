"""The options of the head as plain formulas over the whole (B, L, V) logits of a stock model."""

from __future__ import annotations

import torch


def dense_weights(model, tokenizer, texts, *, shift=0.0, pooling="max", max_length=64):
    """Term weights (B, V), differentiable, of texts padded to the longest."""
    batch = tokenizer(texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits - shift
    weights = torch.log1p(torch.relu(logits)) * batch["attention_mask"][..., None]
    return weights.amax(dim=1) if pooling == "max" else weights.sum(dim=1)
