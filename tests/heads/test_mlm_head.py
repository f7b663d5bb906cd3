"""add_mlm_head: the family's masked LM, the encoder's hidden states, a head that begins where it can."""

from __future__ import annotations

import re

import pytest
import tiny
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForMaskedLM

from pyterrier_rescale import Splade, add_mlm_head, audit, rescale
from pyterrier_rescale.heads.decoder import find_head, head_input


def headless(family: str, path) -> str:
    """A folder of a tiny encoder without a head, pooler included where the family has one."""
    model, tokenizer = tiny.build(family)
    model.save_pretrained(path / "masked")
    body = AutoModel.from_pretrained(path / "masked")
    body.config.architectures = None
    body.save_pretrained(path / "body")
    tokenizer.save_pretrained(path / "body")
    return str(path / "body")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_gets_its_masked_lm_with_the_body_as_it_was(family, tmp_path):
    expected, tokenizer = tiny.build(family)
    folder = headless(family, tmp_path)
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
    model = add_mlm_head(headless(family, tmp_path))
    ids = torch.tensor([[2, 20, 31, 42, 3]])
    hidden = model.base_model(input_ids=ids).last_hidden_state
    eps = getattr(model.config, "layer_norm_eps", None) or getattr(model.config, "norm_eps", 1e-12)
    expected = torch.nn.functional.layer_norm(torch.nn.functional.gelu(hidden), hidden.shape[-1:], eps=eps)
    torch.testing.assert_close(head_input(model, input_ids=ids), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["albert", "electra"])
def test_smaller_embeddings_are_reached_by_undoing_the_bodys_projection(family, tmp_path):
    model = add_mlm_head(headless(family, tmp_path))
    (dense,) = (m for n, m in model.named_modules() if n.endswith("predictions.dense"))
    (up,) = (m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear) and m.weight.shape == (32, 16))
    torch.testing.assert_close(dense.weight @ up.weight, torch.eye(16), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("subfolder", ["", "0_Transformer"])
def test_a_sentence_transformer_by_folder_and_as_an_object(subfolder, tmp_path):
    import json
    import shutil

    from sentence_transformers import SentenceTransformer

    folder = headless("bert", tmp_path)
    model = SentenceTransformer(folder, device="cpu")  # the transformer and mean pooling
    saved = tmp_path / "sentences"
    model.save(str(saved))
    if subfolder:  # the layout of old versions
        (saved / subfolder).mkdir()
        for file in saved.iterdir():
            if file.is_file() and file.name not in ("modules.json", "README.md", "config_sentence_transformers.json"):
                shutil.move(file, saved / subfolder / file.name)
        modules = json.loads((saved / "modules.json").read_text())
        modules[0]["path"] = subfolder
        (saved / "modules.json").write_text(json.dumps(modules))
    ids = torch.tensor([[2, 20, 31, 42, 3]])
    expected = add_mlm_head(folder)(input_ids=ids).logits
    torch.testing.assert_close(add_mlm_head(saved)(input_ids=ids).logits, expected)
    torch.testing.assert_close(add_mlm_head(model, model.tokenizer)(input_ids=ids).logits, expected)


def test_a_classifiers_body_and_what_follows(tmp_path):
    _, tokenizer = tiny.build("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), **tiny._SIZE, max_position_embeddings=80)
    classifier = transformers.BertForSequenceClassification(config)
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = add_mlm_head(tmp_path)
    assert type(model).__name__ == "BertForMaskedLM"
    torch.testing.assert_close(model.state_dict(), add_mlm_head(classifier, tokenizer).state_dict())
    half = add_mlm_head(transformers.BertModel(config).to(torch.bfloat16), tokenizer)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert audit(model, tiny.TEXTS, tokenizer=tokenizer).suggested_k > 0
    divided = rescale(model, 4.0)
    row = Splade(divided, tokenizer=tokenizer, device="cpu").encode_docs(tiny.TEXTS[:1])
    assert row.nnz


def test_what_cannot_be_done_is_refused_by_name(tmp_path):
    model, tokenizer = tiny.build("bert")
    model.save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="BertForMaskedLM, which has an output head already"):
        add_mlm_head(model, tokenizer)
    with pytest.raises(ValueError, match="whole' holds a BertForMaskedLM with a whole masked-LM head"):
        add_mlm_head(tmp_path / "whole")
    state = {name: value for name, value in model.state_dict().items() if "transform" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(ValueError, match="holds a part of a masked-LM head"):
        add_mlm_head(tmp_path / "part", tokenizer)
    state = {name: value for name, value in model.state_dict().items() if not re.search("transform|layer.1", name)}
    (tmp_path / "torn").mkdir()
    model.config.save_pretrained(tmp_path / "torn")
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / "torn" / "model.safetensors")
    with pytest.raises(ValueError, match="lacks weights of its body: bert.encoder.layer.1"):
        add_mlm_head(tmp_path / "torn", tokenizer)
    small = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 400}
    encoder = transformers.T5EncoderModel(transformers.T5Config(**small))
    encoder.save_pretrained(tmp_path / "t5")
    for given in (encoder, tmp_path / "t5"):
        with pytest.raises(TypeError, match="T5EncoderModel: transformers has no masked LM of one encoder for 't5'"):
            add_mlm_head(given, tokenizer)
    causal = transformers.BertModel(transformers.BertConfig(vocab_size=400, **tiny._SIZE, is_decoder=True))
    with pytest.raises(TypeError, match="is_decoder=True"):
        add_mlm_head(causal, tokenizer)
    with pytest.raises(TypeError, match="got int: 3"):
        add_mlm_head(3, tokenizer)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        add_mlm_head(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        add_mlm_head(tmp_path)
    body = transformers.BertModel(transformers.BertConfig(vocab_size=100, **tiny._SIZE))
    with pytest.raises(ValueError, match="tokenizer has 397 tokens, the model only 100"):
        add_mlm_head(body, tokenizer)
    other = tiny.tokenizer()
    other.mask_token = None
    body = transformers.BertModel(transformers.BertConfig(vocab_size=400, **tiny._SIZE))
    with pytest.raises(ValueError, match="no mask token"):
        add_mlm_head(body, other)
    mobile = transformers.MobileBertConfig(vocab_size=400, hidden_size=32, embedding_size=16, num_hidden_layers=1,
                                           num_attention_heads=2, intermediate_size=48, intra_bottleneck_size=16,
                                           true_hidden_size=16)  # fmt: skip
    with pytest.raises(ValueError, match="MobileBertForMaskedLM"):
        add_mlm_head(transformers.MobileBertModel(mobile), tokenizer)
