"""A decoder of its own: untied from the embeddings, with a bias that survives save and load in every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .decoder import Head, find_head

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def untie(model: PreTrainedModel) -> None:
    """Give the decoder its own weight and bias, so that they survive save and load in every family.

    The flag ``tie_word_embeddings=False`` alone is not enough: BERT- and RoBERTa-like checkpoints store the bias under
    ``cls.predictions.bias`` or ``lm_head.bias``, and a load without ties leaves ``decoder.bias`` at zero. So the bias
    becomes the decoder's own, and the second one is frozen and follows it at every save.
    """
    import torch

    head = find_head(model)
    decoder = head.decoder
    if head.tied:
        decoder.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    _split_dead_bias(head)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    keep_dead_bias_in_step(model)


def _split_dead_bias(head: Head) -> None:
    import torch

    if head.dead_bias is None or head.bias is None:
        return
    module, name = head.dead_bias
    own = torch.nn.Parameter(head.bias.detach().clone(), requires_grad=False)
    setattr(module, name, own)


def keep_dead_bias_in_step(model: PreTrainedModel) -> None:
    """Let the second bias parameter of the family follow the decoder's at every ``state_dict`` (so at every save)."""
    if find_head(model).dead_bias is not None and not getattr(model, "_rescale_save_hook", False):
        model.register_state_dict_pre_hook(_copy_dead_bias)
        model._rescale_save_hook = True


def _copy_dead_bias(model: PreTrainedModel, prefix: str, keep_vars: bool) -> None:
    import torch

    head = find_head(model)
    if head.dead_bias is None or head.bias is None:
        return
    module, name = head.dead_bias
    dead = getattr(module, name)
    if dead is head.bias or dead.shape != head.bias.shape:  # e.g. after resize_token_embeddings
        _split_dead_bias(head)
    elif not torch.equal(dead, head.bias):  # a write shows in the parameter's version
        with torch.no_grad():
            dead.copy_(head.bias)


def ensure_bias(model: PreTrainedModel) -> torch.nn.Parameter:
    """Return the decoder's bias, adding a zero one where the family's config knows such an option.

    Raises:
        ValueError: if the family has no decoder bias, so that a stock load would drop it.
    """
    import torch

    head = find_head(model)
    if head.bias is not None:
        return head.bias
    if getattr(model.config, "decoder_bias", None) is False:  # ModernBERT
        model.config.decoder_bias = True
        head.decoder.bias = torch.nn.Parameter(head.weight.new_zeros(head.weight.shape[0]))
        return head.decoder.bias
    raise ValueError(
        f"{type(model).__name__} has no decoder bias, and its config no option for one: a per-term offset would be "
        "lost at the next load; use offset=False"
    )
