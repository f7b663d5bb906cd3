"""compare: one table of everything, tests against the twin, one rule for what is there already."""

from __future__ import annotations

import gzip
import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import tiny
import torch
from scipy.stats import ttest_rel
from sentences import Sentences

from pyterrier_rescale import CollapseError, LexicalEncoder, Splade, compare, load_collection
from pyterrier_rescale.evaluation.experiment import holm, holm_against_twins
from pyterrier_rescale.evaluation.figures import format_p, markdown_table
from pyterrier_rescale.evaluation.system import System, named_backbones, parse_rescale, rescale_label

CHINESE = ["稀疏检索使用倒排索引。", "语言模型预测词的分布。", "梯度在训练开始时爆炸。", "查询很短，文档很长。"]
TRAINING = {"max_steps": 1, "batch_size": 4, "ramp_steps": 100, "save_steps": 0}
OPTIONS = {
    "rescalings": [4], "max_length": 16, "verbose": False, "say": lambda _: None, "engine": "exact",
    "training": {**TRAINING, "learning_rate": 1e-9},
}  # fmt: skip


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
    part = frame[(frame["name"] != "a") | (frame["qid"] != "3")]
    assert np.isnan(holm_against_twins(part, {"a": "raw"}, ["AP"])["a", "AP"]), "not scored on the same queries"


def test_words_for_rescalings():
    given = (None, "none", "raw", "16", 8, np.float32(4), np.int64(8), "auto")
    assert [parse_rescale(value) for value in given] == [None, None, None, 16.0, 8.0, 4.0, 8.0, "auto"]
    assert System("bert", 16.0).name == "bert k=16" and System("bert", 16.0, False).twin == "bert raw (untrained)"
    numbers = [1.2, 1.2000001, 16.0, 16.000001, 1e-5, 1e15, 1e16, 123456.7, 123457.0, 0.1 + 0.2, 0.3]
    assert [float(rescale_label(value)[2:]) for value in numbers] == numbers, "a label of its own for each"
    assert [format_p(p) for p in (None, np.nan, 0.0004, 0.0213, 1.0)] == ["", "", "<.001", ".021", "1"]


def test_backbones_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_backbones(["org/bert", "n=lr=5/m", "c=/x=y/z", "."]) == {
        "bert": "org/bert", "n": "lr=5/m", "c": "/x=y/z", tmp_path.name: "."
    }  # fmt: skip
    with pytest.raises(ValueError, match="two backbones are called 'm'.*NAME=MODEL"):
        named_backbones(["x/m", "y/m"])


def test_compare_makes_everything_and_goes_on(bert_folder, modernbert_folder, tmp_path):
    output, texts = tmp_path / "out", Sentences()
    options = {
        "rescalings": [None, "4"], "untrained": True, "max_length": 32, "verbose": False, "say": lambda _: None,
        "training": {**TRAINING, "max_steps": 3, "monitor": "warn"},
    }  # fmt: skip
    backbones = {"bert": bert_folder, "modernbert": modernbert_folder}
    comparison = compare(texts, backbones, output, **options)
    table = comparison.results.set_index("name")
    assert list(table.index) == [
        "BM25", "bert tokens x idf", "bert BM25 on pieces", "modernbert tokens x idf", "modernbert BM25 on pieces",
        "bert raw (untrained)", "bert k=4 (untrained)", "modernbert raw (untrained)",
        "modernbert k=4 (untrained)", *(trained := ["bert raw", "bert k=4", "modernbert raw", "modernbert k=4"]),
        *(f"BM25 + {name}" for name in trained),
    ]  # fmt: skip
    assert table.loc["BM25", "nDCG@10"] > 0.9
    per_query = pd.read_csv(output / "per_query.csv")
    means = per_query.groupby(["name", "measure"])["value"].mean()
    for name in table.index:
        for measure in ("nDCG@10", "RR@10", "R@100", "AP"):
            assert table.loc[name, measure] == pytest.approx(means[name, measure])
    pair = per_query[per_query["measure"] == "AP"].pivot(index="qid", columns="name", values="value")
    assert np.isnan(table.loc["bert raw", "p AP"]) and 0 <= table.loc["bert k=4", "p AP"] <= 1
    assert table.loc["bert k=4", "p AP"] >= ttest_rel(pair["bert k=4"], pair["bert raw"]).pvalue
    for file in ("results.csv", "results.md", "config.json", "figures/training.png", "figures/head_norms.svg",
                 "figures/effectiveness.png", "encoders/bert k=4/model.safetensors", "encoders/bert raw/monitor.csv"):
        assert (output / file).stat().st_size > 0, file  # fmt: skip
    assert len(list((output / "runs").glob("*.res*"))) == 17
    assert markdown_table(comparison.results).count("\n") == 18

    encoder = LexicalEncoder(bert_folder, idf_from=tiny.TEXTS, weighting="bm25", max_length=32)
    queries, documents = encoder.encode_queries(texts.topics()["query"]), encoder.encode_docs(tiny.TEXTS)
    first = np.mean((queries @ documents.T).toarray().argmax(axis=1) == np.arange(len(tiny.TEXTS)))
    row = table.loc["bert BM25 on pieces"]
    assert first > 0.8 and row["RR@10"] >= first
    assert row["active_d"] == pytest.approx(documents.nnz / 12) and row["active_q"] == pytest.approx(queries.nnz / 12)

    weights = output / "encoders" / "bert raw" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (output / "results.csv").unlink()
    again = compare(texts, backbones, output, **options)
    assert weights.stat().st_mtime_ns == before, "complete encoders are reused"
    assert again.results["AP"].tolist() == comparison.results["AP"].tolist()
    assert again.results["train_s"].dropna().tolist() == comparison.results["train_s"].dropna().tolist()


