"""Parts of a step: every text once, one gradient as if all had run together; padding reaches no text's vector."""

import pytest
import tiny
import torch

from pyterrier_rescale import Splade, train
from pyterrier_rescale.training import model as training_model
from pyterrier_rescale.training.model import SparseHead


@pytest.mark.parametrize("mini_batch_size", [None, 2])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_gradients_of_parts_are_those_of_the_whole(family, mini_batch_size, monkeypatch):
    monkeypatch.setattr(training_model, "_CPU_TOKENS", 40)
    model, tokenizer = tiny.build(family)
    model.eval()  # no dropout
    module = SparseHead(model, tokenizer)
    sides = [module.tokenise(tiny.TEXTS[:4], 64), module.tokenise(tiny.TEXTS[4:11], 64)]
    got = module(sides, mini_batch_size)
    sum(vectors.square().sum() for vectors in got).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    word_embeddings = next(name for name, p in model.named_parameters() if p is model.get_input_embeddings().weight)
    model.zero_grad()
    expected = []
    for side in sides:  # the stock model and the plain formula
        del side["queries"]
        logits = model(**side).logits.masked_fill(~side["attention_mask"].bool()[..., None], -torch.inf)
        expected.append(torch.log1p(torch.relu(logits.amax(dim=1))))
    sum(vectors.square().sum() for vectors in expected).backward()
    # the padding token's row is zero, so all positions tie, and a maximum may choose any
    for gradient in (grads[word_embeddings], model.get_input_embeddings().weight.grad):
        gradient[tokenizer.pad_token_id] = 0
    for ours, stock in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        if name in grads:
            scale = float(parameter.grad.abs().max().clamp_min(1e-3))
            torch.testing.assert_close(grads[name] / scale, parameter.grad / scale, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_a_tokenizer_that_pads_on_the_left_trains_the_vectors_of_the_encoder(mini_batch_size):
    model, tokenizer = tiny.build("bert")
    tokenizer.padding_side = "left"
    module = SparseHead(model.eval(), tokenizer)
    (found,) = module([module.tokenise(tiny.TEXTS, 64)], mini_batch_size)
    expected = Splade(model, tokenizer=tokenizer, max_length=64).encode_docs(tiny.TEXTS).toarray()
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_a_backbone_whose_tokens_see_the_padding_is_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(tiny.FAMILIES, "fnet", ("FNetConfig", {}, "wordpiece"))
    model, tok = tiny.build("fnet")
    pairs = [(f"query {i}", f"document {i}") for i in range(32)]
    with pytest.raises(ValueError, match="FNetForMaskedLM cannot be trained in batches: its tokens see the padding"):
        train(model, pairs, tmp_path / "out", tokenizer=tok, rescale=None, max_steps=1)
