"""systems and compare: one index per encoder, one pt.Experiment, tests against the twin, resumable."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
from scipy.stats import ttest_rel

from pyterrier_rescale import Splade, compare, systems
from pyterrier_rescale.evaluation.figures import format_p, markdown_table
from pyterrier_rescale.evaluation.significance import holm, holm_against_twins
from pyterrier_rescale.evaluation.system import System, parse_rescale


class Sentences:
    """The tiny texts as a collection: find a sentence by its first three words."""

    name = "sentences"

    def corpus(self):
        return ({"docno": f"d{i}", "text": text, "title": ""} for i, text in enumerate(tiny.TEXTS))

    def topics(self, split="test"):
        return pd.DataFrame({
            "qid": [f"q{i}" for i in range(len(tiny.TEXTS))],
            "query": [" ".join(text.split()[:3]) for text in tiny.TEXTS],
        })  # fmt: skip

    def qrels(self, split="test"):
        ids = range(len(tiny.TEXTS))
        return pd.DataFrame({"qid": [f"q{i}" for i in ids], "docno": [f"d{i}" for i in ids], "label": 1})

    def train_pairs(self):
        return [(" ".join(text.split()[:3]), " ".join(text.split()[3:])) for text in tiny.TEXTS]


@pytest.fixture(scope="module")
def encoders(bert_folder):
    return {"raw": Splade(bert_folder), "k=4": Splade(bert_folder, rescale=4)}


@pytest.fixture(scope="module")
def exact_scores(encoders):
    topics = Sentences().topics()
    return {
        name: (splade.encode_queries(topics["query"]) @ splade.encode_docs(tiny.TEXTS).T).toarray()
        for name, splade in encoders.items()
    }


@pytest.mark.parametrize("engine", ["exact", "terrier"])
def test_systems_index_once_and_score_true_dot_products(encoders, exact_scores, engine, tmp_path, monkeypatch):
    corpus, topics = Sentences(), Sentences().topics()
    pipelines = systems(encoders, corpus, tmp_path, engine=engine)
    assert list(pipelines) == ["raw", "k=4"]
    for name, pipeline in pipelines.items():
        results = pipeline(topics)
        got = results.set_index(["qid", "docno"])["score"]
        expected = exact_scores[name]
        assert len(results) == np.count_nonzero(expected)
        for (qid, docno), score in got.items():
            assert score == pytest.approx(expected[int(qid[1:]), int(docno[1:])], rel=0.03, abs=0.02)
    # indexing again would fail
    monkeypatch.setattr("pyterrier_rescale.splade.stages.SpladeDocEncoder.transform_iter", None)
    again = systems(encoders, corpus, tmp_path, engine=engine)
    assert again["raw"](topics)["score"].tolist() == pipelines["raw"](topics)["score"].tolist()
    table = pt.Experiment(again, topics, corpus.qrels(), ["ndcg_cut_10"], baseline="raw", correction="holm")
    assert table["name"].tolist() == ["raw", "k=4"] and table["ndcg_cut_10"].between(0, 1).all()


def test_plain_pyterrier_works_too_and_pipelines_are_drawn(encoders, exact_scores, tmp_path):
    splade, topics = encoders["k=4"], Sentences().topics()
    plain = pt.terrier.TerrierIndex(tmp_path / "plain")
    (splade.doc_encoder() >> plain.toks_indexer()).index(Sentences().corpus())
    pipeline = splade.query_encoder() >> plain.tf()
    results = pipeline(topics)
    expected = exact_scores["k=4"]
    largest = [max(toks.values()) for toks in splade.query_encoder()(topics)["query_toks"]]
    for (qid, docno), score in results.set_index(["qid", "docno"])["score"].items():
        number = int(qid[1:])  # plain Terrier divides by the query's largest weight and keeps the scale
        assert score / 100 * largest[number] == pytest.approx(expected[number, int(docno[1:])], rel=0.03, abs=0.02)
    drawn = pt.schematic.draw(systems({"one": splade}, Sentences(), tmp_path / "ours")["one"])
    assert "SPLADE queries" in drawn and "terrier retriever" in drawn


def test_another_encoder_or_corpus_under_the_same_name_is_indexed_anew(encoders, tmp_path):
    docs = [{"docno": "a", "text": tiny.TEXTS[0]}, {"docno": "b", "text": tiny.TEXTS[1]}]
    first = systems({"one": encoders["raw"]}, docs, tmp_path, engine="exact")["one"]
    query = pd.DataFrame({"qid": ["1"], "query": [tiny.TEXTS[0]]})
    score = first(query).set_index("docno")["score"]["a"]
    second = systems({"one": encoders["k=4"]}, docs, tmp_path, engine="exact")["one"]
    assert second(query).set_index("docno")["score"]["a"] < score - 1
    third = systems({"one": encoders["k=4"]}, docs[:1], tmp_path, engine="exact")["one"]
    assert set(third(query)["docno"]) == {"a"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"encoders": {}}, ValueError, "at least one Splade"),
        ({"encoders": {"a": 1}}, TypeError, "dict of name -> Splade"),
        ({"engine": "lucene"}, ValueError, "engine must be one of .*got 'lucene'"),
        ({"corpus": []}, ValueError, "corpus must hold at least one document"),
    ],
)
def test_bad_systems(change, error, message, encoders, tmp_path):
    arguments = {"encoders": encoders, "corpus": Sentences(), "index_dir": tmp_path, **change}
    with pytest.raises(error, match=message):
        systems(**arguments)
    with pytest.raises(TypeError, match="names of encoders must be non-empty str"):
        systems({4: encoders["raw"]}, Sentences(), tmp_path)


def test_holm_and_paired_tests_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == pytest.approx([1.0, 1.0])
    assert np.isnan(holm([np.nan, 0.02])[0]) and holm([np.nan, 0.02])[1] == pytest.approx(0.02)
    random = np.random.default_rng(0)
    values = {name: random.random(30) + shift for name, shift in (("raw", 0), ("a", 0.2), ("b", 0.02))}
    frame = pd.DataFrame(
        [{"name": n, "qid": str(q), "measure": "AP", "value": v} for n, vs in values.items() for q, v in enumerate(vs)]
    )
    got = holm_against_twins(frame, {"a": "raw", "b": "raw"}, ["AP"])
    p_a, p_b = (ttest_rel(values[name], values["raw"]).pvalue for name in "ab")
    assert got["a", "AP"] == pytest.approx(min(2 * p_a, 1)) and got["b", "AP"] == pytest.approx(max(p_b, 2 * p_a))
    with pytest.raises(ValueError, match="not scored on the same queries"):
        holm_against_twins(frame[(frame["name"] != "a") | (frame["qid"] != "3")], {"a": "raw"}, ["AP"])


def test_words_for_rescalings():
    assert [parse_rescale(v) for v in (None, "none", "raw", "16", 8, "auto")] == [None, None, None, 16.0, 8.0, "auto"]
    for bad in ("0", "k16", "-2", "nan"):
        with pytest.raises(ValueError, match="rescale must be none, a number > 0"):
            parse_rescale(bad)
    assert System("bert", 16.0).name == "bert k=16" and System("bert", 16.0, False).twin == "bert raw (untrained)"
    assert [format_p(p) for p in (None, np.nan, 0.0004, 0.0213, 1.0)] == ["", "", "<.001", ".021", "1"]


def test_compare_makes_everything_and_reuses_it(bert_folder, modernbert_folder, tmp_path):
    output = tmp_path / "out"
    options = {
        "rescalings": [None, "4"], "untrained": True, "max_length": 32, "verbose": False, "say": lambda _: None,
        "training": {"max_steps": 3, "batch_size": 4, "ramp_steps": 100, "monitor": "warn", "save_steps": 0},
    }  # fmt: skip
    backbones = {"bert": bert_folder, "modernbert": modernbert_folder}
    comparison = compare(Sentences(), backbones, output, **options)
    table = comparison.results.set_index("name")
    assert list(table.index) == [
        "BM25", "bert tokens x idf", "bert BM25 on pieces", "modernbert tokens x idf", "modernbert BM25 on pieces",
        "bert raw (untrained)", "bert k=4 (untrained)", "modernbert raw (untrained)",
        "modernbert k=4 (untrained)", "bert raw", "bert k=4", "modernbert raw", "modernbert k=4",
    ]  # fmt: skip
    assert table.loc["BM25", "nDCG@10"] > 0.9
    per_query = pd.read_csv(output / "per_query.csv")
    means = per_query.groupby(["name", "measure"])["value"].mean()
    for name in table.index:
        for measure in ("nDCG@10", "RR@10", "R@100", "AP"):
            assert table.loc[name, measure] == pytest.approx(means[name, measure])
    pair = per_query[per_query["measure"] == "AP"].pivot(index="qid", columns="name", values="value")
    assert np.isnan(table.loc["bert raw", "p AP"]) and 0 <= table.loc["bert k=4", "p AP"] <= 1
    raw_p = ttest_rel(pair["bert k=4"], pair["bert raw"]).pvalue
    assert table.loc["bert k=4", "p AP"] >= raw_p
    for file in ("results.csv", "results.md", "config.json", "figures/training.png", "figures/head_norms.svg",
                 "figures/effectiveness.png", "encoders/bert-k-4/model.safetensors", "encoders/bert-raw/monitor.csv"):
        assert (output / file).stat().st_size > 0, file  # fmt: skip
    assert len(list((output / "runs").glob("*.res*"))) == 13
    assert markdown_table(comparison.results).count("\n") == 14
    weights = output / "encoders" / "bert-raw" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (output / "results.csv").unlink()
    again = compare(Sentences(), backbones, output, **options)
    assert weights.stat().st_mtime_ns == before, "complete encoders are reused"
    assert again.results["AP"].tolist() == comparison.results["AP"].tolist()
    with pytest.raises(ValueError, match="holds another comparison .*max_length was 32, now 48"):
        compare(Sentences(), backbones, output, **{**options, "max_length": 48})


def test_bad_comparisons(bert_folder, tmp_path):
    with pytest.raises(ValueError, match="backbones must hold at least one"):
        compare(Sentences(), {}, tmp_path)
    with pytest.raises(ValueError, match="rescale must be none"):
        compare(Sentences(), {"b": bert_folder}, tmp_path, rescalings=["k16"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="output_dir must be a folder"):
        compare(Sentences(), {"b": bert_folder}, tmp_path / "file")
    assert not (tmp_path / "config.json").exists(), "nothing is written before the arguments are checked"
