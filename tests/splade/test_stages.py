"""Splade and its roles as PyTerrier stages: columns, order, empty frames, equality, repr, schematics, errors."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny

from pyterrier_rescale import Splade


@pytest.fixture(scope="module")
def splade(bert_folder):
    return Splade(bert_folder, rescale=4, max_length=64)


@pytest.fixture(scope="module")
def docs():
    frame = pd.DataFrame({"docno": [f"d{i}" for i in range(len(tiny.TEXTS))], "text": tiny.TEXTS, "extra": 1})
    return frame.sample(frac=1, random_state=0)  # an index that is not 0..n-1


@pytest.fixture(scope="module")
def queries():
    return pd.DataFrame({"qid": ["1", "2", "3"], "query": ["sparse retrieval", "batch of documents", ""]})


def test_documents_become_rounded_integers(splade, docs):
    out = splade.doc_encoder(scale=50)(docs)
    assert list(out.columns) == ["docno", "text", "extra", "toks"]
    assert list(out["docno"]) == list(docs["docno"]) and list(out.index) == list(docs.index)
    vectors = splade.encode_docs(docs["text"].tolist())
    terms = splade.term_map().terms
    for row, toks in zip(vectors, out["toks"], strict=True):
        expected = np.rint(row.data.astype(float) * 50).astype(int)
        assert toks == {terms[i]: w for i, w in zip(row.indices, expected, strict=True) if w >= 1}
        assert all(type(weight) is int and weight >= 1 for weight in toks.values())


def test_indexing_iterator_gives_the_same_as_a_frame(splade, docs):
    stage = splade.doc_encoder()
    records = docs.to_dict("records")
    assert [r["toks"] for r in stage.transform_iter(iter(records))] == stage(docs)["toks"].tolist()
    assert list(stage.transform_iter(iter([]))) == []
    with pytest.raises(ValueError, match="document 0 must be a dict with docno and text"):
        list(stage.transform_iter([{"docno": "d1"}]))


def test_queries_keep_rows_columns_and_floats(splade, queries):
    results = queries.merge(pd.DataFrame({"docno": ["a", "b"]}), how="cross")
    out = splade.query_encoder()(results)
    assert list(out.columns) == ["qid", "query", "docno", "query_toks"] and len(out) == 6
    vectors = splade.encode_queries(results["query"].tolist())
    terms = splade.term_map().terms
    for row, toks in zip(vectors, out["query_toks"], strict=True):
        assert toks == pytest.approx({terms[i]: w for i, w in zip(row.indices, row.data, strict=True)}, abs=1e-6)
    assert out["query_toks"].iloc[-1] == {}, "a blank query has no terms"


def test_scores_are_dot_products_and_ranked(splade, docs, queries):
    results = queries.merge(docs, how="cross")
    out = splade.scorer()(results)
    assert list(out.columns) == [*results.columns, "score", "rank"]
    exact = (splade.encode_queries(queries["query"]) @ splade.encode_docs(docs["text"]).T).toarray()
    for qid, group in out.groupby("qid"):
        expected = dict(zip(docs["docno"], exact[int(qid) - 1], strict=True))
        assert group["score"].tolist() == pytest.approx([expected[d] for d in group["docno"]], rel=1e-5)
        ranked = group.sort_values("rank")["score"].tolist()
        assert ranked == sorted(ranked, reverse=True)


def test_the_factory_itself_encodes_what_the_columns_ask_for(splade, docs, queries):
    assert "toks" in splade(docs) and "query_toks" in splade(queries)
    assert "score" in splade(queries.merge(docs, how="cross"))
    assert splade.search("sparse retrieval")["query_toks"].iloc[0]


@pytest.mark.parametrize("role", ["doc_encoder", "query_encoder", "scorer"])
def test_roles_can_be_inspected_drawn_and_compared(splade, role, monkeypatch):
    stage = getattr(splade, role)()
    columns = pt.inspect.transformer_inputs(stage)[0]
    monkeypatch.setattr(splade.encoder, "encode", None)  # an empty frame must not run the model
    added = {"doc_encoder": ["toks"], "query_encoder": ["query_toks"], "scorer": ["score", "rank"]}[role]
    assert set(pt.inspect.transformer_outputs(stage, columns)) == {*columns, *added}
    empty = stage(pd.DataFrame(columns=[*columns, "other"]))
    assert set(empty.columns) == {*columns, "other", *added} and not len(empty)
    drawn = pt.schematic.transformer_schematic(stage)
    assert len(drawn["label"]) <= 20 and drawn["help_url"].startswith("https://")
    assert drawn["label"] in pt.schematic.draw(stage)
    assert pt.inspect.subtransformers(stage) == {} and pt.inspect.subtransformers(splade) == {}
    assert stage == getattr(splade, role)() and hash(stage) == hash(getattr(splade, role)())
    assert stage != getattr(splade, role)(batch_size=7)
    assert isinstance(stage.batch_size, int)


def test_repr_is_a_call(bert_folder, splade):
    assert repr(splade) == f"Splade({bert_folder!r}, rescale=4, max_length=64)"
    assert repr(splade.doc_encoder()) == f"{splade!r}.doc_encoder()"
    assert repr(splade.query_encoder(scale=2.0)) == f"{splade!r}.query_encoder(scale=2.0)"
    assert repr(splade.scorer(batch_size=8)) == f"{splade!r}.scorer(batch_size=8)"
    again = eval(repr(splade))  # noqa: S307 - the repr is the call
    assert again == splade and hash(again) == hash(splade)


def test_verbose_is_inherited(bert_folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # bars are for terminals
    frame = pd.DataFrame({"docno": ["1"], "text": ["sparse"]})
    loud = Splade(bert_folder, verbose=True)
    for stage, shown in ((loud.doc_encoder(), True), (loud.doc_encoder(verbose=False), False)):
        stage(frame)
        assert ("Splade" in capsys.readouterr().err) == shown


def test_top_terms_are_readable(splade):
    top = splade.top_terms(tiny.TEXTS[0], n=5)
    row = splade.encode_docs([tiny.TEXTS[0]])
    assert [weight for _, weight in top] == sorted(row.data.tolist(), reverse=True)[:5]
    assert all(isinstance(term, str) and term for term, _ in top)
    assert splade.top_terms("") == []


@pytest.mark.parametrize(
    ("role", "frame", "error"),
    [
        ("doc_encoder", {"docno": ["1"]}, "doc_encoder"),
        ("query_encoder", {"qid": ["1"], "text": ["x"]}, "query_encoder"),
        ("scorer", {"qid": ["1"], "query": ["x"], "docno": ["1"]}, "scorer"),
    ],
)
def test_missing_columns_name_the_stage(splade, role, frame, error):
    with pytest.raises(KeyError, match=error):
        getattr(splade, role)()(pd.DataFrame(frame))


@pytest.mark.parametrize("bad", [None, float("nan"), 7])
def test_values_that_are_no_text(splade, bad):
    with pytest.raises(ValueError, match=r"doc_encoder\(\): row 1 of column 'text' \(docno 'b'\) must be a string"):
        splade.doc_encoder()(pd.DataFrame({"docno": ["a", "b"], "text": pd.Series(["x", bad], dtype=object)}))
    with pytest.raises(ValueError, match=r"row 0 of column 'query' \(qid '1'\) must be a string"):
        splade.query_encoder()(pd.DataFrame({"qid": ["1"], "query": pd.Series([bad], dtype=object)}))


def test_equal_texts_have_dicts_of_their_own(splade):
    twice = pd.DataFrame({"docno": ["a", "b", "c"], "text": [tiny.TEXTS[0], tiny.TEXTS[1], tiny.TEXTS[0]]})
    queries = pd.DataFrame({"qid": ["1", "2"], "query": [tiny.TEXTS[0]] * 2})
    for column in (splade.doc_encoder()(twice)["toks"], splade.query_encoder()(queries)["query_toks"]):
        first, last = column.iloc[0], column.iloc[-1]
        assert first == last and first.vocab == last.vocab
        first["another"] = 1
        assert "another" not in last