@pytest.fixture(scope="module")
def finished(bert_folder, tmp_path_factory):
    """A comparison that is done, in a folder, and its backbone."""
    folder = tmp_path_factory.mktemp("compare")
    shutil.copytree(bert_folder, folder / "bert")
    compare(Sentences(), {"bert": folder / "bert"}, folder / "out", **OPTIONS)
    return folder / "out", folder / "bert"


CHANGED = {
    "documents": Sentences((*tiny.TEXTS[:-1], "another text")),
    "topics": Sentences(begin=21),
    "qrels": Sentences(label=2),
    "pairs": Sentences(pairs=[(text[:5], text) for text in tiny.TEXTS]),
}


@pytest.mark.parametrize("what", [*CHANGED, "backbones", "max_length"])
def test_other_inputs_are_refused_by_name(what, finished, tmp_path):
    output, backbone = finished
    if what == "backbones":  # another one at the same path
        backbone = tiny.save("bert", tmp_path / "bert", seed=1)
    options = {**OPTIONS, "max_length": 48} if what == "max_length" else OPTIONS
    with pytest.raises(ValueError, match=f"{what} was .*, now "):
        compare(CHANGED.get(what, Sentences()), {"bert": backbone}, output, **options)


def test_the_same_elsewhere_goes_on_and_overwrite_starts_anew(finished, tmp_path):
    output, backbone = finished
    shutil.copytree(backbone, tmp_path / "moved")
    shutil.copytree(output, tmp_path / "out")
    weights = tmp_path / "out" / "encoders" / "bert k=4" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = compare(Sentences(), {"bert": tmp_path / "moved"}, tmp_path / "out", **OPTIONS)
    assert again.results["AP"].tolist() == pd.read_csv(output / "results.csv")["AP"].tolist()
    assert weights.stat().st_mtime_ns == before
    (tmp_path / "out" / "mine.txt").write_text("x")
    compare(CHANGED["pairs"], {"bert": backbone}, tmp_path / "out", overwrite=True, **OPTIONS)
    assert weights.stat().st_mtime_ns != before and (tmp_path / "out" / "mine.txt").exists()


