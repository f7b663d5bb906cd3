"""experiments/calibration2: its arithmetic against independent computations, and a dry run through its blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from scipy.stats import ttest_rel

from pyterrier_rescale import Splade, calibrate

FOLDER = Path(__file__).parent.parent / "experiments" / "calibration2"
MODULES = ("analyse", "arms", "crossed", "data", "one_training", "run", "runs", "scoring", "step0")


@pytest.fixture
def study(monkeypatch):
    """The study's modules by name, off the path again afterwards."""
    import importlib

    monkeypatch.syspath_prepend(FOLDER)
    known = {name: sys.modules.pop(name, None) for name in MODULES}
    yield lambda name: importlib.import_module(name)
    for name, module in known.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_a_difference_over_topics_and_seeds(study):
    difference = study("crossed").difference
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.3, 0.1, 50), generator.normal(0.25, 0.1, 50)
    alike = difference(np.stack([a - b] * 3))  # seeds that do not matter: the paired t-test
    assert alike.p == pytest.approx(ttest_rel(a, b).pvalue) and alike.mean == pytest.approx(np.mean(a - b))
    interval = ttest_rel(a, b).confidence_interval()
    assert (alike.low, alike.high) == pytest.approx((interval.low, interval.high))
    assert np.isnan(difference((a - b)[None]).p), "one seed says nothing of seeds"
    seeds = np.array([0.2, -0.2, 0.03])[:, None]
    assert difference((a - b)[None] + seeds).p > 0.5, "seeds that matter widen the interval"


def test_arms_are_what_they_say(study):
    arms_module, step0 = study("arms"), study("step0")
    model, tokenizer = tiny.build("bert")
    words = [text.split() for text in tiny.TEXTS]
    pairs = [(" ".join(w[:4]), " ".join(words[(i + n) % 12][:5] + w)) for n in range(1, 5) for i, w in enumerate(words)]
    queries, documents = map(list, zip(*pairs, strict=True))
    sources = arms_module.Sources(model, tokenizer, 32)
    probes = {name: sources.probe(name, queries, documents) for name in arms_module.SOURCES}
    counts, frequencies = arms_module.token_frequencies(tokenizer, documents, 32, len(sources.bias))
    arms, facts = arms_module.make_arms(probes, counts, frequencies, len(documents))
    assert set(arms) == {"A", "B", "C", "D", "E", "F", "G", "G0", "H", "I", "J", "Jm", "raw", "k16"}
    assert 0 <= facts["R2 of B"] <= 1

    def encoded(start) -> np.ndarray:
        return Splade(start, tokenizer=tokenizer, max_length=32, device="cpu").encode_docs(documents[:12]).toarray()

    measured = calibrate(model, pairs, tokenizer=tokenizer, max_length=32, device="cpu", rate=arms_module.RATE)
    applied = arms_module.apply(arms["A"], model, sources.mean_row)
    np.testing.assert_allclose(encoded(applied), encoded(measured.apply(model)), atol=1e-4)
    own = {name: arm.weights(probes[arm.source].documents.pooled, sources.bias) for name, arm in arms.items()}
    number = {name: (weights > 0).sum() for name, weights in own.items()}
    aim = facts["active terms aimed at"] * len(documents)
    for name in ("B", "C", "D", "E", "F", "G", "G0", "I", "Jm"):
        assert number[name] == pytest.approx(aim, abs=5), f"{name} is matched"
        if name != "Jm":
            pooled = sources.pooled(documents[:12])[arms[name].source]
            start = arms_module.apply(arms[name], model, sources.mean_row)
            np.testing.assert_allclose(encoded(start), arms[name].weights(pooled, sources.bias), atol=1e-4)
    # D has A's quantiles, among the terms of its decile of frequency
    order = np.argsort(counts, kind="stable")
    deciles = np.arange(len(order)) * 10 // len(order)
    for decile in range(10):
        own = order[deciles == decile]
        assert sorted(arms["D"].shift[own]) == pytest.approx(sorted(arms["A"].shift[own]))
    np.testing.assert_allclose(arms["E"].shift, -np.log(frequencies + 0.5), rtol=1e-6)
    assert step0.sample(pairs, 8)[0] == (pairs[0][0], pairs[0][1])


