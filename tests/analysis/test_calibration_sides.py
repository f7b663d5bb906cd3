"""What calibration and audit measure is what the encoder then gives: both sides, every pooling and option."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from pyterrier_rescale import audit, calibrate
from pyterrier_rescale.analysis.head_statistics import random_saturation
from pyterrier_rescale.encoding.folding import Folding, fold_weights
from pyterrier_rescale.encoding.head_options import HeadOptions
from pyterrier_rescale.encoding.query_encoder import QuerySide
from pyterrier_rescale.encoding.text_encoder import TextEncoder
from pyterrier_rescale.heads.decoder import find_head

TEXTS = [f"{tiny.TEXTS[i]} {tiny.TEXTS[(i + step) % 12]}" for step in (1, 3, 4, 7) for i in range(12)]
RATE = 0.1


@pytest.fixture(scope="module")
def modernbert():
    return tiny.build("modernbert", padding_rows=8)


SIDES = {
    "max": ("max", QuerySide()),
    "sum": ("sum", QuerySide()),
    "sum of documents": ("sum", QuerySide(pooling="max")),
    "sum of queries": ("max", QuerySide(pooling="sum", max_length=6)),
    "static": ("max", QuerySide(weights=np.linspace(0, 3, 408, dtype=np.float32), max_length=20)),
    "static and sum": ("sum", QuerySide(weights=np.linspace(0, 3, 408, dtype=np.float32))),
}

MEASURED = [(name, offset, {}) for name in SIDES for offset in (True, False)] + [
    (name, offset, options)
    for name, options in (
        ("max", {"position_top_k": 12}), ("sum of queries", {"position_top_k": 5, "fold": "case"}),
        ("static", {"fold": "case"}), ("sum", {"position_top_k": 12}), ("max", {"fold": "case"}),
    )
    for offset in (True, False, "global")
]  # fmt: skip


@pytest.mark.parametrize("name, offset, options_of_head", MEASURED)
def test_what_is_measured_is_what_the_encoder_then_gives(name, offset, options_of_head, modernbert):
    """Against the encoder itself, at the k chosen and at another: both sides as they will be encoded."""
    model, tokenizer = modernbert
    pooling, side = SIDES[name]
    pairs = list(zip(TEXTS[12:] + TEXTS[:12], TEXTS, strict=True))
    head = HeadOptions(**options_of_head)
    options = {"tokenizer": tokenizer, "offset": offset, "rate": RATE, "max_length": 64, "pooling": pooling}
    options |= options_of_head
    calibration = calibrate(model, pairs, query_side=side, ks=[2.0, 40.0], **options)
    for _, row in calibration.table.iterrows():
        applied = dataclasses.replace(calibration, k=row["k"]).apply(model)
        encoder = TextEncoder(applied, tokenizer, max_length=64, pooling=pooling, options=head)
        documents = encoder.encode([document for _, document in pairs]).toarray().astype(np.float64)
        asked = side.encoder(encoder)
        if side.weights is None and side.max_length:
            asked = TextEncoder(applied, tokenizer, max_length=side.max_length, pooling=side.pooling, options=head)
        queries = asked.encode([query for query, _ in pairs]).toarray()
        scores = queries @ documents.T
        assert row["random_saturation"] == pytest.approx(random_saturation(scores), rel=1e-3)
        # a term at its threshold may fire by rounding
        assert row["active_terms"] == pytest.approx((documents > 0).sum() / 48, rel=1e-3, abs=0.2)
        assert row["active_terms_query"] == pytest.approx((queries > 0).sum() / 48, rel=1e-3, abs=0.2)
        assert row["max_weight"] == pytest.approx(documents.max(), rel=1e-3)
    options = {"tokenizer": tokenizer, "max_length": 64, "pooling": pooling, "query_side": side, **options_of_head}
    audited = audit(calibration.apply(model), pairs, **options)
    chosen = calibration.table[calibration.table["chosen"]].iloc[0]
    assert audited.numbers["random_saturation"] == pytest.approx(chosen["random_saturation"], rel=1e-3)
    assert calibration.settings.get("pooling", "max") == pooling
    assert calibration.settings.get("queries") == ("static" if side.weights is not None else side.pooling)
    assert {name: calibration.settings.get(name) for name in options_of_head} == options_of_head


@pytest.mark.parametrize("offset", [True, "global"])
def test_folded_terms_fire_at_the_rate(offset, modernbert):
    """A folded term in a share of the documents, whichever of its variants it is that fires; all on average."""
    model, tokenizer = modernbert
    calibration = calibrate(model, TEXTS, tokenizer=tokenizer, offset=offset, rate=RATE, max_length=64, fold="case")
    encoder = TextEncoder(calibration.apply(model), tokenizer, max_length=64, options=HeadOptions(fold="case"))
    fired = encoder.encode(TEXTS).toarray() > 0
    terms = encoder.folding.represents & (np.arange(fired.shape[1]) < len(tokenizer))
    shares = fired[:, terms].mean(axis=0)
    assert shares.mean() == pytest.approx(RATE, abs=0.5 / len(TEXTS))
    if offset is True:
        assert np.abs(shares - RATE).max() <= 1.5 / len(TEXTS)
    assert not fired[:, ~terms].any()


def test_special_positions_are_told_apart_where_few_logits_count(modernbert):
    """The share of firing terms that special positions win, from the stock model's logits."""
    model, tokenizer = modernbert
    report = audit(model, TEXTS, tokenizer=tokenizer, max_length=64, position_top_k=40, fold="case")
    folding = Folding(tokenizer, len(find_head(model).weight))
    places = torch.from_numpy(folding.representatives)
    won = fired = 0
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = torch.relu(model(input_ids=inputs).logits[0])
        kept = logits * torch.zeros_like(logits).scatter(1, logits.topk(40, dim=1).indices, 1.0)
        special = torch.isin(inputs[0], torch.tensor(tokenizer.all_special_ids))
        at = [fold_weights(kept[rows].amax(dim=0)[None], places)[0] for rows in (special, ~special)]
        won += int((at[0] > at[1]).sum())
        fired += int((torch.maximum(*at) > 0).sum())
    assert fired and report.numbers["special_share"] == pytest.approx(won / fired, abs=1e-3)
