"""Options of the head in training: the plain formula's gradient, what is saved is what was trained."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from dense import dense_weights
from test_run import FAST, PAIRS, dev_split, log_of

from pyterrier_rescale import Splade, train
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


def check_gradient(tied, pooling, options, plain_options, family="bert", queries=False):
    """Vectors and the gradient of every parameter against the stock model's under the plain formula."""
    model, tokenizer = models(family)[tied]
    config = TrainConfig(rescale=None, max_length=32, pooling=pooling, **options)
    module = starting_module(model, tokenizer, load_rows(PAIRS), config)
    found = module([module.tokenise(tiny.TEXTS, 32, queries=queries)])[0]
    expected = dense_weights(model, tokenizer, tiny.TEXTS, pooling=pooling, max_length=32, **plain_options)
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


@pytest.mark.parametrize("tied", ["tied", "untied"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("shift", [0.5, "terms"])
def test_the_gradient_under_a_shift(tied, pooling, shift):
    values = np.linspace(-1, 1, 397) if shift == "terms" else shift
    check_gradient(tied, pooling, {"shift": values}, {"shift": torch.as_tensor(values, dtype=torch.float32)})


@pytest.mark.parametrize("tied", ["tied", "untied"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("options", [{"position_top_k": 12}, {"fold": "case"}, {"position_top_k": 12, "fold": "case"}])
def test_the_gradient_of_what_counts(tied, pooling, options):
    check_gradient(tied, pooling, {**options, "shift": 0.2}, {**options, "shift": 0.2}, family="modernbert")


@pytest.mark.parametrize("side", ["documents", "queries"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_the_gradient_of_two_logarithms(pooling, side):
    """log(1 + log(1 + relu(z))), on one side alone."""
    option = {"activation": "log1p_relu", "query_activation": "relu"}
    option = option if side == "documents" else {"query_activation": "log1p_relu"}
    for queries in (True, False):
        twice = queries == (side == "queries")
        check_gradient("untied", pooling, option, {"activation": "log1p_relu" if twice else "relu"}, queries=queries)


@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_two_logarithms_are_trained_saved_and_followed(pooling, bert_folder, tmp_path):
    from sentence_transformers import SparseEncoder

    options = {"pooling": pooling, "activation": "log1p_relu", "query_activation": "relu"}
    splade = train(bert_folder, PAIRS, tmp_path / "out", rescale="calibrated", **options, **FAST)
    assert splade.activation == "log1p_relu"
    stock = SparseEncoder(str(tmp_path / "out"), device="cpu")
    for ours, theirs in ((splade.encode_docs, stock.encode_document), (splade.encode_queries, stock.encode_query)):
        expected = theirs(tiny.TEXTS, convert_to_sparse_tensor=False).numpy()
        np.testing.assert_allclose(ours(tiny.TEXTS).toarray(), expected, atol=1e-4)
    assert abs(splade.encode_docs(tiny.TEXTS) - splade.encode_queries(tiny.TEXTS)).max() > 0.01


@pytest.mark.parametrize("size", [None, 3])
def test_options_are_trained_saved_scored_and_told(size, modernbert_folder, tmp_path):
    options = {"rescale": 4.0, "position_top_k": 12, "fold": "case", "mini_batch_size": size, **FAST}
    splade = train(modernbert_folder, PAIRS, tmp_path / "out", dev=dev_split(), **options)
    assert (splade.position_top_k, splade.fold) == (12, "case")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`Splade` follows its `position_top_k=12`, `fold='case'`; other tools ignore that." in card
    stored = pd.read_csv(tmp_path / "out" / "dev.csv")["nDCG@10"].max()
    config = TrainConfig(rescale=None, max_length=32, position_top_k=12, fold="case")
    module = starting_module(splade.encoder.model, splade.encoder.tokenizer, load_rows(PAIRS), config)
    assert DevSet(dev_split()).score(module) == pytest.approx(stored, abs=1e-6)
    expected = dense_weights(
        splade.encoder.model, splade.encoder.tokenizer, tiny.TEXTS, max_length=32, position_top_k=12, fold="case"
    ).detach()  # fmt: skip
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)
    row = log_of(tmp_path / "out")[0]
    start = Splade(modernbert_folder, rescale=4.0, position_top_k=12, fold="case", max_length=32)
    batch = start.encode_docs(tiny.TEXTS)
    assert 0 < row["active_d"] < 1.5 * batch.nnz / 12


def test_a_shift_is_trained_saved_and_told(bert_folder, tmp_path):
    splade = train(bert_folder, PAIRS, tmp_path / "out", rescale=4.0, shift=0.5, **FAST)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its logits lowered (by 0.5, stored in the bias)" in card and "shift=0.5" in card
    assert splade.encoder.model.config.pyterrier_rescale["shift"] == 0.5
    assert train(bert_folder, PAIRS, tmp_path / "out", rescale=4.0, shift=0.5, **FAST) == splade
    start = {**FAST, "max_steps": 1, "learning_rate": 1e-12}
    still = train(bert_folder, PAIRS, tmp_path / "still", rescale=None, shift=0.5, **start)
    expected = Splade(bert_folder, shift=0.5, max_length=32).encode_docs(tiny.TEXTS)
    np.testing.assert_allclose(still.encode_docs(tiny.TEXTS).toarray(), expected.toarray(), atol=1e-5)
    auto = train(bert_folder, PAIRS, tmp_path / "auto", rescale="auto", shift=0.5, **start)
    assert auto.encoder.model.config.pyterrier_rescale["method"] == "auto"


def test_a_shift_of_each_term_is_plain_json(bert_folder, tmp_path):
    values = np.linspace(-1, 1, 397)
    config = TrainConfig(shift=values)
    config.to_json(tmp_path / "c.json")
    assert TrainConfig.from_json(tmp_path / "c.json") == config
    train(bert_folder, PAIRS, tmp_path / "out", shift=values, **FAST)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "shift=shift" in card
    assert "its logits lowered (one for each term, stored in the bias)" in card


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
