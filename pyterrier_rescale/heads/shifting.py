"""Lower all logits before the relu: weights log(1 + relu(x - shift)), the shift stored in the head's bias.

SPARSEUP (Linkup, 2026, ``logit_shift=15``) shifts all terms alike, so that few fire at the start. x - shift is what the
head with the bias b - shift computes, so it is stored there: kernel, audits and calibrations see it, a saved folder
gives the same vectors in every tool, and in training the gradient and (as biases do not decay) every step are the same.
A common shift leaves all masked-LM probabilities as they were.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import is_number
from .decoder import find_head
from .provenance import provenance, record
from .ties import ensure_bias

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_shift(shift: Any) -> float | np.ndarray | None:
    """A shift as a float, as float32 (V,) where there is one per term, or ``None``.

    Raises:
        ValueError: for anything but a finite number or a 1-D list, array or tensor of finite numbers.
    """
    if shift is None or is_number(shift):
        return None if shift is None else float(shift)
    values = shift.detach().float().cpu().numpy() if hasattr(shift, "detach") else shift
    try:
        values = np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        values = np.empty(0)
    if isinstance(shift, (str, bool)) or values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        told = f"an array of shape {values.shape}" if values.ndim > 1 else repr(shift)[:80]
        raise ValueError(f"shift must be a finite number, a 1-D array of one for each term, or None, got {told}")
    return values


def shift_logits(model: PreTrainedModel, shift: float | np.ndarray, *, inplace: bool = False) -> PreTrainedModel:
    """Store b - shift as the head's bias, and record it in the config; returns the shifted model.

    Args:
        model: the masked LM.
        shift: a number, or one per row of the head, (V,).
        inplace: change ``model`` itself instead of a copy.

    Raises:
        ValueError: if the shift is of another vocabulary, the model has been shifted before, or its family has no bias.
    """
    import torch

    done = (provenance(model) or {}).get("shift")
    if done is not None:
        raise ValueError(f"shift must be None for a model whose logits have been shifted already (by {done})")
    rows = len(find_head(model).weight)
    if not isinstance(shift, float) and len(shift) != rows:
        raise ValueError(f"shift must be a number or {rows} of them, one for each row of the head, got {len(shift)}")
    model = model if inplace else copy.deepcopy(model)
    try:
        bias = ensure_bias(model)
    except ValueError as error:
        raise ValueError(
            f"shift is stored in the decoder's bias, and a {type(model).__name__} cannot have one: use shift=None"
        ) from error
    with torch.no_grad():
        bias.sub_(shift if isinstance(shift, float) else torch.from_numpy(shift).to(bias))
    record(model, shift=shift if isinstance(shift, float) else "one for each term")
    return model
