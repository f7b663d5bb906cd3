"""``search --explain``: each score as a sum; ``index``: what systems() takes again."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import tiny

from pyterrier_rescale import Splade, load_collection, open_index, systems
from pyterrier_rescale.cli import app, main
from pyterrier_rescale.splade.stages import SpladeDocEncoder

QUERY = tiny.TEXTS[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(encoder, BEIR folder of the tiny texts)."""
    folder = tmp_path_factory.mktemp("search")
    encoder = folder / "encoder"
    Splade(tiny.save("bert", folder / "m"), max_length=32, rescale=4).save_pretrained(encoder)
    (folder / "qrels").mkdir()
    rows = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(tiny.TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    return encoder, folder


def call(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert not stop.value.code


@pytest.fixture(scope="module")
def index(data):
    encoder, folder = data
    call("index", encoder, folder, folder / "indexes" / "one", "--engine", "exact", "--quiet")
    return folder / "indexes" / "one"


@pytest.mark.parametrize("by_texts", [False, True])
def test_contributions_sum_to_the_score(data, index, capsys, by_texts):
    encoder, folder = data
    call("search", index, encoder, QUERY, "-n", "4", "--explain", *(["--texts", folder] if by_texts else []))
    lines = [line for line in capsys.readouterr().out.splitlines() if " = " in line]
    splade = Splade(encoder)
    documents = splade.encode_docs(tiny.TEXTS)
    if not by_texts:
        documents.data = np.rint(documents.data * 100) / 100
    truth = (splade.encode_queries([QUERY]) @ documents.T).toarray()[0]
    assert len(lines) == 4
    for line in lines:
        left, right = line.split(" = ")
        _, docno, score = left.split()
        parts = [float(part.rsplit(" ", 1)[1]) for part in right.split(" + ")]
        assert float(score) == pytest.approx(truth[int(docno[1:])], abs=0.006)
        assert sum(parts) == pytest.approx(float(score), abs=0.006 * len(parts) + 0.006)


def test_an_index_that_is_there_is_replaced_on_request_only(data, index, tmp_path, capsys):
    encoder, folder = data
    own = tmp_path / "own"
    call("index", encoder, folder, own, "--engine", "exact", "--overwrite", "--quiet")  # none is there: made
    before = open_index(own).generation
    with pytest.raises(SystemExit) as stop:
        main(["index", str(encoder), str(folder), str(own), "--engine", "exact"])
    assert stop.value.code == 1 and "--overwrite replaces it" in capsys.readouterr().err
    assert open_index(own).generation == before
    call("index", encoder, folder, own, "--engine", "exact", "--overwrite", "--quiet")
    assert open_index(own).generation != before and open_index(own).made_from == open_index(index).made_from


def test_a_query_of_another_encoder_is_warned_of(data, index, tmp_path):
    encoder, _ = data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call("search", index, encoder, QUERY)
    with pytest.warns(UserWarning, match="made by another encoder"):
        call("search", index, tiny.save("bert", tmp_path / "other"), QUERY)


def test_an_encoder_that_was_forgotten_is_missed(index, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["search", str(index), QUERY])
    assert stop.value.code == 1 and "INDEX ENCODER QUERY" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["own.csv", "./own.csv"])
def test_a_file_is_no_collection(data, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("docno,text\n1,a text\n")
    with pytest.raises(SystemExit):
        main(["index", str(data[0]), name, "index"])
    assert "is a file, and a collection a folder" in capsys.readouterr().err


def test_systems_takes_the_index_of_the_command(data, index, monkeypatch):
    encoder, folder = data

    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(SpladeDocEncoder, "_vectors", refuse)
    pipeline = systems({"one": Splade(encoder)}, load_collection(str(folder)), index.parent, engine="exact")["one"]
    assert len(pipeline.search(QUERY))


def test_texts_to_measure_on_are_spread_over_the_collection(data):
    found = app._some_texts(str(data[1]), 3)
    assert [tiny.TEXTS.index(text) for text in found] == [0, 4, 8]