REFUSED = {
    # arguments that are changed -> error, what its message names
    "no backbones": ({"backbones": {}}, TypeError, "backbones"),
    "name with a slash": ({"backbones": {"org/bert": "m"}}, ValueError, "org/bert"),
    "model of another type": ({"backbones": {"bert": 3}}, TypeError, "'bert'.*int"),
    "rescaling": ({"rescalings": ["k16"]}, ValueError, "k16"),
    "one rescaling": ({"rescalings": "16"}, TypeError, "rescalings"),
    "unknown engine": ({"engine": "exat"}, ValueError, "exat"),
    "training option": ({"training": {"learning_rat": 1e-3}}, ValueError, "learning_rat"),
    "rescale twice": ({"training": {"rescale": 4}}, TypeError, "rescale"),
    "no judgements": ({"collection": type("Other", (Sentences,), {"qrels": lambda self, split: Sentences().qrels()
                       .assign(qid="other")})()}, ValueError, "no topic with judgements"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "named"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(change, error, named, bert_folder, tmp_path):
    arguments = {"collection": Sentences(), "backbones": {"b": bert_folder}, **OPTIONS, **change}
    with pytest.raises(error, match=named):
        compare(arguments.pop("collection"), arguments.pop("backbones"), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_chinese_and_a_collapsed_system(bert_folder, tmp_path, monkeypatch):
    """BM25 finds Chinese; an encoder without any term and a collapsed training are rows of zeros, and said so."""
    model, tokenizer = tiny.build("bert")
    with torch.no_grad():
        model.get_output_embeddings().bias.fill_(-1e4)
    model.save_pretrained(tmp_path / "mute")
    tokenizer.save_pretrained(tmp_path / "mute")
    from pyterrier_rescale.evaluation import rows

    def collapses(backbone, *arguments, train=rows.train, **options):
        if options["rescale"] == 4 and str(backbone) == bert_folder:
            raise CollapseError("saturated", 3, "scores saturate")
        return train(backbone, *arguments, **options)

    monkeypatch.setattr(rows, "train", collapses)
    said: list[str] = []
    options = {**OPTIONS, "say": said.append, "engine": "terrier", "rescalings": [None, 4]}
    what = Sentences(CHINESE, begin=4), {"bert": bert_folder, "mute": tmp_path / "mute"}, tmp_path / "out"
    result = compare(*what, **options)
    table = result.results.set_index("name")
    assert table.loc["BM25", "RR@10"] == 1.0
    for name in ("bert k=4", "mute raw", "mute k=4"):
        assert table.loc[name, ["nDCG@10", "RR@10", "R@100", "AP", "active_d"]].tolist() == [0.0] * 5
        with gzip.open(tmp_path / "out" / "runs" / f"{name}.res.gz") as run:
            assert run.read() == b""
        assert any(line.startswith(f"{name}: ") and "a row of zeros" in line for line in said)
    assert "bert k=4: its training collapsed: scores saturate" in said
    monkeypatch.setattr(rows, "train", None)
    again = compare(*what, **options)
    assert again.results["AP"].tolist() == result.results["AP"].tolist()


def test_encoders_that_are_trained_already_and_fusions(bert_folder, tmp_path):
    """They are scored as they are, as an object and from a folder, and tested against BM25; fusion by hand."""
    splade = Splade(bert_folder, rescale=4, max_length=32)
    splade.save_pretrained(tmp_path / "saved")
    collection = load_collection(documents=list(Sentences().corpus()), topics=Sentences().topics(),
                                 qrels=Sentences().qrels())  # fmt: skip
    models = {"mine": splade, "saved": tmp_path / "saved"}
    done = compare(collection, models, tmp_path / "out", model_free=False, **OPTIONS)
    table = done.results.set_index("name")
    assert list(table.index) == ["BM25", "mine", "saved", "BM25 + mine", "BM25 + saved"]
    assert table.loc["mine", "nDCG@10"] == pytest.approx(table.loc["saved", "nDCG@10"])
    assert table["against"].tolist()[1:] == ["BM25"] * 4 and not (tmp_path / "out" / "encoders").exists()
    runs = (pt.io.read_results(str(tmp_path / "out" / "runs" / f"{name}.res.gz")) for name in table.index[[0, 1, 3]])
    first, second, both = (run.set_index(["qid", "docno"]) for run in runs)
    expected, found = (1 / (61 + first["rank"])).add(1 / (61 + second["rank"]), fill_value=0), both["score"]
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index(), check_names=False, rtol=1e-4)
    assert "mine" in done.conclusion[0] and "Compared with BM25" in done.conclusion[1]
