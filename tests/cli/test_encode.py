"""The verbs encode and export: shares of one folder, another go, hand-over."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from pyterrier_rescale import open_index, open_vectors
from pyterrier_rescale.cli import main


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir")
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": f"{text} {i}"}) for i, text in enumerate(tiny.TEXTS * 4)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": tiny.TEXTS[0]}) + "\n", encoding="utf-8")
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\n")
    return str(folder)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("verb", ["encode", "export"])
def test_help_has_an_example(verb, capsys):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0 and f"pyterrier-rescale {verb}" in " ".join(out.split())


def test_encode_in_parts_then_export(bert_folder, collection, tmp_path, capsys):
    options = [bert_folder, collection, tmp_path / "v", "--shard-size", "10", "--max-terms", "20", "-q"]
    code, out, _ = run(capsys, "encode", *options, "--shard", "0/2")
    assert code == 0 and "when all 2 are" in out
    code, _, err = run(capsys, "export", tmp_path / "v", tmp_path / "out", "--format", "anserini")
    assert code == 1 and "not finished (3 shards" in err
    code, out, _ = run(capsys, "encode", *options, "--shard", "1/2")
    assert code == 0 and "48 documents, 20 terms each" in out
    assert open_vectors(tmp_path / "v").stats()["active_max"] == 20
    arguments = ["--format", "lsr-benchmark", "--topics", collection, "--encoder", bert_folder]
    code, out, _ = run(capsys, "export", tmp_path / "v", tmp_path / "out", *arguments)
    assert code == 0 and "4 files" in out and (tmp_path / "out" / "query" / "query-ids.txt").read_text() == "q1"
    code, _, err = run(capsys, "encode", *options, "head:6379")
    assert code == 1 and "an address goes with --ray" in err
    code, _, err = run(capsys, "encode", *options, "--max-terms", "19")
    assert code == 1 and "max_terms 20, and not 19" in err and "--restart" in err
    assert run(capsys, "encode", *options, "--max-terms", "19", "--restart")[0] == 0


def test_export_of_an_index(tmp_path, capsys):
    documents = [{"docno": "a", "toks": {"x1": 3, "x2": 250}}, {"docno": "b", "toks": {"x2": 1}}]
    open_index(tmp_path / "i", "exact", scale=50).indexer().index(documents)
    assert run(capsys, "export", tmp_path / "i", tmp_path / "out", "--format", "anserini")[0] == 0
    lines = (tmp_path / "out" / "corpus" / "docs-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["vector"] for line in lines] == [d["toks"] for d in documents]
    code, _, err = run(capsys, "export", tmp_path / "nothing", tmp_path / "o", "--format", "anserini")
    assert code == 1 and "no vectors at" in err


KILLS = 8  # 20 within a process: tests/indexing/test_vectors.py


@pytest.mark.slow
def test_killed_at_random_moments_from_outside(bert_folder, collection, tmp_path):
    """Processes as people start them, killed from outside; each goes on where the former was killed."""

    def start(folder):
        command = [sys.executable, "-m", "pyterrier_rescale.cli", "encode", bert_folder, collection, str(folder)]
        return subprocess.Popen([*command, "--shard-size", "3", "-q"])

    begin = time.monotonic()
    assert start(tmp_path / "whole").wait(600) == 0
    took = time.monotonic() - begin
    expected, chance = contents(tmp_path / "whole"), random.Random(0)
    killed = 0
    for _ in range(10 * KILLS):
        process = start(tmp_path / f"v{killed // 4}")
        try:
            process.wait(chance.uniform(0.3, 1.0) * took)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait(60)
        if killed == KILLS:
            break
    assert killed == KILLS, "they ended before they were killed"
    for folder in sorted(tmp_path.glob("v*")):
        assert start(folder).wait(600) == 0
        assert contents(folder) == expected


def test_index_of_vectors(bert_folder, collection, tmp_path, capsys):
    """Of a folder of them, and of what an index holds: as if encoded and indexed at once."""
    run(capsys, "encode", bert_folder, collection, tmp_path / "v", "-q")
    code, out, err = run(capsys, "index", tmp_path / "v", tmp_path / "a", "--engine", "exact", "-q")
    assert code == 0 and "48 documents" in out, err
    code, _, err = run(capsys, "index", tmp_path / "a", tmp_path / "b", "--engine", "exact", "-q")
    assert code == 0, err
    code, _, err = run(capsys, "index", bert_folder, collection, tmp_path / "c", "--engine", "exact", "-q")
    assert code == 0, err
    a, b, c = ([*open_index(tmp_path / name).vectors().documents()] for name in "abc")
    assert a == b == c
    for arguments, message in (
        ([tmp_path / "v"], "Missing argument"),
        ([tmp_path / "none", tmp_path / "d"], "there are no vectors at"),
        ([tmp_path / "v", tmp_path / "d", "--batch-size", "4"], "--batch-size goes with an encoder"),
        ([bert_folder, collection, "more", tmp_path / "d"], "got 4 arguments"),
    ):
        code, _, err = run(capsys, "index", *arguments, "--engine", "exact", "-q")
        assert code != 0 and message in err, err
    assert not (tmp_path / "d").exists()
