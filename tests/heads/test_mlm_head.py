"""add_mlm_head: the family's masked LM, the encoder's hidden states, a head that begins where it can."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
import transformers
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM

from pyterrier_rescale import Splade, add_mlm_head, rescale
from pyterrier_rescale.heads.decoder import find_head, head_input


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_gets_its_masked_lm_with_the_body_as_it_was(family, tmp_path):
    expected, tokenizer = tiny.build(family)
    folder = tiny.save_body(family, tmp_path)
    state = torch.get_rng_state()
    model = add_mlm_head(folder)
    torch.set_rng_state(state)
    body = AutoModel.from_pretrained(folder)
    kept = {name: value.clone() for name, value in body.state_dict().items()}
    also = add_mlm_head(body, tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(kept[name], value) for name, value in body.state_dict().items())
    ids = torch.tensor([[2, 20, 31, 42, 3]])
    for got in (model, also):
        assert type(got) is type(expected) and got.config.architectures == [type(expected).__name__]
        hidden = got.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(hidden, expected.base_model(input_ids=ids).last_hidden_state)
        torch.testing.assert_close(hidden, body(input_ids=ids).last_hidden_state)
        head = find_head(got)
        assert head.tied == (family != "eurobert")
        assert torch.equal(head.weight, expected.get_input_embeddings().weight)
        assert head.bias is None or not head.bias.any()
    got = model(input_ids=ids).logits
    assert torch.equal(got, also(input_ids=ids).logits)
    model.save_pretrained(tmp_path / "saved")
    again, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(again.eval()(input_ids=ids).logits, got)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "convbert"])
def test_the_transform_is_norm_of_gelu(family, tmp_path):
    model = add_mlm_head(tiny.save_body(family, tmp_path))
    ids = torch.tensor([[2, 20, 31, 42, 3]])
    hidden = model.base_model(input_ids=ids).last_hidden_state
    eps = getattr(model.config, "layer_norm_eps", None) or getattr(model.config, "norm_eps", 1e-12)
    expected = torch.nn.functional.layer_norm(torch.nn.functional.gelu(hidden), hidden.shape[-1:], eps=eps)
    torch.testing.assert_close(head_input(model, input_ids=ids), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["albert", "electra"])
def test_smaller_embeddings_are_reached_by_undoing_the_bodys_projection(family, tmp_path):
    model = add_mlm_head(tiny.save_body(family, tmp_path))
    (dense,) = (m for n, m in model.named_modules() if n.endswith("predictions.dense"))
    (up,) = (m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear) and m.weight.shape == (32, 16))
    torch.testing.assert_close(dense.weight @ up.weight, torch.eye(16), atol=1e-4, rtol=1e-4)


def test_a_sentence_transformer_by_folder_and_as_an_object(tmp_path):
    folder, saved = tiny.save_body("bert", tmp_path), tmp_path / "sentences"
    model = SentenceTransformer(folder, device="cpu")  # the transformer and mean pooling
    model.save(str(saved))
    ids = torch.tensor([[2, 20, 31, 42, 3]])
    expected = add_mlm_head(folder)(input_ids=ids).logits
    torch.testing.assert_close(add_mlm_head(saved)(input_ids=ids).logits, expected)
    torch.testing.assert_close(add_mlm_head(model, model.tokenizer)(input_ids=ids).logits, expected)
    shutil.copytree(folder, saved / "0_Transformer")  # the layout of old versions
    modules = json.loads((saved / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (saved / "modules.json").write_text(json.dumps(modules))
    (saved / "model.safetensors").unlink()
    torch.testing.assert_close(add_mlm_head(saved)(input_ids=ids).logits, expected)


def test_a_classifiers_body(tmp_path):
    _, tokenizer = tiny.build("bert")
    config = transformers.BertConfig(vocab_size=len(tokenizer), **tiny._SIZE, max_position_embeddings=80)
    classifier = transformers.BertForSequenceClassification(config)
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = add_mlm_head(tmp_path)
    assert type(model).__name__ == "BertForMaskedLM"
    torch.testing.assert_close(model.state_dict(), add_mlm_head(classifier, tokenizer).state_dict())
    half = add_mlm_head(transformers.BertModel(config).to(torch.bfloat16), tokenizer)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert Splade(rescale(model, 4.0), tokenizer=tokenizer, device="cpu").encode_docs(tiny.TEXTS[:1]).nnz


def body(kind=transformers.BertModel, config=transformers.BertConfig, **sizes):
    return kind(config(**{"vocab_size": 400, **tiny._SIZE, **sizes}))


def without_mask_token():
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = None
    return tokenizer


def mobilebert():
    sizes = {"embedding_size": 16, "num_attention_heads": 2, "intra_bottleneck_size": 16, "true_hidden_size": 16}
    return body(transformers.MobileBertModel, transformers.MobileBertConfig, **sizes)


def t5():
    small = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 400}
    return transformers.T5EncoderModel(transformers.T5Config(**small))


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: add_mlm_head(tiny.build("bert")[0]), ValueError, "BertForMaskedLM, which has an output head already"),
        (lambda: add_mlm_head(t5()), TypeError, "T5EncoderModel: .* no masked LM of one encoder for 't5'"),
        (lambda: add_mlm_head(body(is_decoder=True)), TypeError, "is_decoder=True"),
        (lambda: add_mlm_head(3), TypeError, "got a int"),
        (lambda: add_mlm_head("/no/such/folder"), FileNotFoundError, "does not exist"),
        (lambda: add_mlm_head(body(vocab_size=100), tiny.tokenizer()), ValueError, "at most 100 tokens.* has 397"),
        (lambda: add_mlm_head(body(), without_mask_token()), ValueError, "tokenizer must have a mask token"),
        (lambda: add_mlm_head(mobilebert()), ValueError, "MobileBertForMaskedLM"),
    ],
)
def test_refusals(call, error, named):
    with pytest.raises(error, match=named):
        call()


def test_folders_with_a_head_or_a_torn_body(tmp_path):
    model, tokenizer = tiny.build("bert")
    model.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="a BertForMaskedLM, which has an output head already"):
        add_mlm_head(tmp_path / "whole")
    torn = {name: value for name, value in model.bert.state_dict().items() if "layer.1" not in name}
    model.bert.save_pretrained(tmp_path / "torn", state_dict=torn)
    with pytest.raises(ValueError, match="lacks weights of its body: encoder.layer.1"):
        add_mlm_head(tmp_path / "torn", tokenizer)
