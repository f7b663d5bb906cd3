"""compare reuses nothing that was made from something else, and no row that finds nothing ends it."""

from __future__ import annotations

import gzip
import shutil

import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from pyterrier_rescale import CollapseError, compare
from pyterrier_rescale.evaluation.encoders import system_encoder
from pyterrier_rescale.evaluation.system import System

CHINESE = ["稀疏检索使用倒排索引。", "语言模型预测词的分布。", "梯度在训练开始时爆炸。", "查询很短，文档很长。"]


class Texts:
    """Find a text by its beginning."""

    def __init__(self, texts=tuple(tiny.TEXTS), *, name="texts", begin=20, label=1, pairs=None):
        self.texts, self.name, self.begin, self.label, self.pairs = texts, name, begin, label, pairs

    def corpus(self):
        return ({"docno": f"d{i}", "text": text, "title": ""} for i, text in enumerate(self.texts))

    def topics(self, split="test"):
        return pd.DataFrame({
            "qid": [f"q{i}" for i in range(len(self.texts))], "query": [text[: self.begin] for text in self.texts]
        })  # fmt: skip

    def qrels(self, split="test"):
        ids = range(len(self.texts))
        return pd.DataFrame({"qid": [f"q{i}" for i in ids], "docno": [f"d{i}" for i in ids], "label": self.label})

    def train_pairs(self):
        return self.pairs or [(text[:10], text[10:]) for text in tiny.TEXTS]


OPTIONS = {
    "rescalings": [4], "max_length": 16, "verbose": False, "say": lambda _: None, "engine": "exact",
    "training": {"max_steps": 1, "batch_size": 4, "ramp_steps": 100, "save_steps": 0, "learning_rate": 1e-9},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(bert_folder, tmp_path_factory):
    """A comparison that is done, in a folder, and its backbone."""
    folder = tmp_path_factory.mktemp("compare")
    backbone = folder / "bert"
    shutil.copytree(bert_folder, backbone)
    compare(Texts(), {"bert": backbone}, folder / "out", **OPTIONS)
    return folder / "out", backbone


CHANGED = {
    "documents": Texts((*tiny.TEXTS[:-1], "another text")),
    "documents and their order": Texts(tuple(reversed(tiny.TEXTS))),
    "topics": Texts(begin=21),
    "qrels": Texts(label=2),
    "pairs": Texts(pairs=[("other words", text) for text in tiny.TEXTS]),
}


@pytest.mark.parametrize("what", CHANGED)
def test_other_data_of_the_same_name_are_refused_by_name(what, finished, monkeypatch):
    output, backbone = finished
    monkeypatch.setattr("pyterrier_rescale.training.train", None)
    with pytest.raises(ValueError, match=rf"holds another comparison \(.*{what.split()[0]} was .*, now "):
        compare(CHANGED[what], {"bert": backbone}, output, **OPTIONS)


def test_another_backbone_at_the_same_path_is_refused(finished, tmp_path):
    output, _ = finished
    other = tiny.save("bert", tmp_path / "bert", seed=1)
    with pytest.raises(ValueError, match="backbones bert was '[0-9a-f]{16}', now"):
        compare(Texts(), {"bert": other}, output, **OPTIONS)


def test_the_same_data_and_backbone_elsewhere_go_on(finished, tmp_path, monkeypatch):
    output, backbone = finished
    shutil.copytree(backbone, tmp_path / "moved")
    shutil.copytree(output, tmp_path / "out")
    monkeypatch.setattr("pyterrier_rescale.training.train", None)
    again = compare(Texts(), {"bert": tmp_path / "moved"}, tmp_path / "out", **OPTIONS)
    assert again.results["AP"].tolist() == pd.read_csv(output / "results.csv")["AP"].tolist()


def test_an_encoder_changed_or_made_otherwise_is_refused(finished, tmp_path, monkeypatch):
    output, backbone = finished
    shutil.copytree(output, tmp_path / "out")
    weights = tmp_path / "out" / "encoders" / "bert-k-4" / "model.safetensors"
    tensors = load_file(weights)
    tensors["bert.embeddings.word_embeddings.weight"][-1, -1] += 1e-4
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="bert-k-4' was made from something else .weights was"):
        compare(Texts(), {"bert": backbone}, tmp_path / "out", **OPTIONS)

    def stop(*_, **__):
        raise RuntimeError("stop here")

    monkeypatch.setattr("pyterrier_rescale.training.train", stop)
    with pytest.raises(RuntimeError, match="stop here"):
        compare(CHANGED["pairs"], {"bert": backbone}, tmp_path / "new", **OPTIONS)
    shutil.copytree(output / "encoders", tmp_path / "new" / "encoders")
    with pytest.raises(ValueError, match="made from something else .pairs was"):
        compare(CHANGED["pairs"], {"bert": backbone}, tmp_path / "new", **OPTIONS)


