"""Names: every system its own label, folder and row; what cannot name files is refused before anything is computed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny

from pyterrier_rescale import Splade, compare, systems
from pyterrier_rescale._utils.names import slug
from pyterrier_rescale.evaluation.system import System, named_backbones, parse_rescale, rescale_label, short_names

NAMES = [
    "my bert", "my-bert", "my_bert", "My-bert", "my  bert", "my-bert-", "bert_a", "bert-a", "模型", "モデル", "é",
    "e\u0301", "-", "--", " ",
    "k=4", "k 4", "k-4", "k+4", "k.4", "a" * 90, "a" * 91, "A" * 90, "..", ".", "a/b", "a-b", "raw", "raw-", "\ud800",
    slug("my bert"), slug(slug("my bert")), slug("模型"),
]  # fmt: skip


def test_distinct_names_have_distinct_folders():
    folders = [slug(name) for name in NAMES]
    assert len({folder.lower() for folder in folders}) == len(set(NAMES)) == len(NAMES)
    for folder in folders:
        assert folder.isascii() and len(folder) < 100 and not set(folder) & set('/\\:*?"<>| ')
        assert folder[0] not in ".-" and folder[-1] not in ".-"
    assert [slug(name) for name in ("bert", "bert-a", "bert_a", "k.4")] == ["bert", "bert-a", "bert_a", "k.4"]
    assert slug("my bert") == "my-bert-39f3f248b2"  # stable: sha256


def test_distinct_systems_have_distinct_labels_and_folders():
    numbers = [1.2, 1.2000001, 16.0, 16.000001, 1e-5, 1e5, 1e15, 1e16, 123456.7, 123457.0, 0.1 + 0.2, 0.3]
    rescalings = [None, *numbers, "auto", "calibrated", "learned"]
    backbones = [*NAMES, "bert", "bert-raw", "bert-k-16", "bert-raw-untrained", "bert raw", "bert-untrained"]
    every = [System(*parts) for parts in itertools.product(backbones, rescalings, (True, False))]
    assert len({system.folder.lower() for system in every}) == len(every)
    assert len({rescale_label(value) for value in rescalings}) == len(rescalings)
    assert all(float(rescale_label(value)[2:]) == value for value in numbers), "figures read k from the label"
    assert System("bert", 16.0, False).folder == "bert-k-16-untrained" and rescale_label(16.0) == "k=16"


def test_numbers_of_numpy_are_numbers():
    assert parse_rescale(np.float32(4)) == 4.0 and parse_rescale(np.int64(8)) == 8.0
    for bad in ([4], {}, np.nan, np.bool_(True), True):
        with pytest.raises(ValueError, match="rescale must be none, a number > 0"):
            parse_rescale(bad)


def test_systems_keeps_names_apart(bert_folder, tmp_path):
    documents = [{"docno": str(i), "text": text} for i, text in enumerate(tiny.TEXTS[:4])]
    raw, divided = Splade(bert_folder), Splade(bert_folder, rescale=4)
    pipelines = systems({"my bert": raw, "my-bert": divided, "My-bert": raw}, documents, tmp_path, engine="exact")
    scores = [pipelines[name].search(tiny.TEXTS[0])["score"].iloc[0] for name in pipelines]
    assert scores[0] == scores[2] > scores[1] + 1
    assert len(list(tmp_path.glob("*/pt_meta.json"))) == 3


@pytest.mark.parametrize(
    ("backbones", "error", "message"),
    [
        ({"org/bert": "m"}, ValueError, "must not be blank, nor hold '/'; got 'org/bert'"),
        ({"a:b": "m"}, ValueError, "nor hold ':'"),
        ({"a\\b": "m"}, ValueError, "nor hold"),
        ({"tab\there": "m"}, ValueError, "nor hold"),
        ({"50%": "m"}, ValueError, "nor hold '%'"),
        ({" ": "m"}, ValueError, "must not be blank"),
        ({"": "m"}, ValueError, "must not be blank"),
        ({" bert": "m"}, ValueError, "outer blanks"),
        ({"b" * 240: "m"}, ValueError, "at most 200 bytes"),
        ({"模" * 80: "m"}, ValueError, "at most 200 bytes"),
        ({3: "m"}, TypeError, "names of backbones must be str, got 3"),
        ({"bert": 3}, TypeError, "backbone 'bert' must be a folder or a hub name, got int"),
        (["m"], TypeError, "backbones must be a dict"),
    ],
)
def test_names_are_checked_first(backbones, error, message, tmp_path):
    class Untouched:
        """A collection of which nothing may be read."""

    with pytest.raises(error, match=message):
        compare(Untouched(), backbones, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_backbones_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=5" / "m").mkdir(parents=True)
    (tmp_path / "a=b").mkdir()
    assert named_backbones(["x/checkpoint-500", "y/checkpoint-500", "org/bert"]) == {
        "x_checkpoint-500": "x/checkpoint-500", "y_checkpoint-500": "y/checkpoint-500", "bert": "org/bert"
    }  # fmt: skip
    assert named_backbones(["lr=5/m", "n=lr=5/m", "a=b", "c=/x=y/z", "/d=e/f"]) == {
        "m": "lr=5/m", "n": "lr=5/m", "a=b": "a=b", "c": "/x=y/z", "f": "/d=e/f"
    }  # fmt: skip
    assert named_backbones([]) == {} and list(named_backbones(["."])) == [tmp_path.name]
    assert short_names(["a/x/m", "b/x/m", "m", "n/"]) == ["a_x_m", "b_x_m", "m", "n"]
    for items in (["a=x", "a=y"], ["x/m", "x/m"], ["m=x", "y/m"], ["a_b/c", "a/b_c", "x/c", "x/b_c"]):
        with pytest.raises(ValueError, match="two backbones have the name .*: give them names, as NAME=MODEL"):
            named_backbones(items)
    for bad in ("=x", "x="):
        with pytest.raises(ValueError, match="must be NAME=MODEL or MODEL"):
            named_backbones([bad])
