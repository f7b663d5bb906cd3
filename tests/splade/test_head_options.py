"""Shift of the logits: equal to the plain formula in every head and tool, saved, copied, part of what an encoder is."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tiny
import torch
from dense import dense_weights

from pyterrier_rescale import Splade, audit, rescale
from pyterrier_rescale.heads.ties import untie

HEADS = ["tied", "untied", "second bias", "no bias yet"]


def head(name):
    """A model and its tokenizer, by how its decoder is tied and biased."""
    model, tokenizer = {
        "tied": lambda: tiny.build("modernbert", padding_rows=8),
        "untied": lambda: tiny.build("bert"),
        "second bias": lambda: tiny.build("roberta"),
        "no bias yet": lambda: tiny.build("modernbert", decoder_bias=False),
    }[name]()
    if name == "untied":
        untie(model)
    return model, tokenizer


def shifts(name, size):
    return {"number": 0.2, "terms": np.linspace(-1, 2, size), "tensor": torch.linspace(2, -1, size)}[name]


@torch.no_grad()
def plain(model, tokenizer, **options):
    return dense_weights(model, tokenizer, tiny.TEXTS, **options).numpy()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["number", "terms", "tensor"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_a_shift_is_the_plain_formula_in_every_tool(name, kind, pooling, tmp_path):
    from sentence_transformers import SparseEncoder
    from transformers import AutoModelForMaskedLM

    model, tokenizer = head(name)
    shift = shifts(kind, len(model.get_output_embeddings().weight))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    splade = Splade(model, tokenizer=tokenizer, shift=shift, max_length=64, pooling=pooling)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the caller's model stays"
    expected = plain(model, tokenizer, shift=torch.as_tensor(shift), pooling=pooling)
    raw = plain(model, tokenizer, pooling=pooling)
    assert (raw > 0).sum() != (expected > 0).sum() > 0
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)
    np.testing.assert_allclose(splade.encode_queries(tiny.TEXTS).toarray(), expected, atol=1e-4)
    splade.save_pretrained(tmp_path)
    again = Splade(tmp_path)
    assert again == splade and again.fingerprint != Splade(model, tokenizer=tokenizer, max_length=64).fingerprint
    stock = SparseEncoder(str(tmp_path), device="cpu").encode(tiny.TEXTS, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(np.asarray(stock), expected, atol=1e-4)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(plain(loaded, tokenizer, pooling=pooling), expected, atol=1e-4)


def test_a_shift_goes_with_a_rescaled_head_and_wherever_an_encoder_goes(bert_folder, tmp_path):
    model, tokenizer = tiny.build("bert")
    shift = np.linspace(0, 1, len(tokenizer), dtype=np.float32)
    splade = Splade(bert_folder, rescale=4.0, shift=shift, max_length=64)
    expected = plain(rescale(model, 4.0), tokenizer, shift=torch.from_numpy(shift))
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)
    assert "rescale=4.0, max_length=64, shift=(0.0, 0.0025" in repr(splade) and len(repr(splade)) < 250
    one = Splade(bert_folder, rescale=4.0, shift=0.5)
    assert repr(one).endswith("rescale=4.0, max_length=80, shift=0.5)")
    loaded = Splade(model, tokenizer=tokenizer, shift=0.5)
    for kept in (splade, one, loaded):
        for again in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept), copy.copy(kept)):
            assert again == kept and repr(again) == repr(kept)
            assert abs(again.encode_docs(tiny.TEXTS[:2]) - kept.encode_docs(tiny.TEXTS[:2])).max() == 0
    others = [Splade(bert_folder, shift=value) for value in (0.0, 0.5, 0.6)]
    assert len({other.fingerprint for other in others}) == 3 and others[0] == Splade(bert_folder)


def test_an_audit_measures_the_shifted_head(modernbert_folder):
    splade = Splade(modernbert_folder, shift=0.5, max_length=64)
    report = audit(splade.encoder.model, tiny.TEXTS, tokenizer=splade.encoder.tokenizer, max_length=64)
    vectors = splade.encode_docs(tiny.TEXTS)
    assert report.numbers["active_terms"] == pytest.approx(vectors.nnz / len(tiny.TEXTS), rel=1e-3)


@pytest.mark.parametrize(
    "shift, message",
    [
        ("15", "shift must be a finite number, a 1-D array of one for each term, or None, got '15'"),
        (True, "shift must be .*, got True"),
        (float("nan"), "shift must be .*, got nan"),
        ([1.0, float("inf")], "shift must be .*, got .1.0, inf"),
        (np.zeros((2, 3)), r"shift must be .*, got an array of shape \(2, 3\)"),
        ([], "shift must be"),
        ([1.0, 2.0], "shift must be a number or 397 of them, one for each row of the head, got 2"),
    ],
)
def test_shifts_that_cannot_be(shift, message, bert_folder):
    with pytest.raises(ValueError, match=message):
        Splade(bert_folder, shift=shift)


def test_a_head_is_shifted_once_and_only_where_it_has_a_bias(bert_folder, tmp_path):
    Splade(bert_folder, shift=0.2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"shift must be None .* shifted already \(by 0.2\)"):
        Splade(tmp_path, shift=1.0)
    assert Splade(tmp_path, rescale=2.0).encode_docs(tiny.TEXTS).nnz, "a shifted head can be rescaled still"
    model, tokenizer = tiny.build("eurobert")
    with pytest.raises(ValueError, match="EuroBertForMaskedLM cannot have one: use shift=None"):
        Splade(model, tokenizer=tokenizer, shift=1.0)
