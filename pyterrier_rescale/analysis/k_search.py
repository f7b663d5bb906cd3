"""Find k offline: what each constant would give, read off one forward pass, and the one closest to an aim."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_choice
from ..heads.rescaling import check_k
from .head_statistics import RANDOM_DOCUMENTS, density_numbers, score_numbers

if TYPE_CHECKING:
    import pandas as pd

    from .measurement import Probe

#: What k is chosen by (a column of the table) and the default aim.
#:
#: ``random_saturation`` .3: the strongest of 32 random documents takes a third of a query's softmax, neither all of it
#: (then no gradient reaches the others) nor its even share (then there is little ranking to improve). Chosen on
#: held-out title -> body pairs of one small backbone with calibrated offsets, 200 steps: starts at .22 ended best,
#: .48 close, .66 and .09 behind, .77 far behind. ``random_std`` 5 temperatures says about the same of dense vectors,
#: but once an offset makes them sparse a few odd documents hold most of the variance.
#: ``random_margin``, for losses that distil, is the teacher's, so it has no default.
CRITERIA: dict[str, float | None] = {"random_saturation": 0.3, "random_std": 5.0, "random_margin": None}
# Names that they had before.
_OLD_NAMES = {"score_std": "random_std", "margin": "random_margin"}
#: Powers of two that are tried first; the grid goes on where the aim lies beyond, then narrows around it.
KS = tuple(2.0**power for power in range(-1, 7))
_LIMIT = 2.0**24


def evaluate_k(probe: Probe, shift: np.ndarray | None, k: float, temperature: float) -> dict[str, float]:
    """What a head rescaled by k (and shifted, with its bias divided, where ``shift`` is given) would start with."""
    queries, documents = (probe.weights(side, k, shift) for side in ("queries", "documents"))
    return {
        "k": k,
        **score_numbers(queries, documents, temperature),
        **density_numbers(documents),
        "active_terms_query": density_numbers(queries)["active_terms"],
    }


def search_k(
    probe: Probe,
    shift: np.ndarray | None,
    *,
    criterion: str,
    aim: float,
    temperature: float,
    ks: Sequence[float] | None = None,
    least: float = 0.0,
) -> tuple[float, pd.DataFrame]:
    """The k whose ``criterion`` (a column) comes closest in ratio to ``aim``, and the table of all k tried.

    Without ``ks``, none below ``least`` is tried.

    Raises:
        ValueError: if no k gives a value above zero, as when no term fires, or, without ``ks``, none reaches the aim
            (at ``least``, less than the aim will do).
    """
    import pandas as pd

    tried: dict[float, dict[str, float]] = {}

    def value(k: float) -> float:
        if k not in tried:
            tried[k] = evaluate_k(probe, shift, k, temperature)
        return tried[k][criterion]

    for k in ks or sorted({max(k, least) for k in KS}):
        value(k)
    if not any(row[criterion] > 0 for row in tried.values()):
        raise ValueError(f"no k gives a {criterion} above 0: no query shares a firing term with another document")
    if ks is None:
        _narrow(value, tried, aim, criterion, least)
    best = min(tried, key=lambda k: abs(math.log(max(tried[k][criterion], 1e-300) / aim)))
    table = pd.DataFrame([tried[k] for k in sorted(tried)])
    table["chosen"] = table["k"] == best
    return best, table


def _narrow(
    value: Callable[[float], float], tried: dict[float, Any], aim: float, criterion: str, least: float
) -> None:
    """Go on by powers of two until the aim is bracketed, then halve the bracket twice (to quarter powers of two)."""
    while value(max(tried)) > aim and max(tried) < _LIMIT:
        value(max(tried) * 2)
    smallest = max(least, 1 / _LIMIT)
    while value(min(tried)) < aim and min(tried) > smallest:
        value(max(min(tried) / 2, smallest))
    if value(min(tried)) < aim and min(tried) == least:
        return  # the head's own scale is small enough
    if not value(max(tried)) <= aim <= value(min(tried)):
        raise ValueError(
            f"no k between {min(tried):.2g} and {max(tried):.2g} brings {criterion} to {aim:g}; it lies between "
            f"{value(max(tried)):.3g} and {value(min(tried)):.3g}: give more texts or another target; where the bias "
            "is kept and gives most of it, as of sums over positions, shift it (offset=True, rescale='calibrated')"
        )
    for _ in range(2):
        above = max(k for k in tried if value(k) >= aim)
        below = min((k for k in tried if k > above), default=above)
        value(math.sqrt(above * below))


def check_criterion(criterion: str, target: float | None) -> tuple[str, float]:
    """The criterion's name in the table and its target, by default its own.

    Raises:
        ValueError: for an unknown criterion, or a target that it cannot take.
    """
    criterion = check_choice("criterion", _OLD_NAMES.get(criterion, criterion), CRITERIA)
    target = CRITERIA[criterion] if target is None else target
    if target is None:
        raise ValueError("criterion='random_margin' needs a target: the root mean square of the teacher's margins")
    if criterion == "random_saturation" and not 1 / RANDOM_DOCUMENTS < target < 1:
        raise ValueError(f"target must lie between 1/{RANDOM_DOCUMENTS} and 1 for a saturation, got {target!r}")
    return criterion, float(target)


def check_ks(ks: Sequence[float] | None) -> list[float] | None:
    """The constants to try, ascending, each once; ``None`` stays.

    Raises:
        ValueError: for an empty list or a k that is not a finite number > 0.
    """
    if ks is None:
        return None
    ks = [check_k(float(k)) for k in ks]
    if not ks:
        raise ValueError("ks must hold at least one k, got none")
    return sorted(set(ks))
