"""Pseudo-relevance feedback against its formula, computed here by hand; as a stage, with every engine."""

from __future__ import annotations

import operator
import pickle

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import ENGINES, make_docs, make_queries
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode, open_index
from pyterrier_rescale.encoding.terms import Toks

DOCS = [
    {"docno": "a", "toks": {"cat": 300, "dog": 100}},
    {"docno": "b", "toks": {"dog": 200, "emu": 150, "fox": 50}},
    {"docno": "c", "toks": {"gnu": 500}},
    {"docno": "equal", "toks": dict.fromkeys(["m", "z", "b", "k"], 100)},
    {"docno": "empty", "toks": {}},
]


def results(query_toks, scores, qid="1", **columns):
    rows = [
        {"qid": qid, "query": "pets", "query_toks": query_toks, "docno": docno, "score": score, **columns}
        for docno, score in scores.items()
    ]
    return pd.DataFrame(rows)


def rm3(docs, query, scores, fb_docs, fb_terms, fb_lambda, weighting="score"):
    """{term: weight}, with dense numpy vectors."""
    terms = sorted({t for d in docs for t in d["toks"]} | set(query))
    vector = {d["docno"]: np.array([d["toks"].get(t, 0) / 100 for t in terms]) for d in docs}
    best = sorted(scores, key=lambda d: -scores[d])[:fb_docs]
    shares = np.array([scores[d] for d in best])
    shares = np.exp(shares) if weighting == "softmax" else shares
    shares = shares / shares.sum()
    r = sum(p * vector[d] / max(vector[d].sum(), 1e-300) for p, d in zip(shares, best, strict=True))
    r[np.argsort(-r, kind="stable")[fb_terms:]] = 0
    q = np.array([query.get(t, 0.0) for t in terms])
    new = (1 - fb_lambda) * q / q.sum() + fb_lambda * r / r.sum()
    return {t: w for t, w in zip(terms, new, strict=True) if w > 0}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return open_index(tmp_path_factory.mktemp("i") / "i", "exact").indexer().index(DOCS)


def test_three_documents_by_hand(index):
    frame = results({"cat": 2.0, "yak": 2.0}, {"c": 0.5, "a": 3.0, "b": 1.0})
    out = index.feedback(fb_docs=2, fb_terms=2, fb_lambda=0.4)(frame)
    # shares 3/4 and 1/4: cat 3/4 * 3/4, dog 3/4 * 1/4 + 1/4 * 1/2; emu and fox are cut; in sum 7/8
    cat, dog = (9 / 16) / (14 / 16), (5 / 16) / (14 / 16)
    assert out.to_dict("records") == [{
        "qid": "1", "query": "pets", "query_toks_0": {"cat": 2.0, "yak": 2.0},
        "query_toks": pytest.approx({"cat": 0.3 + 0.4 * cat, "yak": 0.3, "dog": 0.4 * dog}),
    }]  # fmt: skip
    assert list(out["query_toks"][0]) == ["cat", "yak", "dog"], "heaviest first"
    alone = index.feedback(2, 2, 1.0)(frame)["query_toks"][0]
    assert alone == pytest.approx({"cat": cat, "dog": dog}), "no term of weight 0"
    equal = index.feedback(fb_terms=2, fb_lambda=1)(results({"z": 1.0}, {"equal": 1.0}))
    assert list(equal["query_toks"][0]) == ["b", "k"], "equal weights are cut by term"


@pytest.mark.parametrize(
    ("toks", "scores", "fb_lambda", "expected"),
    [
        ({"cat": 2.0}, {"empty": 1.0}, 0.5, {"cat": 0.5}),
        ({}, {"c": 1.0}, 0.5, {"gnu": 0.5}),
        ({}, {"empty": 1.0}, 0.5, {}),
        ({"cat": 1.0}, {"c": 1.0, "empty": 3.0}, 1, {"gnu": 1.0}),
        ({"cat": 2.0, "yak": 2.0}, {"a": 1.0}, 0, {"cat": 0.5, "yak": 0.5}),
    ],
)
def test_where_a_side_has_no_terms(index, toks, scores, fb_lambda, expected):
    assert index.feedback(fb_lambda=fb_lambda)(results(toks, scores))["query_toks"][0] == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weighting", ["score", "softmax"])
def test_the_formula_with_every_engine(tmp_path, engine, weighting):
    docs, queries = make_docs(300, vocabulary=80), make_queries(8, vocabulary=90)
    index = open_index(tmp_path / "i", engine).indexer().index(docs)
    found = index.retriever(30)(queries)
    shuffled = found.sample(frac=1, random_state=1)
    out = index.feedback(12, 7, 0.6, weighting=weighting)(shuffled)
    assert out["qid"].tolist() == shuffled["qid"].drop_duplicates().tolist()
    for row in out.itertuples():
        scores = found[found["qid"] == row.qid].set_index("docno")["score"].to_dict()
        assert row.query_toks == pytest.approx(rm3(docs, row.query_toks_0, scores, 12, 7, 0.6, weighting))
    assert len(index.retriever(20)(out)) == 8 * 20