def test_users_folders_are_not_taken(bert_folder, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.trec").write_text("x")
    with pytest.raises(FileExistsError, match="holds runs, but no config.json of a comparison"):
        compare(Texts(), {"bert": bert_folder}, tmp_path, **OPTIONS)
    assert (tmp_path / "runs" / "mine.trec").read_text() == "x"


def test_chinese_and_a_collapsed_system(bert_folder, tmp_path, monkeypatch):
    """BM25 finds Chinese; an encoder without any term and a collapsed training are rows of zeros, and said so."""
    model, tokenizer = tiny.build("bert")
    with torch.no_grad():
        model.get_output_embeddings().bias.fill_(-1e4)
    model.save_pretrained(tmp_path / "mute")
    tokenizer.save_pretrained(tmp_path / "mute")
    from pyterrier_rescale import training

    def collapses(backbone, *arguments, train=training.train, **options):
        if options["rescale"] == 4 and str(backbone) == bert_folder:
            raise CollapseError("saturated", 3, "scores saturate")
        return train(backbone, *arguments, **options)

    monkeypatch.setattr(training, "train", collapses)
    said: list[str] = []
    options = {**OPTIONS, "say": said.append, "engine": "terrier", "rescalings": [None, 4]}
    what = Texts(CHINESE, begin=4), {"bert": bert_folder, "mute": tmp_path / "mute"}, tmp_path / "out"
    result = compare(*what, **options)
    table = result.results.set_index("name")
    assert table.loc["BM25", "RR@10"] == 1.0
    for name in ("bert k=4", "mute raw", "mute k=4"):
        assert table.loc[name, ["nDCG@10", "RR@10", "R@100", "AP", "active_d"]].tolist() == [0.0] * 5
        with gzip.open(tmp_path / "out" / "runs" / f"{name}.res.gz") as run:
            assert run.read() == b""
        assert any(line.startswith(f"{name}: ") and "a row of zeros" in line for line in said)
    assert "bert k=4: its training collapsed, a row of zeros: scores saturate" in said
    assert any("tokeniser utf" in line for line in said)
    monkeypatch.setattr(training, "train", None)
    again = compare(*what, **options)
    assert again.results["AP"].tolist() == result.results["AP"].tolist()


def test_a_comparison_of_nothing_but_blank_texts(bert_folder, tmp_path):
    said: list[str] = []
    texts = Texts(("🙂", "🙃🙃"), begin=1)
    result = compare(texts, {"bert": bert_folder}, tmp_path / "out", **{**OPTIONS, "say": said.append})
    assert result.results.set_index("name").loc["BM25", "AP"] == 0.0
    assert any(line.startswith("BM25: no query finds any document") for line in said)


def test_topics_without_judgements_are_told_first(bert_folder, tmp_path):
    texts = Texts()
    texts.qrels = lambda split: pd.DataFrame({"qid": ["other"], "docno": ["d0"], "label": [1]})
    with pytest.raises(ValueError, match="split 'test' of 'texts' has no topic with judgements"):
        compare(texts, {"bert": bert_folder}, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_untrained_rows_encode_queries_as_their_training_starts(bert_folder, tmp_path):
    pairs = [(text.split()[0], text) for text in tiny.TEXTS]
    for name, options in (
        ("static", {"queries": "static", "query_max_length": 5}), ("sum", {"query_pooling": "sum"}), ("model", {}),
    ):  # fmt: skip
        system, training = System("b", 4.0, trained=False), {**options, "max_length": 32}
        side = system_encoder(system, bert_folder, pairs, tmp_path / name, training, {})[0].query_side
        assert (side.weights is not None) == (name == "static") and (name != "static" or side.max_length == 5)
        assert side.pooling == ("sum" if name == "sum" else None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "exat"}, "engine must be one of"), ({"num_results": 0}, "num_results must be an integer >= 1"),
        ({"max_length": 0}, "max_length must be"), ({"rescalings": "16"}, "rescalings must be a list"),
        ({"training": {"learning_rat": 1e-3}}, "no training option is called learning_rat"),
        ({"training": {"rescale": 4}}, "training must leave out rescale"),
        ({"training": {"resume": True}}, "no training option is called resume"),
        ({"training": {"eval_steps": 5}}, "eval_steps=5 goes with dev"),
        ({"rescalings": [4, "calibrated"], "training": {"shift": 2.0}}, "shift must be None with rescale='calibrated'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_trained_or_claimed(change, message, bert_folder, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        compare(Texts(), {"bert": bert_folder}, tmp_path / "out", **{**OPTIONS, **change})
    assert not (tmp_path / "out").exists()


def test_another_dev_split_is_another_comparison(bert_folder, tmp_path):
    def options(texts):
        dev = [{"docno": f"d{i}", "text": text} for i, text in enumerate(texts)], Texts().topics(), Texts().qrels()
        return {**OPTIONS, "untrained": True, "training": {**OPTIONS["training"], "dev": dev}}

    backbones, changed = {"bert": bert_folder}, (*tiny.TEXTS[1:], "another text")
    first = compare(Texts(), backbones, tmp_path / "out", **options(tiny.TEXTS))
    again = compare(Texts(), backbones, tmp_path / "out", **options(tiny.TEXTS))
    assert again.results["train_s"].dropna().tolist() == first.results["train_s"].dropna().tolist()
    with pytest.raises(ValueError, match="holds another comparison .dev was "):
        compare(Texts(), backbones, tmp_path / "out", **options(changed))
