"""Heads of every family: found, divided exactly, durable through save, load, resize, training and other tools."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertModel

from pyterrier_rescale import Splade, audit, rescale
from pyterrier_rescale.heads.decoder import find_head, head_input, last_norm
from pyterrier_rescale.heads.provenance import PROVENANCE, provenance
from pyterrier_rescale.heads.rescaling import check_k

K = 8.0
FAMILIES = sorted(tiny.FAMILIES)


@torch.no_grad()
def logits_of(model, tok, texts=tiny.TEXTS[:3]):
    batch = tok(texts, padding=True, return_tensors="pt")
    return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@torch.no_grad()
def by_hand(model, tok, k, bias=False):
    """t (W / k)^T + b from a model that has not been rescaled."""
    batch = tok(tiny.TEXTS[:3], padding=True, return_tensors="pt")
    hidden = head_input(model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    head = find_head(model)
    b = 0 if head.bias is None else head.bias / (k if bias else 1)
    return hidden @ (head.weight / k).T + b


def nudge(model, tok, steps=3):
    """A few training steps, so that every trainable weight and bias moves."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    batch = tok(tiny.TEXTS[:4], padding=True, return_tensors="pt")
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["input_ids"].flatten()).backward()
        optimizer.step()
    return model.eval()


def test_an_inflated_head_divided_by_more_is_the_same_head():
    inflated, _ = tiny.build("modernbert")
    rescale(inflated, 1 / 16, inplace=True)
    larger, plain = find_head(inflated), find_head(rescale(tiny.build("modernbert")[0], 4.0))
    # powers of two divide exactly: a head times 16, divided by 64, is bit for bit one divided by 4
    assert torch.equal(larger.weight / 64, plain.weight)
    assert torch.equal(larger.bias, plain.bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_divides_exactly_and_survives_stock_round_trips(family, tmp_path):
    model, tok = tiny.build(family)
    expected = by_hand(model, tok, K)
    embeddings = model.get_input_embeddings().weight.detach().clone()
    assert np.abs(logits_of(model, tok).numpy() - by_hand(model, tok, 1.0).numpy()).max() < 1e-5

    divided = rescale(model, K)

    assert torch.equal(divided.get_input_embeddings().weight, embeddings)
    assert torch.equal(model.get_input_embeddings().weight, embeddings), "the original must stay as it was"
    torch.testing.assert_close(logits_of(divided, tok), expected, atol=1e-5, rtol=1e-5)
    loaded = divided
    for turn in ("once", "twice"):
        loaded.save_pretrained(tmp_path / turn)
        loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / turn)
        torch.testing.assert_close(logits_of(loaded, tok), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(loaded.get_input_embeddings().weight, embeddings)
    assert getattr(loaded.config, PROVENANCE)["k"] == K


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trips_hold_after_training_in_every_tool(family, tmp_path):
    from pyterrier_splade import Splade as Peer
    from sentence_transformers import SparseEncoder

    model, tok = tiny.build(family)
    before = find_head(model).bias
    before = None if before is None else before.detach().clone()
    trained = nudge(rescale(model, K), tok)
    bias = find_head(trained).bias
    assert bias is None or (bias - before).abs().max() > 1e-4, "the test must move the bias"
    splade = Splade(trained, tokenizer=tok)
    expected = splade.encode_docs(tiny.TEXTS).toarray()
    assert expected.any()
    # ConvBERT's convolutions see the padding of a batch: one text at a time
    batches = [[text] for text in tiny.TEXTS] if family == "convbert" else [tiny.TEXTS]
    splade.save_pretrained(tmp_path / "one")
    Splade(str(tmp_path / "one")).save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        path = str(tmp_path / folder)
        torch.testing.assert_close(
            logits_of(AutoModelForMaskedLM.from_pretrained(path), tok), logits_of(trained, tok), atol=1e-5, rtol=1e-5
        )
        tool = SparseEncoder(path, device="cpu")
        stock = [tool.encode(batch, convert_to_sparse_tensor=False).numpy() for batch in batches]
        np.testing.assert_allclose(np.concatenate(stock), expected, atol=1e-4)
        peer = Peer(path, device="cpu", max_length=splade.max_length)
        stock = [np.stack(peer.encode(batch, format="np")) for batch in batches]
        np.testing.assert_allclose(np.concatenate(stock), expected, atol=1e-4)
        np.testing.assert_allclose(Splade(path).encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "albert", "distilbert"])
