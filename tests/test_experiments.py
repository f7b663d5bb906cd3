"""experiments/paper: settings that name real things, estimates checked by hand, a dry run through every step."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pyterrier_rescale import load_collection
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


def test_every_task_is_a_split_that_ir_datasets_has(settings):
    assert len(settings["tasks"]) == 16
    for task in settings["tasks"]:
        assert task["split"] in load_collection(task["collection"]).splits, task["name"]
    import ir_datasets

    assert ir_datasets.load(settings["triples"]).has_docpairs()


def test_estimates(settings):
    estimates = load("estimates")
    bert, tasks = settings["backbones"]["bert"], settings["tasks"]
    parameters = 86e6 + 30522 * 768
    expected = 6 * parameters * 128 * (2 * 200 + 25) * 150_000 / 1e14 / 3600
    assert estimates.training_hours(bert, settings["training"]) == pytest.approx(expected) == pytest.approx(14.9, 0.01)
    tasks = [*tasks[:3], {**tasks[3], "documents": 1_000_000, "words": 999}]
    encodes, waits = estimates.encoding_hours(bert, tasks, 256)
    tokens = 8_841_823 * 56 * 1.35 + 1_000_000 * 256
    assert encodes == pytest.approx(2 * parameters * tokens / 1e14 / 3600), "MS MARCO once for its three tasks"
    assert waits == pytest.approx(9_841_823 / 2000 / 3600)
    assert estimates.shared_disk_gb(settings) == pytest.approx(13.7 * 2.5 + 128 * 150_000 * 800 / 1e9)
    table = estimates.markdown(settings)
    assert table.count("\n| ") == 5 + 4 and "| splade-v3 | MS MARCO dev RR@10 .402" in table
    scores, trains = estimates.record_hours(settings, "splade-v3", {"batch_size": 16})
    assert scores == pytest.approx(2 * 22e6 * 500_000 * 9 * 225 / 1e14 / 3600)
    assert trains == pytest.approx(6 * parameters * (9 * 200 + 25) * 16 * 31_250 / 1e14 / 3600)


def test_mistakes_end_in_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    with pytest.raises(SystemExit, match="no system is called bert-k3; there are bert-raw"):
        run.main(["bert-k3", "--work", str(tmp_path)])
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit, match="holds something else than a dry run"):
        run.main(["bert-k8", "--dry-run", "--work", str(tmp_path)])
    (tmp_path / ".dry-run").touch()
    with pytest.raises(SystemExit, match="holds a dry run"):
        run.main(["bert-k8", "--work", str(tmp_path)])
    run.main(["--list"])
    assert "| modernbert | modernbert-raw, modernbert-k8" in capsys.readouterr().out


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
    heads = [line for line in table if line.startswith("| system")]
    assert heads[0] == "| system | MS MARCO dev | DL 2019 | DL 2020 | BEIR-13 | terms/query | terms/doc |"
    assert heads[1].count("|") == 15
    row = next(line for line in table if line.startswith("| modernbert-k16")).split(" | ")
    beir = results.loc["modernbert-k16", "value"].drop(["MS MARCO dev", "DL 2019", "DL 2020"])
    assert len(beir) == 13 and row[4] == f"{beir.mean():.3f}"

    encoder = tmp_path / "modernbert-k16" / "encoder"
    config = TrainConfig.from_json(encoder / "train_config.json").to_dict()
    wanted = {**settings["training"], **settings["dry_run"]["training"], "rescale": 16.0}
    assert {name: config[name] for name in wanted} == wanted
    assert json.loads((encoder / "config.json").read_text())["architectures"] == ["ModernBertForMaskedLM"]
    assert len(pd.read_csv(encoder / "monitor.csv")) == wanted["max_steps"]
    assert sum(1 for _ in (tmp_path / "triples.jsonl").open()) == 6 * 8
    assert not any((tmp_path / "modernbert-k16" / "indexes").iterdir()), "indexes go once their tasks are scored"

    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/results/*.csv")}
    (gone,) = (tmp_path / "modernbert-k16" / "results").glob("NQ-*.csv")
    gone.unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    again = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/results/*.csv")}
    assert {file for file in kept if again[file] != kept[file]} == {gone}, "only the missing result is made again"
    assert pd.read_csv(tmp_path / "results.csv")["value"].tolist() == pytest.approx(results["value"].tolist())
