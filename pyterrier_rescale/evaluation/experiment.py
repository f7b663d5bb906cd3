"""One ``pt.Experiment`` over all rows, where a system that finds nothing is a row of zeros, and its paired tests."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt


class _AtLeastOneResult(pt.Transformer):
    """``pt.Experiment`` refuses a system without any result; here it gets one, of a document that nobody judged."""

    def __init__(self, pipeline: pt.Transformer) -> None:
        self.pipeline = pipeline
        self.found = True

    def transform(self, topics: pd.DataFrame) -> pd.DataFrame:
        results = self.pipeline(topics)
        self.found = len(results) > 0
        return results if self.found else topics.iloc[:1].assign(docno="no-document-was-found", score=0.0, rank=0)


def experiment(
    pipelines: Mapping[str, pt.Transformer], topics: pd.DataFrame, qrels: pd.DataFrame, measures: Sequence[str],
    runs: Path, say: Callable[[str], None], verbose: bool = True, min_label: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Evaluate the pipelines on judged topics: means and ``mrt`` (ms) by name; ``name, qid, measure, value``.

    The runs stay in a folder, which is emptied before. ``say`` is told of each system that finds nothing. Labels below
    ``min_label`` are not relevant for measures that know no grades.
    """
    import ir_measures

    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    guarded = {name: _AtLeastOneResult(pipeline) for name, pipeline in pipelines.items()}
    parsed = [ir_measures.parse_measure(name) for name in measures]
    if min_label > 1:
        parsed = [one(rel=min_label) if "rel" in one.SUPPORTED_PARAMS else one for one in parsed]
    for pipeline in pipelines.values():
        pipeline(topics.iloc[:1])  # what is compiled or loaded at the first query is not timed
    means = pt.Experiment(
        guarded, topics, qrels, [*parsed, "mrt"], filter_by_qrels=True, save_dir=str(runs),
        verbose=verbose and sys.stderr.isatty(),
    )  # fmt: skip
    for name, pipeline in guarded.items():
        if not pipeline.found:
            say(f"{name}: no query finds any document, a row of zeros")
            gzip.open(runs / f"{name}.res.gz", "wb").close()
    # With perquery="both" PyTerrier 1.1 leaves the response time out; the values per query are in save_dir, too.
    per_query = pd.read_csv(runs / "perquery.csv", dtype={"qid": str, "name": str}, keep_default_na=False)
    names = {str(one): name for one, name in zip(parsed, measures, strict=True)}
    per_query["measure"] = per_query["measure"].map(names)
    return means.set_index("name").rename(columns=names), per_query


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
    all differences are equal, or a query has the value of one of the two alone.
    """
    from scipy.stats import ttest_rel

    result: dict[tuple[str, str], float] = {}
    for measure in measures:
        values = per_query[per_query["measure"].astype(str) == measure]
        values = values.pivot(index="qid", columns="name", values="value")
        raw = []
        for name, twin in twins.items():
            differ = len(values) > 1 and np.ptp(values[name] - values[twin]) > 0
            raw.append(ttest_rel(values[name], values[twin]).pvalue if differ else np.nan)
        result |= {(name, measure): float(p) for name, p in zip(twins, holm(raw), strict=True)}
    return result