def test_scores_and_fusion_by_hand(study):
    scoring, data = study("scoring"), study("data")
    scores = np.array([[3.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0]])
    np.testing.assert_allclose(scoring.scaled(scores), [[1, 0, 0, 0.5], [0, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_allclose(scoring.scaled(scores, depth=2)[0], [1, 0, 0, 0])
    qrels = pd.DataFrame({"qid": ["1", "2", "3"], "docno": ["b", "a", "c"], "label": 1})
    topics = data.Topics(["1", "2", "3"], ["x"] * 3, qrels, np.array(list("abcd")), ["t"] * 4)
    found = scoring.judged(topics, scores)
    assert found["per_query"] == pytest.approx([0.5, 0, 0]) and found["ndcg"] == pytest.approx(0.5 / 3, abs=1e-4)
    fused = scoring.with_fusion(topics, scores, np.array([[6, 9.0, 3, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))["fused"]
    assert fused["per_query"] == pytest.approx([1 / np.log2(3), 1, 0], abs=1e-3)


def test_tables_and_readme_have_the_results_as_they_are(study):
    analyse = study("analyse")
    files = FOLDER / "results.jsonl", FOLDER / "results-gpu.jsonl"
    results = analyse.load(*files)
    tables = (FOLDER / "tables.md").read_text()
    assert analyse.repeats(*files) in tables
    assert analyse.finals(*results) in tables and analyse.rates(results[0]) in tables
    assert analyse.step0(results[1]) in tables and analyse.without_model(results[1]) in tables
    headline = analyse.headline(*results)
    assert headline in (FOLDER / "README.md").read_text()
    readme = (FOLDER.parent.parent / "README.md").read_text()
    for start in ("raw", "k=16", "calibrated", "BM25 (Terrier)"):  # rounded means, no intervals
        (row,) = [line for line in headline.splitlines() if line.startswith(f"| {start} |")]
        _, _, _, _, scifact, _, nfcorpus, cranfield, terms, _ = row.split("|")
        means = [value.split("±")[0].strip() for value in (scifact, nfcorpus, cranfield, terms)]
        assert f"| {start} | {' | '.join(means)}".rstrip() in readme, start
    assert analyse.offsets(*results) in tables and analyse.offsets(*results) in (FOLDER / "details.md").read_text()


@pytest.mark.slow
def test_dry_run_goes_through_blocks_and_resumes(tmp_path):
    for name in ("vaswani", "scifact", "medquad", "nfcorpus", "cranfield"):
        folder = tmp_path / "collections" / name
        (folder / "qrels").mkdir(parents=True)
        texts = [f"{name} {text} number {i}" for i, text in enumerate(tiny.TEXTS * 2)]
        corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
        queries = [{"_id": f"q{i}", "text": " ".join(text.split()[1:6])} for i, text in enumerate(texts)]
        for file, rows in (("corpus", corpus), ("queries", queries)):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for split, part in (("train", range(16)), ("test", range(16, 24))):
            lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in part)]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "results.jsonl"
    command = [
        sys.executable, str(FOLDER / "run.py"), "--collections", str(tmp_path / "collections"), "--dry",
        "--threads", "1", "--cache", str(tmp_path / "cache"), "--out", str(out),
        "--blocks", "free", "step0", "lr", "best", "arms", "backbones",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len([row for row in rows if "run" in row]) == 9
    names = {row["id"] for row in rows}
    assert {"step0-minilm-scifact", "free-minilm-cranfield", "backbone-modernbert-3x128-kept0"} <= names
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and len(out.read_text().splitlines()) == len(rows), "what is finished is not run again"
    analyse = [sys.executable, str(FOLDER / "analyse.py"), "--results", str(out), "--out", str(tmp_path)]
    done = subprocess.run(analyse, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    tables = (tmp_path / "tables.md").read_text()
    assert "R2 of B" in tables and "| tokens x IDF |" in tables and "| arm B, steps 2 |" in tables
