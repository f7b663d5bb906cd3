"""Rows without a model, and systems with BM25 added."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
from test_comparison import Sentences

from pyterrier_rescale import LexicalEncoder, compare
from pyterrier_rescale.evaluation.model_free import fused, per_query_min_max


def run(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["qid", "docno", "score"]).assign(rank=0)


def test_fusion_by_hand():
    first = run([("1", "a", 9.0), ("1", "b", 5.0), ("1", "c", 1.0), ("2", "a", 3.0)])
    second = run([("1", "b", -1.0), ("1", "d", -3.0), ("3", "a", 2.0), ("3", "b", 2.0)])
    assert per_query_min_max(first)["score"].tolist() == [1.0, 0.5, 0.0, 1.0]
    both = [pt.Transformer.from_df(frame, uniform=True) for frame in (first, second)]
    found = fused(*both)(pd.DataFrame({"qid": ["1", "2", "3"], "query": "x"}))
    got = {(row.qid, row.docno): row.score for row in found.itertuples()}
    assert got == {
        ("1", "a"): 1.0, ("1", "b"): 1.5, ("1", "c"): 0.0, ("1", "d"): 0.0, ("2", "a"): 1.0, ("3", "a"): 1.0,
        ("3", "b"): 1.0,
    }  # fmt: skip
    assert found.sort_values(["qid", "rank"]).iloc[0]["docno"] == "b"


def test_model_free_rows_and_fused_rows(bert_folder, tmp_path):
    options = {
        "rescalings": [None], "max_length": 32, "verbose": False, "say": lambda _: None, "untrained": True,
        "training": {"max_steps": 2, "batch_size": 4, "ramp_steps": 100, "save_steps": 0},
    }  # fmt: skip
    backbones = {"one": bert_folder, "two": bert_folder}
    table = compare(Sentences(), backbones, tmp_path, fusion=True, **options).results.set_index("name")
    assert list(table.index) == [
        "BM25", "one tokens x idf", "one BM25 on pieces", "one raw (untrained)", "two raw (untrained)", "one raw",
        "two raw", "one tokens x idf + BM25", "one BM25 on pieces + BM25", "one raw + BM25", "two raw + BM25",
    ]  # fmt: skip
    encoder = LexicalEncoder(bert_folder, idf_from=tiny.TEXTS, weighting="bm25", max_length=32)
    queries, documents = encoder.encode_queries(Sentences().topics()["query"]), encoder.encode_docs(tiny.TEXTS)
    best = (queries @ documents.T).toarray().argmax(axis=1)
    first = np.mean(best == np.arange(len(tiny.TEXTS)))
    assert first > 0.8 and table.loc["one BM25 on pieces", "RR@10"] >= first
    row = table.loc["one BM25 on pieces"]
    assert row["active_d"] == pytest.approx(documents.nnz / 12) and row["active_q"] == pytest.approx(queries.nnz / 12)
    assert np.isnan(table.loc["one raw + BM25", "ms_per_query"]) and table.loc["one raw + BM25", "nDCG@10"] > 0
    plain = compare(Sentences(), backbones, tmp_path, model_free=False, **options).results
    assert plain["name"].tolist() == ["BM25", "one raw (untrained)", "two raw (untrained)", "one raw", "two raw"]
