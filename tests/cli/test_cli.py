"""The command line: every verb on tiny models, help with examples, one line per error."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pandas as pd
import pytest
import tiny
from transformers import AutoModelForMaskedLM

from pyterrier_rescale.cli import main
from pyterrier_rescale.cli.entry import _warnings_in_a_line

VERBS = ["audit", "rescale", "train", "index", "encode", "export", "search", "compare", "demo", "teach"]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """The tiny texts as a BEIR folder."""
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    corpus, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for i, text in enumerate(tiny.TEXTS * 6):
        title, body = " ".join(text.split()[:3]) + f" {i}", " ".join(text.split()[3:])
        corpus.append(json.dumps({"_id": f"d{i}", "title": title, "text": f"{body} {i}"}))
        queries.append(json.dumps({"_id": f"q{i}", "text": title}))
        qrels.append(f"q{i}\td{i}\t1")
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return str(folder)


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a call."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    code = stop.value.code
    out = capsys.readouterr()
    if isinstance(code, str):  # sys.exit(message)
        return 1, out.out, out.err + code
    return code or 0, out.out, out.err


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb, capsys):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0 and f"pyterrier-rescale {verb}" in " ".join(out.split())


def test_warnings_take_a_line_without_source_code():
    """Warnings to users, that is; and only as long as the command runs."""
    usual = warnings.formatwarning
    with _warnings_in_a_line():
        told = warnings.formatwarning(UserWarning("two\n  lines"), UserWarning, "file.py", 3)
        assert told == "pyterrier-rescale: warning: two lines\n"
        assert "file.py:3" in warnings.formatwarning(FutureWarning("x"), FutureWarning, "file.py", 3)
    assert warnings.formatwarning is usual


def test_teach_copies_the_notebooks_and_says_what_is_next(tmp_path, capsys, monkeypatch):
    import pyterrier_rescale

    asked, target = {}, tmp_path / "my lecture"

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pyterrier_rescale, "load_collection", lambda name: Texts())
    monkeypatch.setattr(pyterrier_rescale, "small_backbone", interrupted)
    assert run(capsys, "teach", target)[0] == 130 and not target.exists(), "so that the same command goes on"
    monkeypatch.setattr(pyterrier_rescale, "small_backbone", lambda *args, **options: asked.update(options) or "cached")
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/venv/bin/{name}")
    code, out, _ = run(capsys, "teach", target)
    assert code == 0 and [path.name[0] for path in sorted(target.iterdir())] == ["1", "2", "3", "4"]
    assert out.splitlines()[-1].startswith(f"next: jupyter lab '{target}'")
    for notebook in target.iterdir():  # what it has warmed is what the notebooks ask for
        assert f"steps={asked['steps']})" in notebook.read_text(encoding="utf-8")
    assert run(capsys, "teach", target)[0] == 1, "a folder with files in it is left alone"
    code, out, _ = run(capsys, "teach", tmp_path / "none", "--warm-only")
    assert code == 0 and not (tmp_path / "none").exists() and "jupyter" not in out


class Texts:
    """Stands for the docstrings."""

    def corpus(self):
        return [{"docno": "d", "text": "a text"}]


def test_version(capsys):
    from pyterrier_rescale import __version__

    assert run(capsys, "--version")[1].strip() == __version__


def test_rescale_then_audit(bert_folder, tmp_path, capsys, collection):
    target = tmp_path / "k4"
    assert run(capsys, "rescale", bert_folder, target, "--rescale", "4")[0] == 0
    original, divided = (
        AutoModelForMaskedLM.from_pretrained(str(f)).get_output_embeddings().weight for f in (bert_folder, target)
    )
    assert (original / 4 - divided).abs().max() < 1e-6
    code, out, _ = run(
        capsys, "audit", bert_folder, target, "--texts", collection, "--plot", tmp_path / "a.png", "--csv",
        tmp_path / "a.csv",
    )  # fmt: skip
    assert code == 0 and (tmp_path / "a.png").stat().st_size > 1000
    frame = pd.read_csv(tmp_path / "a.csv")
    assert len(frame) == 2 and frame["row_norm_mean"].iloc[0] == pytest.approx(4 * frame["row_norm_mean"].iloc[1])
    code, _, err = run(capsys, "rescale", bert_folder, target, "--rescale", "4")
    assert code == 1 and "not an empty folder" in err


def test_calibrated_rescale(bert_folder, tmp_path, capsys, collection):
    code, out, _ = run(
        capsys, "rescale", bert_folder, tmp_path / "c", "--rescale", "calibrated", "--texts", collection
    )
    assert code == 0 and "calibrated" in out
    code, _, err = run(capsys, "rescale", bert_folder, tmp_path / "d", "--rescale", "auto")
    assert code == 1 and "give a collection with --texts" in err


def test_train_index_search(bert_folder, tmp_path, capsys, collection):
    encoder, index = tmp_path / "splade", tmp_path / "index"
    code, out, err = run(
        capsys, "train", bert_folder, collection, encoder, "--rescale", "4", "--max-steps", "3", "--batch-size", "4",
        "--max-length", "32", "--quiet", "--shift", "0.1", "--position-top-k", "50", "--fold", "case",
    )  # fmt: skip
    assert code == 0, err
    assert "position_top_k=50, fold='case'" in out
    assert (encoder / "model.safetensors").exists() and (encoder / "monitor.csv").exists()
    code, out, err = run(capsys, "index", encoder, collection, index, "--engine", "exact", "--quiet")
    assert code == 0 and "72 documents" in out, err
    code, out, err = run(capsys, "search", index, encoder, tiny.TEXTS[0], "--engine", "exact", "-n", "3", "--explain")
    assert code == 0 and out.count("\n") >= 4, err
    code, out, err = run(
        capsys, "search", index, encoder, "--topics", collection, "--run", tmp_path / "run.trec"
    )  # the index says its engine
    assert code == 0 and len((tmp_path / "run.trec").read_text().splitlines()[0].split()) == 6, err
    code, _, err = run(capsys, "search", index, encoder, "--engine", "exact")
    assert code == 1 and "a query is missing" in err
    code, _, err = run(capsys, "search", index, encoder, "x", "--topics", collection)
    assert code == 1 and "give either a query or --topics" in err
    code, _, err = run(capsys, "search", tmp_path / "none", encoder, "x", "--engine", "exact")
    assert code == 1 and "no whole exact index" in err
    code, _, err = run(capsys, "search", tmp_path / "none", encoder, "x")
    assert code == 1 and "no whole index" in err
    code, _, err = run(capsys, "search", index, encoder, "x", "--engine", "terrier")
    assert code == 1 and "has engine 'exact', got engine='terrier'" in err


def test_compare(bert_folder, tmp_path, capsys, collection):
    arguments = [
        "compare", collection, tmp_path / "out", "--backbone", f"b={bert_folder}", "--rescale", "none", "--rescale",
        "4", "--max-steps", "2", "--batch-size", "4", "--max-length", "32", "--engine", "exact", "--quiet",
    ]  # fmt: skip
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "| b k=4 " in out and "| BM25" in out
    names = pd.read_csv(tmp_path / "out" / "results.csv")["name"].tolist()
    assert names == ["BM25", "b tokens x idf", "b BM25 on pieces", "b raw", "b k=4"]
    assert f"to look at: {tmp_path / 'out' / 'report.html'}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "no/such"], "no network, or no such name"),
        (["rescale", "{bert}", "x", "--rescale", "-1"], "rescale must be none, a number > 0"),
        (["train", "{bert}", "no-such-collection", "x"], "no-such-collection"),
        (["index", "{bert}", "{collection}", "x", "--engine", "lucene"], "engine must be one of"),
        (["compare", "{collection}", "x", "--backbone", "b=/no/such/folder"], "does not exist"),
        # what would have been ignored
        (["audit", "{bert}", "--n-texts", "64"], "--n-texts goes with --texts"),
        (["rescale", "{bert}", "x", "--texts", "{collection}"], "--texts can only be given with --rescale auto"),
        (["rescale", "{bert}", "x", "--rescale", "8", "--n-texts", "64"], "--n-texts can only be given"),
        (
            ["rescale", "{bert}", "x", "--rescale", "auto", "--texts", "{collection}", "--bias"],
            "--bias can only be given with a number as --rescale, got --rescale auto",
        ),
        (["search", "x", "{bert}", "a query", "--split", "dev"], "--split goes with --topics"),
        (["search", "x", "{bert}", "a query", "--explain", "--run", "x.res"], "give one of the two"),
        (["search", "x", "{bert}", "a query", "--texts", "{collection}"], "--texts goes with --explain"),
        (["export", "x", "y", "--format", "ciff", "--split", "dev"], "--split goes with --topics"),
    ],
)
def test_one_clear_line_per_error(arguments, message, bert_folder, collection, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled = [a.replace("{bert}", bert_folder).replace("{collection}", collection) for a in arguments]
    code, _, err = run(capsys, *filled)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("pyterrier-rescale: error: ") and message in last and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_the_installed_command_rejects_unknown_verbs():
    out = subprocess.run(
        [sys.executable, "-m", "pyterrier_rescale.cli", "rescle"], capture_output=True, text=True, timeout=60
    )
    assert out.returncode == 2 and "rescale" in out.stderr and "Traceback" not in out.stderr
