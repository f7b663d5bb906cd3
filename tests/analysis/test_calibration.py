"""Calibration against stock logits and numpy: the rate it promises, the formula, the table, the round trip."""


import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import audit, calibrate, rescale
from pyterrier_rescale.analysis.head_statistics import random_saturation
from pyterrier_rescale.analysis.k_search import check_criterion
from pyterrier_rescale.analysis.measurement import as_pairs, leading_words
from pyterrier_rescale.encoding.text_encoder import TextEncoder
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.heads.decoder import find_head
from pyterrier_rescale.heads.provenance import provenance
from pyterrier_rescale.heads.ties import untie

TEXTS = [f"{tiny.TEXTS[i]} {tiny.TEXTS[(i + step) % 12]}" for step in (1, 3, 4, 7) for i in range(12)]

RATE = 0.1


def stock_logits(model, tokenizer, ids):
    """Logits of a stock model less, at each position, the mean over known tokens of w_v . t_i, (L, V)."""
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
        bias = find_head(model).bias
        known = slice(0, len(tokenizer))
        return logits - (logits if bias is None else logits - bias)[:, known].mean(dim=1, keepdim=True)


def stock_pooled(model, tokenizer, texts):
    """Their maximum over all positions by a plain forward pass per text, (N, V)."""
    rows = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        rows.append(stock_logits(model, tokenizer, inputs["input_ids"]).max(dim=0).values.numpy())
    return np.stack(rows)


def encode(model, tokenizer, texts):
    return TextEncoder(model, tokenizer, max_length=64).encode(texts).toarray()


@pytest.fixture(scope="module")
def modernbert():
    return tiny.build("modernbert", padding_rows=8)


@pytest.fixture(scope="module")
def calibrated(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64, ks=[0.5])
    return calibration, calibration.apply(model)


def test_every_term_fires_at_the_promised_rate_and_padding_rows_never(modernbert, calibrated):
    _, tokenizer = modernbert
    fired = (encode(calibrated[1], tokenizer, TEXTS) > 0).sum(axis=0)
    # np.quantile at position .9 * 47 = 42.3 leaves the largest 5 of 48 above it; a tie may add one
    assert set(fired[: len(tokenizer)]) <= {5, 6}
    assert fired[: len(tokenizer)].mean() == pytest.approx(5, rel=0.01)
    # the padding rows' thresholds are their maxima themselves: rounding may leave a trace above
    assert encode(calibrated[1], tokenizer, TEXTS)[:, len(tokenizer) :].max() < 1e-5


