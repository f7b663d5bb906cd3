"""Paths at the terminal and in Python: ``~`` is the home folder everywhere; damaged files are named in one line."""

from __future__ import annotations

import gzip
import json
import shutil

import pandas as pd
import pytest
import tiny

from pyterrier_rescale import Splade, audit, compare, open_index, rescale, systems, train
from pyterrier_rescale.cli import entry
from pyterrier_rescale.training import TrainConfig

PAIRS = [(" ".join(text.split()[:3]), text) for text in tiny.TEXTS]
DOCUMENTS = [{"docno": f"d{i}", "text": text} for i, text in enumerate(tiny.TEXTS)]


@pytest.fixture
def home(tmp_path, monkeypatch, bert_folder):
    """A home folder that holds the model ``m``; the current folder is another, and must stay empty."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    shutil.copytree(bert_folder, tmp_path / "home" / "m")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert not list((tmp_path / "here").iterdir())


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        entry.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def test_home_in_python(home):
    splade = Splade("~/m", tokenizer="~/m", max_length=32)
    splade.save_pretrained("~/saved")
    assert Splade("~/saved").fingerprint == splade.fingerprint
    assert len(audit("~/m").row_norms) == len(rescale("~/m", 4).get_output_embeddings().weight)
    index = open_index("~/i", "exact")
    (splade.doc_encoder() >> index.indexer()).index(DOCUMENTS)
    assert len(open_index("~/i", "exact")) == len(DOCUMENTS)
    systems({"a": splade}, DOCUMENTS, "~/indexes", engine="exact")
    train("~/m", PAIRS, "~/run", max_steps=1, batch_size=4, max_length=16, verbose=False, save_steps=0)
    TrainConfig().to_json("~/c.json")
    assert TrainConfig.from_json("~/c.json") == TrainConfig()
    assert {path.name for path in home.iterdir()} >= {"m", "saved", "i", "indexes", "run", "c.json"}


def test_home_in_comparisons(home, bert_folder):
    class Nothing:
        name = "nothing"

    with pytest.raises(AttributeError):
        compare(Nothing(), {"m": "~/m"}, "~/out")
    from pyterrier_rescale.evaluation.comparison import claim_folder

    assert claim_folder("~/out", {"a": 1}) == home / "out" and (home / "out" / "config.json").exists()


def test_home_at_the_terminal(home, capsys):
    assert call(capsys, "rescale", "~/m", "~/k4", "--rescale", "4")[0] == 0
    code, out, err = call(capsys, "audit", "~/m", "~/k4", "--csv=~/a.csv", "--plot=~/a.png")
    assert code == 0, err
    assert len(pd.read_csv(home / "a.csv")) == 2
    assert (home / "a.png").exists() and (home / "k4" / "config.json").exists()


def collection(folder):
    folder.mkdir()
    (folder / "qrels").mkdir()
    for name, rows in {
        "corpus": [{"_id": d["docno"], "title": "", "text": d["text"]} for d in DOCUMENTS],
        "queries": [{"_id": f"q{i}", "text": query} for i, (query, _) in enumerate(PAIRS)],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = [f"q{i}\td{i}\t1\n" for i in range(len(PAIRS))]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def test_search_gives_as_many_as_asked_and_explains_the_query_side(bert_folder, tmp_path, capsys):
    data = collection(tmp_path / "data")
    encoder = tmp_path / "static"
    train(bert_folder, PAIRS, encoder, queries="static", max_steps=1, batch_size=4, max_length=32, verbose=False,
          rescale=4.0)  # fmt: skip
    splade = Splade(encoder)
    index = open_index(tmp_path / "i", "exact")
    (splade.doc_encoder() >> index.indexer()).index(DOCUMENTS)
    arguments = ("search", tmp_path / "i", encoder, "--engine", "exact")
    for options, least, most in ((("-n", "2"), 1, 2), (("-n", "5"), 3, 5), ((), 6, len(DOCUMENTS))):
        code, _, err = call(capsys, *arguments, "--topics", data, "--run", tmp_path / "run", *options)
        assert code == 0, err
        run = pd.read_csv(tmp_path / "run", sep=" ", header=None)
        assert least <= run.groupby(0).size().max() <= most
    query = PAIRS[0][0]
    code, out, err = call(capsys, *arguments, query, "-n", "1", "--explain")
    assert code == 0, err
    row = splade.encode_queries([query])
    readable = [splade.term_map().readable(int(i), splade.encoder.tokenizer) for i in row.indices]
    terms = dict(zip(readable, row.data, strict=True))
    shown = dict(pair.rsplit(" ", 1) for pair in out.splitlines()[1].split("  "))
    assert len(shown) == min(10, len(terms))
    assert all(float(weight) == pytest.approx(terms[term], abs=0.006) for term, weight in shown.items())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged(kind, bert_folder, folder):
    """A model folder or collection with one damaged file; the command's arguments, and what its line must name."""
    model = folder / "model"
    shutil.copytree(bert_folder, model)
    if kind == "weights":
        cut(model / "model.safetensors")
    elif kind == "page":
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").write_text("<html>503 Service Unavailable</html>")
    elif kind == "config":
        cut(model / "config.json")
    elif kind == "tokenizer":
        cut(model / "tokenizer.json")
    if kind in ("weights", "page", "config"):
        return ("audit", model), str(model)
    if kind == "tokenizer":
        return ("index", model, collection(folder / "data"), folder / "i", "--engine", "exact"), str(model)
    if kind == "pairs":
        with gzip.open(folder / "pairs.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(list(pair)) + "\n" for pair in PAIRS * 50)
        cut(folder / "pairs.jsonl.gz")
        return ("train", model, folder / "pairs.jsonl.gz", folder / "out"), "pairs.jsonl.gz"
    data = collection(folder / "data")
    with gzip.open(data / "corpus.jsonl.gz", "wb") as file:
        file.write((data / "corpus.jsonl").read_bytes() * 50)
    (data / "corpus.jsonl").unlink()
    cut(data / "corpus.jsonl.gz")
    return ("index", model, data, folder / "i", "--engine", "exact"), "corpus.jsonl.gz"


@pytest.mark.parametrize("kind", ["weights", "page", "config", "tokenizer", "pairs", "corpus"])
def test_damaged_files_are_named_in_one_line(kind, bert_folder, tmp_path, capsys):
    arguments, name = damaged(kind, bert_folder, tmp_path)
    code, _, err = call(capsys, *arguments)
    last = err.strip().splitlines()[-1]
    assert code == 1 and last.startswith("pyterrier-rescale: error: ") and name in last, err
    assert "Traceback" not in err and "Aborted" not in err and "no such name" not in last
