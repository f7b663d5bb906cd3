"""What of a step's activations is kept for the backward pass; the rest is computed again, bit by bit the same.

A layer of BERT keeps some 24 H numbers per token (at 128 tokens), of which 10 are its input and the results of its
matrix products, where almost all of its time goes. So there are three ways, and the gradients of all are the same
numbers: the same kernels run on the same values, and dropout draws what it drew (arXiv:1604.06174, arXiv:2205.05198).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

#: What is kept: everything; the inputs of layers and the results of their matrix products; the inputs alone.
KEPT = ("all", "products", "inputs")
_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default}


@contextmanager
def keeping(model: nn.Module, kept: str) -> Iterator[None]:
    """Within the block, layers of a model keep only so much for the backward pass.

    Args:
        model: its layers are the members of its outermost lists of modules.
        kept: one of ``KEPT``.
    """
    if kept == "all" or not torch.is_grad_enabled():
        yield
        return
    contexts = {} if kept == "inputs" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    found = {layer: layer.__dict__.get("forward") for layer in layers(model)}
    for layer in found:  # its forward and not its call, whose hooks run once
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, **contexts)
    try:
        yield
    finally:
        for layer, own in found.items():
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def layers(model: nn.Module) -> list[nn.Module]:
    """Members of a model's outermost lists of modules."""
    if isinstance(model, nn.ModuleList):
        return list(model)
    return [layer for child in model.children() for layer in layers(child)]


def _policy(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE
