"""Calibration against stock logits and numpy: the rate it promises, the formula, the table, the round trip."""

import json

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import Splade, audit, calibrate, rescale
from pyterrier_rescale.analysis.head_statistics import random_saturation
from pyterrier_rescale.analysis.measurement import as_pairs
from pyterrier_rescale.cli.app import app
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder
from pyterrier_rescale.encoding.text_encoder import TextEncoder
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
    return TextEncoder(model, tokenizer, Description(max_length=64)).encode(texts).toarray()


@pytest.fixture(scope="module")
def modernbert():
    return tiny.build("modernbert", padding_rows=8)


@pytest.fixture(scope="module")
def calibrated(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64, k=0.5)
    return calibration, calibration.apply(model)


def test_every_term_fires_at_the_promised_rate_and_padding_rows_never(modernbert, calibrated):
    _, tokenizer = modernbert
    weights = encode(calibrated[1], tokenizer, TEXTS)
    fired = (weights > 0).sum(axis=0)[: len(tokenizer)]
    # np.quantile at position .9 * 47 = 42.3 leaves the largest 5 of 48 above it; a tie may add one
    assert set(fired) <= {5, 6} and fired.mean() == pytest.approx(5, rel=0.01)
    # the padding rows' thresholds are their maxima themselves: rounding may leave a trace above
    assert weights[:, len(tokenizer) :].max() < 1e-5


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
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, offset=offset, max_length=64, k=0.5)
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


def test_random_saturation_by_hand():
    scores = np.array([[9.0, 1, 0], [2, 9, 2], [0, 0, 9]])
    first = np.exp(1) / (np.exp(1) + 1)
    # the third query matches no other document and is left out; 9s are the positives
    assert random_saturation(scores) == pytest.approx((first + 0.5) / 2)
    assert random_saturation(scores, temperature=0.01) == pytest.approx(0.75)
    assert random_saturation(np.diag([1.0, 2, 3])) == 0
    even = np.ones((100, 100))
    assert random_saturation(even) == pytest.approx(1 / 32)


def test_a_teachers_margin_is_aimed_at(modernbert):
    model, tokenizer = modernbert
    options = {"tokenizer": tokenizer, "rate": RATE, "max_length": 64}
    margin = calibrate(model, TEXTS, k=2.0, **options).table["random_margin"].item()
    calibration = calibrate(model, TEXTS, margin=margin * 1.1, **options)
    row = calibration.table[calibration.table["chosen"]].iloc[0]
    assert row["random_margin"] == pytest.approx(margin, rel=0.3)
    assert row.name == np.abs(np.log(calibration.table["random_margin"] / (margin * 1.1))).idxmin()
    assert calibration.settings["aim"] == margin * 1.1 and calibration.settings["measured"] == row["random_margin"]


def test_a_flat_head_is_not_enlarged(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64, margin=1e3)
    assert calibration.k == 1 == calibration.table["k"].min() and calibration.settings["measured"] < 1e3
    assert calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, k=0.25).k == 0.25  # asked for by name


def test_heads_without_bias(tmp_path):
    model, tokenizer = tiny.build("modernbert", decoder_bias=False)
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE, max_length=64)
    assert find_head(model).bias is None and model.config.decoder_bias is False
    applied = calibration.apply(model)
    applied.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.decoder.bias.detach().numpy(), calibration.bias_shift / calibration.k, rtol=1e-6)


def test_only_the_measured_model(modernbert, calibrated):
    other, _ = tiny.build("modernbert", padding_rows=8)
    untie(other)
    with torch.no_grad():
        other.decoder.weight.mul_(2)
    for model in (other, tiny.build("bert")[0]):
        with pytest.raises(ValueError, match="not those that were measured"):
            calibrated[0].apply(model)


