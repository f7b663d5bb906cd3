"""The audit against stock logits, numpy and scipy; verdicts on purpose-made models; several models at once."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tiny
import torch

from pyterrier_rescale import audit, calibrate, rescale
from pyterrier_rescale.analysis.head_audit import HeadAudits
from pyterrier_rescale.heads.decoder import find_head, head_input, probe_ids
from pyterrier_rescale.heads.ties import untie

TEXTS = [f"{tiny.TEXTS[i]} {tiny.TEXTS[(i + step) % 12]}" for step in (1, 3, 4, 7) for i in range(12)]
OPTIONS = {"max_length": 64}


def lively():
    """A tiny BERT whose weights outweigh its biases, so that vectors of different texts differ."""
    model, tokenizer = tiny.build("bert", initializer_range=0.3, num_hidden_layers=1)
    with torch.no_grad():
        model.bert.embeddings.token_type_embeddings.weight.zero_()
    return model, tokenizer


def spread_out(factor: float = 4.0):
    """The same with its own decoder, W scaled up, no bias: the softmax saturates."""
    model, tokenizer = lively()
    untie(model)
    head = find_head(model)
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.zero_()
    return model, tokenizer


def direction_of_cls(model, tokenizer):
    """A vector u with u . t about 1 at [CLS] and about 0 at all other positions, (H,)."""
    with torch.no_grad():
        hidden = [head_input(model, input_ids=tokenizer(text, return_tensors="pt")["input_ids"])[0] for text in TEXTS]
    aim = torch.cat([torch.eye(len(t))[0] for t in hidden])
    return torch.linalg.lstsq(torch.cat(hidden), aim[:, None]).solution[:, 0]


def test_numbers_of_the_weights(modernbert_folder):
    result = audit(modernbert_folder)
    model, tokenizer = tiny.build("modernbert", padding_rows=8)
    weight = model.decoder.weight.detach().numpy().astype(np.float64)
    norms = np.sqrt((weight**2).sum(axis=1))
    np.testing.assert_allclose(result.row_norms, norms, rtol=1e-5)
    used = norms[: len(tokenizer)]
    with torch.no_grad():
        entering = head_input(model, input_ids=probe_ids(model)).numpy()
    bias = model.decoder.bias.detach().numpy()[: len(tokenizer)]
    frame = result.to_frame()
    assert len(frame) == 1
    row = frame.iloc[0]
    expected = {
        "rows": len(tokenizer) + 8, "used_rows": len(tokenizer), "row_norm_mean": used.mean(),
        "row_norm_median": np.median(used), "row_norm_p5": np.quantile(used, 0.05),
        "row_norm_p95": np.quantile(used, 0.95), "padding_row_norm_mean": norms[len(tokenizer):].mean(),
        "norm_gain": np.sqrt((entering**2).mean()), "row_norm_x_gain": used.mean() * np.sqrt((entering**2).mean()),
        "bias_mean": bias.mean(), "bias_std": bias.std(),
    }  # fmt: skip
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-5), name
    assert row["tied"] and math.isnan(row["rescaled_by"]) and row["family"] == "ModernBertForMaskedLM"
    assert result.mean_row_norm == row["row_norm_mean"]
    assert "score_std" not in frame


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_numbers_of_the_texts(temperature):
    model, tokenizer = lively()
    pairs = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in tiny.TEXTS[:10]]
    row = audit(model, pairs, tokenizer=tokenizer, temperature=temperature, **OPTIONS).to_frame().iloc[0]
    special = set(tokenizer.all_special_ids)
    content, at_special, hidden, groups, vectors, queries, special_max = [], [], [], [], [], [], 0
    counts = np.zeros(len(tokenizer), dtype=int)
    with torch.no_grad():
        for number, (query, document) in enumerate(pairs):
            queries.append(model(**tokenizer(query, return_tensors="pt")).logits[0].max(dim=0).values.numpy())
            inputs = tokenizer(document, return_tensors="pt")
            ids = inputs["input_ids"][0].numpy()
            logits = model(**inputs).logits[0].numpy()
            is_special = np.isin(ids, list(special))
            assert (~is_special).sum() <= 25  # few enough for the audit to keep every position
            content.append(logits[~is_special])
            at_special.append(logits[is_special])
            hidden.append(head_input(model, **inputs)[0].numpy()[~is_special])
            groups += [number] * int((~is_special).sum())
            best = logits.max(axis=0)
            vectors.append(best)
            special_max += ((best > 0) & (logits[is_special].max(axis=0) > logits[~is_special].max(axis=0))).sum()
            np.add.at(counts, ids[~is_special], 1)
    documents, queries = (np.log1p(np.maximum(np.stack(rows), 0)) for rows in (vectors, queries))
    scores = (queries @ documents.T).astype(np.float64)
    probabilities = scipy.special.softmax(scores / temperature, axis=1)
    others = scores[~np.eye(10, dtype=bool)].reshape(10, 9)
    unit = np.concatenate(hidden) / np.linalg.norm(np.concatenate(hidden), axis=1, keepdims=True)
    different = np.not_equal.outer(groups, groups)
    seen = counts > 0
    content, at_special = np.concatenate(content), np.concatenate(at_special)
    head = find_head(model)
    expected = {
        "texts": 10,
        "logit_mean": content.mean(),
        "logit_std": content.std(),
        "logit_p99": np.quantile(content, 0.99),
        "special_logit_mean": at_special.mean(),
        "special_logit_std": at_special.std(),
        "special_logit_p99": np.quantile(at_special, 0.99),
        "special_share": special_max / (documents > 0).sum(),
        "score_mean": others.mean(),
        "random_std": others.std(),
        "score_std": scores.std(ddof=1),
        "margin": (scores.diagonal() - others.max(axis=1)).mean(),
        "score_spread": np.median(others.std(axis=1)),
        "saturation": probabilities.max(axis=1).mean(),
        "random_saturation": scipy.special.softmax(others / temperature, axis=1).max(axis=1).mean(),
        "infonce": -scipy.special.log_softmax(scores / temperature, axis=1).diagonal().mean(),
        "chance_loss": math.log(10),
        "active_terms": (documents > 0).sum() / 10,
        "active_share": (documents > 0).mean(),
        "active_terms_query": (queries > 0).sum() / 10,
        "mean_weight": documents[documents > 0].mean(),
        "max_weight": documents.max(),
        "flops": (documents.mean(axis=0) ** 2).sum(),
        "cosine_hidden": (unit @ unit.T)[different].mean(),
        "frequency_weight": scipy.stats.spearmanr(documents.mean(axis=0)[seen], counts[seen]).statistic,
        "frequency_bias": scipy.stats.spearmanr(head.bias.detach().numpy()[seen], counts[seen]).statistic,
        "frequency_norm": scipy.stats.spearmanr(head.weight.detach().norm(dim=1)[seen], counts[seen]).statistic,
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    with pytest.raises(ValueError, match="temperature must be"):
        audit(model, pairs, tokenizer=tokenizer, temperature=-temperature)


def test_inflated_head_and_suggested_k_follows():
    model, tokenizer = spread_out()
    inflated, _ = spread_out(factor=8 * 4.0)
    one, eight = (audit(m, TEXTS, tokenizer=tokenizer, **OPTIONS) for m in (model, inflated))
    for result in (one, eight):
        assert "scale mismatch" in result.findings and "sink" not in result.findings
        assert "anisotropic" not in result.findings
        assert f"k={result.suggested_k:.3g}" in result.verdict
    assert eight.suggested_k == pytest.approx(8 * one.suggested_k)
    assert eight.suggested_k == calibrate(inflated, TEXTS, tokenizer=tokenizer, offset=False, **OPTIONS).k
    after = audit(rescale(inflated, eight.suggested_k), TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert "scale mismatch" not in after.findings and after.suggested_k == 1
    assert 0.2 < after.numbers["random_saturation"] < 0.45


def test_a_loss_of_several_times_a_guess_is_no_fine_scale():
    """The saturation alone would pass, at a loss of five times that of a guess."""
    model, tokenizer = spread_out(factor=0.7)
    pairs = list(zip(TEXTS[5:] + TEXTS[:5], TEXTS, strict=True))
    result = audit(model, pairs, tokenizer=tokenizer, **OPTIONS)
    assert result.numbers["random_saturation"] < 0.8 and result.numbers["infonce"] > 4 * result.numbers["chance_loss"]
    assert "scale mismatch" in result.findings and result.suggested_k > 2
    assert f"rescale with k={result.suggested_k:.3g}" in result.verdict and "InfoNCE is 19.2" in result.verdict
    after = audit(rescale(model, result.suggested_k), pairs, tokenizer=tokenizer, **OPTIONS)
    assert "scale mismatch" not in after.findings and after.suggested_k == 1


def test_a_flat_head_is_not_to_be_enlarged():
    model, tokenizer = spread_out(factor=1e-3)
    result = audit(model, TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert result.suggested_k == 1 and "take no k" in result.verdict and "scale mismatch" in result.findings


@pytest.mark.parametrize(("norm", "gain"), [(0.68, 5.9), (40.0, 3.0)])
def test_weights_alone_give_numbers_and_no_verdict(norm, gain):
    """A well-trained SPLADE (BERT-tiny) has a row norm of .68 and a gain of 5.9: nothing is to be rescaled there."""
    model, _ = spread_out()
    head = find_head(model)
    with torch.no_grad():
        head.weight.mul_(norm / head.weight.norm(dim=1).mean())
        model.cls.predictions.transform.LayerNorm.weight.fill_(gain)
        model.cls.predictions.transform.LayerNorm.bias.zero_()
    result = audit(model)
    assert result.findings == () and math.isnan(result.suggested_k)
    assert "mismatch" not in result.verdict and "k=" not in result.verdict and "fine" not in result.verdict
    assert f"{norm:.3g}" in result.verdict and f"{norm * gain:.3g}" in result.verdict and "texts" in result.verdict


def test_a_calibrated_head_is_fine():
    model, tokenizer = spread_out()
    assert {"scale mismatch", "dense start"} <= set(audit(model, TEXTS, tokenizer=tokenizer, **OPTIONS).findings)
    healthy = calibrate(model, TEXTS, tokenizer=tokenizer, rate=0.1, **OPTIONS).apply(model)
    result = audit(healthy, TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert result.findings == () and result.verdict.startswith("fine") and result.suggested_k == 1
    assert result.numbers["active_share"] == pytest.approx(0.1, abs=0.01) and result.numbers["cosine_hidden"] < 0.6


def test_anisotropic_encoder():
    model, tokenizer = spread_out()
    torch.manual_seed(1)
    with torch.no_grad():  # every t = small + one large common vector
        model.cls.predictions.transform.LayerNorm.bias.add_(10 * torch.randn(32))
    result = audit(model, TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert "anisotropic" in result.findings and "anisotropic:" in result.verdict
    assert result.numbers["cosine_hidden"] > 0.95


def test_attention_sink_on_cls():
    model, tokenizer = spread_out(factor=0.2)
    with torch.no_grad():  # position 0 holds the same vector in every text, which all terms read off as a high logit
        model.bert.embeddings.position_embeddings.weight[0] *= 500
        find_head(model).weight.add_(8 * direction_of_cls(model, tokenizer))
    result = audit(model, TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert "sink" in result.findings and "anisotropic" not in result.findings
    assert result.numbers["special_share"] > 0.5
    assert result.numbers["special_logit_mean"] > result.numbers["logit_mean"]
    after = audit(rescale(model, 8), TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert after.numbers["special_share"] == pytest.approx(result.numbers["special_share"])  # k does not cure it


def test_a_dead_head():
    model, tokenizer = spread_out()
    with torch.no_grad():
        find_head(model).bias.fill_(-1e5)
    result = audit(model, TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert result.findings == ("dead",) and result.suggested_k == 1
    assert result.numbers["active_terms"] == 0 and math.isnan(result.numbers["special_share"])


def test_several_models_in_one_frame_and_figure(bert_folder, modernbert_folder):
    by_name = audit({"b": bert_folder, "m": modernbert_folder}, TEXTS, **OPTIONS)
    assert isinstance(by_name, HeadAudits)
    frame = by_name.to_frame()
    assert list(frame["model"]) == ["b", "m"] and frame["score_std"].notna().all()
    assert by_name.verdict.splitlines()[0] == f"b: {by_name[0].verdict}"
    assert str(by_name).startswith(by_name.verdict) and str(by_name[0]).startswith(f"b: {by_name[0].verdict}\n\n")
    short = by_name.summary()
    assert list(short) == ["b", "m"] and len(short) == 11 and short.loc["infonce", "m"] == frame["infonce"][1]
    listed = audit([bert_folder, modernbert_folder])
    assert list(listed.to_frame()["model"]) == [bert_folder, modernbert_folder]
    figure = by_name.plot()
    # IPython knows no picture of matplotlib's own figures before pyplot is imported
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "m"]
    assert len(figure.axes) == 4 and len(by_name[0].plot().axes) == 4 and len(listed.plot().axes) == 1


def test_no_k_silences_terms_whose_logits_all_lie_high():
    """As those of SmolLM2 do, 19.6 +- 3.4: the number of active terms follows no k, but a shift per term."""
    model, tokenizer = spread_out(factor=0.2)
    norm, head = model.cls.predictions.transform.LayerNorm, find_head(model)
    with torch.no_grad():  # u . t = 1 for whatever leaves the norm, since its output has mean 0 before gain and bias
        head.weight.add_(20 / norm.weight / (norm.bias / norm.weight).sum())
    for k in (1.0, 4.9, 16.0, 32.0):
        result = audit(rescale(model, k), TEXTS, tokenizer=tokenizer, **OPTIONS)
        assert result.numbers["active_share"] == 1 and "dense start" in result.findings
        assert "no k changes that much, a shift per term does" in result.verdict
    shifted = calibrate(model, TEXTS, tokenizer=tokenizer, rate=0.1, **OPTIONS).apply(model)
    result = audit(shifted, TEXTS, tokenizer=tokenizer, **OPTIONS)
    assert "dense start" not in result.findings and result.numbers["active_share"] == pytest.approx(0.1, abs=0.01)
