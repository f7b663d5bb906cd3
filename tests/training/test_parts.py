"""Losses, regularisers and ramp against numpy; options; the monitor's verdicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from pyterrier_rescale.training.config import TrainConfig
from pyterrier_rescale.training.losses import LOSSES, StepParts, Targets
from pyterrier_rescale.training.monitor import Judge, measure
from pyterrier_rescale.training.regularizers import REGULARIZERS, ramp_share


@pytest.fixture
def vectors():
    generator = np.random.default_rng(0)
    queries = np.maximum(generator.normal(size=(3, 20)), 0)
    documents = np.maximum(generator.normal(size=(6, 20)), 0)
    return queries, documents


def targets(positives, ids, scores=None):
    return Targets(torch.tensor(positives), torch.tensor(ids), None if scores is None else torch.tensor(scores))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_infonce_with_hard_negatives(vectors, temperature):
    queries, documents = vectors
    loss = LOSSES["infonce"](temperature)
    got = loss(torch.tensor(queries), torch.tensor(documents), targets([[0], [2], [4]], [0, 1, 2, 3, 4, 5]))
    scores = queries @ documents.T / temperature
    expected = np.mean([logsumexp(scores[i]) - scores[i, 2 * i] for i in range(3)])
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_infonce_leaves_out_other_positives(vectors):
    queries, documents = vectors
    # document 3 has the text of document 0; document 4 is another positive of query 1
    known = targets([[10, -1], [12, 14], [14, -1]], [10, 11, 12, 10, 14, 15])
    got = LOSSES["infonce"]()(torch.tensor(queries), torch.tensor(documents), known)
    scores = queries @ documents.T
    kept = [[0, 1, 2, 4, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    expected = np.mean([logsumexp(scores[i, kept[i]]) - scores[i, 2 * i] for i in range(3)])
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_margin_mse(vectors):
    queries, documents = vectors
    teacher = np.array([[3.0, 1.0], [2.0, 2.5], [0.0, -1.0]])
    got = LOSSES["margin_mse"]()(torch.tensor(queries), torch.tensor(documents), targets([[0]] * 3, [0] * 6, teacher))
    own = [[queries[i] @ documents[2 * i], queries[i] @ documents[2 * i + 1]] for i in range(3)]
    expected = np.mean([((s[0] - s[1]) - (t[0] - t[1])) ** 2 for s, t in zip(own, teacher, strict=True)])
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_kl(vectors):
    queries, documents = vectors
    teacher = np.array([[3.0, 1.0], [2.0, 2.5], [0.0, -1.0]])
    got = LOSSES["kl"](2.0)(torch.tensor(queries), torch.tensor(documents), targets([[0]] * 3, [0] * 6, teacher))
    expected = 0.0
    for i in range(3):
        student = np.array([queries[i] @ documents[2 * i], queries[i] @ documents[2 * i + 1]]) / 2
        p = np.exp(teacher[i] / 2) / np.exp(teacher[i] / 2).sum()
        expected += (p * (np.log(p) - (student - logsumexp(student)))).sum() / 3
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_flops_l1_antizero(vectors):
    _, documents = vectors
    x = torch.tensor(documents)
    flops = (documents.mean(axis=0) ** 2).sum()
    assert float(REGULARIZERS["flops"](20)(x)) == pytest.approx(flops)
    assert float(REGULARIZERS["l1"](20)(x)) == pytest.approx(documents.sum(axis=1).mean())
    assert float(REGULARIZERS["anti_zero"](20)(x)) == pytest.approx(flops + 1 / documents.sum() ** 2)
    assert float(REGULARIZERS["anti_zero"](20)(x * 0)) > 1e6


def test_df_flops(vectors):
    _, documents = vectors
    regularizer = REGULARIZERS["df_flops"](20)
    got = float(regularizer(torch.tensor(documents)))
    frequency = np.clip((documents > 0).mean(axis=0), 1e-6, 1)
    weight = 1 / (1 + np.maximum(frequency ** (np.log(2) / np.log(0.1)) - 1, 0) ** 10)
    assert got == pytest.approx(((weight * documents.mean(axis=0)) ** 2).sum(), rel=1e-5)
    assert regularizer.penalty_weights(torch.tensor([0.1, 1, 0.01])).tolist() == pytest.approx([0.5, 1, 0], abs=1e-3)


def test_df_flops_remembers_frequencies():
    regularizer = REGULARIZERS["df_flops"](2)
    regularizer(torch.tensor([[1.0, 0.0]]))
    regularizer(torch.tensor([[0.0, 0.0]]))
    assert regularizer.frequency.tolist() == [0.5, 0.0]
    assert set(regularizer.state_dict()) == {"frequency", "batches"}


def test_ramp_is_in_absolute_steps():
    for shape, expected in (("quadratic", [0, 0.01, 0.25, 1, 1]), ("linear", [0, 0.1, 0.5, 1, 1])):
        assert [ramp_share(step, 100, shape) for step in (0, 10, 50, 100, 500)] == pytest.approx(expected)


def test_config_round_trip(tmp_path):
    config = TrainConfig(rescale="auto", batch_size=8, lambda_q=0.1, shift=np.linspace(-1, 1, 397))
    config.to_json(tmp_path / "c.json")
    assert TrainConfig.from_json(tmp_path / "c.json") == config
    assert TrainConfig(monitor=1, loss_weights=2).monitor is True
    pytest.raises(TypeError, TrainConfig, retriever={}).match("retriever must be 'bm25' or an encoder's hub name")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "infonec"}, "loss must be one of 'infonce', 'margin_mse', 'kl', got 'infonec'"),
        ({"rescale": -1.0}, "rescale must be None, a number > 0 or one of auto, calibrated, learned, got -1.0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number > 0, got nan"),
        ({"lambda_d": -0.1}, "lambda_d must be a finite number >= 0, got -0.1"),
        ({"queries": "idf"}, "queries must be 'model' or 'static', got 'idf'"),
        ({"queries": "static", "query_pooling": "sum"}, "query_pooling must be None for queries='static'"),
        ({"loss": "kl", "mine_negatives": 2}, "mine_negatives has no teacher scores"),
        ({"shift": 1.0, "rescale": "calibrated"}, "shift must be None with rescale='calibrated'"),
        ({"lora_rank": 2, "bias_learning_rate": 0.1}, "bias_learning_rate must be None or 0 with lora"),
        ({"position_top_k": 0}, "position_top_k must be an integer >= 1, got 0"),
        ({"loss": ("kl", "mse")}, "loss must be one of 'infonce', .* got 'mse'"),
        ({"loss": ("kl", "infonce"), "loss_weights": (1,)}, "loss_weights must be one for each loss"),
        ({"recipe": "splade-v4"}, "recipe must be one of None, 'paper', 'splade-v3'"),
        ({"flops_threshold": -1}, "flops_threshold must be an integer >= 0"),
        ({"learning_rat": 1e-3}, "no training option is called learning_rat; did you mean learning_rate"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(options)


def test_measure_against_numpy(vectors):
    queries, documents = vectors
    got = measure(StepParts(torch.tensor(queries), torch.tensor(documents), torch.zeros(3), (0, 0)), 2.0)
    scores = queries @ documents.T
    best_other = [max(np.delete(scores[i], 2 * i)) for i in range(3)]
    positive = [scores[i, 2 * i] for i in range(3)]
    p = np.exp(scores / 2 - logsumexp(scores / 2, axis=1, keepdims=True))
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    cosine = (unit @ unit.T)[~np.eye(6, dtype=bool)].mean()
    assert got["active_q"] == pytest.approx((queries > 0).sum(axis=1).mean())
    assert got["active_d"] == pytest.approx((documents > 0).sum(axis=1).mean())
    assert got["positive_score"] == pytest.approx(np.mean(positive), rel=1e-5)
    assert got["margin"] == pytest.approx(np.mean(np.subtract(positive, best_other)), rel=1e-5)
    assert got["score_std"] == pytest.approx(scores.std(ddof=1), rel=1e-5)
    assert got["saturation"] == pytest.approx(p.max(axis=1).mean(), rel=1e-5)
    assert got["contrast"] == pytest.approx(-np.log([p[i, 2 * i] for i in range(3)]).mean() / np.log(6), rel=1e-5)
    assert got["cosine"] == pytest.approx(cosine, rel=1e-5)


HEALTHY = {
    "finite": 1, "active_q": 20.0, "active_d": 80.0, "contrast": 0.4, "saturation": 0.5, "cosine": 0.3,
    "score_std": 3.0, "lambda_d": 1.0, "ranking": 1.0, "penalty_q": 1.0, "penalty_d": 1.0, "max_weight": 2.0,
    "grad_norm": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "verdict", "remedy"),
    [
        ({"finite": 0, "ranking": float("nan")}, "nan", "not finite: ranking"),
        ({"active_q": 0.2, "active_d": 0.1}, "zero", "lower lambda_q and lambda_d, or lengthen ramp_steps"),
        ({"contrast": 300.0, "saturation": 1.0, "score_std": 700.0}, "saturated", "rescale the head with k >= 8"),
        ({"contrast": 300.0, "saturation": 1.0, "active_d": 990.0}, "saturated", "start from rescale='calibrated'"),
        ({"contrast": 1.0, "cosine": 0.999}, "alike", "same vector"),
        ({"active_d": 900.0}, "dense", "raise lambda_d"),
    ],
)
def test_verdicts_need_patience_and_name_a_remedy(bad, verdict, remedy):
    judge = Judge(vocab_size=1000, ramp_steps=0)
    for step in range(1, 20):  # one good step clears the suspicion
        assert judge({**HEALTHY, **(bad if step == 18 and verdict != "nan" else {}), "step": step}) is None
    patience = 1 if verdict == "nan" else Judge.patience[verdict]
    for step in range(20, 20 + patience - 1):
        assert judge({**HEALTHY, **bad, "step": step}) is None
    error = judge({**HEALTHY, **bad, "step": 19 + patience})
    assert (error.verdict, error.step) == (verdict, 19 + patience)
    assert remedy in str(error)


def test_terms_that_have_never_fired():
    judge = Judge(vocab_size=1000, ramp_steps=0)
    errors = [judge({**HEALTHY, "active_q": 0.0, "active_d": 0.0, "step": step}) for step in range(1, 11)]
    assert errors[:9] == [None] * 9 and "since the start: lower shift" in str(errors[9])


def test_a_head_out_of_scale_is_named_when_its_documents_end_up_alike():
    judge = Judge(vocab_size=1000, ramp_steps=0)
    judge({**HEALTHY, "contrast": 18.7, "saturation": 0.98, "step": 1})
    errors = [judge({**HEALTHY, "contrast": 1.0, "cosine": 0.9999, "step": step}) for step in range(2, 60)]
    error = next(error for error in errors if error is not None)
    assert "saturated at the start (loss 18.7 times chance): rescale the head with k >= 8" in str(error)


def test_what_is_allowed_while_it_lasts():
    judge = Judge(vocab_size=1000, ramp_steps=150, warmup_steps=150)
    for step in range(1, 151):
        assert judge({**HEALTHY, "cosine": 0.999, "contrast": 1.0, "active_d": 900.0, "step": step}) is None
    for step in range(151, 400):
        assert judge({**HEALTHY, "active_d": 900.0, "lambda_d": 0.0, "step": step}) is None
