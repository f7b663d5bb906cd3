"""A query that is a document does not find itself; equal ids alone mean nothing; what counts as relevant."""

from __future__ import annotations

import pickle
import warnings

import ir_measures
import pandas as pd
import pytest
import tiny
from sentences import Sentences

from pyterrier_rescale import compare
from pyterrier_rescale.indexing.own_documents import WithoutOwnDocuments, own_documents

DOCUMENTS = [
    {"docno": "a", "text": "Cats purr  at night.", "title": ""},
    {"docno": "b", "text": "Dogs Dogs bark.", "title": "Dogs"},
    {"docno": "c", "text": "Birds sing.", "title": "Birds"},
]
OPTIONS = {
    "rescalings": [4], "max_length": 16, "verbose": False, "engine": "exact", "say": lambda _: None,
    "training": {"max_steps": 1, "batch_size": 4, "ramp_steps": 100, "save_steps": 0},
}  # fmt: skip


def topics(*pairs):
    return pd.DataFrame(pairs, columns=["qid", "query"])


@pytest.mark.parametrize(
    ("qid", "query", "own"),
    [
        ("a", "cats purr at night.", True), ("a", "cats purr", False), ("b", "Dogs bark.", True),
        ("b", "Dogs Dogs bark.", True), ("b", "Dogs", False), ("c", "Birds sing.", True), ("c", "Birds", False),
        ("x", "Birds sing.", False), ("c", "Dogs bark.", False),
    ],
)  # fmt: skip
def test_id_and_text_must_be_the_documents(qid, query, own):
    elsewhere = [{**one, "abstract": one["text"], "text": None} for one in DOCUMENTS]
    for documents, field in ((DOCUMENTS, "text"), (elsewhere, "abstract")):
        assert own_documents(topics((qid, query)), documents, field) == ({qid} if own else frozenset())


def test_the_hit_is_dropped_and_ranks_close_up():
    rows = [("a", "Cats purr at night.", docno, 3.0 - rank, rank) for rank, docno in enumerate("bac")]
    rows += [("b", "another query", docno, 3.0 - rank, rank) for rank, docno in enumerate("bca")]
    results = pd.DataFrame(rows, columns=["qid", "query", "docno", "score", "rank"])
    stage = WithoutOwnDocuments(DOCUMENTS.copy, 2)
    with pytest.warns(UserWarning, match="queries that are documents themselves, such as 'a'"):
        found = stage(results)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pickle.loads(pickle.dumps(stage))(results).equals(found) and stage(results).equals(found), "said once"
    ranked = found[["qid", "docno", "rank"]].values.tolist()
    assert ranked == [["a", "b", 0], ["a", "c", 1], ["b", "b", 0], ["b", "c", 1]]
    assert stage(results.iloc[:0]).empty
    assert {"label", "help_url"} <= set(stage.schematic()), "drawn without a network"


class Arguments(Sentences):
    """As ArguAna: each topic is a document, and the one beside it is its answer."""

    def topics(self, split="test"):
        return topics(*((f"d{i}", text) for i, text in enumerate(self.texts)))

    def qrels(self, split="test"):
        ids = range(len(self.texts))
        return pd.DataFrame({"qid": [f"d{i}" for i in ids], "docno": [f"d{i ^ 1}" for i in ids], "label": 1})


PAIRS = [text for first in tiny.TEXTS[:6] for text in (first, f"{first} Indeed so.")]


def test_comparisons_leave_own_documents_out(bert_folder, tmp_path):
    collection = Arguments(PAIRS)
    with pytest.warns(UserWarning, match="queries that are documents themselves"):
        without = compare(collection, {"b": bert_folder}, tmp_path / "without", **OPTIONS).results.set_index("name")
    kept = compare(collection, {"b": bert_folder}, tmp_path / "kept", drop_own=False, **OPTIONS).results
    assert without.loc["BM25", "RR@10"] == without.loc["b BM25 on pieces", "RR@10"] == 1.0
    assert kept.set_index("name").loc["BM25", "RR@10"] <= 0.75


def test_labels_that_are_not_relevant(bert_folder, tmp_path):
    """Of two judged documents the one with label 1 does not count for RR, AP and recall; nDCG takes labels as gains."""
    collection = Sentences()
    right = Sentences().qrels()
    wrong = right.assign(docno=[f"d{(i + 1) % 12}" for i in range(12)])
    collection.qrels = lambda split="test": pd.concat([right.assign(label=1), wrong.assign(label=2)])
    with pytest.warns(UserWarning, match="are 1, 2, and never 0"):
        compare(collection, {"b": bert_folder}, tmp_path / "all", **OPTIONS)
    found = compare(collection, {"b": bert_folder}, tmp_path / "two", min_label=2, **OPTIONS)
    run = pd.read_csv(tmp_path / "two" / "runs" / "BM25.res.gz", sep=" ", header=None, usecols=[0, 2, 4])
    run.columns = ["query_id", "doc_id", "score"]
    judged = collection.qrels().set_axis(["query_id", "doc_id", "relevance"], axis=1)
    measures = {name: ir_measures.parse_measure(name) for name in ("nDCG@10", "RR@10", "R@100", "AP")}
    row = found.results.set_index("name").loc["BM25"]
    for name, measure in measures.items():
        truth = measure if name == "nDCG@10" else measure(rel=2)
        assert row[name] == pytest.approx(ir_measures.calc_aggregate([truth], judged, run)[truth])
    assert row["RR@10"] < 0.6
