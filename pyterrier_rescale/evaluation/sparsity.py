"""What fewer terms cost: effectiveness, active terms, index size and time per query, in one experiment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.paths import expand

if TYPE_CHECKING:
    import pandas as pd

    from ..indexing.engines.base import EngineIndex
    from ..indexing.vectors.base import SparseVectors
    from ..splade import Splade


def sweep(
    splade: Splade,
    vectors: SparseVectors,
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    index_dir: str | os.PathLike[str],
    *,
    max_terms: Sequence[int | None] = (None, 200, 100, 50),
    min_weight: Sequence[float] = (0.0,),
    query_terms: Sequence[int | None] = (None,),
    two_steps: bool = False,
    engine: str = "exact",
    measures: Sequence[Any] = ("nDCG@10", "R@1000"),
    num_results: int = 1000,
    verbose: bool = False,
) -> pd.DataFrame:
    """Index the same vectors with fewer and fewer terms, and compare them in one ``pt.Experiment``.

    Documents are not encoded again. An index that is there is reused if it was made from the same vectors.

    Args:
        splade: encodes the queries; the encoder of the vectors.
        vectors: ``open_vectors(path)``.
        topics: qid, query.
        qrels: qid, docno, label.
        index_dir: a folder that gets an index per choice.
        max_terms: heaviest terms kept per document; None: all.
        min_weight: terms of less weight are dropped from documents.
        query_terms: heaviest terms kept per query; None: all.
        two_steps: re-score what was found by all terms of the query (the index's own scorer).
        engine: of the indexes.
        measures: ir_measures, or their names.
        num_results: documents per query.
        verbose: show progress bars.

    Returns:
        A row per choice: max_terms, min_weight, query_terms, active (terms per document), index_mb, the measures,
        ms_per_query (encoding of the query included).

    Raises:
        ValueError: the vectors are another encoder's.
        FileExistsError: something else is at an index's place.
    """
    import ir_measures
    import pandas as pd
    import pyterrier as pt

    known = (vectors.made_from or {}).get("encoder")
    if known is not None and known != splade.fingerprint:
        raise ValueError(f"splade must be the encoder of the vectors ({known}), got one of {splade.fingerprint}")
    wanted = [ir_measures.parse_measure(m) if isinstance(m, str) else m for m in measures]
    rows, pipelines = [], []
    for most in max_terms:
        for least in min_weight:
            pruned = vectors.pruned(most, least)
            name = f"{'all' if most is None else most}-{least:g}"
            index = _built(expand(index_dir) / f"{engine}-{name}", engine, pruned, verbose)
            about = index.stats()
            for terms in query_terms:
                pipeline = splade.query_encoder(max_terms=terms, verbose=False) >> index.retriever(num_results)
                pipelines.append(pipeline >> index.scorer() if two_steps else pipeline)
                rows.append({
                    "max_terms": most, "min_weight": least, "query_terms": terms,
                    "active": about["postings"] / about["documents"], "index_mb": about["size_bytes"] / 1e6,
                })  # fmt: skip
    names = [str(number) for number in range(len(rows))]
    for pipeline in pipelines:  # indexes are opened, so that the first queries are not charged for it
        pipeline(topics.head(1))
    results = pt.Experiment(pipelines, topics, qrels, [*wanted, "mrt"], names=names, verbose=verbose)
    for row, (_, result) in zip(rows, results.iterrows(), strict=True):
        row.update({str(measure): result[str(measure)] for measure in wanted}, ms_per_query=result["mrt"])
    return pd.DataFrame(rows).astype({"max_terms": "Int64", "query_terms": "Int64"})


def _built(path: Path, engine: str, vectors: SparseVectors, verbose: bool) -> EngineIndex:
    from ..indexing.engines import open_index

    index = open_index(path, engine)
    if index.built and index.made_from is not None and index.made_from == vectors.origin(index.scale):
        return index
    if len(index) and index.made_from is None:
        raise FileExistsError(f"the index at {str(path)!r} does not say what it was made from: choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    return index.indexer(mode="overwrite" if len(index) else "create", verbose=verbose).index(vectors)
