"""Starts that only this study has: offset and centring apart, and k divided into the norm before the decoder."""

from __future__ import annotations

import copy
from typing import Any

from pyterrier_rescale import Calibration
from pyterrier_rescale.analysis.calibration import SATURATION, mean_known_row, search_k, term_levels
from pyterrier_rescale.analysis.measurement import as_pairs, run_probe
from pyterrier_rescale.encoding.description import Description
from pyterrier_rescale.heads.decoder import evaluating, find_head, head_input, mean_row_norm, probe_ids
from pyterrier_rescale.heads.provenance import record, refuse_rescaled


def calibrated(
    model: Any,
    tokenizer: Any,
    pairs: list[tuple[str, str]],
    *,
    offset: bool | str,
    centre: bool,
    rate: float,
    max_length: int,
    device: str,
) -> Any:
    """What ``calibrate(...).apply(model)`` gives, with W centred or not whatever the offset."""
    mean_row = mean_known_row(model, tokenizer) if centre else None
    how = Description(max_length=max_length)
    probe = run_probe(model, tokenizer, *as_pairs(pairs), description=how, mean_row=mean_row, device=device)
    shift = -term_levels(probe, rate, common=offset == "global") if offset else None
    k, table = search_k(probe, shift)
    settings = {
        "mean_row_norm_before": mean_row_norm(find_head(model).weight), "criterion": "random_saturation",
        "aim": SATURATION, "rate": rate, "centred": centre,
    }  # fmt: skip
    return Calibration(k, shift, mean_row, table, settings).apply(model)


def divided_at_the_norm(model: Any, k: float) -> Any:
    """Gain and bias of the norm whose output is the decoder's input, divided by k: the same logits, W stays tied.

    Raises:
        ValueError: no norm feeds the decoder.
    """
    import torch

    refuse_rescaled(model)
    model = copy.deepcopy(model)
    outputs: list[tuple[Any, Any]] = []
    norms = [module for module in model.modules() if type(module).__name__.endswith("Norm")]
    hooks = [module.register_forward_hook(lambda norm, _, output: outputs.append((norm, output))) for module in norms]
    with evaluating(model), torch.no_grad():
        hidden = head_input(model, input_ids=probe_ids(model))
    for hook in hooks:
        hook.remove()
    if not outputs or outputs[-1][1] is not hidden:
        raise ValueError(f"no norm feeds the decoder of a {type(model).__name__}")
    before = mean_row_norm(find_head(model).weight)
    with torch.no_grad():
        for parameter in outputs[-1][0].parameters():
            parameter.div_(k)
    record(model, k=k, method="fixed", placement="norm", bias=False, mean_row_norm_before=before)
    return model
