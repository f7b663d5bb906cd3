"""experiments/paper: settings that name real things, a dry run through every step."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pyterrier_rescale.training import TrainConfig

FOLDER = Path(__file__).parent.parent / "experiments" / "paper"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"paper_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run():
    return load("run")


@pytest.fixture(scope="module")
def settings(run):
    return run.load_settings()


def test_every_system_has_valid_options(run, settings):
    names = run.system_names(settings)
    assert len(names) == 28 and {"bert-raw", "modernbert-k16", "ettin-calibrated"} <= set(names)
    assert [run.train_config(settings, f"roberta-{r}").rescale for r in settings["rescalings"]] == [
        None, 8.0, 16.0, "auto", "calibrated",
    ]  # fmt: skip
    TrainConfig.from_dict({**settings["training"], **settings["dry_run"]["training"]})
    assert run.train_config(settings, "splade-v3").loss == ("kl", "margin_mse")
    assert all(run.train_config(settings, name).bf16 for name in settings["records"])


@pytest.mark.slow
def test_dry_run_takes_every_step_and_skips_finished_ones(settings, tmp_path):
    engine = "pisa" if importlib.util.find_spec("pyterrier_pisa") else "exact"
    systems = ["modernbert-raw", "modernbert-k16", "splade-v3", "opensearch-doc-v3", "sparseup"]
    options = ["--dry-run", "--work", str(tmp_path), "--engine", engine]
    command = [sys.executable, str(FOLDER / "run.py"), *systems, *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]

    results = pd.read_csv(tmp_path / "results.csv").set_index(["system", "task"])
    assert {"splade-v3", "opensearch-doc-v3"} <= {system for system, _ in results.index}
    assert set(results["queries"]) == {8}
    assert results["value"].between(0, 1).all() and results["value"].max() > 0
    assert (results["terms_per_query"] > 0).all(), "no collection's queries are read from a blank field"
    assert results.loc["modernbert-raw", "p"].isna().all()
    assert results.loc[("modernbert-raw", "MS MARCO dev"), "measure"] == "RR@10"
    values = pd.read_csv(next((tmp_path / "modernbert-k16" / "results").glob("SciFact-*.csv")))
    assert results.loc[("modernbert-k16", "SciFact"), "value"] == pytest.approx(values["value"].mean())

    table = (tmp_path / "results.md").read_text().splitlines()
    row = next(line for line in table if line.startswith("| modernbert-k16")).split(" | ")
    beir = results.loc["modernbert-k16", "value"].drop(["MS MARCO dev", "DL 2019", "DL 2020"])
    assert len(beir) == 13 and row[4] == f"{beir.mean():.3f}"

    encoder = tmp_path / "modernbert-k16" / "encoder"
    config = TrainConfig.from_json(encoder / "train_config.json").to_dict()
    wanted = {**settings["training"], **settings["dry_run"]["training"], "rescale": 16.0}
    assert {name: config[name] for name in wanted} == wanted
    assert json.loads((encoder / "config.json").read_text())["architectures"] == ["ModernBertForMaskedLM"]
    assert not any((tmp_path / "modernbert-k16" / "indexes").iterdir()), "indexes go once their tasks are scored"

    (gone,) = (tmp_path / "modernbert-k16" / "results").glob("NQ-*.csv")
    gone.unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and gone.exists(), done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "results.csv")["value"].tolist() == pytest.approx(results["value"].tolist())
