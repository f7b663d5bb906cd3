"""The rows that need no model, and what a system gains by adding BM25."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from ..heads.checkpoint import load_tokenizer
from ..indexing.bm25 import nothing
from ..splade import LexicalEncoder
from .encoders import indexed
from .experiment import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Weightings of :class:`LexicalEncoder` by what the table calls them.
LEXICAL = {"tokens x idf": "tokens", "BM25 on pieces": "bm25"}


def lexical_systems(
    collection: Any, tokenizers: Mapping[str, str], topics: pd.DataFrame, indexes: Path, *, corpus_id: str,
    max_length: int, lowercase: bool, num_results: int, verbose: bool,
) -> dict[str, tuple[pt.Transformer, dict[str, Any]]]:  # fmt: skip
    """Pipelines and facts of the model-free rows, with the pieces of each backbone's tokenizer, in exact indexes.

    ``tokenizers`` are folders or hub names by the backbones' names; those that give the same vectors share one pair of
    rows, named after the first of them. Texts are cut and lower-cased as encoders see them.
    """
    found: dict[str, tuple[pt.Transformer, dict[str, Any]]] = {}
    if not any(document["text"].strip() for document in collection.corpus()):
        return found
    seen: set[str] = set()
    for number, (backbone, folder) in enumerate(tokenizers.items()):
        tokenizer, statistics = load_tokenizer(folder), None
        for label, weighting in LEXICAL.items():
            encoder = LexicalEncoder(
                tokenizer,
                idf_from=statistics or (document["text"] for document in collection.corpus()),
                weighting=weighting, max_length=max_length, lowercase=lowercase,
            )  # fmt: skip
            statistics = encoder.idf_from
            if encoder.fingerprint in seen:
                continue
            seen.add(encoder.fingerprint)
            name, place = f"{backbone} {label}", f"model-free-{number}-{weighting}"
            found[name] = indexed(
                encoder, collection, indexes / place, topics, engine="exact", corpus_id=corpus_id,
                num_results=num_results, verbose=verbose,
            )  # fmt: skip
            found[name][1]["folder"] = place
    return found


def fused(first: pt.Transformer, second: pt.Transformer) -> pt.Transformer:
    """Two retrievers added: each one's scores go from 0 to 1 per query, and a document that one lacks has 0 there.

    The documented simplest: no weight is tuned. ``first`` and ``second`` give ``qid, docno, score``.
    """
    scaled = pt.apply.generic(per_query_min_max, required_columns=["qid", "docno", "score"])
    return (first >> scaled) + (second >> scaled)


def per_query_min_max(results: pd.DataFrame) -> pd.DataFrame:
    """Scores from 0 (a query's last result) to 1 (its first); 1 where all are equal."""
    groups = results.groupby("qid")["score"]
    low, high = groups.transform("min"), groups.transform("max")
    width = (high - low).where(high > low)
    return results.assign(score=((results["score"] - low) / width).fillna(1.0))


def fused_runs(runs: Path, names: Sequence[str]) -> dict[str, pt.Transformer]:
    """``NAME + BM25`` pipelines over run files that an experiment has saved: nothing is retrieved again."""
    base = _retriever(runs, "BM25")
    return {f"{name} + BM25": fused(_retriever(runs, name), base) for name in names}


def _retriever(runs: Path, name: str) -> pt.Transformer:
    run = read_run(runs, name)
    return nothing() if run.empty else pt.Transformer.from_df(run, uniform=True)
