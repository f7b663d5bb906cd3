"""A decoder of its own: untied from the embeddings, with a bias that survives save and load in every family.

BERT- and RoBERTa-like families keep a second bias, ``cls.predictions.bias`` or ``lm_head.bias``, which transformers
ties to the decoder's and stores alone; with ``tie_word_embeddings=False`` a load leaves ``decoder.bias`` at zero. So
the decoder's bias becomes a parameter of its own; the second one is dead, and follows it at every save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .decoder import find_head
from .provenance import record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def untie(model: PreTrainedModel) -> None:
    """Give the decoder its own weight and bias."""
    import torch

    head = find_head(model)
    if head.tied:
        weight = head.weight
        head.decoder.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    _copy_bias(model)
    keep_dead_bias_in_step(model)


def keep_dead_bias_in_step(model: PreTrainedModel) -> None:
    """Let the second bias of an untied model, if any, follow the decoder's at every ``state_dict`` (every save)."""
    if not getattr(model, "_rescale_save_hook", False) and _holder(model) is not None:
        model.register_state_dict_pre_hook(_copy_bias)
        model._rescale_save_hook = True


def _holder(model: PreTrainedModel) -> torch.nn.Module | None:
    """The module that holds the decoder and, beside it, a bias vector, where the decoder has one, too."""
    head = find_head(model)
    if head.bias is None:
        return None
    holders = [module for module in model.modules() if any(child is head.decoder for child in module.children())]
    return next((module for module in holders if module._parameters.get("bias") is not None), None)


def _copy_bias(model: PreTrainedModel, *_: object) -> None:
    import torch

    holder, bias = _holder(model), find_head(model).bias
    if holder is not None and (holder.bias is bias or not torch.equal(holder.bias, bias)):
        holder.bias = torch.nn.Parameter(bias.detach().clone(), requires_grad=False)


def ensure_bias(model: PreTrainedModel) -> torch.nn.Parameter:
    """Return the decoder's bias; a zero one is added where there is none.

    Where the family's config has no option for it (EuroBERT, most language models), our loading alone puts it back.
    """
    import torch

    head = find_head(model)
    if head.bias is None:
        head.decoder.bias = torch.nn.Parameter(head.weight.new_zeros(len(head.weight)))
        if getattr(model.config, "decoder_bias", None) is False:  # ModernBERT
            model.config.decoder_bias = True
        else:
            record(model, own_bias=True)
    return head.bias
