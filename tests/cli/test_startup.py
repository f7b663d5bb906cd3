"""What each verb imports: the time of a start. Lists of modules, not seconds, so that it is the same everywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyterrier as pt
import pytest
import tiny
from test_cli import VERBS

from pyterrier_rescale import Splade, open_index
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.splade.static import static_queries

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
def work(modernbert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    model, tokenizer = load_backbone(modernbert_folder)
    weights = np.random.default_rng(0).random(len(model.get_output_embeddings().weight), dtype=np.float32)
    sides = QuerySide(weights=weights, max_length=7)
    save_encoder(folder / "static", model, tokenizer, Description(max_length=32, queries=sides))
    index = open_index(folder / "ix", "exact")
    (Splade(folder / "static").doc_encoder() >> index.indexer()).index(tiny.DOCUMENTS)
    names = {name: str(folder / name) for name in ("ix", "static", "new")}
    return {"model": modernbert_folder, **names}


def test_static_queries_are_those_of_the_encoder(work):
    """Cut at seven tokens, blank, of no known token, not ASCII."""
    queries = pt.new.queries([*tiny.TEXTS, " ", "???", "caf\u00e9 \U0001f600"])
    found, truth = static_queries(work["static"])(queries), Splade(work["static"]).query_encoder()(queries)
    assert found["query_toks"].tolist() == truth["query_toks"].tolist() and max(map(len, found["query_toks"])) > 4
    assert {toks.vocab for toks in found["query_toks"]} == {toks.vocab for toks in truth["query_toks"]}
    assert static_queries(work["model"]) is None


@pytest.mark.parametrize(
    ("calls", "allowed"),
    [
        (["--help", "--version", *(f"{verb} --help" for verb in VERBS)], set()),
        (["audit {model}", "rescale {model} {new}"], MODEL | {"pandas"}),
        (["search {ix} {model} retrieval"], MODEL | {"pandas", "pyterrier"}),
        (["search {ix} {static} retrieval"], {"numpy", "scipy", "pandas", "pyterrier"}),
        (["export {ix} {new}.jsonl --format anserini"], {"numpy", "scipy", "pandas", "pyterrier"}),
    ],
    ids=["help: nothing", "heads: no pyterrier", "search: no trainer", "static queries: no model", "export: no model"],
)
def test_what_a_verb_loads(calls, allowed, work):
    """The heavy libraries that a fresh process holds after these calls of the command."""
    given = json.dumps([call.format(**work).split() for call in calls])
    out = subprocess.run([sys.executable, "-c", RUN, given], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert HEAVY & set(json.loads(out.stdout.splitlines()[-1])) <= allowed