def test_weights_equal_the_formula_on_stock_logits(modernbert, calibrated):
    model, tokenizer = modernbert
    calibration, applied = calibrated
    pooled = stock_pooled(model, tokenizer, TEXTS)
    levels = np.quantile(pooled, 1 - RATE, axis=0)
    levels[len(tokenizer) :] = pooled[:, len(tokenizer) :].max(axis=0)
    np.testing.assert_allclose(calibration.bias_shift, -levels, atol=1e-5)
    expected = np.log1p(np.maximum((pooled - levels) / calibration.k, 0))
    np.testing.assert_allclose(encode(applied, tokenizer, TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("offset", [True, False])
def test_survives_save_and_a_stock_load(family, offset, tmp_path):
    model, tokenizer = tiny.build(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, offset=offset, max_length=64, ks=[0.5])
    applied = calibration.apply(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert provenance(model) is None
    folder, again = tmp_path / "a", tmp_path / "b"
    applied.save_pretrained(folder)
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(again)
    inputs = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        raw = model(input_ids=inputs).logits.numpy()
        if offset:
            raw = stock_logits(model, tokenizer, inputs).numpy()[None]
        loaded = AutoModelForMaskedLM.from_pretrained(again).eval()
        got = loaded(input_ids=inputs).logits.numpy()
    bias = find_head(model).bias.detach().numpy()
    shift, divided = (calibration.bias_shift, bias / calibration.k) if offset else (0, bias)
    expected = (raw - bias + shift) / calibration.k + divided
    np.testing.assert_allclose(got, expected, atol=1e-4)
    entry = provenance(loaded)
    assert entry["k"] == calibration.k and entry["bias"] is offset
    assert entry["method"] == ("calibrated" if offset else "auto")
    assert entry.get("rate") == (RATE if offset else None)
    with pytest.raises(ValueError, match="rescaled already"):
        calibrate(loaded, TEXTS, tokenizer=tokenizer, rate=RATE)
    with pytest.raises(ValueError, match="rescaled already"):
        calibration.apply(applied)


def test_the_table_tells_what_rescale_then_does(modernbert):
    model, tokenizer = modernbert
    pairs = [(f"{text.split('.')[0]}", other) for text, other in zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True)]
    calibration = calibrate(model, pairs, tokenizer=tokenizer, offset=False, ks=[4, 16], temperature=0.5, max_length=64)
    assert calibration.bias_shift is None
    assert list(calibration.table["k"]) == [4, 16]
    for _, row in calibration.table.iterrows():
        rescaled = rescale(model, row["k"])
        queries = encode(rescaled, tokenizer, [query for query, _ in pairs]).astype(np.float64)
        documents = encode(rescaled, tokenizer, [document for _, document in pairs]).astype(np.float64)
        scores = queries @ documents.T
        off = [scores[i, j] for i in range(48) for j in range(48) if i != j]
        powers = np.exp(scores / 0.5 - (scores / 0.5).max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        loss = np.mean([np.log(np.exp(s / 0.5 - s[i] / 0.5).sum()) for i, s in enumerate(scores)])
        spread = np.median([np.delete(s, i).std() for i, s in enumerate(scores)])
        expected = {
            "score_mean": np.mean(off),
            "random_std": np.std(off),
            "score_std": np.std(scores, ddof=1),
            "margin": np.mean([s[i] - np.delete(s, i).max() for i, s in enumerate(scores)]),
            "score_spread": spread,
            "random_margin": np.median(
                [np.sqrt(np.mean([(scores[i, i] - scores[i, j]) ** 2 for j in range(48) if j != i])) for i in range(48)]
            ),
            "saturation": probabilities.max(axis=1).mean(),
            "infonce": loss,
            "chance_loss": np.log(48),
            "active_terms": (documents > 0).sum() / 48,
            "active_terms_query": (queries > 0).sum() / 48,
            "mean_weight": documents[documents > 0].mean(),
            "max_weight": documents.max(),
            "flops": (documents.mean(axis=0) ** 2).sum(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-4), name


def test_random_saturation_by_hand():
    scores = np.array([[9.0, 1, 0], [2, 9, 2], [0, 0, 9]])
    first = np.exp(1) / (np.exp(1) + 1)
    # the third query matches no other document and is left out; 9s are the positives
    assert random_saturation(scores) == pytest.approx((first + 0.5) / 2)
    assert random_saturation(scores, temperature=0.01) == pytest.approx(0.75)
    assert random_saturation(np.diag([1.0, 2, 3])) == 0
    even = np.ones((100, 100))
    assert random_saturation(even) == pytest.approx(1 / 32)


def test_k_follows_the_scale_of_the_head(modernbert):
    model, tokenizer = modernbert
    untied, _ = tiny.build("modernbert", padding_rows=8)
    untie(untied)
    inflated, _ = tiny.build("modernbert", padding_rows=8)
    untie(inflated)
    with torch.no_grad():
        untied.decoder.bias.zero_()
        inflated.decoder.bias.zero_()
        inflated.decoder.weight.mul_(8)
    for offset in (True, False):
        options = {"tokenizer": tokenizer, "offset": offset, "rate": RATE, "max_length": 64, "least_k": 2.0**-20}
        one, eight = calibrate(untied, TEXTS, **options), calibrate(inflated, TEXTS, **options)
        assert eight.k == pytest.approx(8 * one.k)
        chosen = one.table[one.table["chosen"]]
        assert chosen["k"].item() == one.k
        distance = np.abs(np.log(one.table["random_saturation"] / 0.3))
        assert chosen.index[0] == distance.idxmin()
        assert 0.2 < chosen["random_saturation"].item() < 0.45


def test_the_firing_set_does_not_depend_on_k(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64, ks=[1, 8, 64])
    assert calibration.table["active_terms"].nunique() == 1
    assert calibration.table["active_terms_query"].nunique() == 1
    assert calibration.table["mean_weight"].is_monotonic_decreasing


@pytest.mark.parametrize("criterion, target", [("random_margin", 2.0), ("random_std", 3.0)])
def test_other_criteria(modernbert, criterion, target):
    model, tokenizer = modernbert
    calibration = calibrate(
        model, TEXTS, tokenizer=tokenizer, rate=RATE, criterion=criterion, target=target, temperature=0.5,
        max_length=64, least_k=2.0**-20,
    )  # fmt: skip
    aim = target * 0.5 if criterion == "random_std" else target
    row = calibration.table[calibration.table["chosen"]].iloc[0]
    assert row[criterion] == pytest.approx(aim, rel=0.3)
    assert calibration.settings["aim"] == aim and calibration.settings["measured"] == row[criterion]


@pytest.mark.parametrize("old, new", [("margin", "random_margin"), ("score_std", "random_std")])
def test_old_names_of_criteria(old, new):
    assert check_criterion(old, 2.0) == check_criterion(new, 2.0) == (new, 2.0)


@pytest.mark.parametrize("least", [1.0, 3.0])
def test_a_flat_head_is_not_enlarged(modernbert, least):
    model, tokenizer = modernbert
    options = {"tokenizer": tokenizer, "rate": RATE, "criterion": "random_std", "max_length": 64}
    calibration = calibrate(model, TEXTS, target=100.0, least_k=least, **options)
    assert calibration.k == least == calibration.table["k"].min()
    assert calibration.settings["measured"] < 100 == calibration.settings["aim"]
    assert calibrate(model, TEXTS, target=100.0, ks=[0.25, 4], **options).k == 0.25  # asked for by name


def test_content_positions_leave_special_ones_out():
    model, tokenizer = tiny.build("bert")
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, positions="content", max_length=64)
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
            content = ~torch.isin(inputs[0], torch.tensor(tokenizer.all_special_ids))
            rows.append(stock_logits(model, tokenizer, inputs)[content].max(dim=0).values.numpy())
    np.testing.assert_allclose(calibration.bias_shift, -np.quantile(np.stack(rows), 1 - RATE, axis=0), atol=1e-5)


def test_heads_without_bias(tmp_path):
    model, tokenizer = tiny.build("eurobert")
    with pytest.raises(ValueError, match="no decoder bias.*offset=False"):
        calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE)
    auto = calibrate(model, TEXTS, tokenizer=tokenizer, offset=False, max_length=64)
    assert auto.k > 0 and auto.apply(model).config.pyterrier_rescale["method"] == "auto"
    model, tokenizer = tiny.build("modernbert", decoder_bias=False)
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64)
    assert find_head(model).bias is None and model.config.decoder_bias is False
    applied = calibration.apply(model)
    applied.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.decoder.bias.detach().numpy(), calibration.bias_shift / calibration.k, rtol=1e-6)


