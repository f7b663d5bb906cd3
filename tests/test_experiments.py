"""Experiments: settings that name real things, tables that are the results', dry runs through every step."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny

from pyterrier_rescale import load_collection
from pyterrier_rescale.collections import write_beir
from pyterrier_rescale.training import TrainConfig

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "experiments" / "paper"
STUDY = ROOT / "experiments" / "calibration2"


def script(path, *arguments):
    """Run a script of an experiment to its end."""
    command = [sys.executable, str(path), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def load(monkeypatch):
    """A module of an experiment, which imports those beside it by their bare names; forgotten afterwards."""
    before = set(sys.modules)

    def module(folder, name):
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module(name)

    yield module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "experiments")):
            del sys.modules[name]


def test_every_system_of_the_paper_has_valid_options(load):
    run = load(PAPER, "run")
    settings = run.load_settings()
    names = run.system_names(settings)
    assert len(names) == 28 and {"bert-raw", "modernbert-k16", "ettin-calibrated"} <= set(names)
    TrainConfig.from_dict({**settings["training"], **settings["dry_run"]["training"]})
    for rescaling in settings["rescalings"]:
        run.train_config(settings, f"roberta-{rescaling}")
    assert all(run.train_config(settings, name).bf16 for name in settings["records"])


@pytest.mark.slow
def test_dry_run_of_the_paper_takes_every_step_and_skips_finished_ones(tmp_path):
    engine = "pisa" if importlib.util.find_spec("pyterrier_pisa") else "exact"
    systems = ["modernbert-raw", "modernbert-k16", "splade-v3", "opensearch-doc-v3", "sparseup"]
    options = ["--dry-run", "--work", tmp_path, "--engine", engine]
    script(PAPER / "run.py", *systems, *options)

    results = pd.read_csv(tmp_path / "results.csv").set_index(["system", "task"])
    assert {"splade-v3", "opensearch-doc-v3"} <= {system for system, _ in results.index}
    assert set(results["queries"]) == {8}
    assert results["value"].between(0, 1).all() and results["value"].max() > 0
    assert (results["terms_per_query"] > 0).all(), "no collection's queries are read from a blank field"
    assert results.loc["modernbert-raw", "p"].isna().all()
    assert results.loc[("modernbert-raw", "MS MARCO dev"), "measure"] == "RR@10"
    values = pd.read_csv(next((tmp_path / "modernbert-k16" / "results").glob("scifact-*.csv")))
    assert results.loc[("modernbert-k16", "SciFact"), "value"] == pytest.approx(values["value"].mean())

    table = (tmp_path / "results.md").read_text().splitlines()
    row = next(line for line in table if line.startswith("| modernbert-k16")).split(" | ")
    beir = results.loc["modernbert-k16", "value"].drop(["MS MARCO dev", "DL 2019", "DL 2020"])
    assert len(beir) == 13 and row[4] == f"{beir.mean():.3f}"
    assert not any((tmp_path / "modernbert-k16" / "indexes").iterdir()), "indexes go once their tasks are scored"

    (gone,) = (tmp_path / "modernbert-k16" / "results").glob("nq-*.csv")
    gone.unlink()
    script(PAPER / "run.py", *systems, *options)
    assert gone.exists()
    assert pd.read_csv(tmp_path / "results.csv")["value"].tolist() == pytest.approx(results["value"].tolist())


def test_tables_and_readme_have_the_results_as_they_are(load):
    analyse = load(STUDY, "analyse")
    files = STUDY / "results.jsonl", STUDY / "results-gpu.jsonl"
    results = analyse.load(*files)
    tables = (STUDY / "tables.md").read_text()
    assert analyse.repeats(*files) in tables
    assert analyse.finals(*results) in tables and analyse.rates(results[0]) in tables
    assert analyse.step0(results[1]) in tables and analyse.without_model(results[1]) in tables
    headline = analyse.headline(*results)
    assert headline in (STUDY / "README.md").read_text()
    readme = (ROOT / "README.md").read_text()
    for start in ("raw", "k=16", "calibrated", "BM25 (Terrier)"):  # rounded means, no intervals
        (row,) = [line for line in headline.splitlines() if line.startswith(f"| {start} |")]
        _, _, _, _, scifact, _, nfcorpus, cranfield, terms, _ = row.split("|")
        means = [value.split("±")[0].strip() for value in (scifact, nfcorpus, cranfield, terms)]
        assert f"| {start} | {' | '.join(means)}".rstrip() in readme, start
    assert analyse.offsets(*results) in tables and analyse.offsets(*results) in (STUDY / "details.md").read_text()


@pytest.mark.slow
def test_dry_run_of_the_study_goes_through_blocks_and_resumes(tmp_path):
    for name in ("vaswani", "scifact", "medquad", "nfcorpus", "cranfield"):
        texts = [f"{name} {text} number {i}" for i, text in enumerate(tiny.TEXTS * 2)]
        corpus = [{"docno": f"d{i}", "text": text} for i, text in enumerate(texts)]
        topics = [{"qid": f"q{i}", "query": " ".join(text.split()[1:6])} for i, text in enumerate(texts)]
        rows = [{"qid": f"q{i}", "docno": f"d{i}", "label": 1} for i in range(24)]
        collection = load_collection(documents=corpus, topics=topics, qrels={"train": rows[:16], "test": rows[16:]})
        write_beir(collection, tmp_path / "collections" / name)
    out = tmp_path / "results.jsonl"
    options = ["--collections", tmp_path / "collections", "--dry", "--threads", "1", "--cache", tmp_path / "cache"]
    options += ["--out", out, "--blocks", "free", "step0", "lr", "best", "arms", "backbones"]
    script(STUDY / "run.py", *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len([row for row in rows if "run" in row]) == 9
    names = {row["id"] for row in rows}
    assert {"step0-minilm-scifact", "free-minilm-cranfield", "backbone-modernbert-3x128-kept0"} <= names
    script(STUDY / "run.py", *options)
    assert len(out.read_text().splitlines()) == len(rows), "what is finished is not run again"
    script(STUDY / "analyse.py", "--results", out, "--out", tmp_path)
    tables = (tmp_path / "tables.md").read_text()
    assert "R2 of B" in tables and "| tokens x IDF |" in tables and "| arm B, steps 2 |" in tables
