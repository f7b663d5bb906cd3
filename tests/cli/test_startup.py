"""What each verb imports: the time of a start. Lists of modules, not seconds, so that it is the same everywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tiny
from test_cli import VERBS

from pyterrier_rescale import Splade, open_index

HEAVY = {"torch", "transformers", "pyterrier", "pandas", "numpy", "scipy", "sentence_transformers", "datasets",
         "matplotlib", "jnius", "statsmodels", "sklearn"}  # fmt: skip
MODEL = {"torch", "transformers", "numpy", "scipy"}
RUN = """
import json, sys
from pyterrier_rescale.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code, stop.code
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def work(bert_folder, tmp_path_factory):
    splade, index = Splade(bert_folder, max_length=32), open_index(tmp_path_factory.mktemp("work") / "ix", "exact")
    (splade.doc_encoder() >> index.indexer()).index([{"docno": f"d{i}", "text": t} for i, t in enumerate(tiny.TEXTS)])
    return {"model": bert_folder, "index": str(index.path), "new": str(index.path.parent / "new")}


@pytest.mark.parametrize(
    ("calls", "allowed"),
    [
        (["--help", "--version", *(f"{verb} --help" for verb in VERBS)], set()),
        (["audit {model}", "rescale {model} {new}"], MODEL | {"pandas"}),
        (["search {index} {model} retrieval"], MODEL | {"pandas", "pyterrier"}),
        (["export {index} {new}.jsonl --format anserini"], {"numpy", "scipy", "pandas", "pyterrier"}),
    ],
    ids=["help: nothing", "heads: no pyterrier", "search: no trainer", "export: no model"],
)
def test_what_a_verb_loads(calls, allowed, work):
    """The heavy libraries that a fresh process holds after these calls of the command."""
    given = json.dumps([call.format(**work).split() for call in calls])
    out = subprocess.run([sys.executable, "-c", RUN, given], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert HEAVY & set(json.loads(out.stdout.splitlines()[-1])) <= allowed
