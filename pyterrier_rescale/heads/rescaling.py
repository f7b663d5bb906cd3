"""The two changes of a head: divide it by a constant (arXiv:2606.18811), and shift its logits.

W is almost always the input embedding matrix, too: the head is untied first (:mod:`.ties`), so that the division
survives save, load, resize and further training in stock tools.

A shift lowers the logits before the relu: weights log(1 + relu(z - shift)). SPARSEUP (Linkup, 2026, ``logit_shift=15``)
shifts all terms alike. It is stored as the bias b - shift: a saved folder gives the same vectors in every tool.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_number
from .checkpoint import load_backbone, remember_source
from .decoder import check_head, find_head, mean_row_norm
from .provenance import provenance, record, refuse_rescaled
from .ties import ensure_bias, untie

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rescale(
    model: str | os.PathLike[str] | PreTrainedModel, k: float = 16.0, *, bias: bool = False, inplace: bool = False
) -> PreTrainedModel:
    """Divide the output head of a masked LM or language model by ``k``: W <- W / k (arXiv:2606.18811).

    Args:
        model: a hub name, a folder, or a loaded masked LM.
        k: the divisor; 16 and 8 are the paper's settings.
        bias: divide the bias, too. Then no k changes which terms fire, only how much they weigh.
        inplace: change ``model`` itself instead of a copy (a name or folder is loaded, never copied).

    Returns:
        The rescaled model; its config records k, method, bias and the mean row norm before. ``Splade(model)`` encodes
        as the folder or hub name says (pooling, lengths, queries of their own): it is kept as ``encoder_folder``.
        An encoder's options are saved by ``Splade(model).save_pretrained``, not by the model's own.

    Raises:
        ValueError: for a k that is not a finite number > 0, a model rescaled already, or a head that is no plain
            projection.
        TypeError: if the model has no masked-LM head.
    """
    import torch

    k = float(check_number("k", k))
    loaded, _ = load_backbone(model, need_tokenizer=False)
    refuse_rescaled(loaded)
    before = mean_row_norm(check_head(loaded).weight)
    if loaded is not model:
        remember_source(loaded, model)
    elif not inplace:
        loaded = copy.deepcopy(loaded)
    untie(loaded)  # W is the embeddings, too, in almost all families: they must stay
    head = find_head(loaded)
    with torch.no_grad():
        head.weight.div_(k)  # W <- W / k
        if bias and head.bias is not None:
            head.bias.div_(k)
    record(loaded, k=k, method="fixed", bias=bias, mean_row_norm_before=before)
    return loaded


def check_shift(shift: Any) -> float | np.ndarray | None:
    """A shift as a float, as float32 (V,) where there is one per term, or ``None``; else a ``ValueError``."""
    if shift is None:
        return None
    values = np.array(shift.detach().float().cpu() if hasattr(shift, "detach") else shift)
    if values.dtype.kind not in "fiu" or values.ndim > 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"shift must be a finite number, a 1-D array of one for each term, or None, got {repr(shift)[:80]}"
        )
    return values.astype(np.float32) if values.ndim else float(values)


def shift_logits(model: PreTrainedModel, shift: float | np.ndarray, *, inplace: bool = False) -> PreTrainedModel:
    """Store b - shift as the head's bias and record it; returns the model, without ``inplace`` a copy of it.

    ``ValueError`` for a shift (V,) of another vocabulary, or a model that has been shifted before.
    """
    import torch

    done, rows = (provenance(model) or {}).get("shift"), len(find_head(model).weight)
    if done is not None:
        raise ValueError(f"shift must be None for a model whose logits have been shifted already (by {done})")
    if not isinstance(shift, float) and len(shift) != rows:
        raise ValueError(f"shift must be a number or {rows} of them, one for each row of the head, got {len(shift)}")
    model = model if inplace else copy.deepcopy(model)
    bias = ensure_bias(model)
    with torch.no_grad():
        bias.sub_(shift if isinstance(shift, float) else torch.from_numpy(shift).to(bias))
    record(model, shift=shift if isinstance(shift, float) else "one for each term")
    return model
