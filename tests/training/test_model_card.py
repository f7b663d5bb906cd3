"""The model card: audits, data, and a call that makes the encoder again."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from test_run import FAST, PAIRS, weights_of

import pyterrier_rescale
from pyterrier_rescale import Splade, audit, train


def table(card):
    rows = (line.strip("| ").split(" | ") for line in card.split("## Data")[0].splitlines() if line.startswith("| "))
    return {what: values for what, *values in rows}


def test_audits_before_and_after_in_the_card_and_as_json(bert_folder, tmp_path):
    train(bert_folder, PAIRS, tmp_path / "out", rescale=4.0, **FAST)
    card = (tmp_path / "out" / "README.md").read_text()
    text = (tmp_path / "out" / "head_audit.json").read_text()
    kept = json.loads(text, parse_constant=lambda name: pytest.fail(name))  # NaN is no JSON
    heads = audit(bert_folder, PAIRS, max_length=32), audit(str(tmp_path / "out"), PAIRS, max_length=32)
    for column, (when, head) in enumerate(zip(("before", "after"), heads, strict=True)):
        (row,) = head.to_frame().to_dict("records")
        assert kept[when].keys() == row.keys() and kept[when]["model"] == Path(bert_folder).name
        for name in row.keys() - {"model", "verdict"}:
            value = kept[when][name]
            expected = row[name]
            if not isinstance(expected, str):
                value = math.nan if value is None else value
                expected = pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)
            assert value == expected, name
        for name in ("row_norm_mean", "active_terms", "active_terms_query", "random_std", "suggested_k"):
            assert float(table(card)[name][column]) == pytest.approx(row[name], rel=1e-2)
        told = f"{when.capitalize()}{' training' * (when == 'before')}: {row['verdict'].split(':')[0]}"
        assert told in " ".join(card.split())
    assert kept["before"]["rescaled_by"] is None and kept["after"]["rescaled_by"] == 4


def test_the_call_makes_the_encoder_again(bert_folder, tmp_path, monkeypatch):
    Splade(bert_folder, activation="log1p_relu").save_pretrained(tmp_path / "encoder")
    train(tmp_path / "encoder", PAIRS, tmp_path / "out", rescale=16.0, seed=5, **FAST)
    card = (tmp_path / "out" / "README.md").read_text()
    call = re.search(r"^train\(.*\)$", card, re.M).group()
    assert "`list`: 12 rows of a query and 1 document(s)." in card
    assert f"pyterrier-rescale {pyterrier_rescale.__version__}, " in card
    monkeypatch.chdir(tmp_path)
    eval(call, {"train": train, "data": PAIRS})  # noqa: S307
    made, again = weights_of(tmp_path / "out"), weights_of(tmp_path / "splade")
    assert max(float((made[name] - again[name]).abs().max()) for name in made) < 1e-5


def test_few_rows_and_a_loaded_model(tmp_path):
    import tiny

    model, tokenizer = tiny.build("bert")
    train(model, PAIRS[:4], tmp_path / "out", tokenizer=tokenizer, **FAST)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "active_terms" not in table(card)
    assert 'train(model, data, "splade", tokenizer=tokenizer, ' in card
