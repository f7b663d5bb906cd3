"""Texts to vectors: equal to SparseEncoder's, in order, whatever the batch; bad input told clearly."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from pyterrier_rescale import Splade

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
    from sentence_transformers import SparseEncoder

    Splade(request.getfixturevalue(folder), pooling=pooling, max_length=48, rescale=4).save_pretrained(tmp_path)
    splade = Splade(str(tmp_path))
    assert (splade.pooling, splade.max_length) == (pooling, 48)
    ours = splade.encode_docs(many_texts)
    stock = SparseEncoder(str(tmp_path), device="cpu").encode(many_texts, convert_to_sparse_tensor=False)
    blank = [not text.strip() for text in many_texts]
    assert sum(blank) >= 2 and ours.shape == (302, splade.encoder.vocab_size) and ours.dtype == np.float32
    np.testing.assert_allclose(ours.toarray()[~np.array(blank)], np.asarray(stock)[~np.array(blank)], atol=1e-4)
    assert ours[np.flatnonzero(blank)].nnz == 0, "a blank text has no terms"
    assert ours.has_sorted_indices and (ours.data > 0).all()


def test_batch_size_and_order_do_not_matter(bert_folder, many_texts):
    splade = Splade(bert_folder)
    whole = splade.encode_docs(many_texts).toarray()
    np.testing.assert_allclose(splade.encoder.encode(many_texts, batch_size=3).toarray(), whole, atol=1e-5)
    np.testing.assert_allclose(splade.encode_docs(many_texts[::-1]).toarray()[::-1], whole, atol=1e-5)
    assert splade.encode_docs([]).shape == (0, splade.encoder.vocab_size)


def test_windows_join_seamlessly(bert_folder, many_texts, monkeypatch):
    from pyterrier_rescale.encoding import text_encoder as encoder

    whole = Splade(bert_folder).encode_docs(many_texts).toarray()
    monkeypatch.setattr(encoder, "_WINDOW", 7)
    np.testing.assert_allclose(Splade(bert_folder).encode_docs(many_texts).toarray(), whole, atol=1e-5)


def test_lowercase_is_kept_by_the_saved_folder(modernbert_folder, tmp_path):
    from sentence_transformers import SparseEncoder

    plain, lower = Splade(modernbert_folder), Splade(modernbert_folder, lowercase=True)
    shouted = [tiny.TEXTS[0].upper()]
    assert (plain.encode_docs(shouted) != plain.encode_docs([tiny.TEXTS[0]])).nnz
    expected = plain.encode_docs([tiny.TEXTS[0].lower()]).toarray()
    np.testing.assert_allclose(lower.encode_docs(shouted).toarray(), expected, atol=1e-6)
    lower.save_pretrained(tmp_path)
    np.testing.assert_allclose(Splade(str(tmp_path)).encode_docs(shouted).toarray(), expected, atol=1e-6)
    stock = SparseEncoder(str(tmp_path), device="cpu").encode(shouted, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(np.asarray(stock), expected, atol=1e-4)


def test_half_precision_stays_close(bert_folder):
    full = Splade(bert_folder, rescale=4).encode_docs(tiny.TEXTS).toarray()
    half = Splade(bert_folder, rescale=4, dtype="bfloat16").encode_docs(tiny.TEXTS)
    assert half.dtype == np.float32
    assert np.abs(half.toarray() - full).max() < 0.05


@pytest.mark.parametrize("shortest", [1, 200, 256])
def test_batches_bound_tokens_and_padding(shortest, bert_folder):
    lengths = np.random.default_rng(0).integers(shortest, 257, 500)
    batches = list(Splade(bert_folder, device="cpu").encoder._batches(lengths, 32))
    assert sorted(np.concatenate(batches)) == list(range(500))
    for batch in batches:
        longest = lengths[batch].max()
        assert len(batch) <= 32 and len(batch) * longest <= 1024
        # beyond half of the tokens, nothing that would be padded by more than an eighth or so
        assert (len(batch) - 1) * longest < 512 or lengths[batch].min() >= 0.85 * longest
    assert lengths[batches[0]].max() == lengths.max()


def test_special_positions_are_told_apart(bert_folder):
    encoder = Splade(bert_folder).encoder
    for batch in encoder.head_batches(tiny.TEXTS):
        ids = batch.input_ids
        expected = ((ids == 2) | (ids == 3) | (ids == 1)) & batch.mask
        assert (batch.special == expected).all()


@pytest.mark.parametrize("bad", [None, float("nan"), 3])
def test_texts_must_be_strings(bad, bert_folder):
    with pytest.raises(ValueError, match="text 1 must be a string, got"):
        Splade(bert_folder).encode_docs(["fine", bad])
    with pytest.raises(TypeError, match="texts must be a list of strings, got one string"):
        Splade(bert_folder).encoder.encode("one string")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "mean"}, "pooling must be 'max' or 'sum', got 'mean'"),
        ({"max_length": 81}, "max_length must be at most 80 for this BertForMaskedLM, got 81"),
        ({"max_length": 2}, "max_length must be at least 3"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"rescale": 0}, "k must be a finite number > 0, got 0"),
        ({"rescale": "auto"}, "rescale must be a number or None here, got 'auto'"),
        ({"dtype": "float17"}, "dtype must be a torch floating dtype or its name"),
    ],
)
def test_bad_settings(settings, message, bert_folder):
    with pytest.raises(ValueError, match=message):
        Splade(bert_folder, **settings)


def test_models_that_cannot_serve(tmp_path, bert_folder, modernbert_folder):
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertModel

    with pytest.raises(FileNotFoundError, match="no network, or no such name"):
        Splade("no-such-organisation/no-such-model")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Splade(str(tmp_path / "absent"))
    AutoModelForMaskedLM.from_pretrained(bert_folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no tokenizer in .*: save one there, or pass tokenizer="):
        Splade(str(tmp_path / "bare"))
    assert Splade(str(tmp_path / "bare"), tokenizer=bert_folder).encode_docs(["x"]).nnz
    BertModel(BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path / "body"
    )
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path / "body")
    with pytest.raises(TypeError, match="BertModel without a whole masked-LM head"):
        Splade(str(tmp_path / "body"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        Splade(str(tmp_path / "empty"))
    bigger = AutoTokenizer.from_pretrained(bert_folder)
    bigger.add_tokens(["another"])
    with pytest.raises(ValueError, match="do not belong together"):
        Splade(bert_folder, tokenizer=bigger)