def test_from_a_folder_of_vectors_as_from_an_index_of_it(tmp_path):
    vectors = encode(StubEncoder(), make_documents(60), tmp_path / "v", shard_size=25, verbose=False)
    index = open_index(tmp_path / "i", "exact", scale=1e6).indexer().index(vectors)
    toks = Toks({"t1": 1.0, "t7": 0.5}, vocab="stub-terms:1")
    frame = index.retriever(10)(pd.DataFrame({"qid": ["1"], "query_toks": [toks]}))
    ours, theirs = vectors.feedback()(frame), index.feedback()(frame)
    assert ours["query_toks"][0] == pytest.approx(theirs["query_toks"][0], abs=1e-5)
    assert ours["query_toks"][0].vocab == "stub-terms:1", "retrievers check it"
    again = (index.feedback() >> index.retriever(1000) >> index.scorer())(frame)
    assert len(again) > len(frame) and again["score"].is_monotonic_decreasing
    for stamp in ("other:1", "stub-terms:100"):
        with pytest.raises(ValueError, match="query '1'"):
            vectors.feedback()(frame.assign(query_toks=[Toks(toks, vocab=stamp)] * len(frame)))


def test_weights_from_before_are_kept(index):
    """Twice: pushed on. Those cut short for a quick first stage: all of them are expanded, and none left behind."""
    first = results({"cat": 1.0}, {"a": 1.0}, query_0="old words", title="not of the query")
    once = index.feedback()(first)
    twice = (index.retriever() >> index.feedback())(once)
    assert list(twice.columns) == ["qid", "query", "query_0", "query_toks_1", "query_toks_0", "query_toks"]
    assert twice["query_toks_1"][0] == {"cat": 1.0} and twice["query_toks_0"][0] == once["query_toks"][0]
    whole = {"cat": 1.0, "gnu": 1.0}
    out = index.feedback(fb_lambda=0)(first.assign(query_toks_all=[whole]))
    assert out["query_toks_0"][0] == whole and out["query_toks"][0] == {"cat": 0.5, "gnu": 0.5}
    assert "query_toks_all" not in out.columns, "a scorer would take it for the query"


def test_as_a_stage(index, tmp_path):
    stage = index.feedback()
    columns = ["qid", "query", "query_toks", "docno", "score", "rank"]
    for one in (stage, open_index(tmp_path / "none").feedback()):  # also before there is an index
        assert pt.inspect.transformer_outputs(one, columns) == ["qid", "query", "query_toks_0", "query_toks"]
    nothing = pd.DataFrame({"qid": ["1"], "query": ["?"], "query_toks": [{"unknown": 1.0}]})
    pipeline = index.retriever(10) >> stage >> index.retriever(1000)
    assert len(pipeline(nothing)) == 0 and len(pipeline(nothing.head(0))) == 0
    assert repr(index.feedback(9)).endswith(".feedback(fb_docs=9)")
    others = [index.feedback(9), index.feedback(weighting="softmax"), open_index(tmp_path / "o", "exact").feedback()]
    assert stage == index.feedback() and hash(stage) == hash(index.feedback()) and stage not in others
    frame = results({"cat": 1.0}, {"a": 1.0})
    again = pickle.loads(pickle.dumps(stage))
    assert again == stage and again(frame).equals(stage(frame)) and len(pickle.dumps(stage)) < 1000
    softmax = index.feedback(weighting="softmax")(results({"cat": 1.0}, {"a": 1.0, "b": -1.0}))
    assert softmax["query_toks"][0]["cat"] > 0.5


@pytest.mark.parametrize(
    ("options", "toks", "scores", "error", "named"),
    [
        ({"fb_docs": 0}, {}, {}, ValueError, "fb_docs"),
        ({"fb_lambda": 1.1}, {}, {}, ValueError, "fb_lambda"),
        ({}, {"cat": 1.0}, {"zebra": 1.0}, KeyError, "'zebra'"),
        ({}, {"cat": 1.0}, {"a": 1.0, "b": -1.0}, ValueError, "query '1': scores.*softmax"),
        ({}, {"cat": 1.0}, {"a": 0.0}, ValueError, "query '1': scores"),
        ({"weighting": "softmax"}, {"cat": 1.0}, {"a": float("inf")}, ValueError, "query '1': scores"),
        ({}, {"cat": -1}, {"a": 1.0}, ValueError, "query '1': weights"),
        ({}, "cat", {"a": 1.0}, TypeError, "query_toks of query '1'"),
    ],
)
def test_what_is_refused(index, options, toks, scores, error, named):
    with pytest.raises(error, match=named):
        index.feedback(**options)(results(toks, scores))


@pytest.mark.parametrize("join", [operator.or_, operator.add, operator.xor])
@pytest.mark.parametrize("stage", ["scorer", "feedback"])
def test_results_of_two_encoders_are_encoded_again(index, join, stage):
    """They would be scored with the weights of whichever encoder found them."""

    def encoder(toks):
        return pt.apply.generic(lambda queries: queries.assign(query_toks=[toks] * len(queries)))

    queries = pd.DataFrame({"qid": ["1"], "query": ["pets"]})
    first, other = (encoder(toks) >> index.retriever() for toks in ({"cat": 1.0, "gnu": 1.0}, {"dog": 3.0}))
    joined, scored = join(first, other)(queries).assign(score=1.0), getattr(index, stage)()
    with pytest.raises(ValueError, match="query '1'.*encode the query again"):
        scored(joined)
    again = encoder({"cat": 1.0})(joined)
    assert len(scored(again))
    if stage == "scorer":
        assert scored(again).set_index("docno")["score"].to_dict() == {"a": 3.0, "b": 0.0, "c": 0.0}
        assert len(scored(join(first, first)(queries))) == 2, "one encoder's may be joined"
