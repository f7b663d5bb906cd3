"""From the numbers of an audit to a verdict in words: thresholds, findings, and what to do about them."""

from __future__ import annotations

import math
from typing import Any

from .head_statistics import RANDOM_DOCUMENTS

#: Mean row norm of ModernBERT-base before any rescaling, published second-hand.
MODERNBERT_NORM = 2.553
#: Random saturation above which scores are too far apart. In the study of small heads (experiments/calibration) those
#: at .73 to .82 (k=8) trained best or close to it, those at .92 (k=4) ended a fifth to a quarter lower; those at .97
#: and above collapsed, or (3 of 27) ended a sixth to a quarter below k=16. Of 24 collapsing runs none was missed.
SATURATED = 0.85
#: Random saturation, in multiples of the even share, below which scores are too flat for a gradient.
FLAT = 1.2
#: InfoNCE, in multiples of the loss of a guess, above which a smaller scale trains better. In that study starts at 2.3
#: to 2.7 trained best, those at 3.5 to 4.8 (k=8) ended up to a quarter lower; elsewhere one at 4 ended at .312, and at
#: .821 with k=16.
HIGH_LOSS = 3
#: Share of the vocabulary that fires per document, above which the start counts as dense.
DENSE = 0.2
#: Share of the firing terms whose maximum lies at a special position, above which this is a sink.
SINK = 0.5
#: Mean cosine of t between different texts, above which the backbone counts as anisotropic.
ANISOTROPIC = 0.9


def too_wide(numbers: dict[str, Any]) -> bool:
    """Whether the scores of an audit with texts lie so far apart that dividing them trains better."""
    return numbers["random_saturation"] > SATURATED or numbers["infonce"] > HIGH_LOSS * numbers["chance_loss"]


def judge(numbers: dict[str, Any], suggested_k: float) -> tuple[tuple[str, ...], str]:
    """Findings and what to do, from an audit's numbers (a row of its frame) and the k that it suggests."""
    found: dict[str, str] = {}
    again, gain, norm = numbers["rescaled_by"], numbers["norm_gain"], numbers["row_norm_mean"]
    done = "" if math.isnan(again) else f" (rescaled by {again:g} already: start from the original backbone)"
    if "texts" not in numbers:  # no verdict: trained encoders of all norms and gains serve well
        return (), (
            f"not measured: the mean row norm is {norm:.3g} (ModernBERT-base: {MODERNBERT_NORM:.3g}), the gain before "
            f"it {gain:.3g}: in a random direction a logit has a std of about {norm * gain:.3g}; only scores tell "
            f"whether that is too much: give texts{done}"
        )
    rivals = min(RANDOM_DOCUMENTS, numbers["texts"] - 1)
    if too_wide(numbers) or 0 < numbers["random_saturation"] < FLAT / rivals:
        if not too_wide(numbers):
            remedy = "the scores are too much alike for a gradient, and dividing makes them more so: take no k"
        elif suggested_k > 1:
            remedy = f"rescale with k={suggested_k:.3g}, or rescale='auto'"
        else:
            remedy = "the bias gives most of it, which k does not divide: calibrate(model, texts) shifts the bias"
        found["scale mismatch"] = (
            f"the strongest of {rivals} random documents takes {numbers['random_saturation']:.0%} of a query's softmax "
            f"(a query's scores spread over {numbers['score_spread'] / numbers['temperature']:.3g} temperatures), and "
            f"InfoNCE is {numbers['infonce']:.3g}, ln B {numbers['chance_loss']:.3g}; {remedy}{done}"
        )
    if numbers["active_terms"] == 0:
        found["dead"] = "no term fires in any text; shift the bias: calibrate(model, texts)"
    elif numbers["active_share"] > DENSE:
        found["dense start"] = (
            f"{numbers['active_share']:.0%} of the vocabulary fires per document; no k changes that much, a shift per "
            "term does: calibrate(model, texts), or rescale='calibrated'"
        )
    if numbers["special_share"] > SINK:
        found["sink"] = (
            f"{numbers['special_share']:.0%} of the firing terms have their maximum at a special position; no k "
            "changes that; a shift per term may: audit calibrate(model, texts).apply(model)"
        )
    if numbers["cosine_hidden"] > ANISOTROPIC:
        found["anisotropic"] = (
            f"hidden vectors of different texts have a mean cosine of {numbers['cosine_hidden']:.2f}; neither k nor an "
            "offset changes that: pretrain longer or take another backbone"
        )
    text = "; ".join(f"{name}: {why}" for name, why in found.items())
    fine = "fine: scale, density and directions are in the range that trains"
    if numbers["infonce"] > numbers["chance_loss"]:  # 41 such runs ended below half (experiments/calibration2)
        fine += "; but the loss is above that of a guess, and calibrate(model, texts) starts below it"
    return tuple(found), text or fine
