"""Progress bars into a pipe: one line each. Into a terminal, and in notebooks: PyTerrier's."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pyterrier as pt
import pytest

from pyterrier_rescale._utils.progress import progress_bar

JOB = """
import sys
from pathlib import Path
import pandas as pd
import tiny
import transformers
from pyterrier_rescale import Splade, encode, open_index, small_backbone, train
from pyterrier_rescale.evaluation.experiment import experiment
from pyterrier_rescale.indexing.bm25 import build_bm25

folder, docs = sys.argv[1], [{"docno": f"d{i}", "text": text} for i, text in enumerate(tiny.TEXTS)]
small_backbone("bert", tiny.TEXTS * 20, steps=3, batch_size=4, hidden=32, layers=1, vocab_size=300,
               verbose=True)
pairs = [(text[:20], text) for text in tiny.TEXTS]
transformers.utils.logging.disable_progress_bar()
bert = tiny.save("bert", folder + "/bert")
transformers.utils.logging.enable_progress_bar()
splade = train(bert, pairs, folder + "/splade", max_steps=3, batch_size=2,
               max_length=16, monitor=False, ramp_steps=50)
splade = Splade(folder + "/splade", verbose=True)
encode(splade, docs, folder + "/vectors")
index = open_index(folder + "/index", "exact")
(splade.doc_encoder(verbose=False) >> index.indexer(verbose=True)).index(iter(docs))
(splade.query_encoder() >> index.retriever(verbose=True)).search("a text")
build_bm25(lambda: iter(docs), Path(folder, "bm25"), made_from={}, verbose=True)
topics = pd.DataFrame({"qid": ["1"], "query": ["a text"]})
qrels = pd.DataFrame({"qid": ["1"], "docno": ["d0"], "label": [1]})
one = splade.query_encoder(verbose=False) >> index.retriever()
experiment({"one": one}, topics, qrels, ["RR@10"], Path(folder, "runs"), print)
"""
BARS = (
    "pretraining bert", "training", "encode", "indexing \\(exact\\)", "Splade", "retrieving \\(exact\\)",
    "BM25: indexing",
)  # fmt: skip


@pytest.mark.slow
def test_one_line_each_in_a_pipe(tmp_path):
    tests = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTERRIER_RESCALE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", JOB, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stdout + done.stderr
    for bar in BARS:
        found = re.findall(rf"^{bar}: .*\n", done.stderr, re.MULTILINE)
        assert len(found) == 1 and re.search(r"\d+(%|doc|d|q|step)", found[0]), (bar, done.stderr)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_it_move(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress_bar(range(3), desc="moving", mininterval=0)) == [0, 1, 2]
    assert sys.stderr.getvalue().count("\rmoving") >= 4 and "100%" in sys.stderr.getvalue()


def test_widgets_of_notebooks_stay(monkeypatch):
    widget = type("tqdm_notebook", (), {"__module__": "tqdm.notebook", "__init__": lambda self, items, **o: None})
    monkeypatch.setattr(pt, "tqdm", type("tqdm", (widget,), {"__module__": "tqdm.auto"}))
    assert isinstance(progress_bar(range(3), desc="x"), widget)