def test_inplace_and_the_model_is_put_back(modernbert):
    model, tokenizer = tiny.build("bert")
    model.train()
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE)
    assert model.training
    assert calibration.apply(model, inplace=True) is model
    assert provenance(model)["method"] == "calibrated"


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_centred_head_gives_the_same_mlm_probabilities(family):
    model, tokenizer = tiny.build(family)
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, offset=False, centre=True, max_length=64, ks=[1.0])
    assert calibration.bias_shift is None and calibration.method == "auto" and calibration.settings["centred"]
    applied = calibration.apply(model)
    inputs = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        raw, got = model(input_ids=inputs).logits[0], applied(input_ids=inputs).logits[0]
    np.testing.assert_allclose(got.softmax(dim=1), raw.softmax(dim=1), atol=1e-6)
    # and every position at the same level
    weight = find_head(applied).weight.detach()
    assert weight[: len(tokenizer)].mean(dim=0).abs().max() < 1e-6
    assert (got - raw).abs().max() > 1e-3


def test_without_centring_the_bias_alone_is_shifted(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, centre=False, max_length=64, ks=[0.5])
    assert calibration.mean_row is None
    applied = calibration.apply(model)
    torch.testing.assert_close(find_head(applied).weight, find_head(model).weight / 0.5)
    inputs = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        raw, got = model(input_ids=inputs).logits.numpy(), applied(input_ids=inputs).logits.numpy()
    np.testing.assert_allclose(got, (raw + calibration.bias_shift) / 0.5, atol=1e-5)


def test_a_centred_head_cannot_stay_tied(modernbert, calibrated):
    calibration, _ = calibrated
    with pytest.raises(ValueError, match=r"centres W alone.*centre=False"):
        calibration.apply(modernbert[0], placement="tied")
    assert provenance(modernbert[0]) is None


@pytest.mark.parametrize("placement", ["decoder", "norm"])
def test_placements_agree(placement):
    model, tokenizer = tiny.build("bert")
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64, ks=[0.5])
    applied = calibration.apply(model, placement=placement)
    pooled = stock_pooled(model, tokenizer, TEXTS[:3]) + calibration.bias_shift
    expected = np.log1p(np.maximum(pooled / calibration.k, 0))
    np.testing.assert_allclose(encode(applied, tokenizer, TEXTS[:3]), expected, atol=1e-5)


def test_only_the_measured_model(modernbert, calibrated):
    calibration, _ = calibrated
    with pytest.raises(ValueError, match="vocabulary rows"):
        calibration.apply(tiny.build("bert")[0])
    other, _ = tiny.build("modernbert", padding_rows=8)
    untie(other)
    with torch.no_grad():
        other.decoder.weight.mul_(2)
    with pytest.raises(ValueError, match="mean row norm"):
        calibration.apply(other)


def test_seeded_sample(modernbert):
    model, tokenizer = modernbert
    options = {"tokenizer": tokenizer, "rate": RATE, "sample": 20, "max_length": 64, "ks": [1]}
    one, same, other = (calibrate(model, TEXTS, seed=seed, **options) for seed in (1, 1, 2))
    assert one.settings["texts"] == 20
    assert np.array_equal(one.bias_shift, same.bias_shift) and not np.array_equal(one.bias_shift, other.bias_shift)


