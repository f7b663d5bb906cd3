"""Heads of every family: found, divided exactly, durable through save, load, resize, training and other tools."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertConfig, BertModel

from pyterrier_rescale import Splade, add_mlm_head, audit, rescale
from pyterrier_rescale.heads.checkpoint import check_reloadable, load_backbone, load_tokenizer
from pyterrier_rescale.heads.decoder import find_head, head_input
from pyterrier_rescale.heads.provenance import PROVENANCE, provenance
from pyterrier_rescale.heads.rescaling import check_shift, shift_logits

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
def test_bias_is_divided_on_request_only(family):
    model, tok = tiny.build(family)
    for bias in (False, True):
        got = logits_of(rescale(model, K, bias=bias), tok)
        torch.testing.assert_close(got, by_hand(model, tok, K, bias), atol=1e-5, rtol=1e-5)
    fired = logits_of(rescale(model, K, bias=True), tok) > 0
    clear = logits_of(model, tok).abs() > 1e-5
    assert torch.equal(fired[clear], (logits_of(model, tok) > 0)[clear]), "scale alone must not change what fires"


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inplace_and_in_half_precision(dtype):
    model, _ = tiny.build("modernbert")
    model = model.to(dtype)
    weight = find_head(model).weight.detach().clone()
    assert rescale(model, 3.0, inplace=True) is model
    assert find_head(model).weight.dtype == dtype
    assert torch.equal(find_head(model).weight, (weight.float() / 3.0).to(dtype))


def test_a_second_rescale_is_refused(tmp_path, bert_folder):
    divided = rescale(bert_folder, 4)
    weight = AutoModelForMaskedLM.from_pretrained(bert_folder).get_output_embeddings().weight.detach()
    assert provenance(divided)["mean_row_norm_before"] == pytest.approx(float(weight.norm(dim=1).mean()), rel=1e-5)
    divided.save_pretrained(tmp_path)
    for model in (divided, str(tmp_path)):
        with pytest.raises(ValueError, match="rescaled already .*k=4"):
            rescale(model, 4)


def esm():
    """Its bias is added behind the decoder."""
    config = transformers.EsmConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=80, pad_token_id=0, mask_token_id=4, position_embedding_type="rotary",
    )  # fmt: skip
    model = transformers.EsmForMaskedLM(config).eval()
    torch.nn.init.constant_(model.lm_head.bias, 0.5)
    return model


def mobilebert():
    """It multiplies by its decoder weight and a second matrix joined: dividing one half would be wrong."""
    sizes = {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}
    config = transformers.MobileBertConfig(**{"vocab_size": 400, **tiny._SIZE, **sizes})
    return transformers.MobileBertForMaskedLM(config)


def broken():
    model, _ = tiny.build("bert")
    torch.nn.init.constant_(model.cls.predictions.transform.dense.weight, math.nan)
    return model


BODY = BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        *[(lambda k=k: rescale(tiny.build("bert")[0], k), ValueError, "k must be a finite number > 0")
          for k in (0, math.inf, "16", None)],
        (lambda: rescale(mobilebert()), ValueError, "MobileBertForMaskedLM: its output embeddings are called 0"),
        (lambda: rescale(esm()), ValueError, "EsmForMaskedLM: the logits are not t W"),
        (lambda: rescale(broken()), ValueError, "the logits are not finite"),
        (lambda: rescale(tiny.build("deberta-v2", legacy=False)[0]), ValueError, "output embeddings are a Linear"),
        (lambda: rescale(BODY), TypeError, "BertModel, which has no masked-LM head"),
        (lambda: rescale(3), TypeError, "model must be a hub name, a folder or a PreTrainedModel"),
        (lambda: rescale("/no/such/folder"), FileNotFoundError, "model folder '/no/such/folder' does not exist"),
        (lambda: load_backbone(tiny.build("bert")[0]), ValueError, "tokenizer must be given"),
        (lambda: check_shift([math.nan]), ValueError, "shift must be a finite number"),
        (lambda: check_shift("15"), ValueError, "shift must be a finite number"),
        (lambda: shift_logits(tiny.build("bert")[0], np.ones(7)), ValueError, "shift must be a number or 397"),
        (lambda: load_backbone(tiny.build("bert")[0], "x", attention="causal"), OSError, "'x' is neither a folder"),
        (lambda: shift_logits(shift_logits(tiny.build("bert")[0], 1.0), 1.0), ValueError, "shifted already"),
    ],
)  # fmt: skip
def test_refusals(call, error, named):
    with pytest.raises(error, match=named):
        call()


def test_folders_that_hold_no_whole_model(bert_folder, tmp_path):
    BODY.save_pretrained(tmp_path / "body")
    with pytest.raises(TypeError, match="body' holds a BertModel without a whole masked-LM head.*add_mlm_head"):
        rescale(tmp_path / "body")
    shutil.copytree(bert_folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="the weights of .*cut' cannot be read"):
        rescale(tmp_path / "cut")
    (tmp_path / "cut" / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="the tokenizer of .*cut' cannot be read"):
        load_tokenizer(tmp_path / "cut")
    with pytest.raises(ValueError, match="no tokenizer in"):
        load_tokenizer(tmp_path / "body")
    (tmp_path / "cut" / "config.json").unlink()
    with pytest.raises(TypeError, match="cut' has no config.json"):
        rescale(tmp_path / "cut")


CODE = {"model_type": "new", "auto_map": {"AutoModelForMaskedLM": "org/impl--modeling.NewForMaskedLM"}}
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "naver/splade-v3"}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"config.json": {"model_type": "splade", "architectures": ["SPLADE"]}}, "model type 'splade' .SPLADE.*tool"),
        ({"config.json": CODE}, "needs code of its own.*give the loaded model"),
        ({"adapter_config.json": ADAPTER}, "LoRA adapter .*of 'naver/splade-v3'.*merge_and_unload"),
        ({"config.json": {"model_type": "splade"}, "lora/adapter_config.json": ADAPTER}, "LoRA adapter"),
        ({"config.json": {"model_type": "bert"}, "onnx/model.onnx": {}}, "no file named model.safetensors.*ONNX"),
    ],
)
def test_checkpoints_of_other_tools_are_told_what_they_are(files, named, tmp_path):
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(content))
    for use in (rescale, audit, Splade, add_mlm_head, load_backbone):
        with pytest.raises((TypeError, FileNotFoundError), match=named) as caught:
            use(tmp_path)
        message = str(caught.value)
        assert str(tmp_path) in message and "\n" not in message
        assert not re.search("pip install|pass the argument|no such name", message)


def test_layers_that_could_not_be_loaded_again_are_refused():
    model, _ = tiny.build("bert")
    for family in FAMILIES:
        check_reloadable(tiny.build(family)[0])
    check_reloadable(rescale(tiny.build("modernbert", decoder_bias=False)[0], 2.0))
    check_reloadable(shift_logits(tiny.build("eurobert")[0], 1.0))  # a bias of our own is put back
    compiled = copy.deepcopy(model)
    compiled.bert.encoder.layer[0] = torch.compile(compiled.bert.encoder.layer[0])
    query = model.bert.encoder.layer[0].attention.self.query
    query.lora_A = torch.nn.Linear(32, 2, bias=False)  # as peft puts it into a model
    for one in (model, compiled):
        with pytest.raises(ValueError, match=r"merge_and_unload\(\) first"):
            check_reloadable(one)


@pytest.mark.parametrize(("family", "second"), [("bert", "cls.predictions.bias"), ("roberta", "lm_head.bias")])
def test_the_second_bias_follows_at_every_save_of_what_we_loaded(family, second, tmp_path):
    """text-embeddings-inference reads it. What stock tools trained and saved is put right by our next save."""
    rescale(tiny.build(family)[0], K).save_pretrained(tmp_path / "first")

    def trained_and_saved(model, name):
        with torch.no_grad():
            find_head(model).bias.add_(1)
        model.save_pretrained(tmp_path / name)
        file = load_file(tmp_path / name / "model.safetensors")
        return file[second], file[second.replace("bias", "decoder.bias")]

    assert torch.equal(*trained_and_saved(load_backbone(tmp_path / "first", need_tokenizer=False)[0], "ours"))
    assert not torch.equal(*trained_and_saved(AutoModelForMaskedLM.from_pretrained(tmp_path / "first"), "stock"))
    assert torch.equal(*trained_and_saved(load_backbone(tmp_path / "stock", need_tokenizer=False)[0], "again"))