def test_queries_are_the_first_words_of_texts_without_one():
    queries, documents = as_pairs(["", *TEXTS[:7], " ".join(map(str, range(24))), "w " * 100, "one", "  "])
    assert documents[:7] == TEXTS[:7] and queries[7:] == ["0 1 2 3 4 5", " ".join("w" * 12), "one"]
    assert as_pairs([("q", text) for text in TEXTS] + [("", "d")]) == (["q"] * 48, TEXTS)
    assert len(as_pairs(TEXTS * 20)[0]) == 512


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"texts": [("a", "b"), ("a", "b", "c")]}, ValueError, "too many values to unpack"),
        ({"texts": ["a", "b", None]}, ValueError, "text 2 must be a string, got None"),
        ({"texts": ["a"] * 7}, ValueError, "at least 8 texts"),
        ({"rate": 0}, ValueError, "rate must be a number above 0 and below 1, got 0"),
        ({"rate": 0.01}, ValueError, "rate=0.01 of 48 texts is less than one text: give at least 100 texts"),
        ({"offset": "both"}, ValueError, "offset must be one of True, False, 'global', got 'both'"),
        ({"target": 2.0}, ValueError, "target must be a number above 0 and below 1, got 2.0"),
        ({"k": 0}, ValueError, "k must be a finite number > 0"),
    ],
)
def test_refusals(modernbert, settings, error, named):
    model, tokenizer = modernbert
    with pytest.raises(error, match=named):
        calibrate(model, **{"texts": TEXTS, "tokenizer": tokenizer, "rate": RATE, **settings})


def test_a_head_in_which_no_term_fires():
    model, tokenizer = tiny.build("bert")
    untie(model)
    with torch.no_grad():
        model.cls.predictions.decoder.bias.fill_(-1e4)
    with pytest.raises(ValueError, match="no k gives a random_saturation above 0"):
        calibrate(model, TEXTS, tokenizer=tokenizer, offset=False)
    assert calibrate(model, TEXTS, tokenizer=tokenizer, rate=RATE).table["active_terms"].min() > 0


def test_a_global_offset_shifts_all_terms_alike(modernbert):
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, offset="global", rate=RATE, max_length=64, k=0.5)
    used = len(tokenizer)
    assert np.ptp(calibration.bias_shift[:used]) == 0
    logits = stock_pooled(model, tokenizer, TEXTS)[:, :used]
    assert calibration.bias_shift[0] == pytest.approx(-np.quantile(logits, 1 - RATE), rel=1e-4)
    fired = encode(calibration.apply(model), tokenizer, TEXTS) > 0
    assert fired[:, :used].mean() == pytest.approx(RATE, rel=0.01)
    assert not fired[:, used:].any()


SIDES = {
    "max": ("max", QuerySide()),
    "sum": ("sum", QuerySide()),
    "sum of documents": ("sum", QuerySide(pooling="max")),
    "sum of queries": ("max", QuerySide(pooling="sum", max_length=6)),
    "static": ("max", QuerySide(weights=np.linspace(0, 3, 408, dtype=np.float32), max_length=20)),
    "static and sum": ("sum", QuerySide(weights=np.linspace(0, 3, 408, dtype=np.float32))),
}

MEASURED = [(name, offset, {}) for name in SIDES for offset in (True, False)] + [
    ("max", True, {"position_top_k": 12}), ("max", "global", {"position_top_k": 12}),
    ("sum of queries", False, {"position_top_k": 5, "fold": "case"}), ("static", True, {"fold": "case"}),
    ("sum", "global", {"position_top_k": 12}), ("max", "global", {"fold": "case"}), ("max", True, {"fold": "case"}),
]  # fmt: skip


@pytest.mark.parametrize("name, offset, options_of_head", MEASURED)
def test_what_is_measured_is_what_the_encoder_then_gives(name, offset, options_of_head, modernbert):
    """Against the encoder itself, at the k chosen and at another: both sides as they will be encoded."""
    model, tokenizer = modernbert
    pooling, side = SIDES[name]
    pairs = list(zip(TEXTS[12:] + TEXTS[:12], TEXTS, strict=True))
    description = Description(pooling=pooling, queries=side, max_length=64, **options_of_head)
    options = {"tokenizer": tokenizer, "encoding": description}
    for k in (2.0, 40.0):
        calibration = calibrate(model, pairs, offset=offset, rate=RATE, k=k, **options)
        (row,) = calibration.table.to_dict("records")
        applied = calibration.apply(model)
        encoder = TextEncoder(applied, tokenizer, description)
        documents = encoder.encode([document for _, document in pairs]).toarray().astype(np.float64)
        queries = encoder.of_queries().encode([query for query, _ in pairs]).toarray()
        scores = queries @ documents.T
        assert row["random_saturation"] == pytest.approx(random_saturation(scores), rel=1e-3)
        # a term at its threshold may fire by rounding
        assert row["active_terms"] == pytest.approx((documents > 0).sum() / 48, rel=1e-3, abs=0.2)
        assert row["active_terms_query"] == pytest.approx((queries > 0).sum() / 48, rel=1e-3, abs=0.2)
        assert row["max_weight"] == pytest.approx(documents.max(), rel=1e-3)
    audited = audit(applied, pairs, **options)
    assert audited.numbers["random_saturation"] == pytest.approx(row["random_saturation"], rel=1e-3)
    assert calibration.settings.get("pooling", "max") == pooling
    assert {name: calibration.settings.get(name) for name in options_of_head} == options_of_head


