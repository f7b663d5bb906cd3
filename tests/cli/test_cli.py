"""The command line: every verb on tiny models, help with examples, one line per error."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import tiny
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import Splade, load_collection, open_vectors, rescale, systems, train
from pyterrier_rescale.cli import main
from pyterrier_rescale.cli.train import settings_of
from pyterrier_rescale.collections import write_beir
from pyterrier_rescale.training import TrainConfig

VERBS = ["audit", "rescale", "train", "index", "encode", "export", "search", "compare", "demo", "teach"]
VERBS += ["small-backbone"]
QUERY = tiny.TEXTS[0]


def write_collection(folder):
    """The tiny texts as a BEIR folder: a sentence is found by its first three words."""
    words = [text.split() for text in tiny.TEXTS]
    documents = [{"docno": f"d{i}", "title": " ".join(w[:3]), "text": " ".join(w[3:])} for i, w in enumerate(words)]
    topics = [{"qid": f"q{i}", "query": document["title"]} for i, document in enumerate(documents)]
    qrels = [{"qid": f"q{i}", "docno": f"d{i}", "label": 1} for i in range(12)]
    write_beir(load_collection(documents=documents, topics=topics, qrels=qrels), folder)
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("beir") / "data")


@pytest.fixture(scope="module")
def encoder(bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "splade"
    Splade(bert_folder, max_length=32, rescale=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def index(encoder, collection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "one"
    with pytest.raises(SystemExit) as stop:
        main(["index", str(encoder), str(collection), str(folder), "--engine", "exact", "--quiet"])
    assert not stop.value.code
    return folder


@pytest.fixture
def call(capsys):
    """Exit status, stdout and stderr of a call."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture
