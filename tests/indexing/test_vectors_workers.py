"""Vectors by several workers, and after kills: the same folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from vector_stub import StubEncoder, contents, make_documents

from pyterrier_rescale import encode

STUB = Path(__file__).with_name("vector_stub.py")


def run(path, documents=None, splade=None, **options):
    documents = make_documents(60) if documents is None else documents
    return encode(splade or StubEncoder(), documents, path, **{"shard_size": 16, "verbose": False, **options})


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.vectors.intake.WINDOW", 7)


def test_workers_write_the_same_folder(tmp_path, small_windows):
    run(tmp_path / "one")
    run(tmp_path / "two", iter(make_documents(60)), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_worker_that_dies_costs_its_window(tmp_path, small_windows):
    documents = make_documents(60)
    documents[33]["text"] += " die!"
    run(tmp_path / "one", documents)
    run(tmp_path / "two", documents, StubEncoder(die_on="die!", once=str(tmp_path / "died")), workers=2)
    assert (tmp_path / "died-die!").exists() and contents(tmp_path / "one") == contents(tmp_path / "two")


def test_documents_that_no_worker_survives_are_named(tmp_path, small_windows):
    documents = make_documents(60)
    documents[33]["text"] += " die!"
    with pytest.raises(RuntimeError, match=r"2 workers died on the documents from docno 'd32' on, exit code -9"):
        run(tmp_path / "v", documents, StubEncoder(die_on="die!"), workers=2)
    documents[33]["text"] += " raise!"
    with pytest.raises(RuntimeError, match=r"(?s)from docno 'd32' on:.*ArithmeticError: cannot encode this"):
        run(tmp_path / "v", documents, workers=2)
    assert set(contents(tmp_path / "v")) <= {"shard-00000.parquet", "shard-00001.parquet"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, how):
    code = (
        "from pyterrier_rescale import encode; from vector_stub import StubEncoder, make_documents\n"
        "if __name__ == '__main__':\n"
        "    encode(StubEncoder(sleep=20), make_documents(5000), 'v', workers=2, verbose=False)"
    )
    (tmp_path / "job.py").write_text(code)
    paths = [str(STUB.parent), str(STUB.parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    job = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    children = []
    while len(children) < 3:  # two workers and multiprocessing's resource tracker
        time.sleep(0.1)
        children = psutil.Process(job.pid).children(recursive=True)
    time.sleep(5)
    job.send_signal(how)
    assert job.wait(10) == -how
    assert not psutil.wait_procs(children, timeout=25)[1]


def _kills(folder, count):
    out = subprocess.run(
        [sys.executable, STUB, str(folder), str(count)], capture_output=True, text=True, timeout=300
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.startswith(f"{count} kills")


def test_killed_three_times(tmp_path):
    _kills(tmp_path, 3)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    _kills(tmp_path, 20)
