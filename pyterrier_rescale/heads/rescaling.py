"""Divide the head of a masked LM by a constant (arXiv:2606.18811): placements, bias, provenance.

W is almost always the input embedding matrix, too, so dividing it in place would divide the embeddings; untying it by
the config flag alone loses the bias in BERT- and RoBERTa-like families at the next load. This module does the division
so that it survives save, load, resize and further training in stock tools.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_number
from .decoder import Head, check_head, find_head, head_input, kind_of, last_norm, mean_row_norm, probe_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: Name of the config entry that records a rescale.
PROVENANCE = "pyterrier_rescale"
PLACEMENTS = ("decoder", "norm", "tied")


def check_k(k: float) -> float:
    """Validate a rescale constant.

    Raises:
        ValueError: unless ``k`` is a finite number > 0.
    """
    return float(check_number("k", k))


def rescale(
    model: str | os.PathLike[str] | PreTrainedModel,
    k: float = 16.0,
    *,
    bias: bool = False,
    placement: str = "decoder",
    inplace: bool = False,
) -> PreTrainedModel:
    """Divide the output head of a masked LM by ``k``: W <- W / k (arXiv:2606.18811).

    All placements give the same logits t (W / k)^T + b at the start; they train differently (Adam).

    Args:
        model: a hub name, a folder, or a loaded masked LM.
        k: the divisor; 16 and 8 are the paper's settings.
        bias: divide the bias, too. Then no k changes which terms fire, only how much they weigh.
        placement: ``"decoder"`` (the paper's) unties W and divides it; ``"norm"`` divides gain and bias of the last
            norm before the decoder and leaves ties alone; ``"tied"`` divides embeddings and W together, which is
            exact only where the embedding output goes straight into a norm (ModernBERT) and refused elsewhere.
        inplace: change ``model`` itself instead of a copy (a name or folder is loaded, never copied).

    Returns:
        The rescaled model; its config records k, method, placement, bias and the mean row norm before.

    Raises:
        ValueError: for a k that is not a finite number > 0, an unknown placement, a model rescaled already, or a head
            that the placement cannot serve.
        TypeError: if the model has no masked-LM head.
    """
    from transformers import PreTrainedModel

    from .checkpoint import load_backbone

    k = check_k(k)
    if placement not in PLACEMENTS:
        raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
    loaded_here = isinstance(model, (str, os.PathLike))
    if loaded_here:
        model, _ = load_backbone(model, need_tokenizer=False)
    elif not isinstance(model, PreTrainedModel):
        raise TypeError(f"model must be a transformers PreTrainedModel, a folder or a hub name, got {kind_of(model)}")
    refuse_rescaled(model)
    if placement != "norm":
        check_head(model)
    if not inplace and not loaded_here:
        model = copy.deepcopy(model)
    if placement == "norm":
        before = _divide_norm(model, k, bias)
    elif placement == "tied":
        before = _divide_tied(model, k, bias)
    else:
        before = _divide_decoder(model, k, bias)
    record(model, k=k, method="fixed", placement=placement, bias=bias, mean_row_norm_before=before)
    return model


def provenance(model: PreTrainedModel) -> dict[str, Any] | None:
    """What the config says about an earlier rescale, or ``None``."""
    return getattr(model.config, PROVENANCE, None)


def record(model: PreTrainedModel, **entries: Any) -> None:
    """Add entries to the provenance in the model's config (plain JSON values)."""
    setattr(model.config, PROVENANCE, {**(provenance(model) or {}), **entries})


def refuse_rescaled(model: PreTrainedModel) -> None:
    """Raise ``ValueError`` if the model's config says that its head has been rescaled."""
    done = provenance(model)
    if done:
        raise ValueError(
            f"model has been rescaled already ({', '.join(f'{key}={value}' for key, value in done.items())}); "
            "start from the original backbone, or use it as it is (rescale=None)"
        )


def _divide_decoder(model: PreTrainedModel, k: float, bias: bool) -> float:
    head = find_head(model)
    before = mean_row_norm(head.weight)
    untie(model)
    head = find_head(model)
    _divide(head.weight, k)
    if bias and head.bias is not None:
        _divide(head.bias, k)
    return before


def _divide_norm(model: PreTrainedModel, k: float, bias: bool) -> float:
    norm, weight, decoder_bias = last_norm(model)
    before = mean_row_norm(weight)
    _divide(norm.weight, k)
    if getattr(norm, "bias", None) is not None:
        _divide(norm.bias, k)
    if bias and decoder_bias is not None:
        _divide(decoder_bias, k)
    return before


def _divide_tied(model: PreTrainedModel, k: float, bias: bool) -> float:
    import torch

    head = find_head(model)
    if not head.tied:
        raise ValueError(
            f"placement='tied' needs a {type(model).__name__} whose decoder is tied to its embeddings; "
            "this one is not: use placement='decoder'"
        )
    before = mean_row_norm(head.weight)
    ids = probe_ids(model)
    original = head.weight.detach().clone()
    with torch.no_grad():
        expected = head_input(model, input_ids=ids).float()
        _divide(head.weight, k)
        got = head_input(model, input_ids=ids).float()
        error = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not error < 1e-3:
            head.weight.copy_(original)
            raise ValueError(
                f"placement='tied' changes what {type(model).__name__} computes (relative error {error:.2g} in the "
                "head's input), since its embeddings do not go straight into a norm: use placement='decoder'"
            )
    if bias and head.bias is not None:
        _divide(head.bias, k)
    return before


def _divide(parameter: torch.nn.Parameter, k: float) -> None:
    """Divide a parameter in place, in fp32 whatever its dtype."""
    import torch

    with torch.no_grad():
        if parameter.dtype == torch.float32 or parameter.dtype == torch.float64:
            parameter.div_(k)
        else:
            parameter.copy_(parameter.float().div_(k))


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
