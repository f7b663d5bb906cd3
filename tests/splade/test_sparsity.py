"""Sparsity as a choice: the heaviest terms, terms above a weight; how many documents a stage is handed at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny

from pyterrier_rescale import Splade, open_index

DOCUMENTS = [{"docno": f"d{i}", "text": f"{text} {i}"} for i, text in enumerate(tiny.TEXTS * 30)]


@pytest.fixture(scope="module")
def splade(bert_folder):
    return Splade(bert_folder, max_length=64)


def heaviest(row, n, least):
    """{column: weight} by sorting."""
    pairs = sorted(zip(row.indices.tolist(), row.data.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return {column: weight for column, weight in pairs[:n] if weight >= np.float32(least)}


@pytest.mark.parametrize(("n", "least"), [(3, 0.0), (None, 0.4), (10, 0.5)])
def test_every_verb_keeps_the_same_terms(splade, n, least):
    texts = [*tiny.TEXTS, ""]
    names = splade.term_map().terms
    for side in ("doc", "query"):
        whole = getattr(splade, {"doc": "encode_docs", "query": "encode_queries"}[side])
        expected = [heaviest(row, n, least) for row in whole(texts)]
        assert 0 < sum(map(len, expected)) < whole(texts).nnz
        found = whole(texts, max_terms=n, min_weight=least)
        assert [heaviest(row, None, 0) for row in found] == expected and found.has_sorted_indices
        frame = pd.DataFrame({"docno": range(13), "qid": range(13), "text": texts, "query": texts}).astype(str)
        if side == "doc":
            stage = splade.doc_encoder(max_terms=n, min_weight=least)
            toks = stage(frame[["docno", "text"]])["toks"]
            assert toks.tolist() == [
                {names[i]: w for i, v in row.items() if (w := int(np.rint(v * 100.0))) >= 1} for row in expected
            ]
            continue
        stage = splade.query_encoder(max_terms=n, min_weight=least)
        out = stage(frame[["qid", "query"]])
        assert out["query_toks"].tolist() == [{names[i]: v for i, v in row.items()} for row in expected]
        assert out["query_toks_all"].tolist() == splade.query_encoder()(frame[["qid", "query"]])["query_toks"].tolist()
        assert list(stage(frame[["qid", "query"]][:0]).columns) == list(out.columns)
    assert repr(splade.doc_encoder(max_terms=3)) == f"{splade!r}.doc_encoder(max_terms=3)"
    assert splade.doc_encoder(max_terms=3) != splade.doc_encoder() != splade.doc_encoder(min_weight=0.1)
    assert "query_toks_all" not in splade.query_encoder()(frame[["qid", "query"]]).columns


@pytest.mark.parametrize("verb", ["doc_encoder", "query_encoder"])
@pytest.mark.parametrize("options", [{"max_terms": 0}, {"max_terms": 2.5}, {"max_terms": True}, {"min_weight": -0.1},
                                     {"min_weight": float("nan")}, {"min_weight": "x"}, {"scale": 0},
                                     {"terms": "word"}, {"batch_size": -1}])  # fmt: skip
def test_settings_are_checked(splade, verb, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        getattr(splade, verb)(**options)
    if name in ("max_terms", "min_weight"):
        with pytest.raises(ValueError, match=name):
            splade.encode_docs(["x"], **options)


def test_two_steps_on_an_index(splade, tmp_path):
    index = open_index(tmp_path / "i", "exact")
    (splade.doc_encoder() >> index.indexer()).index(DOCUMENTS)
    queries = pd.DataFrame({"qid": ["1", "2"], "query": ["sparse retrieval", "batch of documents"]})
    two = splade.query_encoder(max_terms=5) >> index.retriever(len(DOCUMENTS)) >> index.scorer()
    one = splade.query_encoder() >> index.retriever(len(DOCUMENTS))
    whole = one(queries).set_index(["qid", "docno"])["score"]
    found = two(queries).set_index(["qid", "docno"])["score"]
    assert len(found) and found.to_dict() == pytest.approx(whole[found.index].to_dict(), rel=1e-9)
    assert "score" in pt.inspect.transformer_outputs(two, ["qid", "query"])


def test_all_terms_of_an_earlier_encoder_are_not_kept(bert_folder):
    """A scorer would take them for the query's."""
    first, second = Splade(bert_folder, rescale=4.0), Splade(bert_folder)
    topics = pd.DataFrame({"qid": ["1"], "query": [tiny.TEXTS[0]]})
    out = (first.query_encoder(max_terms=2) >> second.query_encoder())(topics)
    assert "query_toks_all" not in out.columns
    pd.testing.assert_frame_equal(out, second.query_encoder()(topics))
    again = (first.query_encoder(max_terms=2) >> second.query_encoder(max_terms=3))(topics)
    assert again["query_toks_all"][0] == second.query_encoder()(topics)["query_toks"][0]
