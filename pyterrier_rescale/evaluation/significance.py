"""Paired tests of rescaled systems against their unrescaled twins, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm-Bonferroni corrected p-values (Holm, 1979), in the order given; NaN stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests

    corrected = np.array(p_values, dtype=float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return corrected


def holm_against_twins(
    per_query: pd.DataFrame, twins: Mapping[str, str], measures: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Two-sided paired t-tests of each system against its twin, Holm-corrected over the systems within a measure.

    ``per_query`` has the columns ``name, qid, measure, value``. Returns ``{(system, measure): corrected p}``; NaN where
    all differences are zero.

    Raises:
        ValueError: if a system and its twin were not scored on the same queries.
    """
    from scipy.stats import ttest_rel

    result: dict[tuple[str, str], float] = {}
    for measure in measures:
        values = per_query[per_query["measure"].astype(str) == measure]
        values = values.pivot(index="qid", columns="name", values="value")
        raw = []
        for name, twin in twins.items():
            if values[[name, twin]].isna().any(axis=None):
                raise ValueError(f"{name!r} and {twin!r} were not scored on the same queries")
            same = len(values) < 2 or np.ptp(values[name] - values[twin]) == 0
            raw.append(np.nan if same else float(ttest_rel(values[name], values[twin]).pvalue))
        result.update({(name, measure): float(p) for name, p in zip(twins, holm(raw), strict=True)})
    return result