@pytest.mark.parametrize("placement", ["decoder", "norm"])
def test_bias_is_divided_on_request_only(family, placement):
    model, tok = tiny.build(family)
    for bias in (False, True):
        got = logits_of(rescale(model, K, bias=bias, placement=placement), tok)
        torch.testing.assert_close(got, by_hand(model, tok, K, bias), atol=1e-5, rtol=1e-5)
    fired = logits_of(rescale(model, K, bias=True, placement=placement), tok) > 0
    clear = logits_of(model, tok).abs() > 1e-5
    assert torch.equal(fired[clear], (logits_of(model, tok) > 0)[clear]), "scale alone must not change what fires"


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_placement_keeps_ties_and_round_trips(family, tmp_path):
    model, tok = tiny.build(family)
    try:
        last_norm(model)
    except ValueError as error:
        assert "placement='decoder'" in str(error)
        pytest.skip(f"{family}: no norm feeds the decoder")
    tied = find_head(model).tied
    expected = by_hand(model, tok, K)
    divided = rescale(model, K, placement="norm")
    assert find_head(divided).tied == tied
    torch.testing.assert_close(logits_of(divided, tok), expected, atol=1e-4, rtol=1e-4)
    divided.save_pretrained(tmp_path)
    torch.testing.assert_close(
        logits_of(AutoModelForMaskedLM.from_pretrained(tmp_path), tok), expected, atol=1e-4, rtol=1e-4
    )


def test_tied_placement_where_it_is_exact_and_refused_elsewhere():
    model, tok = tiny.build("modernbert")
    with torch.no_grad():  # rows far above the embedding norm's epsilon, as in trained models
        model.get_input_embeddings().weight.mul_(50)
    expected = by_hand(model, tok, K)
    divided = rescale(model, K, placement="tied")
    assert find_head(divided).tied
    torch.testing.assert_close(logits_of(divided, tok), expected, atol=2e-2, rtol=1e-3)
    bert, _ = tiny.build("bert")
    before = bert.get_input_embeddings().weight.detach().clone()
    with pytest.raises(ValueError, match="placement='tied' changes what BertForMaskedLM computes"):
        rescale(bert, K, placement="tied", inplace=True)
    assert torch.equal(bert.get_input_embeddings().weight, before), "a refusal must leave the model alone"


def test_new_deberta_head_is_refused_at_the_decoder_and_served_at_the_norm():
    model, tok = tiny.build("deberta-v2", legacy=False)
    with pytest.raises(ValueError, match=r"DebertaV2ForMaskedLM: the output embeddings are a Linear"):
        rescale(model, K)
    before = logits_of(model, tok)
    with torch.no_grad():
        bias = model.lm_predictions.lm_head.bias
        expected = (before - bias) / K + bias
    torch.testing.assert_close(logits_of(rescale(model, K, placement="norm"), tok), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_resize_and_tie_weights_after_rescaling(family, tmp_path):
    model, tok = tiny.build(family)
    divided = rescale(model, K)
    expected = logits_of(divided, tok)
    divided.tie_weights()
    torch.testing.assert_close(logits_of(divided, tok), expected)
    rows = model.config.vocab_size
    divided.resize_token_embeddings(rows + 5, mean_resizing=False)
    torch.testing.assert_close(logits_of(divided, tok)[..., :rows], expected)
    divided.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(loaded, tok), logits_of(divided, tok))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_divided_in_fp32(dtype):
    model, _ = tiny.build("modernbert")
    model = model.to(dtype)
    weight = find_head(model).weight.detach().clone()
    divided = find_head(rescale(model, 3.0)).weight
    assert divided.dtype == dtype
    assert torch.equal(divided, (weight.float() / 3.0).to(dtype))


def test_sharded_checkpoint(tmp_path):
    model, tok = tiny.build("bert")
    expected = by_hand(model, tok, K)
    rescale(model, K).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    torch.testing.assert_close(
        logits_of(AutoModelForMaskedLM.from_pretrained(tmp_path), tok), expected, atol=1e-5, rtol=1e-5
    )


