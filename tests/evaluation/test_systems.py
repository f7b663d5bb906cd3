"""systems, in pt.Experiment: true dot products with every engine, plain PyTerrier indexes, drawn pipelines."""

from __future__ import annotations

import numpy as np
import pyterrier as pt
import pytest
import tiny
from sentences import Sentences

from pyterrier_rescale import Splade, systems


@pytest.fixture(scope="module")
def encoders(bert_folder):
    return {"raw": Splade(bert_folder), "k=4": Splade(bert_folder, rescale=4)}


def scores_of(splade):
    queries = splade.encode_queries(Sentences().topics()["query"])
    return (queries @ splade.encode_docs(tiny.TEXTS).T).toarray()


@pytest.mark.parametrize("engine", ["exact", "terrier"])
def test_scores_are_dot_products_and_experiments_take_them(encoders, engine, tmp_path):
    corpus, topics = Sentences(), Sentences().topics()
    pipelines = systems(encoders, corpus, tmp_path, engine=engine)
    for name, pipeline in pipelines.items():
        results, expected = pipeline(topics), scores_of(encoders[name])
        assert len(results) == np.count_nonzero(expected)
        for (qid, docno), score in results.set_index(["qid", "docno"])["score"].items():
            assert score == pytest.approx(expected[int(qid[1:]), int(docno[1:])], rel=0.03, abs=0.02)
    table = pt.Experiment(pipelines, topics, corpus.qrels(), ["ndcg_cut_10"], baseline="raw", correction="holm")
    assert table["name"].tolist() == ["raw", "k=4"] and table["ndcg_cut_10"].between(0, 1).all()
    assert "SPLADE queries" in pt.schematic.draw(pipelines["raw"])


def test_plain_indexes_of_pyterrier_rank_alike(encoders, tmp_path):
    splade, topics = encoders["k=4"], Sentences().topics()
    plain = pt.terrier.TerrierIndex(tmp_path / "plain")
    (splade.doc_encoder() >> plain.toks_indexer()).index(Sentences().corpus())
    results, expected = (splade.query_encoder() >> plain.tf())(topics), scores_of(splade)
    largest = [max(toks.values()) for toks in splade.query_encoder()(topics)["query_toks"]]
    for (qid, docno), score in results.set_index(["qid", "docno"])["score"].items():
        number = int(qid[1:])  # plain Terrier divides by the query's largest weight and keeps the scale
        assert score / 100 * largest[number] == pytest.approx(expected[number, int(docno[1:])], rel=0.03, abs=0.02)
