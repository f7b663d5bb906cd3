"""Divide the head of a masked LM by a constant (arXiv:2606.18811): placements, bias, provenance.

W is almost always the input embedding matrix, too, so dividing it in place would divide the embeddings; untying it by
the config flag alone loses the bias in BERT- and RoBERTa-like families at the next load. This module does the division
so that it survives save, load, resize and further training in stock tools.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

from .._utils.checks import check_choice, check_number
from .decoder import check_head, find_head, head_input, kind_of, last_norm, mean_row_norm, probe_ids
from .provenance import record, refuse_rescaled
from .ties import untie

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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

    All placements give the same logits t (W / k)^T + b at the start; they train differently (Adam). Elsewhere k divides
    what enters the product instead: a learned k in training (``training/model.py``), the tables of ``calibrate``
    (``analysis/head_statistics.py``).

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
    import torch
    from transformers import PreTrainedModel

    from .checkpoint import load_backbone

    k = check_k(k)
    check_choice("placement", placement, PLACEMENTS)
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
        before = mean_row_norm(find_head(model).weight)
        untie(model)  # W is the embeddings, too, in almost all families: they must stay
        weight, decoder_bias = find_head(model).weight, find_head(model).bias
        with torch.no_grad():
            weight.div_(k)  # W <- W / k
            if bias and decoder_bias is not None:
                decoder_bias.div_(k)
    record(model, k=k, method="fixed", placement=placement, bias=bias, mean_row_norm_before=before)
    return model


def _divide_norm(model: PreTrainedModel, k: float, bias: bool) -> float:
    import torch

    norm, weight, decoder_bias = last_norm(model)
    with torch.no_grad():
        for parameter in (norm.weight, getattr(norm, "bias", None), decoder_bias if bias else None):
            if parameter is not None:
                parameter.div_(k)
    return mean_row_norm(weight)


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
        head.weight.div_(k)
        got = head_input(model, input_ids=ids).float()
        error = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not error < 1e-3:
            head.weight.copy_(original)
            raise ValueError(
                f"placement='tied' changes what {type(model).__name__} computes (relative error {error:.2g} in the "
                "head's input), since its embeddings do not go straight into a norm: use placement='decoder'"
            )
        if bias and head.bias is not None:
            head.bias.div_(k)
    return before
