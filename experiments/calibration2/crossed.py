"""Differences over topics crossed with seeds, both of them random."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """Mean difference with its 95% interval and p; NaN where there is one seed only."""

    mean: float
    low: float
    high: float
    p: float


def difference(values: np.ndarray) -> Difference:
    """Of paired differences (seeds, topics): is their mean 0, for other seeds and other topics?

    Two-way layout without replication, both factors random: var(mean) = (MS_topics + MS_seeds - MS_rest) / (S Q), with
    Satterthwaite's degrees of freedom. Where seeds do not matter it is the paired t-test over topics.
    """
    values = np.asarray(values, dtype=float)
    seeds, topics = values.shape
    mean = float(values.mean())
    if seeds < 2 or topics < 2:
        return Difference(mean, np.nan, np.nan, np.nan)
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    rest = values - rows[:, None] - columns[None, :] + mean
    squares = {
        "topics": (seeds * ((columns - mean) ** 2).sum() / (topics - 1), topics - 1),
        "seeds": (topics * ((rows - mean) ** 2).sum() / (seeds - 1), seeds - 1),
        "rest": ((rest**2).sum() / ((seeds - 1) * (topics - 1)), (seeds - 1) * (topics - 1)),
    }
    total = squares["topics"][0] + squares["seeds"][0] - squares["rest"][0]
    total = max(total, *(square for square, _ in squares.values()))  # a negative component is none
    if total <= 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = total**2 / sum(square**2 / degrees for square, degrees in squares.values())
    error = np.sqrt(total / (seeds * topics))
    half = stats.t.ppf(0.975, freedom) * error
    return Difference(mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom)))