FOLDED = Description(fold="case", max_length=64)


@pytest.mark.parametrize("offset", [True, "global"])
def test_folded_terms_fire_at_the_rate(offset, modernbert):
    """A folded term in a share of the documents, whichever of its variants it is that fires; all on average."""
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, offset=offset, rate=RATE, encoding=FOLDED)
    encoder = TextEncoder(calibration.apply(model), tokenizer, FOLDED)
    fired = encoder.encode(TEXTS).toarray() > 0
    terms = encoder.folding.represents & (np.arange(fired.shape[1]) < len(tokenizer))
    shares = fired[:, terms].mean(axis=0)
    assert shares.mean() == pytest.approx(RATE, abs=0.5 / len(TEXTS))
    if offset is True:
        assert np.abs(shares - RATE).max() <= 1.5 / len(TEXTS)
    assert not fired[:, ~terms].any()


@pytest.mark.parametrize("shift", [None, 0.5])
def test_an_encoders_folder_keeps_what_it_is(shift, tmp_path, monkeypatch):
    """Static queries, lengths, pooling, lower-casing, a shift that only the folder names: through every verb."""
    model, tokenizer = tiny.build("modernbert")
    weights = np.linspace(0, 3, len(tokenizer), dtype=np.float32)
    side = QuerySide(weights=weights, max_length=6)
    description = Description(pooling="sum", lowercase=True, max_length=20, queries=side)
    folder, out = tmp_path / "encoder", tmp_path / "out"
    lowered = TextEncoder(model, tokenizer, description)
    save_encoder(folder, model, lowered.tokenizer, lowered.description)
    if shift is not None:
        config = json.loads((folder / "config_sentence_transformers.json").read_text())
        (folder / "config_sentence_transformers.json").write_text(json.dumps({**config, "shift": shift}))
    texts = [text.upper() for text in TEXTS]
    expected = Splade(folder, rescale=4.0)
    assert expected.encode_queries(texts).getnnz(axis=1).max() <= 6

    def same(splade):
        for side in ("encode_docs", "encode_queries"):
            got, wanted = (getattr(one, side)(texts).toarray() for one in (splade, expected))
            np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert splade.max_length == 20

    divided = rescale(folder, 4.0)
    same(Splade(divided))
    divided.save_pretrained(tmp_path / "plain")
    with pytest.warns(UserWarning, match="without that encoder's pooling"):
        assert Splade(tmp_path / "plain", tokenizer=folder).pooling == "max"
    app(["rescale", str(folder), str(out), "--rescale", "4"], standalone_mode=False)
    same(Splade(out))
    calibration = calibrate(folder, texts, rate=RATE, k=4.0)
    assert calibration.settings["pooling"] == "sum" and calibration.settings["queries"] == "static"
    calibrated = Splade(calibration.apply(folder))
    np.testing.assert_array_equal(calibrated.encode_queries(texts).toarray(), expected.encode_queries(texts).toarray())
    table, found = calibration.table.iloc[0], calibrated.encode_docs(texts)
    assert table["active_terms"] == pytest.approx(found.nnz / 48, abs=0.2)
    assert audit(calibration.apply(folder), texts).numbers["active_terms"] == pytest.approx(found.nnz / 48, abs=0.2)


def test_special_tokens_that_are_no_terms_stay_so(bert_folder, tmp_path):
    Splade(bert_folder, special_terms=False, max_length=64).save_pretrained(tmp_path)
    for model, options in ((tmp_path, {}), (bert_folder, {"encoding": Description(special_terms=False)})):
        calibration = calibrate(model, TEXTS, rate=RATE, max_length=64, **options)
        splade = Splade(calibration.apply(model), special_terms=False if options else None)
        vectors = splade.encode_docs(TEXTS)
        assert vectors.nnz and not vectors[:, splade.encoder.tokenizer.all_special_ids].nnz
        assert calibration.table["active_terms"][0] == pytest.approx(vectors.nnz / 48, rel=0.02)
