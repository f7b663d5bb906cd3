"""Causal language models: their heads, attention both ways, capped and scaled logits, an offset without a bias."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pyterrier_rescale import Splade, audit, calibrate, rescale
from pyterrier_rescale.heads.checkpoint import load_backbone
from pyterrier_rescale.heads.decoder import find_head
from pyterrier_rescale.heads.provenance import provenance

TEXTS = [f"{tiny.TEXTS[i]} {tiny.TEXTS[(i + 3) % 12]}"[: 30 + 5 * i] for i in range(12)]
#: family -> settings of its own
FAMILIES = {
    "Llama": {}, "Qwen3": {"tie_word_embeddings": True}, "Gemma2": {"final_logit_softcapping": 0.3}, "Gemma3Text": {},
    "Mistral": {"sliding_window": None}, "GPTNeoX": {}, "GPT2": {"n_positions": 80}, "Phi": {}, "OPT": {}, "Bloom": {},
    "Granite": {"logits_scaling": 3.0}, "Cohere": {"logit_scale": 0.25}, "Olmo2": {},
}  # fmt: skip
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 80,
}  # fmt: skip


def save(family: str, path, **settings):
    """A tiny model of a family, its tokenizer without padding token and padding on the left."""
    tokenizer = tiny.tokenizer("bpe")
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side = None, "[SEP]", "left"
    config = getattr(transformers, f"{family}Config")
    given = {**SIZES, **FAMILIES.get(family, {}), **settings, "vocab_size": len(tokenizer)}
    if "head_dim" in config().to_dict():
        given["head_dim"] = 8
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**given)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@torch.no_grad()
def stock(folder, tokenizer, texts=TEXTS, k=1.0):
    """Largest logits of a stock model, one text at a time, of a head divided by k; (N, V)."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if k != 1:
        model.set_output_embeddings(torch.nn.Linear(32, len(tokenizer), bias=find_head(model).bias is not None))
        original = AutoModelForCausalLM.from_pretrained(folder).get_output_embeddings()
        model.get_output_embeddings().weight.copy_(original.weight / k)
        if original.bias is not None:
            model.get_output_embeddings().bias.copy_(original.bias)
    inputs = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in texts]
    return torch.stack([model(**one).logits[0].amax(dim=0) for one in inputs]).numpy()


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_the_stock_models_before_and_after_saving(family, attention, tmp_path):
    folder = save(family, tmp_path / "model", is_causal=attention == "causal")
    _, tokenizer = load_backbone(folder)
    expected = np.log1p(np.maximum(stock(folder, tokenizer), 0))
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(Splade(folder).encode_docs(TEXTS).toarray(), expected, atol=1e-4)
    # the other way, from either kind of source
    other, _ = load_backbone(save(family, tmp_path / "other", is_causal=attention != "causal"))
    turned, _ = load_backbone(other, tokenizer, attention=attention)
    assert turned is not other and other.config.is_causal != turned.config.is_causal
    for source in (turned, load_backbone(tmp_path / "other", attention=attention)[0]):
        got = Splade(source, tokenizer=tokenizer).encode_docs(TEXTS).toarray()
        np.testing.assert_allclose(got, expected, atol=1e-4)
    # rescaled, saved, read by stock transformers and again
    divided = rescale(folder, 4.0)
    expected = stock(folder, tokenizer, k=4.0)
    Splade(divided, tokenizer=tokenizer).save_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(stock(tmp_path / "saved", tokenizer), expected, atol=1e-4)
    weights = np.log1p(np.maximum(expected, 0))
    np.testing.assert_allclose(Splade(tmp_path / "saved").encode_docs(TEXTS).toarray(), weights, atol=1e-4)


@pytest.mark.parametrize("family", ["Qwen3", "Gemma2", "Granite", "eurobert"])
def test_an_offset_without_a_bias_of_the_family(family, tmp_path):
    # both ways: with causal attention the first position's logits are the same in all texts
    both = {} if family == "eurobert" else {"attention": "bidirectional"}
    folder = (save if both else tiny.save)(family, tmp_path / "model")
    calibration = calibrate(folder, TEXTS, rate=0.25, k=2.0, **both)
    model = calibration.apply(folder)
    assert provenance(model)["own_bias"] and calibration.bias_shift is not None
    loaded, _ = load_backbone(folder)
    assert calibration.apply(loaded, inplace=True) is loaded
    splade = Splade(loaded)
    expected = splade.encode_docs(TEXTS).toarray()
    fired = (expected > 0).sum(axis=0)
    assert set(fired) <= {3, 4} and calibration.table["active_terms"][0] == pytest.approx(fired.sum() / 12, rel=0.02)
    assert calibration.table["max_weight"][0] == pytest.approx(expected.max(), rel=1e-4)
    assert audit(model, TEXTS, tokenizer=folder).numbers["max_weight"] == pytest.approx(expected.max(), rel=1e-4)
    splade.save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "plain", max_shard_size="20KB")  # as a user saves it
    for saved in (Splade(tmp_path / "saved"), Splade(str(tmp_path / "plain"), tokenizer=folder)):
        np.testing.assert_allclose(saved.encode_docs(TEXTS).toarray(), expected, atol=1e-5)
    lost = (AutoModelForCausalLM if both else AutoModelForMaskedLM).from_pretrained(tmp_path / "plain")
    lost.save_pretrained(tmp_path / "lost")
    for one in (lost, tmp_path / "lost"):
        with pytest.raises(ValueError, match="lost its offset"):
            Splade(one, tokenizer=folder)
    shifted = Splade(folder, shift=0.5)
    shifted.save_pretrained(tmp_path / "shifted")
    np.testing.assert_allclose(
        Splade(tmp_path / "shifted").encode_docs(TEXTS).toarray(), shifted.encode_docs(TEXTS).toarray(), atol=1e-5
    )


@pytest.mark.parametrize(
    ("family", "attention", "named"),
    [
        ("StableLm", "bidirectional", "attention='bidirectional' is not to be had of a StableLmForCausalLM"),
        ("Mamba", "bidirectional", "attention='bidirectional' is not to be had of a MambaForCausalLM"),
        ("Llama", "both", "attention must be one of None, 'causal', 'bidirectional', got 'both'"),
        ("bert", "causal", "attention .of a BertForMaskedLM, which is no causal language model"),
    ],
)
def test_refusals(family, attention, named, tmp_path):
    folder = tiny.save("bert", tmp_path) if family == "bert" else save(family, tmp_path)
    with pytest.raises(ValueError, match=named):
        load_backbone(folder, attention=attention)


def test_sums_of_capped_logits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pooling must be 'max' for a model that scales or caps its logits"):
        Splade(save("Gemma2", tmp_path), pooling="sum").encode_docs(TEXTS)