def test_pairs_and_leading_words():
    assert leading_words("one") == "one"
    assert leading_words("a b c d e f") == "a b c"
    assert leading_words(" ".join(map(str, range(24)))) == "0 1 2 3 4 5"
    assert len(leading_words("w " * 100).split()) == 12
    queries, documents = as_pairs(["", *TEXTS[:9], "  "], 256, 0)
    assert documents == TEXTS[:9] and queries[0] == leading_words(TEXTS[0])
    assert as_pairs([("q", text) for text in TEXTS] + [("", "d")], 256, 0) == (["q"] * 48, TEXTS)
    with pytest.raises(TypeError, match="texts must be a list"):
        as_pairs("one text", 256, 0)
    with pytest.raises(ValueError, match=r"element 1 has 3"):
        as_pairs([("a", "b"), ("a", "b", "c")], 256, 0)
    with pytest.raises(ValueError, match="text 2 must be a string, got None"):
        as_pairs(["a", "b", None], 256, 0)
    with pytest.raises(ValueError, match="at least 8 texts"):
        as_pairs(["a"] * 7, 256, 0)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"centre": "rows"}, "centre must be one of True, False, None, got 'rows'"),
        ({"rate": 0}, "rate must be a number above 0 and below 1, got 0"),
        ({"rate": 0.01}, "rate=0.01 of 48 texts is less than one text: give at least 100 texts"),
        ({"positions": "all"}, "positions must be 'attended' or 'content'"),
        ({"criterion": "loss"}, "criterion must be one of"),
        ({"criterion": "random_margin"}, "needs a target"),
        ({"target": -1.0}, "target must be a finite number > 0, got -1.0"),
        ({"target": 2.0}, "between 1/32 and 1"),
        ({"temperature": 0}, "temperature must be a finite number > 0, got 0"),
        ({"least_k": 0.0}, "least_k must be a finite number > 0, got 0"),
        ({"ks": [0]}, "k must be a finite number > 0"),
        ({"ks": []}, "ks must hold at least one k"),
        ({"sample": 0}, "sample must be an integer >= 2"),
    ],
)
def test_bad_settings(modernbert, settings, message):
    model, tokenizer = modernbert
    with pytest.raises(ValueError, match=message):
        calibrate(model, TEXTS, tokenizer=tokenizer, **{"rate": RATE, **settings})


def test_a_head_in_which_no_term_fires():
    model, tokenizer = tiny.build("bert")
    untie(model)
    with torch.no_grad():
        model.cls.predictions.decoder.bias.fill_(-1e4)
    with pytest.raises(ValueError, match="no k gives a random_saturation above 0"):
        calibrate(model, TEXTS, tokenizer=tokenizer, offset=False)
    assert calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE).table["active_terms"].min() > 0


def test_plot(calibrated, tmp_path):
    calibration, _ = calibrated
    figure = calibration.plot(tmp_path / "calibration.png")
    assert len(figure.axes) == 4
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    line = figure.axes[0].lines[0]
    pd.testing.assert_series_equal(pd.Series(line.get_xdata()), calibration.table["k"], check_names=False)


def test_a_global_offset_shifts_all_terms_alike(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, offset="global", rate=RATE, max_length=64, ks=[0.5])
    used = len(tokenizer)
    assert np.ptp(calibration.bias_shift[:used]) == 0
    logits = stock_pooled(model, tokenizer, TEXTS)[:, :used]
    assert calibration.bias_shift[0] == pytest.approx(-np.quantile(logits, 1 - RATE), rel=1e-4)
    fired = encode(calibration.apply(model), tokenizer, TEXTS) > 0
    assert fired[:, :used].mean() == pytest.approx(RATE, rel=0.01)
    assert not fired[:, used:].any()
    with pytest.raises(ValueError, match="offset must be one of True, False, 'term', 'global', got 'both'"):
        calibrate(model, TEXTS, tokenizer=tokenizer, offset="both")


def test_a_mistake_in_apply_leaves_the_model(bert_folder):
    model, tokenizer = load_backbone(bert_folder)
    calibration = calibrate(model, tiny.TEXTS * 4, tokenizer=tokenizer, rate=0.4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="placement must be one of .*'nrom'"):
        calibration.apply(model, inplace=True, placement="nrom")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert calibration == calibration and calibration != calibrate(model, tiny.TEXTS * 4, tokenizer=tokenizer, rate=0.4)
    assert audit(model, tokenizer=tokenizer) != audit(model, tokenizer=tokenizer)


def test_samples_too_small_to_measure_on(bert_folder):
    for measure in (audit, calibrate):
        with pytest.raises(ValueError, match="sample must be an integer >= 2, got 1"):
            measure(bert_folder, tiny.TEXTS, sample=1)
