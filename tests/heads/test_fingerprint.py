"""The fingerprint follows every bit of the parameters, and nothing else."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import rescale
from pyterrier_rescale.heads.fingerprint import model_fingerprint, settings_fingerprint


@pytest.mark.parametrize("family", ["bert", "modernbert", "roberta"])
def test_survives_save_and_load_of_raw_and_rescaled_models(family, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(tiny.save(family, tmp_path / "m"))
    for number, one in enumerate((model, rescale(model, 4.0))):
        one.save_pretrained(tmp_path / str(number))
        again = AutoModelForMaskedLM.from_pretrained(tmp_path / str(number))
        assert model_fingerprint(again) == model_fingerprint(one)


def test_every_parameter_counts_to_the_last_bit(tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(tiny.save("bert", tmp_path / "m"))
    seen = {model_fingerprint(model)}
    for name, parameter in model.named_parameters():
        other = copy.deepcopy(model)
        value = other.get_parameter(name).data.view(-1)
        value[-1] = torch.nextafter(value[-1], torch.tensor(9.0))
        seen.add(model_fingerprint(other))
        assert parameter.dtype == torch.float32
    assert len(seen) == 1 + len(list(model.named_parameters()))
    assert model_fingerprint(copy.deepcopy(model).bfloat16()) not in seen


def test_settings_by_content_not_by_order():
    assert settings_fingerprint({"a": 1, "b": [2]}) == settings_fingerprint({"b": [2], "a": 1})
    assert settings_fingerprint({"a": 1}) != settings_fingerprint({"a": "1"})