def made(call):
    """The stdout of a call that must succeed."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert code == 0, err
        return out

    return run


@pytest.mark.parametrize("name", ["nosuch", "no/such"])
def test_a_mistyped_name_fails_at_once(name, tmp_path):
    """Not after a minute of asking a hub that cannot be reached, once for each of its files."""
    out = subprocess.run(
        [sys.executable, "-m", "pyterrier_rescale", "audit", name], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert out.returncode == 1 and len(out.stderr.splitlines()) == 1, out.stderr
    assert f"'{name}' is neither a folder here nor a model that the hub gives" in out.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb, made):
    assert f"pyterrier-rescale {verb}" in " ".join(made(verb, "-h").split())


def test_teach_copies_the_notebooks_and_says_what_is_next(tmp_path, call, made, monkeypatch):
    asked, started, target = {}, [], tmp_path / "my lecture"

    class Texts:
        def corpus(self):
            return [{"docno": "d", "text": "a text"}]

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyterrier_rescale.load_collection", lambda name: Texts())
    monkeypatch.setattr("pyterrier_rescale._utils.java.start_java", lambda: started.append("Terrier"))
    monkeypatch.setattr("pyterrier_rescale.small_backbone", interrupted)
    assert call("teach", target)[0] == 130 and not target.exists(), "so that the same command goes on"
    monkeypatch.setattr("pyterrier_rescale.small_backbone", lambda *_, **options: asked.update(options) or "cached")
    assert made("teach", target).splitlines()[-1].startswith(f"next: jupyter lab '{target}'")
    assert "".join(path.name[0] for path in sorted(target.iterdir())) == "12345"
    for notebook in target.iterdir():  # what it has warmed is what the notebooks ask for
        assert f"steps={asked['steps']})" in notebook.read_text(encoding="utf-8")
    assert call("teach", target)[0] == 1, "a folder with files in it is left alone"
    made("teach", tmp_path / "all", "--lecturer")
    assert {path.name for path in (tmp_path / "all" / "lecturer").iterdir()} == {
        "figures", "slides.ipynb", "solutions", "source"
    }  # fmt: skip
    assert "jupyter" not in made("teach", tmp_path / "none", "--warm-only") and not (tmp_path / "none").exists()
    assert started == ["Terrier"] * 3, "its jars are fetched, too"


def test_rescale_then_audit(bert_folder, tmp_path, made, collection, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made("rescale", bert_folder, "~/k4", "--rescale", "4")
    target = tmp_path / "k4"
    original, divided = (
        AutoModelForMaskedLM.from_pretrained(str(f)).get_output_embeddings().weight for f in (bert_folder, target)
    )
    assert (original / 4 - divided).abs().max() < 1e-6
    made("audit", bert_folder, target, "--texts", collection, "--plot=~/a.png", "--csv=~/a.csv")
    assert (tmp_path / "a.png").stat().st_size > 1000
    frame = pd.read_csv(tmp_path / "a.csv")
    assert len(frame) == 2 and frame["row_norm_mean"].iloc[0] == pytest.approx(4 * frame["row_norm_mean"].iloc[1])
    assert "k = " in made("rescale", bert_folder, "~/c", "--rescale", "auto", "--texts", collection)


def test_train_index_search(bert_folder, tmp_path, made, collection):
    encoder, index = tmp_path / "splade", tmp_path / "index"
    command = [
        "train", bert_folder, collection, encoder, "--rescale", "4", "--max-steps", "3", "--batch-size", "4",
        "--max-length", "32", "--quiet", "--set", "shift=0.1", "--set", "position_top_k=50", "--set", "fold=case",
    ]  # fmt: skip
    made(*command)
    assert (Splade(encoder).position_top_k, Splade(encoder).fold) == (50, "case")
    before = (encoder / "model.safetensors").stat().st_mtime_ns
    made(*command)
    assert (encoder / "model.safetensors").stat().st_mtime_ns == before, "the same command returns what is finished"
    made(*command, "--overwrite")
    assert (encoder / "model.safetensors").stat().st_mtime_ns > before
    assert "12 documents" in made("index", encoder, collection, index, "--engine", "exact", "--quiet")
    for n in (2, 12):
        made("search", index, encoder, "--topics", collection, "--run", tmp_path / "run.trec", "-n", n)
        run = pd.read_csv(tmp_path / "run.trec", sep=" ", header=None)
        assert run.shape[1] == 6 and 1 <= run.groupby(0).size().max() <= n


def test_values_of_options():
    items = ["bf16=True", "a=true", "b=none", "c=16", "d=1e-3", "e=[1, 2]", "f=calibrated", "g='x'", "warm-up=None"]
    assert settings_of(items, ()) == {
        "bf16": True, "a": True, "b": None, "c": 16, "d": 1e-3, "e": [1, 2], "f": "calibrated", "g": "x",
        "warm_up": None,
    }  # fmt: skip


def test_contributions_sum_to_the_score(encoder, index, made):
    out = made("search", index, encoder, QUERY, "-n", "4", "--explain").splitlines()
    splade = Splade(encoder)
    documents = splade.encode_docs(tiny.TEXTS)
    documents.data = np.rint(documents.data * 100) / 100
    truth = (splade.encode_queries([QUERY]) @ documents.T).toarray()[0]
    assert out[0] == f"1: {QUERY}" and len(out) == 9
    for rank, (line, told) in enumerate(zip(out[1::2], out[2::2], strict=True), start=1):
        place, docno, score = line.split()
        parts = [float(part.rsplit(" ", 1)[1]) for part in told.removeprefix("     = ").split(" + ")]
        assert int(place) == rank and float(score) == pytest.approx(truth[int(docno[1:])], abs=0.001)
        assert sum(parts) == pytest.approx(float(score), abs=0.006 * len(parts) + 0.006)


def test_queries_from_standard_input_and_files_with_snippets(encoder, index, collection, made, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdin", io.StringIO("first query\nsecond"))
    lines = made("search", index, encoder, "-", "-n", "2", "--texts", collection).splitlines()
    assert lines[0] == "1: first query" and lines[5] == "2: second" and len(lines) == 10
    found = tiny.TEXTS[int(lines[1].split()[1][1:])]
    assert len(lines[2]) <= 40 and lines[2].endswith(" ...") and found.startswith(lines[2].strip().removesuffix(" ..."))
    for name, apart, header in (("a.tsv", "\t", ""), ("b.tsv", "\t", "qid\tquery\n"), ("c.csv", ",", "id,text\n")):
        topics = tmp_path / name
        topics.write_text(f"{header}q{apart}first query\nz{apart}second {QUERY}\n")
        assert "of 2 queries" in made("search", index, encoder, "--topics", topics, "--run", tmp_path / "r")
        run = pd.read_csv(tmp_path / "r", sep=" ", header=None)
        assert set(run[0]) == {"q", "z"} and run[2].iloc[0] == lines[1].split()[1]


def test_a_query_of_another_encoder_is_warned_of(encoder, index, made, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made("search", index, encoder, QUERY)
    with pytest.warns(UserWarning, match="made by another encoder"):
        made("search", index, tiny.save("bert", tmp_path / "other"), QUERY)


def test_systems_takes_the_index_of_the_command(encoder, collection, index, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.splade.stages.SpladeDocEncoder.transform_iter", None)
    pipeline = systems({"one": Splade(encoder)}, load_collection(collection), index.parent, engine="exact")["one"]
    assert len(pipeline.search(QUERY))


def test_encode_in_parts_index_and_export(bert_folder, collection, tmp_path, call, made):
    options = [bert_folder, collection, tmp_path / "v", "--shard-size", "5", "--max-terms", "20", "-q"]
    assert "when all 2 are" in made("encode", *options, "--shard", "0/2")
    assert call("export", tmp_path / "v", tmp_path / "out", "--format", "anserini")[0] == 1, "not finished"
    assert "12 documents" in made("encode", *options, "--shard", "1/2")
    assert open_vectors(tmp_path / "v").stats()["active_max"] == 20
    arguments = ["--format", "lsr-benchmark", "--topics", collection, "--encoder", bert_folder]
    assert "4 files" in made("export", tmp_path / "v", tmp_path / "out", *arguments)
    assert (tmp_path / "out" / "query" / "query-ids.txt").read_text().split()[0] == "q0"
    code, _, err = call("encode", *options, "--max-terms", "19")
    assert code == 1 and "max_terms" in err.replace("--max-terms", "max_terms") and "--overwrite" in err
    made("encode", *options, "--max-terms", "19", "--overwrite")
    made("index", tmp_path / "v", tmp_path / "a", "--engine", "exact", "-q")
    made("index", tmp_path / "a", tmp_path / "b", "--engine", "exact", "-q")
    made("export", tmp_path / "b", tmp_path / "jsonl", "--format", "anserini")
    (lines,) = (tmp_path / "jsonl" / "corpus").iterdir()
    vectors = {row["id"]: row["vector"] for row in map(json.loads, lines.read_text().splitlines())}
    assert len(vectors) == 12 and all(len(vector) <= 19 for vector in vectors.values())


def test_compare(bert_folder, tmp_path, made, collection):
    out = made(
        "compare", collection, tmp_path / "out", "--backbone", f"b={bert_folder}", "--rescale", "none", "--rescale",
        "4", "--max-steps", "2", "--batch-size", "4", "--max-length", "32", "--engine", "exact", "--quiet",
    )  # fmt: skip
    assert "| b k=4 " in out and "| BM25" in out
    names = pd.read_csv(tmp_path / "out" / "results.csv")["name"].tolist()
    assert names == ["BM25", "b tokens x idf", "b BM25 on pieces", "b raw", "b k=4", "BM25 + b raw", "BM25 + b k=4"]
    assert f"to look at: {tmp_path / 'out' / 'report.html'}" in out


REFUSED = [
    (["audit", "no/such"], "no/such"),
    (["rescale", "{bert}", "x", "--rescale", "-1"], "rescale must be none, a number > 0"),
    (["rescale", "{bert}", "x", "--rescale", "auto"], "--texts"),
    (["rescale", "{bert}", "{collection}"], "exists already"),
    (["train", "{bert}", "no-such-collection", "x"], "no-such-collection"),
    (["train", "{bert}", "{collection}", "x", "--max-steps", "2", "--set", "max_steps=3"], "--max-steps 3"),
    (["index", "{bert}", "{collection}", "x", "--engine", "lucene"], "--engine must be one of"),
    (["index", "{bert}", "{collection}", "more", "x"], "got 4 words"),
    (["index", "{bert}", "{collection}"], "VECTORS PATH where VECTORS holds"),
    (["index", "x"], "got 1 words: x"),
    (["export", "nothing-here", "x", "--format", "ciff"], "`pyterrier-rescale encode` makes what is missing"),
    (["index", "{bert}", "./own.csv", "x"], "own.csv"),
    (["compare", "{collection}", "x", "--backbone", "b=/no/such/folder"], "/no/such/folder"),
    (["search", "x", "{bert}"], "INDEX ENCODER QUERY"),
    (["search", "nothing-here", "nosuch", "a query"], "`pyterrier-rescale index` makes what is missing"),
    (["search", "{index}", "{bert}", "a query", "--texts", "./no"], "'no' does not exist"),
    (["search", "{index}", "{bert}", "--topics", "{bert}/tokenizer.json", "--run", "x"], "tokenizer.json, line 1: "),
    (["compare", "{collection}", "x", "--split", "tets"], "no split 'tets'; available: 'test'"),
    (["compare", "{collection}", "x", "--rescale", "sixteen"], "--rescale must be none"),
    (["small-backbone", "brt", "{collection}", "x"], "family must be one of 'bert'"),
    (["export", "x", "y", "--format", "ciphh"], "--format must be one of 'onnx'"),
    (["score", "{collection}", "/no/scorer", "x", "--negatives", "1"], "/no/scorer"),
    (["export", "x", "y", "--format", "ciff", "--topics", "{collection}"], "--encoder"),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED, ids=str)
def test_one_clear_line_per_error(arguments, named, bert_folder, collection, index, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*(word.format(bert=bert_folder, collection=collection, index=index) for word in arguments))
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("pyterrier-rescale: error: ") and named in last and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_home_in_python(bert_folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    shutil.copytree(bert_folder, tmp_path / "m")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "here")
    Splade("~/m", max_length=32).save_pretrained("~/saved")
    rescale("~/m", 4)
    systems({"a": Splade("~/saved")}, [{"docno": "d", "text": "a text"}], "~/indexes", engine="exact")
    train("~/m", [("a b", "a b c"), ("d e", "d e f")], "~/run", max_steps=1, batch_size=2, max_length=16,
          verbose=False, save_steps=0)  # fmt: skip
    TrainConfig().to_json("~/c.json")
    assert {path.name for path in tmp_path.iterdir()} >= {"saved", "indexes", "run", "c.json"}
    assert not list((tmp_path / "here").iterdir())
