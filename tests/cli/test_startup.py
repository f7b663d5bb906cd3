"""What each verb imports: the time of a start. Lists of modules, not seconds, so that it is the same everywhere."""

from __future__ import annotations

import json
import os
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


def loaded(*calls: list[str]) -> set[str]:
    """The heavy libraries that a fresh process holds after these calls of the command."""
    out = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(calls)], capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    return HEAVY & set(json.loads(out.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tiny.save("bert", folder / "m")
    splade, index = Splade(str(folder / "m"), max_length=32), open_index(folder / "ix", "exact")
    (splade.doc_encoder() >> index.indexer()).index([{"docno": f"d{i}", "text": t} for i, t in enumerate(tiny.TEXTS)])
    return folder


def test_help_loads_nothing():
    assert loaded(["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)) == set()


def test_heads_are_measured_and_divided_without_pyterrier(work):
    assert loaded(["audit", f"{work}/m"], ["rescale", f"{work}/m", f"{work}/k4"]) <= MODEL | {"pandas"}


def test_search_loads_the_encoder_and_no_trainer(work):
    calls = ["search", f"{work}/ix", f"{work}/m", "sparse retrieval"]
    assert loaded(calls) <= MODEL | {"pandas", "pyterrier"}


def test_export_needs_no_model(work):
    calls = ["export", f"{work}/ix", f"{work}/out", "--format", "anserini"]
    assert loaded(calls) <= {"numpy", "scipy", "pandas", "pyterrier"}
