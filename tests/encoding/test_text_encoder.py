"""Texts to vectors: equal to SparseEncoder's, in order, whatever the batch; bad input told clearly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from dense import by_sparse_encoder
from transformers import AutoTokenizer

from pyterrier_rescale import Splade, audit, calibrate
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.text_encoder import TextEncoder

FOLDERS = ["bert_folder", "modernbert_folder"]


@pytest.fixture(scope="module")
def many_texts():
    """Three hundred real texts of very different lengths, blanks among them."""
    import argparse
    import inspect

    words = inspect.getsource(argparse).split()
    sizes = np.random.default_rng(0).integers(0, 90, 300)
    starts = np.random.default_rng(1).integers(0, len(words) - 100, 300)
    return [" ".join(words[a : a + n]) for a, n in zip(starts, sizes, strict=True)] + ["", " \n\t"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_equals_sparse_encoder(folder, pooling, many_texts, request, tmp_path):
    Splade(request.getfixturevalue(folder), pooling=pooling, max_length=48, rescale=4).save_pretrained(tmp_path)
    splade = Splade(str(tmp_path))
    assert (splade.pooling, splade.max_length) == (pooling, 48)
    ours = splade.encode_docs(many_texts)
    stock = by_sparse_encoder(tmp_path, many_texts)[0]
    blank = [not text.strip() for text in many_texts]
    assert sum(blank) >= 2 and ours.shape == (302, splade.encoder.vocab_size) and ours.dtype == np.float32
    np.testing.assert_allclose(ours.toarray()[~np.array(blank)], stock[~np.array(blank)], atol=1e-4)
    assert ours[np.flatnonzero(blank)].nnz == 0, "a blank text has no terms"
    assert ours.has_sorted_indices and (ours.data > 0).all()


def test_batch_size_and_order_do_not_matter(bert_folder, many_texts):
    splade = Splade(bert_folder)
    whole = splade.encode_docs(many_texts).toarray()
    np.testing.assert_allclose(splade.encoder.encode(many_texts, batch_size=3).toarray(), whole, atol=1e-5)
    np.testing.assert_allclose(splade.encode_docs(many_texts[::-1]).toarray()[::-1], whole, atol=1e-5)
    assert splade.encode_docs([]).shape == (0, splade.encoder.vocab_size)
    for texts in (tuple(many_texts), iter(many_texts), pd.Series(many_texts), np.array(many_texts)):
        assert abs(splade.encode_docs(texts) - whole).max() < 1e-5


def test_half_precision_stays_close(bert_folder):
    full = Splade(bert_folder, rescale=4).encode_docs(tiny.TEXTS).toarray()
    double = Splade(bert_folder, rescale=4, dtype="float64").encode_docs(tiny.TEXTS)
    half = Splade(bert_folder, rescale=4, dtype="bfloat16")
    found = half.encode_docs(tiny.TEXTS)  # the body's vectors in half precision, the head in full: numpy's product
    assert found.dtype == double.dtype == np.float32
    assert np.abs(double.toarray() - full).max() < 1e-5 and np.abs(found.toarray() - full).max() < 0.05
    expected = np.zeros_like(full)
    for batch in half.encoder.head_batches(tiny.TEXTS):
        logits = batch.hidden.float().numpy() @ half.encoder.head.weight.detach().float().numpy().T
        logits = np.where(batch.mask.numpy()[..., None], logits, -np.inf).max(axis=1)
        expected[batch.texts] = np.log1p(np.maximum(logits + half.encoder.head.bias.detach().float().numpy(), 0))
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one string", r"such as \[text\] .*, got str"),
        (b"bytes", "got bytes"),
        ({"a": "first", "b": "second"}, "got dict"),
        (pd.DataFrame({"text": ["a", "b"]}), r"frame\['text'\], got DataFrame"),
        ({"a", "b"}, "got set"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
def test_collections_that_are_no_list_of_texts(texts, message, bert_folder):
    splade = Splade(bert_folder)
    calls = [splade.encode_docs, splade.encode_queries, lambda texts: calibrate(bert_folder, texts)]
    calls += [lambda texts: audit(bert_folder, texts)] if texts is not None else []
    for call in calls:
        with pytest.raises(TypeError, match="texts must be a list of strings.* " + message):
            call(texts)


@pytest.mark.parametrize("family", ["fnet", "convbert"])
def test_families_whose_tokens_see_the_padding(family, many_texts, monkeypatch):
    """Batches of one length: a text gives what it gives alone, without any padding."""
    monkeypatch.setitem(tiny.FAMILIES, "fnet", ("FNetConfig", {}, "wordpiece"))
    model, tok = tiny.build(family)
    texts = many_texts[:60]
    splade = Splade(model, tokenizer=tok, max_length=48)
    with torch.no_grad():
        for text, vector in zip(texts, splade.encode_docs(texts).toarray(), strict=True):
            if text.strip():
                ids = tok(text, truncation=True, max_length=48, return_tensors="pt")
                stock = model(**ids).logits[0].amax(dim=0).clamp_min(0).log1p().numpy()
                np.testing.assert_allclose(vector, stock, atol=1e-4)


REFUSALS = [
    ({"pooling": "mean"}, "pooling"),
    ({"activation": "gelu"}, "activation"),
    ({"max_length": 81}, "max_length must be at most 80 for this BertForMaskedLM"),
    ({"max_length": 2}, "max_length"),
    ({"position_top_k": 0}, "position_top_k"),
    ({"position_top_k": 1.5}, "position_top_k"),
    ({"fold": "lower"}, "fold"),
    ({"batch_size": 0}, "batch_size"),
    ({"rescale": 0}, "k must"),
    ({"rescale": "auto"}, "rescale must be a number or None here"),
    ({"shift": "15"}, "shift"),
    ({"shift": True}, "shift"),
    ({"shift": float("nan")}, "shift"),
    ({"shift": np.zeros((2, 3))}, "shift"),
    ({"shift": []}, "shift"),
    ({"shift": [1.0, 2.0]}, "shift must be a number or 397 of them"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSALS)
def test_settings_that_cannot_be(settings, message, bert_folder):
    with pytest.raises(ValueError, match=message):
        Splade(bert_folder, **settings)


def test_a_tokenizer_or_a_query_side_of_another_vocabulary(bert_folder, modernbert_folder):
    bigger = AutoTokenizer.from_pretrained(bert_folder)
    bigger.add_tokens(["another"])
    with pytest.raises(ValueError, match="do not belong together"):
        Splade(bert_folder, tokenizer=bigger)
    encoder = Splade(bert_folder).encoder
    for side in (QuerySide(weights=np.ones(398, dtype=np.float32)),
                 QuerySide(model=modernbert_folder, tokenizer=modernbert_folder)):  # fmt: skip
        with pytest.raises(ValueError, match="vocabulary|do not belong together"):
            TextEncoder(encoder.model, encoder.tokenizer, Description(queries=side)).of_queries()


def test_weights_that_are_no_numbers_are_an_error_and_no_empty_document():
    model, tokenizer = tiny.build("bert")
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight[20:] = float("nan")
    splade = Splade(model, tokenizer=tokenizer, batch_size=1, max_length=32)
    texts = ["sparse", "gradients " * 40]
    with pytest.raises(ValueError, match="text 1 .'gradients gradients .* has weights that are no finite numbers"):
        splade.encode_docs(texts)
    frame = pd.DataFrame({"docno": ["a", "b"], "text": texts})
    with pytest.raises(ValueError, match="no finite numbers"):
        splade.doc_encoder()(frame)
    assert splade.encode_docs(["sparse"]).nnz
