"""One ``pt.Experiment`` over all rows, where a system that finds nothing is a row of zeros and not the end."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyterrier as pt

from .._utils.progress import redraws


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
    means = pt.Experiment(
        guarded, topics, qrels, [*parsed, "mrt"], filter_by_qrels=True, save_dir=str(runs),
        verbose=verbose and redraws(pt.tqdm),
    )  # fmt: skip
    for name, pipeline in guarded.items():
        if not pipeline.found:
            say(f"{name}: no query finds any document, a row of zeros")
            with gzip.open(runs / f"{name}.res.gz", "wb"):
                pass
    # With perquery="both" PyTerrier 1.1 leaves the response time out; the values per query are in save_dir, too.
    per_query = pd.read_csv(runs / "perquery.csv", dtype={"qid": str, "name": str}, keep_default_na=False)
    names = {str(one): name for one, name in zip(parsed, measures, strict=True)}
    per_query["measure"] = per_query["measure"].map(names)
    return means.set_index("name").rename(columns=names), per_query
