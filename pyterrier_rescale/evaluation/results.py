"""What a comparison holds; tables, figures and the report are made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class ComparisonResults:
    """Results of :func:`~pyterrier_rescale.compare`.

    Attributes:
        results: a row per system; ``folder`` names its folder in ``encoders/`` and ``indexes/``.
        per_query: ``name, qid, measure, value``.
        output_dir: the folder with everything.
        config: what was compared, and how.
    """

    results: pd.DataFrame
    per_query: pd.DataFrame
    output_dir: Path
    config: dict[str, Any] = field(repr=False)