def test_a_second_rescale_is_refused(tmp_path, bert_folder):
    divided = rescale(bert_folder, 4)
    assert provenance(divided)["mean_row_norm_before"] == pytest.approx(
        float(np.linalg.norm(AutoModelForMaskedLM.from_pretrained(bert_folder).get_output_embeddings()
                             .weight.detach().numpy(), axis=1).mean()), rel=1e-5)  # fmt: skip
    with pytest.raises(ValueError, match="rescaled already .*k=4"):
        rescale(divided, 4)
    divided.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="rescaled already"):
        rescale(str(tmp_path), 4)


@pytest.mark.parametrize("k", [0, -1.0, math.nan, math.inf, "16", None, True])
def test_bad_k(k, bert_folder):
    with pytest.raises(ValueError, match="k must be a finite number > 0, got"):
        rescale(bert_folder, k)


def test_a_head_that_is_no_plain_projection_is_refused():
    """MobileBERT multiplies by its decoder weight and a second matrix joined: dividing one half would be wrong."""
    import transformers

    config = transformers.MobileBertConfig(
        vocab_size=60, hidden_size=32, embedding_size=16, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, intra_bottleneck_size=16, true_hidden_size=16,
    )  # fmt: skip
    model = transformers.MobileBertForMaskedLM(config)
    with pytest.raises(ValueError, match="MobileBertForMaskedLM: the logits are not t W"):
        rescale(model)


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("family", ["esm", "bart"])
def test_a_bias_behind_the_decoder_is_refused_whatever_its_values(family, value, bert_folder):
    import transformers

    size = {"vocab_size": 400, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 80}
    if family == "esm":
        config = transformers.EsmConfig(
            hidden_size=32, intermediate_size=48, pad_token_id=0, mask_token_id=4,
            position_embedding_type="rotary", **size,
        )  # fmt: skip
        name = "lm_head.bias"
    else:
        config = transformers.BartConfig(
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=48, decoder_ffn_dim=48,
            encoder_attention_heads=4, decoder_attention_heads=4, pad_token_id=0, bos_token_id=2, eos_token_id=3,
            vocab_size=400, max_position_embeddings=80, decoder_start_token_id=3, forced_eos_token_id=3,
        )  # fmt: skip
        name = "final_logits_bias"
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        dict((*model.named_parameters(), *model.named_buffers()))[name].fill_(value)
    message = f"the bias '{name}' is added behind the output embeddings"
    for refused in (rescale, audit, lambda model: Splade(model, tokenizer=bert_folder)):
        with pytest.raises(ValueError, match=message):
            refused(model)


def test_weights_that_are_not_in_memory_are_refused():
    model, tok = tiny.build("bert")
    with pytest.raises(ValueError, match="weights are not in memory"):
        rescale(model.to("meta"))


def test_bad_placement_and_headless_models(bert_folder, tmp_path):
    with pytest.raises(ValueError, match="placement must be one of 'decoder', 'norm', 'tied', got 'head'"):
        rescale(bert_folder, placement="head")
    body = BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(TypeError, match="BertModel, which has no masked-LM head"):
        rescale(body)
    body.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="BertModel without a whole masked-LM head"):
        rescale(str(tmp_path))
    with pytest.raises(TypeError, match="must be"):
        rescale(3)


def test_inplace_changes_the_model_itself():
    model, tok = tiny.build("bert")
    expected = by_hand(model, tok, K)
    assert rescale(model, K, inplace=True) is model
    torch.testing.assert_close(logits_of(model, tok), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [np.float32(4), np.float64(4), np.int32(4), 4, Fraction(4)])
def test_any_real_number_is_a_k(k):
    assert check_k(k) == 4.0 and type(check_k(k)) is float


@pytest.mark.parametrize("k", [True, np.bool_(True), "4", None, np.float32("nan"), np.int64(0), 1j, np.array([4.0])])
def test_what_is_no_number_above_zero_is_no_k(k):
    with pytest.raises(ValueError, match="k must be a finite number > 0"):
        check_k(k)
