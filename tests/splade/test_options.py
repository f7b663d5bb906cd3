"""Options of the head: equal to the plain formulas, saved, copied, part of what an encoder and its terms are."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tiny
import torch
from dense import by_sparse_encoder, dense_weights
from tokenizers import processors
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import Splade, audit, rescale
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder
from pyterrier_rescale.heads.ties import untie
from pyterrier_rescale.training.config import TrainConfig, saved_options
from pyterrier_rescale.training.model import SparseHead

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
    np.testing.assert_allclose(by_sparse_encoder(tmp_path, tiny.TEXTS)[0], expected, atol=1e-4)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(plain(loaded, tokenizer, pooling=pooling), expected, atol=1e-4)


def test_a_shift_goes_with_a_rescaled_head_and_wherever_an_encoder_goes(bert_folder, tmp_path):
    model, tokenizer = tiny.build("bert")
    shift = np.linspace(0, 1, len(tokenizer), dtype=np.float32)
    splade = Splade(bert_folder, rescale=4.0, shift=shift, max_length=64)
    expected = plain(rescale(model, 4.0), tokenizer, shift=torch.from_numpy(shift))
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)
    assert "rescale=4.0, max_length=64, shift=(" in repr(splade) and len(repr(splade)) < 250
    assert repr(Splade(bert_folder, rescale=4.0, shift=0.5)).endswith("rescale=4.0, shift=0.5)")
    others = [Splade(bert_folder, shift=value) for value in (0.0, 0.5, 0.6)]
    assert len({other.fingerprint for other in others}) == 3 and others[0] == Splade(bert_folder)


def test_a_head_is_shifted_once(bert_folder, tmp_path):
    Splade(bert_folder, shift=0.2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"shift must be None .* shifted already \(by 0.2\)"):
        Splade(tmp_path, shift=1.0)
    assert Splade(tmp_path, rescale=2.0).encode_docs(tiny.TEXTS).nnz, "a shifted head can be rescaled still"


OPTIONS = [
    {"activation": "log1p_relu", "fold": "case"},
    {"position_top_k": 3},
    {"fold": "case"},
    {"position_top_k": 12, "fold": "case", "shift": 0.1},
    {"position_top_k": 100_000, "shift": 0.1},
]


@pytest.mark.parametrize("name", ["tied", "untied"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_the_plain_formula_saved_and_copied(name, pooling, options, tmp_path):
    model, tokenizer = head(name)
    if name == "untied":
        model, tokenizer = tiny.build("eurobert") if "shift" not in options else tiny.build("roberta")
        untie(model)
    size = len(model.get_output_embeddings().weight)
    splade = Splade(model, tokenizer=tokenizer, max_length=64, pooling=pooling, **options)
    formula = {**options, "position_top_k": min(size, options.get("position_top_k", size))}
    expected = plain(model, tokenizer, pooling=pooling, **formula)
    raw = plain(model, tokenizer, pooling=pooling)
    assert (raw > 0).sum() > (expected > 0).sum() > 0
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)
    np.testing.assert_allclose(splade.encode_queries(tiny.TEXTS[:1]).toarray(), expected[:1], atol=1e-4)
    splade.save_pretrained(tmp_path)
    saved = Splade(tmp_path)
    assert saved == splade and (saved.position_top_k, saved.fold) == (splade.position_top_k, splade.fold)
    for again in (saved, pickle.loads(pickle.dumps(saved)), pickle.loads(pickle.dumps(splade)), copy.deepcopy(saved)):
        assert again.fingerprint == splade.fingerprint
        assert abs(again.encode_docs(tiny.TEXTS) - splade.encode_docs(tiny.TEXTS)).max() < 1e-6
        assert again.term_map().fingerprint == splade.term_map().fingerprint


@torch.no_grad()
def without_special_positions(model, tokenizer, pooling):
    """Plain numpy: only logits of tokens that are neither special nor the first of their text count."""
    rows = []
    for text in tiny.TEXTS:
        ids = tokenizer(text, truncation=True, max_length=64)["input_ids"]
        logits = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        kept = [place for place, index in enumerate(ids) if place > 0 and index not in tokenizer.all_special_ids]
        weights = np.log1p(np.maximum(logits[kept], 0))
        rows.append(weights.max(axis=0) if pooling == "max" else weights.sum(axis=0))
    return np.array(rows)


@pytest.mark.parametrize("family", ["bert", "modernbert", "causal", "bidirectional"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_special_and_first_positions_are_left_out_if_so_wished(family, pooling, tmp_path):
    attention = None
    if "bert" in family:
        model, tokenizer = tiny.build(family)
    else:
        attention, (model, tokenizer) = family, tiny.qwen()
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()  # no special tokens
    options = {"tokenizer": tokenizer, "max_length": 64, "pooling": pooling, "attention": attention}
    splade = Splade(model, special_positions=False, **options)
    stock = copy.deepcopy(model)
    if attention is not None:
        stock.config.is_causal = attention == "causal"
    expected = without_special_positions(stock, tokenizer, pooling)
    plain = Splade(model, **options)
    assert abs(plain.encode_docs(tiny.TEXTS).toarray() - expected).max() > 1e-2 and plain != splade
    splade.save_pretrained(tmp_path)
    again = Splade(tmp_path)
    assert again == splade and again.special_positions is False and "special_positions=False" in repr(splade)
    for one in (splade, again):
        np.testing.assert_allclose(one.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)
        np.testing.assert_allclose(one.encode_queries(tiny.TEXTS).toarray(), expected, atol=1e-4)
    trained = SparseHead(again.encoder.model, tokenizer, again.description)
    sides = [trained.tokenise(tiny.TEXTS, 64, queries=queries) for queries in (False, True)]
    for vectors in trained(sides, mini_batch_size=5):
        np.testing.assert_allclose(vectors.detach().numpy(), expected, atol=1e-4)
    assert TrainConfig(**saved_options(tmp_path)).special_positions is False
    if pooling == "max":
        found = audit(tmp_path, tiny.TEXTS, encoding=again.description.replace(max_length=64)).numbers
        assert found["special_share"] == 0
        assert found["active_terms"] == pytest.approx(np.count_nonzero(expected, axis=1).mean())


def test_an_option_given_wins_over_the_saved_one(modernbert_folder, tmp_path):
    both = Splade(modernbert_folder, position_top_k=3, fold="case")
    assert repr(both).endswith("position_top_k=3, fold='case')")
    both.save_pretrained(tmp_path)
    given = Splade(tmp_path, position_top_k=4)
    assert (given.position_top_k, given.fold) == (4, "case") and given != both


def test_static_queries_of_folded_terms(tmp_path):
    model, tokenizer = tiny.build("modernbert")
    weights = np.random.default_rng(0).random(len(tokenizer), dtype=np.float32)
    folded = Splade(model, tokenizer=tokenizer, fold="case", max_length=64)
    how = Description(max_length=64, fold="case", queries=QuerySide(weights=weights))
    save_encoder(tmp_path, model, tokenizer, how)
    splade = Splade(tmp_path)
    query = "Sparse sparse a A"
    own = set(tokenizer(query, add_special_tokens=False)["input_ids"])
    expected = {}
    for index in own:
        place = int(folded.encoder.folding.representatives[index])
        expected[place] = max(expected.get(place, 0), weights[index])
    row = splade.encode_queries([query])
    assert dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)) == pytest.approx(expected)
    assert len(expected) < len(own)
