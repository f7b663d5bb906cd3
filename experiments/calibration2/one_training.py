"""One run: start, training, scores."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from arms import AIM, apply
from data import UNSEEN, Study, Topics
from runs import DISTILLED, FIXED, MASKED, QUERY_IDF, THRESHOLD, Run
from scoring import scores_of, terrier, with_fusion
from step0 import MAX_LENGTH, idf_of, measured, sample
from teacher import NEGATIVES, scored_rows

from pyterrier_rescale import Splade, calibrate, rescale, train
from pyterrier_rescale.analysis.calibration import evaluate_k
from pyterrier_rescale.analysis.measurement import run_probe
from pyterrier_rescale.encoding.description import Description
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.heads.provenance import provenance

LAMBDA_Q, LAMBDA_D = 5e-4, 3e-4
BURN_IN = 50
#: Steps whose monitor rows are kept.
WATCHED = (1, 2, 5, 10, 25, 50, 75, 100, 120, 250, 500, 1000, 2000, 4000)
COLUMNS = ("step", "loss", "saturation", "score_std", "active_q", "active_d", "cosine", "grad_norm")


def carry_out(study: Study, run: Run) -> dict[str, Any]:
    """The row of a run."""
    begun = time.perf_counter()
    pairs, _ = study.pairs(run.collection)
    model, tokenizer = started(study, run)
    row: dict[str, Any] = {"id": run.id, "run": dataclasses.asdict(run), "warnings": []}
    row["k"] = (provenance(model) or {}).get("k", 1.0)
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoding = options_of(run, "shift", "position_top_k", "fold")
        if run.steps:
            options = {
                "max_steps": run.steps, "learning_rate": run.learning_rate,
                "batch_size": 4 if study.dry else run.batch_size,
                "ramp_steps": run.ramp or max(1, run.steps * 3 // 4), "lambda_q": LAMBDA_Q * run.penalty,
                "lambda_d": LAMBDA_D * run.penalty, "max_length": MAX_LENGTH, "seed": run.seed, "monitor": "warn",
                "save_steps": 0, "device": study.device, "rescale": None, "verbose": False, **encoding,
            }  # fmt: skip
            options |= recipe(study, run, model, tokenizer, pairs)
            if run.recipe == "burn-in":
                model = burnt_in(model, tokenizer, pairs, Path(out) / "burn-in", options)
            data = scored_rows(study, run.collection) if run.recipe == DISTILLED else pairs
            splade = train(model, data, Path(out) / "run", tokenizer=tokenizer, **options)
            log = pd.read_csv(Path(out) / "run" / "monitor.csv")
            row["audit"] = json.loads((Path(out) / "run" / "head_audit.json").read_text())["before"]
            names = [name for name in COLUMNS if name in log]
            row["dynamics"] = log.loc[log["step"].isin(WATCHED), names].round(4).to_dict("list")
        else:
            splade = Splade(model, tokenizer=tokenizer, max_length=MAX_LENGTH, device=study.device, **encoding)
        row["warnings"] = [str(w.message)[:90] for w in caught if str(w.message).startswith("step ")]
        row["scores"] = scored(study, run, splade)
    row["seconds"] = round(time.perf_counter() - begun, 1)
    return row


def options_of(run: Run, *names: str) -> dict[str, Any]:
    """Options of the encoder that a run sets, of those named."""
    return {name: getattr(run, name) for name in names if getattr(run, name) is not None}


def started(study: Study, run: Run) -> tuple[Any, Any]:
    """The model with its start applied, and the tokenizer."""
    if run.start.startswith("arm "):
        name = run.start.removeprefix("arm ")
        arms, _, sources, tokenizer = measured(study, run.backbone, run.collection, run.seed, only=name)
        return apply(arms[name], sources.model, sources.mean_row), tokenizer
    model, tokenizer = load_backbone(study.backbone(run.backbone, run.seed))
    if run.start == "raw":
        return model, tokenizer
    if run.start == FIXED:
        return rescale(model, model.config.hidden_size**0.25, bias=True, inplace=True), tokenizer
    if run.start.startswith("k="):
        return rescale(model, float(run.start.removeprefix("k=")), inplace=True), tokenizer
    offset = {"auto": False, "calibrated": True, "global": "global"}[run.start]
    pairs = sample(study.pairs(run.collection)[0])
    rate = max(run.rate, 1 / len(pairs))
    measure = calibrate(
        model, pairs, tokenizer=tokenizer, offset=offset, rate=rate, device=study.device,
        encoding=Description(max_length=MAX_LENGTH, **options_of(run, "position_top_k", "fold")),
    )  # fmt: skip
    return measure.apply(model, inplace=True), tokenizer


def recipe(study: Study, run: Run, model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Options of training in which a rival differs."""
    if run.recipe.startswith("bias x"):
        return {"bias_learning_rate": run.learning_rate * float(run.recipe.removeprefix("bias x"))}
    if run.recipe == DISTILLED:
        return {"loss": "margin_mse", "negatives": NEGATIVES}
    if run.recipe == MASKED:
        return {"flops_threshold": THRESHOLD}
    if run.recipe == "long warm-up":
        return {"warmup_steps": run.steps // 2}
    if run.recipe == "temperature":
        queries, documents = zip(*sample(pairs), strict=True)
        probe = run_probe(
            model, tokenizer, list(queries), list(documents), description=Description(max_length=MAX_LENGTH),
            device=study.device,
        )  # fmt: skip
        low, high = 1e-3, 1e6
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            saturated = evaluate_k(probe, None, 1.0, middle)["random_saturation"] > AIM
            low, high = (middle, high) if saturated else (low, middle)
        return {"temperature": high}
    return {}


def burnt_in(model: Any, tokenizer: Any, pairs: list, out: Path, options: dict[str, Any]) -> Any:
    """The model after some steps of its head alone."""
    head = {id(p) for p in model.parameters()} - {id(p) for p in model.base_model.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in head)
    steps = min(BURN_IN, options["max_steps"])
    splade = train(model, pairs, out, tokenizer=tokenizer, **{**options, "max_steps": steps})
    trained = splade.encoder.model
    for parameter in trained.parameters():
        parameter.requires_grad_(True)
    return trained


def scored(study: Study, run: Run, splade: Any) -> dict[str, Any]:
    """nDCG@10 by collection."""
    if run.topics == "held-out":
        return {run.collection: _judged(splade, study.held_out(run.collection), None)}
    names = [run.collection, *(UNSEEN if run.unseen else ())]
    gain = idf_of(study, run.collection, splade) if run.recipe == QUERY_IDF else None
    return {name: _judged(splade, study.test(name), _bm25(study, name), gain) for name in names}


def _judged(splade: Any, topics: Topics, bm25: Any, query_gain: np.ndarray | None = None) -> dict[str, Any]:
    scores, active = scores_of(splade, topics, query_gain)
    return {**with_fusion(topics, scores, bm25), **active}


_BM25: dict[str, np.ndarray] = {}


def _bm25(study: Study, name: str) -> np.ndarray:
    if name not in _BM25:
        _BM25[name] = terrier(study, name, study.test(name))
    return _BM25[name]
