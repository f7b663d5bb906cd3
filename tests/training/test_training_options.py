"""Options of the head in training: the plain formula's gradient, what is saved is what was trained."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from dense import dense_weights
from test_run import FAST, PAIRS, dev_split

from pyterrier_rescale import train
from pyterrier_rescale.heads.ties import untie
from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.dev_evaluation import DevSet
from pyterrier_rescale.training.initialization import starting_module
from pyterrier_rescale.training.loading import load_rows

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def models(family="bert"):
    """Heads: tied to the embeddings, untied."""
    tied, tokenizer = tiny.build(family, seed=1, **(STILL if family == "bert" else {}))
    with torch.no_grad():
        tied.get_input_embeddings().weight[0].normal_()  # a row of zeros has the same logit at every position
    untied = copy.deepcopy(tied)
    untie(untied)
    return {"tied": (tied, tokenizer), "untied": (untied, tokenizer)}


TERMS = np.linspace(-1, 1, 397)
ONE_SIDE = {"activation": "log1p_relu", "query_activation": "relu"}


@pytest.mark.parametrize("tied", ["tied", "untied"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize(
    ("family", "options", "plain"),
    [
        ("bert", {"shift": 0.5}, {"shift": 0.5}),
        ("bert", {"shift": TERMS}, {"shift": torch.as_tensor(TERMS, dtype=torch.float32)}),
        ("bert", ONE_SIDE, {"activation": "log1p_relu"}),
        ("bert", ONE_SIDE | {"queries": True}, {}),
        ("modernbert", {"position_top_k": 12, "shift": 0.2}, {"position_top_k": 12, "shift": 0.2}),
        ("modernbert", {"fold": "case", "shift": 0.2}, {"fold": "case", "shift": 0.2}),
    ],
)
def test_vectors_and_gradient_are_those_of_the_plain_formula(tied, pooling, family, options, plain):
    """Of every parameter, against the stock model's."""
    model, tokenizer = models(family)[tied]
    options = dict(options)
    queries = options.pop("queries", False)
    config = TrainConfig(rescale=None, max_length=32, pooling=pooling, **options)
    module = starting_module(model, tokenizer, load_rows(PAIRS), config)
    found = module([module.tokenise(tiny.TEXTS, 32, queries=queries)])[0]
    expected = dense_weights(model, tokenizer, tiny.TEXTS, pooling=pooling, max_length=32, **plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert 0 < found.count_nonzero() < found.numel()
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    found.backward(upstream)
    expected.backward(upstream)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(gradients) > 15
    for name, parameter in module.mlm.named_parameters():
        if name in gradients and parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [None, 3])
def test_options_are_trained_saved_and_scored(size, modernbert_folder, tmp_path):
    options = {"rescale": 4.0, "position_top_k": 12, "fold": "case", "mini_batch_size": size, **FAST}
    splade = train(modernbert_folder, PAIRS, tmp_path / "out", dev=dev_split(), **options)
    assert (splade.position_top_k, splade.fold) == (12, "case")
    stored = pd.read_csv(tmp_path / "out" / "dev.csv")["nDCG@10"].max()
    config = TrainConfig(rescale=None, max_length=32, position_top_k=12, fold="case")
    module = starting_module(splade.encoder.model, splade.encoder.tokenizer, load_rows(PAIRS), config)
    assert DevSet(dev_split()).score(module) == pytest.approx(stored, abs=1e-6)


@pytest.mark.parametrize("untied", [True, False])
@pytest.mark.parametrize("rate", [None, 0.0, 3e-2])
def test_a_rate_of_its_own_for_the_bias(untied, rate, tmp_path):
    """Adam's first step moves a parameter by the rate."""
    model, tokenizer = models()["untied" if untied else "tied"]
    options = {**FAST, "max_steps": 1, "warmup_steps": 0, "rescale": None, "save_steps": 0}
    trained = train(model, PAIRS, tmp_path / "out", tokenizer=tokenizer, bias_learning_rate=rate, **options)
    after, moved = trained.encoder.model.state_dict(), {}
    for name, before in model.state_dict().items():
        if "key.bias" not in name and "position_ids" not in name:  # no softmax sees a bias of the keys
            moved[name] = float((after[name] - before).abs().max())
    biases = {"cls.predictions.bias", "cls.predictions.decoder.bias"}
    assert biases < moved.keys() and len(moved) > 20
    for name, distance in moved.items():
        expected = FAST["learning_rate"] if rate is None or name not in biases else rate
        assert distance == pytest.approx(expected, rel=0.05), name
